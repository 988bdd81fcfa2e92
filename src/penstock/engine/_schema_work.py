"""How long OpenVINO GenAI works at a schema before the first token, estimated: a schema of 5 KB could take it a minute.

One thread compiles the rules of all callers, and what it has begun cannot be ended.  The figures are CPU time with the
small model and its 4,096 tokens, on a busy machine; what is alike in two places is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from penstock.engine.backend import CannotTake
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

MOST = 2.5
"""Seconds: seven different long lengths of texts, or 790 members of an object that may be left out."""

_LETTER = 0.0014  # of a text with a length of its own: 10 of 100 letters take 1.1 s, one of 10,000 takes 0.3
_LONGEST = 250  # letters; a text may be longer at no further cost
_ITEM = 0.00025  # of a bounded array: 100 of 150 items take 3.8 s
_MOST_ITEMS = 120  # as with letters: 10 of 1,000 take 0.2 s
_OPTIONAL = 4e-6  # of a member that may be left out, with each other of its object: 1,500 take 7.4 s
_BYTE = 3.5e-6  # of a value or name that is written out: 100,000 words take 4.7 s

_decode = msgspec.json.Decoder(dict[str, JSON] | bool).decode
_encode = msgspec.json.Encoder().encode


def check_work(schema: str) -> None:
    """:raises CannotTake: compiling the schema would take too long, or it is none that could be"""
    try:
        root = _decode(schema)
    except NOT_JSON as error:
        raise CannotTake(f"the rule cannot be used: {error}") from None
    lengths: set[tuple[int, int]] = set()
    work = 0.0
    for part in _parts(root):
        if (length := _bound(part, "minLength", "maxLength")) is not None:
            lengths.add(length)
        if (items := _bound(part, "minItems", "maxItems")) is not None:
            work += _ITEM * min(max(items), _MOST_ITEMS)
        properties = part.get("properties", {})
        work += _OPTIONAL * (len(properties) - len(part.get("required", ()))) ** 2
        written = [part.get("enum"), part.get("const"), *properties]
        work += _BYTE * sum(len(_encode(value)) for value in written if value is not None)
    work += _LETTER * sum(min(max(least, most), _LONGEST) for least, most in lengths)
    if work > MOST:
        raise CannotTake(
            "the rule cannot be used: compiling it would hold up those of others; let texts have the same "
            "maxLength, or none, and have fewer values, bounded arrays and members that may be left out"
        )


def _parts(schema: JSON) -> Iterator[Mapping[str, Any]]:
    """The schema, and each that is in it."""
    left = [schema]
    while left:
        part = left.pop()
        if not isinstance(part, dict):
            continue
        yield part
        for several in ("properties", "$defs", "definitions"):
            left += part.get(several, {}).values()
        left += part.get("anyOf", ())
        left += (part.get("items"), part.get("additionalProperties"))


def _bound(part: Mapping[str, Any], least: str, most: str) -> tuple[int, int] | None:
    """Both of its bounds; None: it has none."""
    if least not in part and most not in part:
        return None
    return part.get(least, 0), part.get(most, 0)


__all__ = ["check_work"]
