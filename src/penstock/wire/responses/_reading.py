"""A stream of response events, read: for an answer that broke off and is to go on.

Made for the streams of upstreams that have the API themselves, and for those that :mod:`._stream` wrote.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint, Usage
from penstock.wire import problems, sse, usage
from penstock.wire.conversation import (
    AnswerEvent,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Refusal,
    Started,
    StopReason,
    Text,
    Thinking,
    ToolCall,
)
from penstock.wire.not_json import NOT_JSON
from penstock.wire.responses._events import CANCELLED, COMPLETED, ERROR, FAILED, INCOMPLETE


class ItemHead(msgspec.Struct):
    """What an item says of itself when it begins."""

    type: str
    id: str = ""
    call_id: str = ""
    name: str = ""
    namespace: str | None = None
    arguments: str = ""


class PartHead(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class ResponseHead(msgspec.Struct):
    id: str = ""
    model: str = ""
    created_at: int | float = 0
    background: bool | None = None
    incomplete_details: _Incomplete | None = None


class Event(msgspec.Struct):
    """Any event, as far as somebody here wants to know it."""

    type: str
    sequence_number: int = -1
    response: ResponseHead | None = None
    item: ItemHead | None = None
    part: PartHead | None = None
    delta: str | None = None
    summary_index: int = 0


event_of = msgspec.json.Decoder(Event).decode

DELTAS: Final = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
    }
)
_ENDS_PART: Final = frozenset(
    {
        "response.content_part.done",
        "response.function_call_arguments.done",
        "response.reasoning_summary_part.done",
    }
)


class StreamDecoder:
    """Frames of a streamed response to events."""

    __slots__ = ("_called", "_finished", "_open", "_refused", "_usage", "stop")

    def __init__(self) -> None:
        self._open = False
        self._called = False
        self._refused = False
        self._finished = False
        self._usage = Usage()
        self.stop: StopReason | None = None

    def __repr__(self) -> str:
        state = "finished" if self._finished else "in a part" if self._open else "between parts"
        return f"<responses.StreamDecoder {state}>"

    def feed(self, frame: bytes) -> list[AnswerEvent]:
        """Events of one whole frame.

        :raises UpstreamBroken: it makes no sense, or has an item of an unknown kind
        :raises PenstockError: the upstream reports an error
        """
        data = sse.data_of(frame)
        if not data or data == b"[DONE]":
            return []
        try:
            event = event_of(data)
        except NOT_JSON:
            raise UpstreamBroken("the upstream sent a malformed event") from None
        kind = event.type
        if kind in DELTAS:
            return [PartDelta(event.delta)] if event.delta else []
        if kind in _ENDS_PART:
            return self._end()
        if kind == "response.content_part.added" and event.part is not None:
            return self._content(event.part)
        if kind == "response.output_item.added" and event.item is not None:
            return self._item(event.item)
        if kind == "response.output_item.done":
            return self._end()
        if kind == "response.created" and event.response is not None:
            told = event.response
            return [Started(told.id, told.model, int(told.created_at))]
        if kind in {COMPLETED, INCOMPLETE}:
            return self._finish(event, data)
        if kind in {FAILED, CANCELLED, ERROR}:
            raise problems.error_in_event(data) or UpstreamBroken(
                f"the upstream ended its answer with {kind}"
            )
        return []

    def close(self) -> list[AnswerEvent]:
        """The upstream's stream is at its end.

        :raises UpstreamBroken: the answer was not complete
        """
        if not self._finished:
            raise UpstreamBroken("the upstream's stream ended before its answer was complete")
        return []

    def _begin(self, part: Text | Thinking | ToolCall | Refusal) -> list[AnswerEvent]:
        if self._open:
            raise UpstreamBroken("the upstream's answer begins a part inside of another")
        self._open = True
        return [PartStarted(part)]

    def _end(self) -> list[AnswerEvent]:
        if not self._open:
            return []
        self._open = False
        return [PartEnded()]

    def _content(self, part: PartHead) -> list[AnswerEvent]:
        if part.type == "output_text":
            return self._begin(Text(part.text))
        if part.type == "refusal":
            self._refused = True
            return self._begin(Refusal(part.refusal))
        return []  # reasoning_text: its item has begun the part

    def _item(self, item: ItemHead) -> list[AnswerEvent]:
        if item.type == "message":
            return []
        if item.type == "function_call":
            self._called = True
            events = self._begin(ToolCall(item.call_id, item.name, ""))
            if item.arguments:
                events.append(PartDelta(item.arguments))
            return events
        if item.type == "reasoning":
            return self._begin(Thinking())
        raise UpstreamBroken(f"the upstream's answer has an item of an unknown kind ({item.type[:40]})")

    def _finish(self, event: Event, data: bytes) -> list[AnswerEvent]:
        self._finished = True
        self._usage = usage.usage_of_event(Endpoint.RESPONSES, data) or self._usage
        details: JSON = event.response.incomplete_details if event.response is not None else None
        if event.type == INCOMPLETE:
            reason = details.reason if details is not None else None
            self.stop = "content_filter" if reason == "content_filter" else "length"
        else:
            self.stop = "tool_calls" if self._called else "refusal" if self._refused else "stop"
        return [*self._end(), Finished(self.stop, self._usage)]
