"""A plain chat completion, or legacy completion, as its chunks.

Of each choice: the role, the content with its logprobs, refusal, the other members of the message as they
are, the tool calls (each with its name first), and the finish reason with all that stands beside it.  What
all chunks of OpenAI have in common is in all of these; members that servers have added are told once.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Endpoint, Event, Usage
from penstock.wire import members, sse
from penstock.wire.chat.answer import write_usage

_DONE: Final = sse.encode(b"[DONE]")
_IN_ALL_CHUNKS: Final = ("id", "created", "model", "service_tier", "system_fingerprint")


class _Completion(msgspec.Struct):
    choices: list[dict[str, JSON]]


_completion = msgspec.json.Decoder(_Completion).decode
_decode = msgspec.json.Decoder(dict[str, JSON]).decode


class _Chunks:
    """Writes chunks of one answer."""

    __slots__ = ("_head", "_once", "frames")

    def __init__(self, head: dict[str, JSON], once: dict[str, JSON]) -> None:
        self.frames: list[Event] = []
        self._head = head
        self._once = once

    def __repr__(self) -> str:
        return f"<{len(self.frames)} chunks>"

    def choice(self, index: JSON, body: dict[str, JSON], end: dict[str, JSON] | None = None) -> None:
        """A chunk of one choice; ``body`` is its delta or text, ``end`` what stands beside that."""
        self.write([{"index": index, **body, "logprobs": None, "finish_reason": None, **(end or {})}])

    def write(self, choices: list[JSON], **more: JSON) -> None:
        once, self._once = self._once, {}
        self.frames.append(sse.encode(members.encode({**self._head, "choices": choices, **more, **once})))


def unfold_body(endpoint: Endpoint, body: bytes, usage: Usage | None, *, include_usage: bool) -> list[Event]:
    """The chunks of this chat completion or completion, ``[DONE]`` included.

    :raises UpstreamBroken: the body is no such thing, or a choice has no finish reason
    """
    chat = endpoint is Endpoint.CHAT
    choices = _completion(body).choices
    found = _decode(body)
    del found["choices"]
    told = found.pop("usage", None)
    if told is None and usage is not None:
        told = write_usage(usage)
    found.pop("object", None)
    head: dict[str, JSON] = {name: found.pop(name) for name in _IN_ALL_CHUNKS if name in found}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    chunks = _Chunks(head, found)
    for place, choice in enumerate(choices):
        index = choice.pop("index", None)
        index = place if index is None else index
        if not choice.get("finish_reason"):
            raise UpstreamBroken("the answer has a choice without a finish reason")
        if chat:
            _chat_choice(chunks, index, choice)
        else:
            text = {"text": choice.pop("text", None) or ""}
            chunks.choice(index, text, {"logprobs": choice.pop("logprobs", None)})
            chunks.choice(index, {"text": ""}, choice)
    if include_usage and told is not None:
        chunks.write([], usage=told)
    chunks.frames.append(_DONE)
    return chunks.frames


def _chat_choice(chunks: _Chunks, index: JSON, choice: dict[str, Any]) -> None:
    message = choice.pop("message", None)
    if not isinstance(message, dict):
        raise UpstreamBroken("the answer has a choice without a message")
    opening: dict[str, JSON] = {"role": message.pop("role", None) or "assistant"}
    content = message.pop("content", None)
    opening["content"] = "" if isinstance(content, str) else None
    said = {"content": content} if content else {}
    if "refusal" in message:
        opening["refusal"] = None
        if refusal := message.pop("refusal"):
            said["refusal"] = refusal
    calls = message.pop("tool_calls", None)
    logprobs = choice.pop("logprobs", None)
    chunks.choice(index, {"delta": opening})
    if message:
        chunks.choice(index, {"delta": message})
    if said or logprobs is not None:
        chunks.choice(index, {"delta": said}, {"logprobs": logprobs})
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        _call(chunks, index, number, call)
    chunks.choice(index, {"delta": {}}, choice)


def _call(chunks: _Chunks, index: JSON, number: int, call: JSON) -> None:
    if not isinstance(call, dict):
        raise UpstreamBroken("the answer has a tool call that is none")
    opening = {**call, "index": number}
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(arguments := function.get("arguments"), str):
        chunks.choice(index, {"delta": {"tool_calls": [opening]}})
        return
    opening["function"] = {**function, "arguments": ""}
    chunks.choice(index, {"delta": {"tool_calls": [opening]}})
    if arguments:
        rest = {"index": number, "function": {"arguments": arguments}}
        chunks.choice(index, {"delta": {"tool_calls": [rest]}})
