"""Answers in the form of OpenAI's responses API.

Every event bears a running number, so frames cannot be joined blindly: each is written with its own.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from penstock.lab.answer import Answer, Part
from penstock.lab.openai import quoted
from penstock.lab.stream import Segment, Stream
from penstock.lab.transcript import Request
from penstock.messages import JSON

_encode = msgspec.json.encode
_OPENING_EVENTS = 2


def response(request: Request, answers: list[Answer], number: int, created: int, cached: int) -> bytes:
    """The body of a plain answer."""
    answer = answers[0]
    output = [_item(part, i, number) for i, part in enumerate(answer.parts)]
    return _encode(_object(request, answer, number, created, cached, output))


def unfinished(request: Request, number: int, created: int, status: str) -> bytes:
    """The body of a response in the background that has not ended as it should, as it is told when asked for."""
    return _encode({**_object(request, None, number, created, 0, []), "status": status})


def name_of(number: int) -> str:
    """The id of a response."""
    return f"resp_{number:032x}"


def compaction(request: Request, answers: list[Answer], number: int, created: int, cached: int) -> bytes:
    """The body of a compacted conversation: what the user said, and all the rest in one sealed item."""
    answer = answers[0]
    output = [_said_again(item, i, number) for i, item in enumerate(request.kept)]
    sealed = base64.b64encode("".join(map(_text, answer.parts)).encode("utf-8", "surrogatepass")).decode()
    output.append({"id": f"cmp_{number:024x}", "type": "compaction", "encrypted_content": sealed})
    return _encode(
        {
            "id": f"resp_{number:032x}",
            "object": "response.compaction",
            "created_at": created,
            "output": output,
            "usage": _usage(request, answer, cached),
        }
    )


def _said_again(item: JSON, index: int, number: int) -> JSON:
    assert isinstance(item, dict)
    content = item["content"]
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    said: dict[str, JSON] = {"id": f"msg_{number:024x}{index:02x}", "status": "completed"}
    return {**said, "type": "message", "role": "user", "content": parts}


def _usage(request: Request, answer: Answer, cached: int) -> dict[str, Any]:
    return {
        "input_tokens": request.input_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": answer.count,
        "output_tokens_details": {"reasoning_tokens": answer.thinking},
        "total_tokens": request.input_tokens + answer.count,
    }


def _object(
    request: Request,
    answer: Answer | None,
    number: int,
    created: int,
    cached: int,
    output: list[JSON],
) -> dict[str, Any]:
    """The response, or without ``answer`` what it is before it has begun."""
    usage = None
    status = "in_progress"
    if answer is not None:
        status = "incomplete" if answer.stop == "length" else "completed"
        usage = _usage(request, answer, cached)
    return {
        "id": name_of(number),
        "object": "response",
        "created_at": created,
        "status": status,
        "background": request.background,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "max_output_tokens": request.limit,
        "model": request.model,
        "output": output,
        "parallel_tool_calls": request.parallel_tools,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": request.background,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": {"any": "required"}.get(request.tool_choice, request.tool_choice)
        if not request.tool_choice.startswith("=")
        else {"type": "function", "name": request.tool_choice[1:]},
        "tools": [
            {
                "type": "function",
                "name": name,
                "description": description,
                "parameters": schema,
                "strict": False,
            }
            for name, description, schema in request.tools
        ],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "metadata": {},
    }


def _text(part: Part) -> str:
    return msgspec.json.decode(b'"' + part.escaped() + b'"', type=str)


def _item_id(part: Part, index: int, number: int) -> str:
    return f"{_PREFIXES[part.kind]}_{number:024x}{index:02x}"


_PREFIXES = {"text": "msg", "thinking": "rs", "tool": "fc"}


def _item(part: Part, index: int, number: int, *, begun: bool = False) -> dict[str, Any]:
    """An item of the output; ``begun``: as it is announced, still empty."""
    status = "in_progress" if begun else "completed" if part.whole else "incomplete"
    item: dict[str, Any] = {"id": _item_id(part, index, number), "status": status}
    if part.kind == "text":
        content = [] if begun else [_content(_text(part))]
        return {**item, "type": "message", "role": "assistant", "content": content}
    if part.kind == "thinking":
        summary = [] if begun else [{"type": "summary_text", "text": _text(part)}]
        return {**item, "type": "reasoning", "summary": summary}
    return {
        **item,
        "type": "function_call",
        "call_id": f"call_{number:016x}{index:02x}",
        "name": part.name,
        "arguments": "" if begun else _text(part),
    }


def _content(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class _Numbers:
    """Writes events with the numbers that follow on one another."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = 0

    def event(self, kind: str, **members: JSON) -> bytes:
        data = {"type": kind, "sequence_number": self.next, **members}
        self.next += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(data))


def response_stream(
    request: Request, answers: list[Answer], number: int, created: int, cached: int
) -> Stream:
    answer = answers[0]
    numbers = _Numbers()
    started = _object(request, None, number, created, cached, [])
    opening = numbers.event("response.created", response=started)
    opening += numbers.event("response.in_progress", response=started)
    segments = []
    output: list[JSON] = []
    tokens = 0
    ends = []  # (tokens up to here, number of the event after them)
    for i, part in enumerate(answer.parts):
        begun, whole = _item(part, i, number, begun=True), _item(part, i, number)
        head = numbers.event("response.output_item.added", output_index=i, item=begun)
        head += _announced(numbers, part, i, begun["id"])
        segments.append(_segment(part, i, begun["id"], tokens, numbers.next, head))
        ends.append((tokens, numbers.next))
        tokens += part.count
        numbers.next += part.count
        tail = _completed(numbers, part, i, begun["id"])
        segments[-1].tail = tail + numbers.event("response.output_item.done", output_index=i, item=whole)
        output.append(whole)
    final = _object(request, answer, number, created, cached, output)
    terminator = numbers.event(f"response.{final['status']}", response=final)

    def error(sent: int) -> bytes:
        at = _Numbers()
        base, first = next((end for end in reversed(ends) if end[0] < sent), (0, _OPENING_EVENTS))
        at.next = first + sent - base
        message = "The server had an error while processing your request."
        failure = {"code": "server_error", "message": message}
        failed = {**started, "status": "failed", "error": failure}
        return at.event("error", **failure, param=None) + at.event("response.failed", response=failed)

    malformed = b'event: response.output_text.delta\ndata: {"type":"response.output_te\n\n'
    return Stream(opening, segments, b"", terminator, malformed, error)


def _segment(part: Part, index: int, item: str, tokens: int, first: int, head: bytes) -> Segment:
    kind, extra = {
        "text": (b"response.output_text.delta", b',"content_index":0,"logprobs":[]'),
        "thinking": (b"response.reasoning_summary_text.delta", b',"summary_index":0'),
        "tool": (b"response.function_call_arguments.delta", b""),
    }[part.kind]
    lead = b'event: %b\ndata: {"type":"%b","item_id":%b,"output_index":%d%b,"sequence_number":' % (
        kind,
        kind,
        quoted(item),
        index,
        extra,
    )
    shift = first - tokens

    def numbered(token: int, piece: bytes) -> bytes:
        return b'%b%d,"delta":"%b"}\n\n' % (lead, token + shift, piece)

    return Segment(part.pieces, part.count, head=head, numbered=numbered)


def _announced(numbers: _Numbers, part: Part, index: int, item: str) -> bytes:
    if part.kind == "text":
        return numbers.event(
            "response.content_part.added",
            item_id=item,
            output_index=index,
            content_index=0,
            part=_content(""),
        )
    if part.kind == "thinking":
        return numbers.event(
            "response.reasoning_summary_part.added",
            item_id=item,
            output_index=index,
            summary_index=0,
            part={"type": "summary_text", "text": ""},
        )
    return b""


def _completed(numbers: _Numbers, part: Part, index: int, item: str) -> bytes:
    text = _text(part)
    place: dict[str, JSON] = {"item_id": item, "output_index": index}
    if part.kind == "text":
        place["content_index"] = 0
        done = numbers.event("response.output_text.done", **place, text=text, logprobs=[])
        return done + numbers.event("response.content_part.done", **place, part=_content(text))
    if part.kind == "thinking":
        place["summary_index"] = 0
        done = numbers.event("response.reasoning_summary_text.done", **place, text=text)
        summary = {"type": "summary_text", "text": text}
        return done + numbers.event("response.reasoning_summary_part.done", **place, part=summary)
    return numbers.event("response.function_call_arguments.done", **place, name=part.name, arguments=text)
