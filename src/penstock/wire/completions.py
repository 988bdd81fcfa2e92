"""Legacy completions as a stream: text, and nothing else.

Only what a broken answer needs to be continued: read as the events of ``wire.conversation``, and written
so that a caller's stream goes on.
"""

from __future__ import annotations

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint, Usage
from penstock.wire import members, problems, sse, usage
from penstock.wire.chat.answer import finish_of, stop_of, write_usage
from penstock.wire.conversation import (
    AnswerEvent,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Started,
    StopReason,
    Text,
)
from penstock.wire.not_json import NOT_JSON

_DONE = b"[DONE]"


class _Choice(msgspec.Struct):
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: JSON = None
    index: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    usage: JSON = None
    error: JSON = None


_chunk = msgspec.json.Decoder(_Chunk).decode


class StreamDecoder:
    """Frames of text completion chunks to events; of several choices the first."""

    __slots__ = ("_finished", "_open", "_started", "_stop_sequence", "_usage", "stop")

    def __init__(self) -> None:
        self._started = False
        self._open = False
        self._usage = Usage()
        self._stop_sequence = ""
        self._finished = False
        self.stop: StopReason | None = None

    def __repr__(self) -> str:
        return f"<StreamDecoder of completions {'finished' if self._finished else 'running'}>"

    def feed(self, frame: bytes) -> list[AnswerEvent]:
        """Events of one whole frame.

        :raises UpstreamBroken: it makes no sense
        :raises PenstockError: the upstream reports an error
        """
        data = sse.data_of(frame)
        if not data:
            return []
        if data == _DONE:
            if self.stop is None:
                raise UpstreamBroken("the upstream ended its answer without a finish reason")
            self._finished = True
            return [Finished(self.stop, self._usage, self._stop_sequence)]
        try:
            chunk = _chunk(data)
        except NOT_JSON:
            raise UpstreamBroken("the upstream sent a malformed event") from None
        if chunk.error is not None and (error := problems.error_in_event(data)):
            raise error
        events: list[AnswerEvent] = []
        if not self._started:
            self._started = True
            events.append(Started(chunk.id or "", chunk.model or "", int(chunk.created or 0)))
        if chunk.usage is not None:
            self._usage = usage.usage_of_event(Endpoint.COMPLETIONS, data) or self._usage
        for choice in chunk.choices:
            if choice.index == 0 and self.stop is None:
                self._take(choice, events)
        return events

    def close(self) -> list[AnswerEvent]:
        """The upstream's stream is at its end.

        :raises UpstreamBroken: the answer was not complete
        """
        if not self._finished:
            raise UpstreamBroken("the upstream's stream ended before its answer was complete")
        return []

    def _take(self, choice: _Choice, events: list[AnswerEvent]) -> None:
        if choice.text:
            if not self._open:
                self._open = True
                events.append(PartStarted(Text("")))
            events.append(PartDelta(choice.text))
        if choice.finish_reason:
            if isinstance(choice.stop_reason, str):
                self._stop_sequence = choice.stop_reason
            self.stop = stop_of(choice.finish_reason, self._stop_sequence, called=False, refused=False)
            if self._open:
                events.append(PartEnded())


class StreamEncoder:
    """Events to frames of text completion chunks."""

    __slots__ = ("_head", "_include_usage")

    def __init__(self, *, include_usage: bool = False) -> None:
        self._include_usage = include_usage
        self._head: dict[str, JSON] = {}

    def __repr__(self) -> str:
        return f"<StreamEncoder of completions {self._head.get('id', '')}>"

    def feed(self, event: AnswerEvent) -> list[bytes]:
        """The frames that tell this event.

        :raises UpstreamBroken: a part that is no text: a completion cannot hold it
        """
        if isinstance(event, PartDelta):
            return [self._chunk(event.text)] if event.text else []
        if isinstance(event, PartStarted):
            if not isinstance(event.part, Text):
                raise UpstreamBroken("a completion cannot hold what the model answered")
            return [self._chunk(event.part.text)] if event.part.text else []
        if isinstance(event, PartEnded):
            return []
        if isinstance(event, Started):
            self._head = {
                "id": event.id,
                "object": "text_completion",
                "created": event.created,
                "model": event.model,
            }
            return []
        frames = [self._chunk("", finish_of(event.stop, refused=False))]
        if self._include_usage:
            closing = {**self._head, "choices": [], "usage": write_usage(event.usage)}
            frames.append(sse.encode(members.encode(closing)))
        frames.append(sse.encode(_DONE))
        return frames

    def _chunk(self, text: str, finish_reason: str | None = None) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}
        return sse.encode(members.encode({**self._head, "choices": [choice]}))
