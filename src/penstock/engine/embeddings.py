"""Embeddings with OpenAI's API: what a request asks for, and its answer once all vectors are there."""

from __future__ import annotations

import array
import base64
import math
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec

from penstock.engine.answer import JSON_HEADERS, refuse
from penstock.engine.backend import ModelCard, Progress, Tokenizer
from penstock.engine.body import decoded
from penstock.engine.engine import Engine, Job
from penstock.errors import BadRequest, PenstockError
from penstock.net.exchange import Exchange

MAX_TEXTS = 2_048  # as the API has it
AT_ONCE = 64  # texts of one request that wait for the model


class _Body(msgspec.Struct):
    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class AskedVectors(msgspec.Struct, eq=False):
    """One request: texts in token ids, and how their vectors are wanted; ``dimensions`` 0: whole."""

    model: str
    prompts: list[list[int]]
    base64: bool
    dimensions: int

    @property
    def input_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


_decode = msgspec.json.Decoder(_Body).decode


def read(body: bytes, tokenizer: Tokenizer, card: ModelCard) -> AskedVectors:
    """What a body asks for.

    :raises BadRequest: it cannot be computed as asked; ``context_length_exceeded`` if a text is too long
    """
    if not card.dimensions:
        raise BadRequest("this model writes text and makes no embeddings", param="model")
    asked = decoded(body, _decode)
    prompts = _prompts(asked.input, tokenizer)
    for prompt in prompts:
        _check(prompt, card)
    dimensions = asked.dimensions or 0
    if dimensions and dimensions != card.dimensions and not (card.shorter and dimensions < card.dimensions):
        allowed = f"1 to {card.dimensions}" if card.shorter else f"{card.dimensions}"
        raise BadRequest(f"this model's embeddings have {allowed} dimensions", param="dimensions")
    return AskedVectors(asked.model, prompts, asked.encoding_format == "base64", dimensions)


def _prompts(given: str | list[str | int | list[int]], tokenizer: Tokenizer) -> list[list[int]]:
    if isinstance(given, str):
        return [_encoded(given, tokenizer)]
    if not 0 < len(given) <= MAX_TEXTS:
        raise BadRequest(f"input must be 1 to {MAX_TEXTS} texts", param="input")
    ids = [item for item in given if isinstance(item, int)]
    if ids:
        if len(ids) != len(given):
            raise BadRequest("input must be of one kind: texts, or token ids", param="input")
        return [ids]
    return [
        _encoded(item, tokenizer) if isinstance(item, str) else item
        for item in given
        if not isinstance(item, int)
    ]


def _encoded(text: str, tokenizer: Tokenizer) -> list[int]:
    if not text:
        raise BadRequest("input: a text is empty", param="input")
    return tokenizer.encode(text, special=True)


def _check(prompt: Sequence[int], card: ModelCard) -> None:
    if not prompt or min(prompt) < 0 or max(prompt) >= card.vocabulary:
        raise BadRequest("input: there are ids that are no tokens of this model, or none", param="input")
    if len(prompt) > card.context:
        raise BadRequest(
            f"This model's maximum context length is {card.context} tokens. "
            f"However, you requested {len(prompt)} in the input.",
            param="input",
            code="context_length_exceeded",
        )


class VectorAnswer:
    """Answers one exchange when the last of its vectors has come.

    :param job: makes one of a text's token ids
    :param on_end: told the status once: 499 if the client left
    """

    __slots__ = (
        "_asked",
        "_engine",
        "_exchange",
        "_job",
        "_left",
        "_on_end",
        "_open",
        "_under_way",
        "vectors",
    )

    def __init__(
        self,
        exchange: Exchange,
        engine: Engine,
        asked: AskedVectors,
        job: Callable[[list[int]], Job],
        on_end: Callable[[int], None],
    ) -> None:
        self._exchange = exchange
        self._engine = engine
        self._asked = asked
        self._job = job
        self._on_end = on_end
        self._open = True
        self._left = iter(enumerate(asked.prompts))
        self._under_way: dict[int, int] = {}  # place of a text: its number in the engine
        self.vectors: list[bytes] = [b""] * len(asked.prompts)

    def __repr__(self) -> str:
        return f"<VectorAnswer of {len(self.vectors)} texts, {len(self._under_way)} under way>"

    def begin(self) -> None:
        """Have the first texts computed; the others follow, so that a long list fits where there are few places.

        :raises PenstockError: there is no room
        """
        for _ in range(AT_ONCE):
            self._submit()

    def came(self, place: int, vector: bytes) -> None:
        self.vectors[place] = vector
        del self._under_way[place]
        try:
            self._submit()
        except PenstockError as error:
            self.failed(error)
            return
        if not self._under_way:
            self._open = False
            self._exchange.watch(None)
            self._exchange.respond(200, JSON_HEADERS, rendered(self._asked, self.vectors))
            self._on_end(200)

    def failed(self, error: PenstockError) -> None:
        if self._open:
            self.give_up()
            self._exchange.watch(None)
            self._on_end(refuse(self._exchange, error))

    def on_gone(self) -> None:
        if self._open:
            self.give_up()
            self._on_end(499)

    def on_writable(self) -> None:
        pass  # an answer is one piece

    def give_up(self) -> None:
        """Nobody wants it any more."""
        self._open = False
        for number in self._under_way.values():
            self._engine.cancel(number)

    def _submit(self) -> None:
        following = next(self._left, None)
        if following is not None:
            place, prompt = following
            self._under_way[place] = self._engine.submit(self._job(prompt), VectorFollower(self, place))


class VectorFollower:
    """One text of an answer; an engine's ``Follower``."""

    __slots__ = ("_answer", "_place")

    def __init__(self, answer: VectorAnswer, place: int) -> None:
        self._answer = answer
        self._place = place

    def on_progress(self, progress: Progress) -> None:
        self._answer.came(self._place, progress.vector)

    def on_failure(self, error: PenstockError) -> None:
        self._answer.failed(error)

    def __repr__(self) -> str:
        return f"<VectorFollower {self._place}>"


def rendered(asked: AskedVectors, vectors: Sequence[bytes]) -> bytes:
    """The body of the answer."""
    data = []
    for index, vector in enumerate(vectors):
        values = array.array("f", vector)
        if asked.dimensions and asked.dimensions < len(values):
            values = _shortened(values, asked.dimensions)
        data.append({"object": "embedding", "index": index, "embedding": _told(values, asked)})
    used = asked.input_tokens
    return msgspec.json.encode(
        {
            "object": "list",
            "data": data,
            "model": asked.model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }
    )


def _shortened(values: array.array[float], dimensions: int) -> array.array[float]:
    """The first of them, at length 1 again."""
    first = values[:dimensions]
    length = math.hypot(*first) or 1.0
    return array.array("f", [value / length for value in first])


def _told(values: array.array[float], asked: AskedVectors) -> object:
    if not asked.base64:
        return values.tolist()
    if sys.byteorder == "big":  # the API's are the other way round
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()


__all__ = ["AskedVectors", "VectorAnswer", "VectorFollower", "read", "rendered"]
