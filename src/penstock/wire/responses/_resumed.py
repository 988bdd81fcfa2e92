"""A response's stream that goes on where its log stands.

The log may be an upstream's own, with its ids, its numbers and members that we do not know.  So items that
are done, and the response object, are kept as they were written; only the item that is open is ours to
complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.errors import PenstockError, UpstreamBroken
from penstock.wire import sse
from penstock.wire.conversation import Finished, Refusal, Text, Thinking, ToolCall
from penstock.wire.not_json import NOT_JSON
from penstock.wire.responses._events import COMPLETED
from penstock.wire.responses._output import (
    Content,
    FunctionCall,
    IncompleteDetails,
    Message,
    Reasoning,
    ending,
    usage_of,
)
from penstock.wire.responses._reading import DELTAS, Event, ItemHead, PartHead, event_of
from penstock.wire.responses._settings import NULL
from penstock.wire.responses._stream import StreamEncoder

_content = msgspec.json.Decoder(Content).decode


class _Whole(msgspec.Struct):
    """What is kept of an event undecoded."""

    response: msgspec.Raw = NULL
    item: msgspec.Raw = NULL
    part: msgspec.Raw = NULL


_whole = msgspec.json.Decoder(_Whole).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ResumedEncoder(StreamEncoder):
    """A :class:`StreamEncoder` in the state in which a log was left.

    :param frames: of the log, from its first event on
    :raises UpstreamBroken: the log has something that nothing can be added to
    """

    __slots__ = ("_done", "_object")

    def __init__(self, frames: Iterable[bytes]) -> None:
        super().__init__()
        self._object: dict[str, Any] = {}  # the response object as it was announced
        self._done: list[msgspec.Raw] = []  # the items that are done, as they were written
        for frame in frames:
            data = sse.data_of(frame)
            if data:
                try:
                    self._adopt(event_of(data), data)
                except NOT_JSON:
                    raise UpstreamBroken("the log has an event that makes no sense") from None

    def _adopt(self, event: Event, data: bytes) -> None:
        kind = event.type
        self._number = max(self._number, event.sequence_number + 1)
        if kind in DELTAS:
            self._pieces.append(event.delta or "")
        elif kind == "response.created":
            self._object = _members(_whole(data).response)
            self._answer = event.response.id.removeprefix("resp_") if event.response is not None else ""
        elif kind == "response.output_item.added" and event.item is not None:
            self._adopt_item(event.item)
        elif kind == "response.content_part.added" and event.part is not None:
            self._adopt_part(event.part)
        elif kind == "response.reasoning_summary_part.added":
            if event.summary_index:
                raise UpstreamBroken("reasoning in several parts cannot be continued")
            self._summary = True
            self._open_deltas("response.reasoning_summary_text.delta", summary_index=0)
        elif kind == "response.content_part.done" and not isinstance(self._part, Thinking):
            self._content.append(_content(_whole(data).part))
            self._part = None
        elif kind == "response.output_item.done":
            self._done.append(_whole(data).item)
            self._pending = self._part = None
            self._content = []

    def _adopt_item(self, item: ItemHead) -> None:
        self._id = item.id
        self._pieces = []
        self._content = []
        self._part = None
        if item.type == "message":
            self._pending = Message
        elif item.type == "function_call":
            if item.namespace:
                raise UpstreamBroken("a call in a namespace cannot be continued")
            self._pending = FunctionCall
            self._part = ToolCall(item.call_id, item.name, "")
            if item.arguments:
                self._pieces.append(item.arguments)
            self._open_deltas("response.function_call_arguments.delta")
        elif item.type == "reasoning":
            self._pending = Reasoning
            self._part = Thinking()
            self._delta_head = b""
        else:
            raise UpstreamBroken(f"the log has an item of an unknown kind ({item.type[:40]})")

    def _adopt_part(self, part: PartHead) -> None:
        if part.type == "reasoning_text":
            self._summary = False
            self._open_deltas("response.reasoning_text.delta", content_index=0)
            return
        self._pieces = [part.text or part.refusal] if part.text or part.refusal else []
        self._citations = []
        at = {"content_index": len(self._content)}
        if part.type == "output_text":
            self._part = Text("")
            self._open_deltas("response.output_text.delta", **at, logprobs=())
        elif part.type == "refusal":
            self._refused = True
            self._part = Refusal("")
            self._open_deltas("response.refusal.delta", **at)
        else:
            raise UpstreamBroken(f"the log has a part of an unknown kind ({part.type[:40]})")

    # ---- what differs from a stream of our own -----------------------------------------------------

    @property
    def _index(self) -> int:
        return len(self._done) + len(self._items)

    def _finished(self, event: Finished) -> list[bytes]:
        end = ending(event.stop, refusal_given=self._refused)
        frames = self._item_done(end.status)
        response = {
            **self._object,
            "status": end.status,
            "incomplete_details": IncompleteDetails(end.reason) if end.event != COMPLETED else None,
            "output": (*self._done, *self._items),
            "usage": usage_of(event.usage),
        }
        frames.append(self._frame(end.event, response=response))
        self._ended = True
        return frames

    def fail(self, error: PenstockError) -> list[bytes]:
        """Not for a stream that somebody else began: its error is an event of its own."""
        raise NotImplementedError(repr(error))
