"""Streamed answers: ``chat.completion.chunk`` events.

A chunk's delta may add to any of the message's members, and to any of its tool calls; the neutral form
has one part after the other.  So the decoder keeps a queue of parts: the first is open and passes its
deltas on at once, those behind it wait until it is complete.  Text and thoughts are complete as soon as
something else begins.  A tool call is complete when its arguments are a whole JSON value, or at the end
of the answer: a server that interleaves the arguments of two calls (legal, though rare) has those of the
second held back, for nothing in the neutral form, nor in Anthropic's, could tell of two open calls.
"""

from __future__ import annotations

import re
from collections import deque

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint, Usage
from penstock.wire import members, problems, sse, usage
from penstock.wire.chat.answer import argument_text, finish_of, made_up_id, spoken, stop_of, write_usage
from penstock.wire.chat.reasoning import detail
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

_DONE = b"[DONE]"
_MOST_WAITING = 8 << 20  # characters that wait behind the part that is open
_DELTA_OVERHEAD = 64  # characters that a delta counts for beside its own
_MOST_PARTS = 4_096  # that wait, and tool calls: no answer has as many
_MARK = re.compile(r'["\\{}\[\]]')  # what opens or closes something in JSON, or may hide that it does
_SPACE = " \t\r\n"

# ---- upstream's frames -> events -------------------------------------------------------------------


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: JSON = None


class _CallDelta(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: JSON = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: JSON = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: JSON = None
    index: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    usage: JSON = None
    x_groq: JSON = None
    error: JSON = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_json_value = msgspec.json.Decoder().decode


class _Arguments:
    """A tool call's arguments as they come, each piece read once: whether they are a whole JSON value by now."""

    __slots__ = ("_closed", "_depth", "_escaped", "_pieces", "_quoted", "complete")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._depth = 0
        self._quoted = False  # within a string
        self._escaped = False  # what comes next is no mark, whatever it looks like
        self._closed = False  # what was opened first has been closed: nothing can follow it
        self.complete = False

    def __repr__(self) -> str:
        return f"<arguments in {len(self._pieces)} pieces{', complete' if self.complete else ''}>"

    def add(self, text: str) -> None:
        if not text.strip(_SPACE):
            return
        self.complete = False
        if self._closed:
            return
        self._pieces.append(text)
        self._read(text)
        if self._closed or (len(self._pieces) == 1 and text.lstrip(_SPACE)[0] not in "{["):
            try:
                _json_value("".join(self._pieces))
                self.complete = True
            except NOT_JSON:
                pass
        if self._closed:
            self._pieces.clear()

    def _read(self, text: str) -> None:
        at = 0
        if self._escaped:
            self._escaped, at = False, 1
        while (found := _MARK.search(text, at)) is not None:
            at = found.end()
            mark = found[0]
            if mark == "\\":
                self._escaped = at == len(text)
                at += 1
            elif mark == '"':
                self._quoted = not self._quoted
            elif not self._quoted:
                self._depth += 1 if mark in "{[" else -1
                self._closed = self._closed or self._depth <= 0


class _Open:
    """A part that has begun and has not ended."""

    __slots__ = ("arguments", "begun", "ended", "part", "sealed", "size", "waiting")

    def __init__(self, part: Text | Thinking | Refusal | ToolCall) -> None:
        self.part = part
        self.sealed = False  # a thought that is signed or hidden: what follows is another one
        self.begun = False  # PartStarted is out
        self.ended = False
        self.waiting: list[PartDelta] = []
        self.size = 0  # of what waits
        self.arguments = _Arguments() if isinstance(part, ToolCall) else None

    def __repr__(self) -> str:
        return f"<{type(self.part).__name__} {'open' if self.begun else 'waiting'}>"

    def complete(self) -> bool:
        return self.arguments is None or self.arguments.complete


class StreamDecoder:
    """Frames of chat completion chunks to events."""

    __slots__ = (
        "_by_id",
        "_by_index",
        "_finished",
        "_id",
        "_next",
        "_parts",
        "_reasoning_named",
        "_refused",
        "_started",
        "_stop",
        "_stop_sequence",
        "_usage",
        "_waiting",
    )

    def __init__(self) -> None:
        self._id = ""
        self._started = False
        self._parts: deque[_Open] = deque()  # the first is open, the others wait
        self._waiting = 0  # characters of what waits
        self._by_index: dict[int, _Open] = {}
        self._by_id: dict[str, int] = {}  # the index of the call that had this id first
        self._next = 0  # an index behind all that are taken
        self._reasoning_named = False
        self._refused = False
        self._stop: StopReason | None = None
        self._stop_sequence = ""
        self._usage = Usage()
        self._finished = False

    def __repr__(self) -> str:
        state = "finished" if self._finished else "started" if self._started else "new"
        return f"<StreamDecoder of chat {state}, parts: {self._parts}>"

    @property
    def stop(self) -> StopReason | None:
        """The finish reason, once it has come."""
        return self._stop

    @property
    def interleaved(self) -> bool:
        """Whether parts wait behind the one that is open."""
        return len(self._parts) > 1

    def feed(self, frame: bytes) -> list[AnswerEvent]:
        """Events of one whole frame.

        :raises UpstreamBroken: it makes no sense
        :raises PenstockError: the upstream reports an error
        """
        data = sse.data_of(frame)
        if not data:
            return []
        if self._finished:
            raise UpstreamBroken("the upstream sent more after the end of its answer")
        if data == _DONE:
            if self._stop is None:
                raise UpstreamBroken("the upstream ended its answer without a finish reason")
            self._finished = True
            return [Finished(self._stop, self._usage, self._stop_sequence)]
        try:
            chunk = _chunk(data)
        except NOT_JSON:
            raise problems.error_in_event(data) or UpstreamBroken(
                "the upstream sent a malformed event"
            ) from None
        if chunk.error is not None and (error := problems.error_in_event(data)):
            raise error
        events: list[AnswerEvent] = []
        if not self._started:
            self._started = True
            self._id = chunk.id or ""
            events.append(Started(self._id, chunk.model or "", int(chunk.created or 0)))
        if chunk.usage is not None or chunk.x_groq is not None:
            self._usage = usage.usage_of_event(Endpoint.CHAT, data) or self._usage
        for choice in chunk.choices:
            if choice.index == 0:
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
        delta = choice.delta
        if self._stop is not None:
            # Some servers repeat the finish reason, or an empty delta, beside the usage.
            if delta is not None and (delta.content or delta.refusal or delta.tool_calls):
                raise UpstreamBroken("the upstream's answer goes on after its finish reason")
            return
        if delta is not None:
            if delta.reasoning_content or delta.reasoning or delta.reasoning_details:
                self._think(delta, events)
            if content := delta.content:
                if isinstance(content, str):
                    self._say(Text, content, events)
                else:
                    for part in spoken(content):
                        if isinstance(part, Text | Thinking):
                            self._say(type(part), part.text, events)
            if delta.refusal:
                self._refused = True
                self._say(Refusal, delta.refusal, events)
            for call in delta.tool_calls or ():
                self._call(call, events)
        if choice.finish_reason:
            if isinstance(choice.stop_reason, str):
                self._stop_sequence = choice.stop_reason
            called = bool(self._by_index)
            self._end_all(events)
            self._stop = stop_of(
                choice.finish_reason, self._stop_sequence, called=called, refused=self._refused
            )

    def _think(self, delta: _Delta, events: list[AnswerEvent]) -> None:
        text = delta.reasoning_content or delta.reasoning or ""
        if text:
            self._reasoning_named = True
            self._say(Thinking, text, events)
        details = delta.reasoning_details
        for entry in details if isinstance(details, list) else ():
            if not isinstance(entry, dict):
                continue
            words, data, signature = entry.get("text"), entry.get("data"), entry.get("signature")
            if isinstance(data, str) and data:
                hidden = _Open(Thinking(redacted=data))
                hidden.sealed = True
                self._append(hidden, events, len(data))
                continue
            # The same words under both names count once; those of the plain name came first.
            if isinstance(words, str) and words and not self._reasoning_named:
                self._say(Thinking, words, events)
            if isinstance(signature, str) and signature:
                self._sign(signature, events)

    def _sign(self, signature: str, events: list[AnswerEvent]) -> None:
        last = self._parts[-1] if self._parts else None
        if last is None or not isinstance(last.part, Thinking) or last.sealed:
            last = _Open(Thinking())
            self._append(last, events)
        last.sealed = True
        self._emit(last, PartDelta(signature=signature), events)

    def _say(self, kind: type[Text | Thinking | Refusal], text: str, events: list[AnswerEvent]) -> None:
        if not text:
            return
        last = self._parts[-1] if self._parts else None
        if last is None or type(last.part) is not kind or last.sealed:
            last = _Open(kind(text=""))
            self._append(last, events)
        self._emit(last, PartDelta(text=text), events)

    def _call(self, delta: _CallDelta, events: list[AnswerEvent]) -> None:
        index = delta.index if delta.index is not None else self._index_of(delta.id)
        call = self._by_index.get(index)
        if call is not None and delta.id and isinstance(call.part, ToolCall) and call.part.id != delta.id:
            # Some servers number all calls 0: another id is another call.
            index = self._next
            call = None
        function = delta.function or _Function()
        if call is None:
            call = self._begun_call(delta, index, function, events)
        if text := argument_text(function.arguments):
            if call.ended:
                if text.isspace():
                    return
                raise UpstreamBroken("the upstream's answer adds to a tool call that was complete")
            assert call.arguments is not None
            call.arguments.add(text)
            self._emit(call, PartDelta(text=text), events)
            if len(self._parts) > 1:
                self._advance(events)

    def _begun_call(
        self, delta: _CallDelta, index: int, function: _Function, events: list[AnswerEvent]
    ) -> _Open:
        if not function.name:
            raise UpstreamBroken("the upstream's answer calls a tool without a name")
        if len(self._by_index) >= _MOST_PARTS:
            raise UpstreamBroken("the upstream's answer calls more tools than any answer does")
        call_id = delta.id or made_up_id(self._id, len(self._by_index))
        call = _Open(ToolCall(call_id, function.name, ""))
        self._by_index[index] = call
        self._by_id.setdefault(call_id, index)
        self._next = max(self._next, index + 1)
        if delta.index is not None and delta.index != index:
            self._by_index[delta.index] = call  # deltas without an id go to the newest of that number
        self._append(call, events)
        return call

    def _index_of(self, call_id: str | None) -> int:
        if not call_id:
            return max(self._next - 1, 0)  # the newest
        return self._by_id.get(call_id, self._next)

    def _emit(self, part: _Open, delta: PartDelta, events: list[AnswerEvent]) -> None:
        if part is self._parts[0]:
            events.append(delta)
        else:
            part.waiting.append(delta)
            self._count(part, len(delta.text) + len(delta.signature) + _DELTA_OVERHEAD)

    def _append(self, part: _Open, events: list[AnswerEvent], size: int = 0) -> None:
        """Another part, behind those that there are."""
        self._parts.append(part)
        self._count(part, size)
        self._advance(events)

    def _count(self, part: _Open, size: int) -> None:
        part.size += size
        self._waiting += size
        if self._waiting > _MOST_WAITING or len(self._parts) > _MOST_PARTS:
            raise UpstreamBroken("the upstream's answer has more parts open at once than can be told of")

    def _advance(self, events: list[AnswerEvent]) -> None:
        """Close what is complete and has something behind it, and open what then stands first."""
        parts = self._parts
        while len(parts) > 1 and parts[0].complete():
            events.append(PartEnded())
            parts.popleft().ended = True
            self._begin(parts[0], events)
        if parts and not parts[0].begun:
            self._begin(parts[0], events)

    def _begin(self, part: _Open, events: list[AnswerEvent]) -> None:
        if not part.begun:
            part.begun = True
            events.append(PartStarted(part.part))
            events.extend(part.waiting)
            self._waiting -= part.size
            part.waiting, part.size = [], 0

    def _end_all(self, events: list[AnswerEvent]) -> None:
        for part in self._parts:
            self._begin(part, events)
            events.append(PartEnded())
            part.ended = True
        self._parts.clear()


# ---- events -> caller's frames ---------------------------------------------------------------------


class StreamEncoder:
    """Events to frames of chat completion chunks: role, deltas, finish reason, usage, ``[DONE]``.

    :param include_usage: whether the caller asked for the chunk that carries usage and no choices
    """

    __slots__ = ("_calls", "_head", "_include_usage", "_part", "_refused", "_text", "_thoughts")

    def __init__(self, *, include_usage: bool = False) -> None:
        self._include_usage = include_usage
        self._head: dict[str, JSON] = {}
        self._part: Text | Thinking | ToolCall | Refusal | None = None
        self._text: list[str] = []  # of the thought that is open, or of the call's arguments
        self._calls = 0
        self._thoughts = 0
        self._refused = False

    def __repr__(self) -> str:
        return f"<StreamEncoder of chat, in {self._part!r}, {self._calls} calls so far>"

    def feed(self, event: AnswerEvent) -> list[bytes]:
        """The frames that tell this event."""
        if isinstance(event, PartDelta):
            return self._delta(event)
        if isinstance(event, PartStarted):
            return self._begin(event.part)
        if isinstance(event, PartEnded):
            return self._end()
        if isinstance(event, Started):
            self._head = {
                "id": event.id,
                "object": "chat.completion.chunk",
                "created": event.created,
                "model": event.model,
            }
            return [self._chunk({"role": "assistant"})]
        frames = [self._chunk({}, finish_of(event.stop, refused=self._refused))]
        if self._include_usage:
            closing = {**self._head, "choices": [], "usage": write_usage(event.usage)}
            frames.append(sse.encode(members.encode(closing)))
        frames.append(sse.encode(_DONE))
        return frames

    def _begin(self, part: Text | Thinking | ToolCall | Refusal) -> list[bytes]:
        self._part = part
        self._text = []
        if isinstance(part, ToolCall):
            call: dict[str, JSON] = {"index": self._calls, "id": part.id}
            if part.custom:
                call |= {"type": "custom", "custom": {"name": part.name, "input": part.arguments}}
            else:
                call |= {"type": "function", "function": {"name": part.name, "arguments": part.arguments}}
            if part.arguments:
                self._text.append(part.arguments)
            return [self._chunk({"tool_calls": [call]})]
        if isinstance(part, Thinking) and part.redacted:
            return [self._chunk({"reasoning_details": [detail(part, self._thoughts)]})]
        if isinstance(part, Refusal):
            self._refused = True
        return self._delta(PartDelta(text=part.text)) if part.text else []

    def _delta(self, event: PartDelta) -> list[bytes]:
        part = self._part
        if isinstance(part, Thinking) and event.signature:
            self._part = msgspec.structs.replace(part, signature=event.signature)
        text = event.text
        if not text:
            return []
        if isinstance(part, Text):
            return [self._chunk({"content": text})]
        if isinstance(part, ToolCall):
            self._text.append(text)
            more: dict[str, JSON] = (
                {"custom": {"input": text}} if part.custom else {"function": {"arguments": text}}
            )
            return [self._chunk({"tool_calls": [{"index": self._calls, **more}]})]
        if isinstance(part, Refusal):
            return [self._chunk({"refusal": text})]
        self._text.append(text)
        return [self._chunk({"reasoning_content": text})]

    def _end(self) -> list[bytes]:
        part = self._part
        self._part = None
        if isinstance(part, ToolCall):
            frames = []
            # A call without arguments: the SDK would fail to parse an empty string.
            if not self._text and not part.custom:
                empty = {"index": self._calls, "function": {"arguments": "{}"}}
                frames.append(self._chunk({"tool_calls": [empty]}))
            self._calls += 1
            return frames
        if isinstance(part, Thinking):
            frames = []
            if part.signature:
                whole = Thinking("".join(self._text), part.signature)
                frames.append(self._chunk({"reasoning_details": [detail(whole, self._thoughts)]}))
            self._thoughts += 1
            return frames
        return []

    def _chunk(self, delta: dict[str, JSON], finish_reason: str | None = None) -> bytes:
        chunk = {
            **self._head,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        }
        if self._include_usage:
            chunk["usage"] = None
        return sse.encode(members.encode(chunk))
