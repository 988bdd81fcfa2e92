"""Converse's answers told as Anthropic's messages, which everything behind an upstream's door reads."""

from __future__ import annotations

import msgspec

from penstock.wire import anthropic, sse
from penstock.wire.conversation import Started
from penstock.wire.converse.answer import decode_answer
from penstock.wire.converse.stream import StreamDecoder
from penstock.wire.event_stream import EventStream


def message_of(body: bytes, model: str, name: str) -> bytes:
    """A plain answer as a message.

    :param model: as the caller names it: Converse does not tell it
    :param name: the message's id, which Converse does not tell either
    :raises UpstreamBroken: it is no answer of Converse's
    """
    return anthropic.encode_answer(msgspec.structs.replace(decode_answer(body), id=name, model=model))


class ConverseStream(EventStream):
    """Cuts a stream of bytes into Amazon's messages, and makes frames of what they tell; see :func:`message_of`."""

    __slots__ = ("_decoder", "_encoder", "_model", "_name")

    def __init__(
        self, max_frame_bytes: int = sse.MAX_FRAME_BYTES, *, model: str = "", name: str = ""
    ) -> None:
        super().__init__(max_frame_bytes)
        self._decoder = StreamDecoder()
        self._encoder = anthropic.StreamEncoder()
        self._model = model
        self._name = name

    def __repr__(self) -> str:
        return f"<ConverseStream {self._decoder!r}>"

    def _event(self, name: str, payload: bytes) -> list[bytes]:
        frames: list[bytes] = []
        for event in self._decoder.feed(name, payload):
            if isinstance(event, Started):
                event = msgspec.structs.replace(event, id=self._name, model=self._model)  # noqa: PLW2901
            frames += self._encoder.feed(event)
        return frames
