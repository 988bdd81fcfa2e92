"""The parts of a prompt, in the order in which providers cache them, and Anthropic's marks after them.

Anthropic's order is tools, system prompt, messages; a mark (``cache_control``) on a block says that all up to and with it
shall be kept.  OpenAI keeps beginnings of prompts by itself, and takes a ``prompt_cache_key`` that brings prompts with
one beginning to one machine.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

import msgspec

from penstock.messages import JSON, Endpoint
from penstock.wire.not_json import NOT_JSON

_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_MARKABLE = frozenset({"text", "image", "document", "tool_use", "tool_result"})
_INSTRUCTING = frozenset({"system", "developer"})
_NULL = b"null"


class Lifetime(enum.Enum):
    """For how long a provider is asked to keep what a mark ends."""

    MINUTES = "5m"
    HOUR = "1h"


_MARKS = {
    Lifetime.MINUTES: b'{"type":"ephemeral"}',
    Lifetime.HOUR: b'{"type":"ephemeral","ttl":"1h"}',
}


class Parts(msgspec.Struct, frozen=True):
    """A prompt, undecoded: ``tools`` and ``system`` are empty where there are none.

    ``system`` has one text, or its blocks.
    """

    tools: bytes
    system: tuple[bytes, ...]
    messages: tuple[bytes, ...]


class Marks(msgspec.Struct, frozen=True):
    """Where marks are put; a provider takes four at most.

    ``system``: after which block of the system prompt; ``turns``: after which turns, from the end (-1 is the last one),
    in order.
    """

    tools: Lifetime | None = None
    system: tuple[int, Lifetime] | None = None
    turns: tuple[tuple[int, Lifetime], ...] = ()


class _Head(msgspec.Struct):
    """What tells whether a block, a tool or a turn can be marked."""

    type: str | None = None
    text: str | None = None
    role: str | None = None
    defer_loading: JSON = None


_head = msgspec.json.Decoder(_Head).decode


def parts_of(endpoint: Endpoint, fields: Mapping[str, msgspec.Raw]) -> Parts | None:
    """The parts; None: they cannot be told."""
    system, messages = fields.get("system"), fields.get("messages")
    if endpoint is Endpoint.RESPONSES:
        system, messages = fields.get("instructions"), fields.get("input")
    if messages is None:
        return None
    turns = _items(messages)
    blocks = _items(system) if system is not None and _given(system) else ()
    if endpoint is Endpoint.CHAT and turns and _instructs(turns[0]):
        blocks, turns = turns[:1], turns[1:]
    return Parts(_given(fields.get("tools")), blocks, turns)


def _items(value: msgspec.Raw) -> tuple[bytes, ...]:
    try:
        return tuple(bytes(item) for item in _raws(value))
    except NOT_JSON:
        return (bytes(value),)


def blocks_of(turn: bytes) -> int:
    """How many blocks of content a turn has; 1 where that cannot be told."""
    try:
        return max(len(_raws(_members(turn)["content"])), 1)
    except (*NOT_JSON, KeyError):
        return 1


def _instructs(turn: bytes) -> bool:
    try:
        return _head(turn).role in _INSTRUCTING
    except NOT_JSON:
        return False


def _given(value: msgspec.Raw | None) -> bytes:
    text = b"" if value is None else bytes(value)
    return b"" if text == _NULL else text


def marked(parts: Parts, marks: Marks) -> dict[str, bytes]:
    """The members of an Anthropic body that change when marks are put; all else in them keeps its bytes.

    A part that cannot be marked is left as it is.
    """
    changes: dict[str, bytes] = {}
    if marks.tools and parts.tools and (tools := _with_tool_marked(parts.tools, _MARKS[marks.tools])):
        changes["tools"] = tools
    if marks.system and parts.system:
        at, lifetime = marks.system
        blocks = _with_block_marked(parts.system, at, _MARKS[lifetime])
        if blocks is not None:
            changes["system"] = blocks
    turns = turns_marked(parts, marks, lambda turn, lifetime: _with_turn_marked(turn, _MARKS[lifetime]))
    if turns is not None:
        changes["messages"] = turns
    return changes


def turns_marked(
    parts: Parts, marks: Marks, with_mark: Callable[[bytes, Lifetime], bytes | None]
) -> bytes | None:
    """The turns, with marks where they are wanted; None: none of those can be marked.

    :param with_mark: one turn with a mark; None: it takes none
    """
    turns, changed = list(parts.messages), False
    for at, lifetime in marks.turns:
        if -at <= len(turns) and (turn := with_mark(turns[at], lifetime)):
            turns[at] = turn
            changed = True
    return b"[%b]" % b",".join(turns) if changed else None


def _with_tool_marked(tools: bytes, mark: bytes) -> bytes | None:
    """The last one that is loaded at once is marked: the others are no part of the prompt, and take no mark."""
    try:
        some = [bytes(tool) for tool in _raws(tools)]
        for at in reversed(range(len(some))):
            if not _head(some[at]).defer_loading:
                some[at] = _with_mark(some[at], mark)
                return b"[%b]" % b",".join(some)
    except NOT_JSON:
        pass
    return None


def _with_turn_marked(turn: bytes, mark: bytes) -> bytes | None:
    try:
        members = _members(turn)
        content = members.get("content")
        if content is None:
            return None
        blocks = _with_block_marked(_items(content), -1, mark)
        return None if blocks is None else _encode({**members, "content": msgspec.Raw(blocks)})
    except NOT_JSON:
        return None


def _with_block_marked(blocks: tuple[bytes, ...], at: int, mark: bytes) -> bytes | None:
    """Blocks of which one is marked, or one text as a block with a mark; None: it cannot be."""
    some = list(blocks)
    if not some or not -len(some) <= at < len(some):
        return None
    block = some[at].strip()
    if block.startswith(b'"'):
        if len(some) > 1 or block == b'""':
            return None
        return b'[{"type":"text","text":%b,"cache_control":%b}]' % (block, mark)
    try:
        head = _head(block)
    except NOT_JSON:
        return None
    if head.type not in _MARKABLE or head.text == "":
        return None
    some[at] = _with_mark(block, mark)
    return b"[%b]" % b",".join(some)


def _with_mark(item: bytes, mark: bytes) -> bytes:
    """An object with one member more, which stands last."""
    return b'%b,"cache_control":%b}' % (item.strip()[:-1], mark)
