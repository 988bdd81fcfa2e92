"""A streamed answer as the events of a response.

The order is the one that OpenAI's accumulators rely on::

    response.created, response.in_progress
      response.output_item.added                          per item
        response.content_part.added                       per text or refusal of a message
          response.output_text.delta* ...annotation.added* ...done
        response.content_part.done
        (or function_call_arguments / custom_tool_call_input / reasoning_text / reasoning_summary_text: delta*, done)
      response.output_item.done
    response.completed | response.incomplete | response.failed

``output_item.done`` of an item waits for what follows it: only then is it known whether the item is
whole or was cut by a limit, and a tool call that was cut must not look ready to be run.  Annotations
wait for the end of their text, because they say where in it they belong.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.errors import CallerError, PenstockError, PressureError
from penstock.messages import JSON
from penstock.wire import sse
from penstock.wire.conversation import (
    AnswerEvent,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Refusal,
    Started,
    Text,
    Thinking,
    ToolCall,
)
from penstock.wire.responses._events import FAILED
from penstock.wire.responses._output import (
    NO_ARGUMENTS,
    Content,
    Item,
    ItemStatus,
    Message,
    OutputRefusal,
    OutputText,
    Reasoning,
    ReasoningText,
    Response,
    ResponseError,
    SummaryText,
    call_of,
    closed,
    content_of,
    core,
    ending,
    item_id,
    kind_of,
    opened,
    reasoning_of,
)
from penstock.wire.responses._settings import Settings

_encode = msgspec.json.Encoder().encode
_CUSTOM_DELTA: Final = "response.custom_tool_call_input.delta"
_NO_SETTINGS: Final = Settings()


class StreamEncoder:
    """Makes the frames of one streamed response.

    :param settings: those of the request that is answered
    :param name: what its ids are made of, instead of the upstream's id
    :param include_usage: of no effect: a response always tells its usage
    """

    __slots__ = (
        "_answer",
        "_citations",
        "_content",
        "_delta_head",
        "_ended",
        "_id",
        "_items",
        "_named",
        "_number",
        "_part",
        "_pending",
        "_pieces",
        "_refused",
        "_response",
        "_settings",
        "_signature",
        "_summary",
    )

    def __init__(
        self, settings: Settings = _NO_SETTINGS, *, name: str = "", include_usage: bool = True
    ) -> None:
        del include_usage
        self._settings = settings
        self._summary = settings.reasoning_as_summary
        self._response: Response | None = None
        self._answer = core(name)
        self._named = bool(name)
        self._number = 0
        self._items: list[Item] = []
        self._refused = False
        self._ended = False
        # The item that has been added and is not done.
        self._pending: type[Item] | None = None
        self._id = ""
        self._content: list[Content] = []
        # The part that is open, or was the last of the pending item.
        self._part: Text | Thinking | ToolCall | Refusal | None = None
        self._pieces: list[str] = []
        self._signature = ""
        self._citations: list[JSON] = []
        self._delta_head = b""

    def __repr__(self) -> str:
        state = "ended" if self._ended else f"in {self._id}" if self._pending else "between items"
        return f"<responses.StreamEncoder {state}, {len(self._items)} items, {self._number} events>"

    def feed(self, event: AnswerEvent) -> list[bytes]:
        """The frames that tell this event."""
        if isinstance(event, PartDelta):
            return self._delta(event)
        if isinstance(event, PartStarted):
            return self._part_started(event.part)
        if isinstance(event, PartEnded):
            return self._part_ended()
        if isinstance(event, Started):
            return self._started(event)
        return self._finished(event)

    def fail(self, error: PenstockError) -> list[bytes]:
        """The frames that end a stream which broke off; what was sent so far stays readable in it.

        The error stands in the response object, where the API has it, and once more at the top of the
        event: only there do OpenAI's SDKs look for it and raise it.
        """
        if self._ended:
            return []
        self._ended = True
        if self._response is None:
            self._response = opened(self._settings, self._answer, "", 0)
        if self._pending is not None:
            self._items.append(self._item("incomplete"))
        response = msgspec.structs.replace(
            self._response,
            status="failed",
            error=ResponseError(_error_code(error), error.message),
            output=tuple(self._items),
        )
        problem = {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
        return [self._frame(FAILED, response=response, error=problem)]

    # ---- the events of the answer ------------------------------------------------------------------

    def _started(self, event: Started) -> list[bytes]:
        if not self._named:
            self._answer = core(event.id)
        self._response = opened(self._settings, self._answer, event.model, event.created)
        return [
            self._frame("response.created", response=self._response),
            self._frame("response.in_progress", response=self._response),
        ]

    def _part_started(self, part: Text | Thinking | ToolCall | Refusal) -> list[bytes]:
        spoken = isinstance(part, Text | Refusal)
        frames = []
        if not (spoken and self._pending is Message):
            frames += self._item_done("completed")
            frames.append(self._item_added(part))
        self._part = part
        self._pieces = []
        self._signature = ""
        self._citations = []
        at: dict[str, Any]
        if isinstance(part, Text):
            at = {"content_index": len(self._content)}
            frames.append(self._inside("response.content_part.added", **at, part=OutputText()))
            self._open_deltas("response.output_text.delta", **at, logprobs=())
            self._citations.extend(part.citations)
            start = part.text
        elif isinstance(part, Refusal):
            self._refused = True
            at = {"content_index": len(self._content)}
            frames.append(self._inside("response.content_part.added", **at, part=OutputRefusal()))
            self._open_deltas("response.refusal.delta", **at)
            start = part.text
        elif isinstance(part, ToolCall):
            self._open_deltas(_CUSTOM_DELTA if part.custom else "response.function_call_arguments.delta")
            start = part.arguments
        else:
            self._delta_head = b""  # opened with the first text: redacted reasoning has none
            self._signature = part.signature
            start = part.text
        return frames + self._text(start)

    def _delta(self, event: PartDelta) -> list[bytes]:
        if event.signature:
            self._signature += event.signature
        if event.citation is not None:
            self._citations.append(event.citation)
        return self._text(event.text)

    def _text(self, text: str) -> list[bytes]:
        if not text:
            return []
        frames = [] if self._delta_head else [self._reasoning_opened()]
        self._pieces.append(text)
        number = self._number
        self._number = number + 1
        frames.append(b'%b%b,"sequence_number":%d}\n\n' % (self._delta_head, _encode(text), number))
        return frames

    def _reasoning_opened(self) -> bytes:
        if self._summary:
            self._open_deltas("response.reasoning_summary_text.delta", summary_index=0)
            return self._inside("response.reasoning_summary_part.added", summary_index=0, part=SummaryText())
        self._open_deltas("response.reasoning_text.delta", content_index=0)
        return self._inside("response.content_part.added", content_index=0, part=ReasoningText())

    def _part_ended(self) -> list[bytes]:
        if isinstance(self._part, ToolCall):
            if self._part.custom:
                text = "".join(self._pieces)
                return [self._inside("response.custom_tool_call_input.done", input=text)]
            frames = [] if self._pieces else self._text(NO_ARGUMENTS)
            text = "".join(self._pieces)
            return [*frames, self._inside("response.function_call_arguments.done", arguments=text)]
        text = "".join(self._pieces)
        if isinstance(self._part, Thinking):
            return self._reasoning_ended(text) if text else []
        assert self._part is not None
        content = content_of(self._part, text, tuple(self._citations), ())
        at = {"content_index": len(self._content)}
        self._content.append(content)
        frames = []
        if isinstance(content, OutputText):
            frames = [
                self._inside(
                    "response.output_text.annotation.added",
                    **at,
                    annotation_index=index,
                    annotation=annotation,
                )
                for index, annotation in enumerate(content.annotations)
            ]
            frames.append(self._inside("response.output_text.done", **at, text=text, logprobs=()))
        else:
            frames.append(self._inside("response.refusal.done", **at, refusal=text))
        frames.append(self._inside("response.content_part.done", **at, part=content))
        self._part = None
        return frames

    def _reasoning_ended(self, text: str) -> list[bytes]:
        if self._summary:
            return [
                self._inside("response.reasoning_summary_text.done", summary_index=0, text=text),
                self._inside("response.reasoning_summary_part.done", summary_index=0, part=SummaryText(text)),
            ]
        return [
            self._inside("response.reasoning_text.done", content_index=0, text=text),
            self._inside("response.content_part.done", content_index=0, part=ReasoningText(text)),
        ]

    def _finished(self, event: Finished) -> list[bytes]:
        assert self._response is not None
        end = ending(event.stop, refusal_given=self._refused)
        frames = self._item_done(end.status)
        response = closed(self._response, end, tuple(self._items), event.usage)
        frames.append(self._frame(end.event, response=response))
        self._ended = True
        return frames

    # ---- items -------------------------------------------------------------------------------------

    def _item_added(self, part: Text | Thinking | ToolCall | Refusal) -> bytes:
        index = self._index
        item: Item
        if isinstance(part, ToolCall):
            self._id = item_id(kind_of(part), self._answer, index)
            item = call_of(part, "", self._id, "in_progress", self._settings)
        elif isinstance(part, Thinking):
            self._id = item_id(Reasoning, self._answer, index)
            item = Reasoning(self._id, "in_progress")
        else:
            self._id = item_id(Message, self._answer, index)
            item = Message(self._id, "in_progress")
        self._pending = type(item)
        return self._frame("response.output_item.added", output_index=index, item=item)

    def _item_done(self, status: ItemStatus) -> list[bytes]:
        if self._pending is None:
            return []
        item = self._item(status)
        self._pending = None
        self._content = []
        index = self._index
        self._items.append(item)
        return [self._frame("response.output_item.done", output_index=index, item=item)]

    def _item(self, status: ItemStatus) -> Item:
        """The pending item as far as it has come."""
        text = "".join(self._pieces)
        part = self._part
        if isinstance(part, ToolCall):
            return call_of(part, text, self._id, status, self._settings)
        if isinstance(part, Thinking):
            whole = Thinking(text, self._signature, part.redacted)
            return reasoning_of(whole, self._id, status, as_summary=self._summary)
        content = list(self._content)
        if part is not None:  # it was never ended: the stream broke off
            content.append(content_of(part, text, tuple(self._citations), ()))
        return Message(self._id, status, tuple(content))

    # ---- frames ------------------------------------------------------------------------------------

    @property
    def _index(self) -> int:
        """Of the item that is pending, or would be."""
        return len(self._items)

    def _inside(self, name: str, **members: Any) -> bytes:
        """An event about the pending item."""
        return self._frame(name, item_id=self._id, output_index=self._index, **members)

    def _frame(self, name: str, **members: Any) -> bytes:
        number = self._number
        self._number = number + 1
        data = _encode({"type": name, "sequence_number": number, **members})
        return sse.encode(data, name)

    def _open_deltas(self, name: str, **members: Any) -> None:
        """What all deltas of a part have in common is written once; a delta adds its text and number."""
        head = _encode({"type": name, "item_id": self._id, "output_index": self._index, **members})
        self._delta_head = b'event: %b\ndata: %b,"delta":' % (name.encode(), head[:-1])


def _error_code(error: PenstockError) -> str:
    """The codes of a response's error are a closed list; the exact one stands beside it."""
    if isinstance(error, PressureError) and error.status == 429:
        return "rate_limit_exceeded"
    if isinstance(error, CallerError):
        return "invalid_prompt"
    return "server_error"
