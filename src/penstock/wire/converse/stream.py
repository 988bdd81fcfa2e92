"""Streamed answers of Converse, event by event.

::

    messageStart (contentBlockStart? contentBlockDelta* contentBlockStop)* messageStop metadata

A block begins with ``contentBlockStart`` only if it is a call of a tool; text and reasoning begin with what they say.
The stop reason comes in ``messageStop``, and what was used in ``metadata``: that one ends the answer.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import Usage
from penstock.wire.conversation import (
    AnswerEvent,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Started,
    StopReason,
    Text,
    Thinking,
    ToolCall,
)
from penstock.wire.converse.answer import TokenUsage, stop_of, unknown_block
from penstock.wire.not_json import NOT_JSON


class _ToolStart(msgspec.Struct, rename="camel"):
    tool_use_id: str
    name: str
    type: str | None = None  # of a tool that runs at Amazon


class _Start(msgspec.Struct, rename="camel"):
    tool_use: _ToolStart | None = None


class _BlockStart(msgspec.Struct, rename="camel"):
    content_block_index: int
    start: _Start


class _ToolDelta(msgspec.Struct):
    input: str = ""


class _ReasoningDelta(msgspec.Struct, rename="camel"):
    text: str | None = None
    signature: str | None = None
    redacted_content: str | None = None


class _Delta(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolDelta | None = None
    reasoning_content: _ReasoningDelta | None = None


class _BlockDelta(msgspec.Struct, rename="camel"):
    content_block_index: int
    delta: _Delta


class _BlockStop(msgspec.Struct, rename="camel"):
    content_block_index: int


class _MessageStart(msgspec.Struct):
    role: str


class _MessageStop(msgspec.Struct, rename="camel"):
    stop_reason: str


class _Metadata(msgspec.Struct):
    usage: TokenUsage


_Kind: TypeAlias = type[Text] | type[Thinking] | type[ToolCall]

_block_start = msgspec.json.Decoder(_BlockStart).decode
_block_delta = msgspec.json.Decoder(_BlockDelta).decode
_block_stop = msgspec.json.Decoder(_BlockStop).decode
_message_start = msgspec.json.Decoder(_MessageStart).decode
_message_stop = msgspec.json.Decoder(_MessageStop).decode
_metadata = msgspec.json.Decoder(_Metadata).decode


class StreamDecoder:
    """One streamed answer: events of Converse in, events of the neutral form out."""

    __slots__ = ("_finished", "_index", "_kind", "_started", "_stop")

    def __init__(self) -> None:
        self._started = self._finished = False
        self._index = -1  # of the block that was begun last
        self._kind: _Kind | None = None  # of the block that is open; None: none is
        self._stop: StopReason | None = None

    def __repr__(self) -> str:
        state = "finished" if self._finished else "started" if self._started else "new"
        return f"<StreamDecoder of Converse {state}, block {self._index}>"

    def feed(self, name: str, payload: bytes) -> list[AnswerEvent]:
        """What one event says.

        :param name: its ``:event-type``
        :raises UpstreamBroken: it makes no sense, or not here
        """
        if self._finished:
            raise UpstreamBroken("the upstream sent more after the end of its answer")
        try:
            if name == "contentBlockDelta":
                return self._delta(_block_delta(payload))
            if name == "contentBlockStart":
                return self._begin(_block_start(payload))
            if name == "contentBlockStop":
                self._expect(self._started and _block_stop(payload).content_block_index >= self._index)
                return self._end()
            if name == "messageStart":
                self._expect(not self._started and _message_start(payload).role == "assistant")
                self._started = True
                return [Started("", "", 0, Usage())]
            if name == "messageStop":
                self._expect(self._started and self._stop is None)
                self._stop = stop_of(_message_stop(payload).stop_reason)
                return self._end()
            if name == "metadata":
                if self._stop is None:
                    raise UpstreamBroken("the upstream ended its answer without a stop reason")
                self._finished = True
                return [Finished(self._stop, _metadata(payload).usage.neutral())]
        except NOT_JSON:
            raise UpstreamBroken("the upstream sent a malformed event") from None
        return []  # what was added later than this was written

    def _begin(self, event: _BlockStart) -> list[AnswerEvent]:
        call = event.start.tool_use
        if call is None or call.type is not None:
            raise unknown_block()
        return self._enter(event.content_block_index, ToolCall(call.tool_use_id, call.name, ""))

    def _delta(self, event: _BlockDelta) -> list[AnswerEvent]:
        delta, index = event.delta, event.content_block_index
        if delta.text is not None:
            return [*self._within(index, Text("")), *_said(delta.text)]
        if delta.tool_use is not None:
            self._expect(self._kind is ToolCall and index == self._index)
            return _said(delta.tool_use.input)
        thought = delta.reasoning_content
        if thought is None:
            raise unknown_block()
        if thought.redacted_content is not None:
            return self._enter(index, Thinking(redacted=thought.redacted_content))
        events = self._within(index, Thinking())
        if thought.text or thought.signature:
            events.append(PartDelta(thought.text or "", thought.signature or ""))
        return events

    def _within(self, index: int, part: Text | Thinking) -> list[AnswerEvent]:
        """The events after which the block of this index is open, and of this kind."""
        if self._kind is type(part) and index == self._index:
            return []
        return self._enter(index, part)

    def _enter(self, index: int, part: Text | Thinking | ToolCall) -> list[AnswerEvent]:
        # Some models put thoughts and text under one index, so the same one again is no mistake.
        self._expect(self._started and self._stop is None and index >= max(self._index, 0))
        events = self._end()
        self._index, self._kind = index, type(part)
        return [*events, PartStarted(part)]

    def _end(self) -> list[AnswerEvent]:
        if self._kind is None:
            return []
        self._kind = None
        return [PartEnded()]

    def _expect(self, sense: bool) -> None:
        if not sense:
            raise UpstreamBroken("the upstream sent an event where it makes no sense")


def _said(text: str) -> list[AnswerEvent]:
    return [PartDelta(text)] if text else []
