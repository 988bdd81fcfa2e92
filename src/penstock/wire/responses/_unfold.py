"""A plain response as the events of its stream, in the order that ``_stream`` describes.

Items are told as the provider wrote them.  What a hosted tool did on the way is not in a plain answer: its
item is announced, and done.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Event, Usage
from penstock.wire import sse
from penstock.wire.responses._events import CANCELLED, COMPLETED, FAILED, INCOMPLETE
from penstock.wire.responses._output import usage_of

_CLOSING: Final = {
    "completed": COMPLETED,
    "incomplete": INCOMPLETE,
    "failed": FAILED,
    "cancelled": CANCELLED,
}
_AT_THE_END: Final = ("error", "incomplete_details", "usage", "completed_at")

# An item's member that is streamed as a text, and its events.
_STREAMED: Final = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
    "code_interpreter_call": ("code", "response.code_interpreter_call_code"),
}
_IN_DONE: Final = {"function_call": ("name",)}  # what the closing event repeats of the item

# A part of an item's content: its text's member, and its events.
_PARTS: Final = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "reasoning_text": ("text", "response.reasoning_text"),
}


class _Response(msgspec.Struct):
    status: str = "completed"
    output: list[dict[str, JSON]] | None = None


_response = msgspec.json.Decoder(_Response).decode
_decode = msgspec.json.Decoder(dict[str, JSON]).decode
_encode = msgspec.json.Encoder().encode


class _Events:
    """Writes numbered events."""

    __slots__ = ("frames",)

    def __init__(self) -> None:
        self.frames: list[Event] = []

    def __repr__(self) -> str:
        return f"<{len(self.frames)} events>"

    def write(self, kind: str, /, **more: Any) -> None:
        event = {"type": kind, "sequence_number": len(self.frames), **more}
        self.frames.append(sse.encode(_encode(event), kind))


def unfold_body(body: bytes, usage: Usage | None) -> list[Event]:
    """The events of this response, the closing one included.

    :raises UpstreamBroken: the body is no response, or one that has not ended
    """
    typed = _response(body)
    closing = _CLOSING.get(typed.status)
    if closing is None:
        raise UpstreamBroken(f"the response has not ended: it is {typed.status[:40]}")
    response = _decode(body)
    if response.get("usage") is None and usage is not None:
        response["usage"] = usage_of(usage)
    begun: dict[str, JSON] = response | {"status": "in_progress", "output": []}
    begun.update((name, None) for name in _AT_THE_END if name in response)
    events = _Events()
    events.write("response.created", response=begun)
    events.write("response.in_progress", response=begun)
    for index, item in enumerate(typed.output or ()):
        _item(events, index, item)
    events.write(closing, response=response)
    return events.frames


def _item(events: _Events, index: int, item: dict[str, Any]) -> None:
    kind = item.get("type")
    streamed = _STREAMED.get(kind) if isinstance(kind, str) else None
    content, summary = item.get("content"), item.get("summary")
    content = content if kind in ("message", "reasoning") and isinstance(content, list) else None
    summary = summary if kind == "reasoning" and isinstance(summary, list) else None
    begun = item.copy()
    if "status" in item:
        begun["status"] = "in_progress"
    if content is not None:
        begun["content"] = []
    if summary is not None:
        begun["summary"] = []
    text = item.get(streamed[0]) if streamed is not None else None
    if streamed is not None and isinstance(text, str):
        begun[streamed[0]] = ""
    events.write("response.output_item.added", output_index=index, item=begun)
    at: dict[str, JSON] = {"item_id": item.get("id") or "", "output_index": index}
    for number, part in enumerate(summary or ()):
        _summary(events, {**at, "summary_index": number}, part)
    for number, part in enumerate(content or ()):
        _part(events, {**at, "content_index": number}, part)
    if streamed is not None and isinstance(text, str):
        member, name = streamed
        if text:
            events.write(f"{name}.delta", **at, delta=text)
        repeated = {other: item[other] for other in _IN_DONE.get(str(kind), ()) if other in item}
        events.write(f"{name}.done", **at, **repeated, **{member: text})
    events.write("response.output_item.done", output_index=index, item=item)


def _summary(events: _Events, at: dict[str, JSON], part: JSON) -> None:
    text = _object(part).get("text")
    text = text if isinstance(text, str) else ""
    events.write("response.reasoning_summary_part.added", **at, part={**part, "text": ""})
    if text:
        events.write("response.reasoning_summary_text.delta", **at, delta=text)
    events.write("response.reasoning_summary_text.done", **at, text=text)
    events.write("response.reasoning_summary_part.done", **at, part=part)


def _part(events: _Events, at: dict[str, JSON], part: JSON) -> None:
    kind = _object(part).get("type")
    known = _PARTS.get(kind) if isinstance(kind, str) else None
    if known is None or not isinstance(part.get(known[0]), str):
        events.write("response.content_part.added", **at, part=part)
        events.write("response.content_part.done", **at, part=part)
        return
    member, name = known
    text = part[member]
    begun = {**part, member: ""}
    more: dict[str, JSON] = {}
    annotations: list[JSON] = []
    if kind == "output_text":
        annotations = listed if isinstance(listed := part.get("annotations"), list) else []
        begun |= {"annotations": [], "logprobs": []}
        more = {"logprobs": part.get("logprobs") or []}
    events.write("response.content_part.added", **at, part=begun)
    if text:
        events.write(f"{name}.delta", **at, delta=text, **more)
    for number, annotation in enumerate(annotations):
        events.write(
            "response.output_text.annotation.added", **at, annotation_index=number, annotation=annotation
        )
    events.write(f"{name}.done", **at, **{member: text}, **more)
    events.write("response.content_part.done", **at, part=part)


def _object(part: JSON) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise UpstreamBroken("the response has a part that is none")
    return part
