"""The parts of a prompt, in the order in which providers cache them, and Anthropic's marks after them.

Anthropic's order is tools, system prompt, messages; a mark (``cache_control``) on a block says that all up to and with it
shall be kept.  OpenAI keeps beginnings of prompts by itself, and takes a ``prompt_cache_key`` that brings prompts with
one beginning to one machine.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from penstock.messages import JSON, Endpoint
from penstock.wire.not_json import NOT_JSON

_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_MARKABLE = frozenset({"text", "image", "document", "tool_use", "tool_result"})
_NULL = b"null"


class Lifetime(enum.Enum):
    """For how long a provider is asked to keep what a mark ends."""

    MINUTES = "5m"
    HOUR = "1h"


_MARKS: dict[Lifetime, JSON] = {
    Lifetime.MINUTES: {"type": "ephemeral"},
    Lifetime.HOUR: {"type": "ephemeral", "ttl": "1h"},
}


class Parts(msgspec.Struct, frozen=True):
    """A prompt, undecoded: ``tools`` and ``system`` are empty where there are none."""

    tools: bytes
    system: bytes
    messages: tuple[bytes, ...]


def parts_of(endpoint: Endpoint, fields: Mapping[str, msgspec.Raw]) -> Parts | None:
    """The parts; None: they cannot be told."""
    system, messages = fields.get("system"), fields.get("messages")
    if endpoint is Endpoint.RESPONSES:
        system, messages = fields.get("instructions"), fields.get("input")
    if messages is None:
        return None
    try:
        turns = tuple(bytes(turn) for turn in _raws(messages))
    except NOT_JSON:
        turns = (bytes(messages),)
    return Parts(_given(fields.get("tools")), _given(system), turns)


def _given(value: msgspec.Raw | None) -> bytes:
    text = b"" if value is None else bytes(value)
    return b"" if text == _NULL else text


def marked(
    parts: Parts, *, tools: Lifetime | None, system: Lifetime | None, last: Lifetime | None
) -> dict[str, bytes]:
    """The members of an Anthropic body that change when marks are put after some of the parts.

    A part that cannot be marked is left as it is.  Of two marks the first may not be the shorter-lived one.
    """
    changes: dict[str, bytes] = {}
    try:
        if tools and parts.tools:
            some = _value(parts.tools)
            if isinstance(some, list) and some and isinstance(some[-1], dict):
                some[-1]["cache_control"] = _MARKS[tools]
                changes["tools"] = _encode(some)
        if system and parts.system:
            blocks = _with_mark(_value(parts.system), _MARKS[system])
            if blocks is not None:
                changes["system"] = _encode(blocks)
        if last and parts.messages:
            turn = _value(parts.messages[-1])
            content = _with_mark(turn.get("content"), _MARKS[last]) if isinstance(turn, dict) else None
            if content is not None:
                turn["content"] = content
                turns: Sequence[msgspec.Raw] = [msgspec.Raw(one) for one in parts.messages[:-1]]
                changes["messages"] = _encode([*turns, turn])
    except NOT_JSON:
        return {}
    return changes


def _with_mark(content: JSON, mark: JSON) -> JSON:
    """Blocks of which the last one is marked; None: it cannot be."""
    if isinstance(content, str):
        return [{"type": "text", "text": content, "cache_control": mark}] if content else None
    if not isinstance(content, list) or not content or not isinstance(content[-1], dict):
        return None
    last = content[-1]
    if last.get("type") not in _MARKABLE or last.get("text") == "":
        return None
    return [*content[:-1], {**last, "cache_control": mark}]
