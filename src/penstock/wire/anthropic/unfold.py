"""A plain message as the events of its stream."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.errors import UpstreamBroken
from penstock.messages import JSON, Event, Usage
from penstock.wire import members, sse
from penstock.wire.anthropic.answer import write_usage

# What message_delta has: in its delta, beside it, and in its usage, as far as a message says it.
_IN_DELTA: Final = ("stop_reason", "stop_sequence", "stop_details", "container")
_BESIDE_DELTA: Final = ("context_management", "input_transformations")
_USAGE_AT_THE_END: Final = ("server_tool_use", "output_tokens_details", "iterations", "fallback_credit")
_USAGE_REPEATED: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)
_TEXTS: Final = {
    "text": ("text", "text_delta"),
    "thinking": ("thinking", "thinking_delta"),
}


class _Message(msgspec.Struct):
    content: list[dict[str, msgspec.Raw]]
    stop_reason: str | None = None


_message = msgspec.json.Decoder(_Message).decode
_decode = msgspec.json.Decoder(dict[str, JSON]).decode
_value = msgspec.json.Decoder().decode


def unfold_body(body: bytes, usage: Usage | None) -> list[Event]:
    """The events of this message, ``message_stop`` included.

    :raises UpstreamBroken: the body is no message, or one without a stop reason
    """
    typed = _message(body)
    if not typed.stop_reason:
        raise UpstreamBroken("the message has no stop reason")
    message = _decode(body)
    used = message.get("usage")
    if not isinstance(used, dict):
        used = write_usage(usage or Usage())
    delta: dict[str, JSON] = {name: message.pop(name) for name in _IN_DELTA if name in message}
    beside: dict[str, JSON] = {name: message.pop(name) for name in _BESIDE_DELTA if name in message}
    message.update(content=[], stop_reason=None, stop_sequence=None)
    if "container" in delta:
        message["container"] = None
    first = {name: value for name, value in used.items() if name not in _USAGE_AT_THE_END}
    message["usage"] = {**first, "output_tokens": 0}
    frames = [_frame({"type": "message_start", "message": message})]
    for index, block in enumerate(typed.content):
        frames += _block(index, block)
    last = {name: used[name] for name in (*_USAGE_REPEATED, *_USAGE_AT_THE_END) if name in used}
    frames.append(
        _frame({"type": "message_delta", "delta": delta, **beside, "usage": {"output_tokens": 0, **last}})
    )
    frames.append(_frame({"type": "message_stop"}))
    return frames


def _block(index: int, raw: dict[str, msgspec.Raw]) -> list[Event]:
    given = bytes(raw.get("input", b""))
    block: dict[str, Any] = {name: _value(value) for name, value in raw.items()}
    kind = block.get("type")
    deltas: list[dict[str, JSON]] = []
    if isinstance(kind, str) and kind in _TEXTS:
        member, delta = _TEXTS[kind]
        if isinstance(text := block.get(member), str) and text:
            deltas.append({"type": delta, member: text})
            block[member] = ""
    if kind == "thinking" and (signature := block.get("signature")):
        deltas.append({"type": "signature_delta", "signature": signature})
        block["signature"] = ""
    if kind == "text" and isinstance(citations := block.get("citations"), list):
        deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
        block["citations"] = []
    if given.startswith(b"{"):
        # The model's own writing, as a stream has it.
        deltas.append({"type": "input_json_delta", "partial_json": given.decode()})
        block["input"] = {}
    return [
        _frame({"type": "content_block_start", "index": index, "content_block": block}),
        *(_frame({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas),
        _frame({"type": "content_block_stop", "index": index}),
    ]


def _frame(event: dict[str, JSON]) -> Event:
    return sse.encode(members.encode(event), event["type"])
