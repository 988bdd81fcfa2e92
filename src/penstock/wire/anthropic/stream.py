"""Streamed answers: ``message_start``, blocks one after the other, ``message_delta``, ``message_stop``."""

from __future__ import annotations

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint, Usage
from penstock.wire import members, problems, sse, usage
from penstock.wire.anthropic.answer import REASONS, Block, part_of, stop_of, write_usage
from penstock.wire.anthropic.write_prompt import thinking_block
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
from penstock.wire.not_json import NOT_JSON

# ---- upstream's frames -> events -------------------------------------------------------------------


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: JSON = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""


class _Event(msgspec.Struct):
    type: str
    index: int = -1
    message: _Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None


_event = msgspec.json.Decoder(_Event).decode


class StreamDecoder:
    """Frames of a streamed message to events."""

    __slots__ = ("_finished", "_open", "_started", "_stop", "_stop_sequence", "_usage")

    def __init__(self) -> None:
        self._started = False
        self._open = -1  # index of the block that is open
        self._stop: StopReason | None = None
        self._stop_sequence = ""
        self._usage = Usage()
        self._finished = False

    def __repr__(self) -> str:
        state = "finished" if self._finished else "started" if self._started else "new"
        return f"<StreamDecoder of messages {state}, block {self._open}>"

    @property
    def stop(self) -> StopReason | None:
        """The stop reason, once it has come."""
        return self._stop

    def feed(self, frame: bytes) -> list[AnswerEvent]:
        """Events of one whole frame.

        :raises UpstreamBroken: it makes no sense, or not here
        :raises PenstockError: the upstream reports an error
        """
        data = sse.data_of(frame)
        if not data:
            return []
        if self._finished:
            raise UpstreamBroken("the upstream sent more after the end of its answer")
        try:
            event = _event(data)
        except NOT_JSON:
            raise problems.error_in_event(data) or UpstreamBroken(
                "the upstream sent a malformed event"
            ) from None
        kind = event.type
        if kind == "content_block_delta":
            return self._delta(event)
        if kind == "content_block_start":
            return self._begin(event)
        if kind == "content_block_stop":
            self._expect(event.index == self._open >= 0)
            self._open = -1
            return [PartEnded()]
        if kind == "message_start":
            self._expect(not self._started and event.message is not None)
            self._started = True
            self._usage = usage.usage_of_event(Endpoint.MESSAGES, data) or self._usage
            assert event.message is not None
            return [Started(event.message.id, event.message.model, 0, self._usage)]
        if kind == "message_delta":
            self._expect(self._started and self._open < 0 and event.delta is not None)
            if (later := usage.usage_of_event(Endpoint.MESSAGES, data)) is not None:
                self._usage = usage.merge(self._usage, later)
            assert event.delta is not None
            if event.delta.stop_reason:
                self._stop = stop_of(event.delta.stop_reason)
                self._stop_sequence = event.delta.stop_sequence or ""
            return []
        if kind == "message_stop":
            if self._stop is None:
                raise UpstreamBroken("the upstream ended its answer without a stop reason")
            self._finished = True
            return [Finished(self._stop, self._usage, self._stop_sequence)]
        if kind == "error":
            raise problems.error_in_event(data) or UpstreamBroken(
                "the upstream reported an error that makes no sense"
            )
        return []  # ping, and whatever is added: Anthropic asks its clients to pass over what they do not know

    def close(self) -> list[AnswerEvent]:
        """The upstream's stream is at its end.

        :raises UpstreamBroken: the answer was not complete
        """
        if not self._finished:
            raise UpstreamBroken("the upstream's stream ended before its answer was complete")
        return []

    def _begin(self, event: _Event) -> list[AnswerEvent]:
        self._expect(self._started and self._open < 0 and event.content_block is not None)
        self._open = event.index
        assert event.content_block is not None
        part = part_of(event.content_block)
        if isinstance(part, ToolCall):
            # Usually {} stands there, and the arguments come as deltas; some servers have them here.
            events: list[AnswerEvent] = [PartStarted(ToolCall(part.id, part.name, ""))]
            if part.arguments != "{}":
                events.append(PartDelta(part.arguments))
            return events
        return [PartStarted(part)]

    def _delta(self, event: _Event) -> list[AnswerEvent]:
        delta = event.delta
        self._expect(event.index == self._open >= 0 and delta is not None)
        assert delta is not None
        text = delta.text or delta.partial_json or delta.thinking or ""
        if not text and not delta.signature and delta.citation is None:
            return []
        return [PartDelta(text, delta.signature or "", delta.citation)]

    def _expect(self, sense: bool) -> None:
        if not sense:
            raise UpstreamBroken("the upstream sent an event where it makes no sense")


# ---- events -> caller's frames ---------------------------------------------------------------------


class StreamEncoder:
    """Events to frames of a streamed message.

    :param include_usage: of no account here: a message always tells its usage
    """

    __slots__ = ("_index", "_part")

    def __init__(self, *, include_usage: bool = False) -> None:
        del include_usage
        self._index = 0
        self._part: object = None

    def __repr__(self) -> str:
        return f"<StreamEncoder of messages, block {self._index}, in {self._part!r}>"

    def feed(self, event: AnswerEvent) -> list[bytes]:
        """The frames that tell this event."""
        if isinstance(event, PartDelta):
            return self._delta(event)
        if isinstance(event, PartStarted):
            return self._begin(event.part)
        if isinstance(event, PartEnded):
            self._part = None
            self._index += 1
            return [_frame({"type": "content_block_stop", "index": self._index - 1})]
        if isinstance(event, Started):
            message: JSON = {
                "id": event.id,
                "type": "message",
                "role": "assistant",
                "model": event.model,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": write_usage(event.usage or Usage()),
            }
            return [_frame({"type": "message_start", "message": message})]
        delta = {"stop_reason": REASONS[event.stop], "stop_sequence": event.stop_sequence or None}
        return [
            _frame({"type": "message_delta", "delta": delta, "usage": write_usage(event.usage)}),
            _frame({"type": "message_stop"}),
        ]

    def _begin(self, part: object) -> list[bytes]:
        self._part = part
        first = ""
        block: JSON
        if isinstance(part, ToolCall):
            block = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            first = part.arguments
        elif isinstance(part, Thinking):
            block = thinking_block(part)
        else:  # a refusal is text with a stop reason of its own
            block = {"type": "text", "text": getattr(part, "text", "")}
            if isinstance(part, Text) and part.citations:
                block["citations"] = list(part.citations)
        frames = [_frame({"type": "content_block_start", "index": self._index, "content_block": block})]
        if first:
            frames += self._delta(PartDelta(first))
        return frames

    def _delta(self, event: PartDelta) -> list[bytes]:
        part = self._part
        deltas: list[JSON] = []
        if event.text:
            if isinstance(part, ToolCall):
                deltas.append({"type": "input_json_delta", "partial_json": event.text})
            elif isinstance(part, Thinking):
                deltas.append({"type": "thinking_delta", "thinking": event.text})
            else:
                deltas.append({"type": "text_delta", "text": event.text})
        if event.signature:
            deltas.append({"type": "signature_delta", "signature": event.signature})
        if event.citation is not None:
            deltas.append({"type": "citations_delta", "citation": event.citation})
        return [
            _frame({"type": "content_block_delta", "index": self._index, "delta": delta}) for delta in deltas
        ]


def _frame(event: dict[str, JSON]) -> bytes:
    return sse.encode(members.encode(event), event["type"])
