"""What a dialect is: a module with six names, three for those who ask in it and three for those who answer in it."""

from __future__ import annotations

from typing import Protocol

from penstock.wire.conversation import Answer, AnswerEvent, Prompt


class Decoder(Protocol):
    """A streamed answer of one dialect, frame by frame."""

    def feed(self, frame: bytes) -> list[AnswerEvent]:
        """One whole SSE frame.

        :raises penstock.errors.UpstreamBroken: it makes no sense
        :raises penstock.errors.PenstockError: it is an error event (see ``wire.problems.error_in_event``)
        """

    def close(self) -> list[AnswerEvent]:
        """The upstream's stream is at its end.

        :raises penstock.errors.UpstreamBroken: it was not complete: no finish reason or no terminator
        """


class Encoder(Protocol):
    """Makes the frames of a streamed answer in one dialect."""

    def feed(self, event: AnswerEvent) -> list[bytes]:
        """The whole SSE frames that tell this event; the terminator comes with ``Finished``."""


class AsksForm(Protocol):
    """The half of a dialect that callers write: requests are decoded, answers are encoded."""

    def decode_prompt(self, body: bytes) -> Prompt: ...
    def encode_answer(self, answer: Answer) -> bytes: ...
    def StreamEncoder(self, *, include_usage: bool = False) -> Encoder: ...  # noqa: N802


class AnswersForm(Protocol):
    """The half of a dialect that upstreams understand: requests are encoded, answers are decoded."""

    def encode_prompt(self, prompt: Prompt) -> bytes: ...
    def decode_answer(self, body: bytes) -> Answer: ...
    def StreamDecoder(self) -> Decoder: ...  # noqa: N802
