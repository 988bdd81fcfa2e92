"""A model that makes embeddings, as an engine's backend: a prompt in, a vector out, in one step.

What the libraries differ in is a :class:`Encoder`; the rest is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from penstock.engine.backend import CannotTake, ModelCard, Progress, Sampling, Tokenizer
from penstock.engine.pooling import Shape, groups_of, padded, pooled

STEP_TOKENS = 1_024
_TRIED = ([1, 2, 3], [1, 2, 3, 4, 5])  # prompts by which a model is tried out
_NEAR = 1e-3


class Encoder(Protocol):
    """Token ids to the hidden states of a model's last layer."""

    @property
    def pad(self) -> int:
        """What texts are padded with."""

    @property
    def vocabulary(self) -> int: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def name(self) -> str:
        """Library and version."""

    def hidden(self, ids: Any, mask: Any) -> Any:
        """Float32, (texts, tokens, size), of int64 ids and the mask of those that are no padding."""

    def close(self) -> None: ...


class Embedder:
    """The backend.

    :raises ValueError: what a text is padded with changes its vector
    """

    def __init__(self, encoder: Encoder, shape: Shape, directory: str) -> None:
        self._encoder = encoder
        self._pooling = shape.pooling
        self._waiting: dict[int, Sequence[int]] = {}
        alone = [self._embed([(place, prompt)])[0].vector for place, prompt in enumerate(_TRIED)]
        self._card = ModelCard(
            directory=directory,
            context=shape.context,
            vocabulary=encoder.vocabulary,
            backend=encoder.name,
            step_tokens=max(STEP_TOKENS, shape.context),
            defaults=Sampling(),
            dimensions=len(alone[0]) // 4,
            shorter=shape.shorter,
        )
        together = [progress.vector for progress in self._embed(list(enumerate(_TRIED)))]
        if any(_distance(one, other) > _NEAR for one, other in zip(alone, together, strict=True)):
            raise ValueError("what a text is padded with changes its vector")

    def __repr__(self) -> str:
        return f"<Embedder {self._card.directory}, {len(self._waiting)} waiting>"

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def tokenizer(self) -> Tokenizer:
        return self._encoder.tokenizer

    def prepare(self, sampling: Sampling) -> None:
        """A vector keeps to nothing."""

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        del sampling
        if not 0 < len(prompt) <= self._card.context:
            raise CannotTake(f"a text has 1 to {self._card.context} tokens")
        self._waiting[number] = prompt

    def cancel(self, number: int) -> None:
        self._waiting.pop(number, None)

    def step(self) -> list[Progress]:
        waiting, self._waiting = self._waiting, {}
        return [progress for group in groups_of(list(waiting.items())) for progress in self._embed(group)]

    def rest(self) -> None:
        """Nothing gathers here."""

    def statistics(self) -> dict[str, float]:
        return {"scheduled": float(len(self._waiting))}

    def close(self) -> None:
        self._waiting.clear()
        self._encoder.close()

    def _embed(self, group: list[tuple[int, Sequence[int]]]) -> list[Progress]:
        ids, mask = padded(group, self._encoder.pad)
        vectors = pooled(self._encoder.hidden(ids, mask), mask, self._pooling)
        return [
            Progress(number, [], [], "stop", vector)
            for (number, _), vector in zip(group, vectors, strict=True)
        ]


def _distance(one: bytes, other: bytes) -> float:
    """The largest between two of their numbers."""
    return max(
        abs(a - b) for a, b in zip(memoryview(one).cast("f"), memoryview(other).cast("f"), strict=True)
    )


__all__ = ["Embedder", "Encoder"]
