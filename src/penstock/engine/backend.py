"""What a library of inference must be able to do, and the words for it.

A backend holds one model.  It is driven by one thread, the engine's: nothing but its tokenizer is ever called
by another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

import msgspec

from penstock.engine.productions import Grammar
from penstock.errors import ModelUnusable
from penstock.messages import JSON

Finish: TypeAlias = Literal["", "stop", "length", "memory"]
"""How a generation stands: under way; ended by itself; at its limit; given up because the cache for its keys and
values has no room for it."""


NOTHING: Mapping[str, JSON] = MappingProxyType({})


_MAX_TEMPERATURE = 2.0  # as calls may say them
_MAX_PENALTY = 10.0


class ModelCard(msgspec.Struct, frozen=True):
    """What is known of a model once it is loaded.

    ``context``: tokens of a prompt and its answer together, at most.  ``vocabulary``: token ids lie below it.
    ``backend``: library and version.  ``dimensions``: of its embeddings; 0: it writes text.  ``shorter``: their
    beginnings are embeddings as well.  ``draws``: which token is next is chosen here and not by the library, so that
    a ``logit_bias`` and ``top_logprobs`` can be asked for.  ``scores``: how likely a prompt's tokens are can be asked.
    """

    directory: str
    context: int
    vocabulary: int
    backend: str
    step_tokens: int  # prompt and answer tokens that one step takes, at most
    defaults: Sampling
    dimensions: int = 0
    shorter: bool = False
    draws: bool = False
    scores: bool = False


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen; the names are those of the OpenAI API and of vLLM.

    ``temperature`` 0 takes the likeliest token each time.  ``schema`` is the JSON Schema that the answer must keep
    to, as JSON text; ``grammar`` the rules of which it must be a text, also where they were said as an expression or a
    choice.  Empty: none; one of them at most is there.
    """

    max_tokens: int = 0  # 0: what the context has room for
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False  # of the tokens that were chosen
    top_logprobs: int = 0  # and of so many that were likeliest
    # Those of the prompt's tokens, with so many that were likeliest; None: not.
    prompt_logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()  # what is added to the logits of tokens
    schema: str = ""
    grammar: Grammar | None = None

    @property
    def is_ruled(self) -> bool:
        """Whether there is something that the answer must keep to."""
        return bool(self.schema or self.grammar)


def usable(said: Sampling) -> Sampling:
    """A model's own way of choosing tokens, without what is no way: files of models say ``top_p`` 0, or -1."""
    neutral = Sampling()
    return msgspec.structs.replace(
        neutral,
        temperature=said.temperature if 0 <= said.temperature <= _MAX_TEMPERATURE else neutral.temperature,
        top_p=said.top_p if 0 < said.top_p <= 1 else neutral.top_p,
        top_k=max(0, said.top_k),
        min_p=said.min_p if 0 <= said.min_p <= 1 else neutral.min_p,
        repetition_penalty=said.repetition_penalty
        if 0 < said.repetition_penalty <= _MAX_PENALTY
        else neutral.repetition_penalty,
    )


def check_ends(ends: Collection[int], vocabulary: int, path: Path) -> None:
    """:raises penstock.errors.ModelUnusable: one of the tokens that end an answer is none of this model's"""
    wrong = [token for token in ends if not 0 <= token < vocabulary]
    if wrong:
        raise ModelUnusable(
            f"{path} says that the token {wrong[0]} ends an answer, and its tokens are 0 to {vocabulary - 1}: "
            "mend eos_token_id in generation_config.json, config.json or genai_config.json"
        )


class Logprob(msgspec.Struct, frozen=True, gc=False):
    """How likely a token was, as the model alone has it; ``top``: the likeliest, by their ids.

    ``rank``: among all of them, where 1 is the likeliest; 0: it is not known.
    """

    value: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 0


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What one step added to one generation; ``vector``: the embedding of its prompt, as bytes of float32.

    ``prompt``: with the first ids, of the prompt's tokens from the second on, where that is asked for.
    """

    number: int
    ids: list[int]
    logprobs: list[Logprob]  # one for each id where they were asked for, else none
    finish: Finish
    vector: bytes = b""
    prompt: Sequence[Logprob] = ()


class CannotTake(Exception):
    """The library refuses a generation for what it is; the text is for the caller."""


class Tokenizer(Protocol):
    """Text to token ids and back; may be called from any thread."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text.

        :param special: add what the model wants at a beginning; a chat template writes that itself
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, those left out that stand for no text."""

    def render(
        self,
        messages: Sequence[JSON],
        *,
        answer: bool,
        tools: Sequence[JSON] = (),
        more: Mapping[str, JSON] = NOTHING,
    ) -> str:
        """A conversation as the model was trained to read one, by its chat template.

        :param answer: the model's turn begins at its end
        :param tools: that the model may call, in OpenAI's form
        :param more: variables of the template
        :raises CannotTake: there is no template, or it does not take these messages
        """

    def pieces(self) -> list[bytes] | None:
        """The bytes of each token id, where the text of several is that of each, one after the other; else None."""


class Backend(Protocol):
    """One model, loaded."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def prepare(self, sampling: Sampling) -> None:
        """Do what takes long before a generation that keeps to something, and keep it for all that follow.

        Called by one thread, which is not the engine's: steps are computed meanwhile.

        :raises CannotTake: the library refuses the rule
        """

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Begin a generation with the next step.

        :param number: the caller's name for it, never used before
        :raises CannotTake: it will not
        """

    def cancel(self, number: int) -> None:
        """Give a generation up; its place is free with the next step.  Nothing more is told of it."""

    def step(self) -> list[Progress]:
        """Compute one step of all that are under way: what has come of it.

        :raises Exception: the model is not to be used any more
        """

    def rest(self) -> None:
        """Nothing is under way: the time for what would hold up a step.

        :raises Exception: the model is not to be used any more
        """

    def statistics(self) -> dict[str, float]:
        """Figures of the library's own, for metrics."""

    def close(self) -> None:
        """Let go of the model's memory."""
