"""The parts of a request to Converse, and the marks (``cachePoint``) after them.

A mark is a block of its own, behind the one up to which all shall be kept.
https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from penstock.wire.breakpoints import Lifetime, Marks, Parts, turns_marked
from penstock.wire.converse.model import is_anthropics
from penstock.wire.not_json import NOT_JSON

_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_MARKABLE = frozenset({"text", "image", "document", "toolUse", "toolResult"})
_POINTS = {
    Lifetime.MINUTES: b'{"cachePoint":{"type":"default"}}',
    Lifetime.HOUR: b'{"cachePoint":{"type":"default","ttl":"1h"}}',
}


def keeps_tools(model: str) -> bool:
    """Whether a model that keeps prompts takes a mark after its tools; Nova takes none there."""
    return is_anthropics(model)


def parts_of(fields: Mapping[str, msgspec.Raw]) -> Parts | None:
    """The parts of a body; None: they cannot be told."""
    try:
        config = _members(fields["toolConfig"]) if "toolConfig" in fields else {}
        system = _raws(fields["system"]) if "system" in fields else []
        messages = _raws(fields["messages"])
    except (*NOT_JSON, KeyError):
        return None
    return Parts(bytes(config.get("tools", b"")), tuple(map(bytes, system)), tuple(map(bytes, messages)))


def marked(
    fields: Mapping[str, msgspec.Raw], parts: Parts, marks: Marks, *, keeps_tools: bool
) -> dict[str, bytes]:
    """The members of a body that change when marks are put; all else in them keeps its bytes."""
    changes: dict[str, bytes] = {}
    if marks.tools and keeps_tools and parts.tools:
        tools = [*map(bytes, _raws(parts.tools)), _POINTS[marks.tools]]
        changes["toolConfig"] = _encode(
            {**_members(fields["toolConfig"]), "tools": msgspec.Raw(_list(tools))}
        )
    if marks.system:
        at, lifetime = marks.system
        changes["system"] = _list([*parts.system[: at + 1], _POINTS[lifetime], *parts.system[at + 1 :]])
    turns = turns_marked(parts, marks, lambda turn, lifetime: _with_point(turn, _POINTS[lifetime]))
    if turns is not None:
        changes["messages"] = turns
    return changes


def _with_point(turn: bytes, point: bytes) -> bytes | None:
    """None: what it ends with takes no mark."""
    members = _members(turn)
    blocks = list(map(bytes, _raws(members["content"])))
    if not blocks or not _MARKABLE & _members(blocks[-1]).keys():
        return None
    return _encode({**members, "content": msgspec.Raw(_list([*blocks, point]))})


def _list(items: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)
