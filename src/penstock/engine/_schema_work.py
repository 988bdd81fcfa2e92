"""How long OpenVINO GenAI works at the grammar of a schema before the first token, estimated.

One thread compiles the rules of all callers, and what it has begun cannot be ended.  The figures are CPU time with the
small model and its 4,096 tokens, on a busy machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from penstock.engine.backend import CannotTake
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

MOST = 0.25
"""Seconds: 80 KB of words, or 830 members that may be left out."""

MOST_LENGTHS = 50
"""Of texts where there are alternatives, which may all be read at once: with 100, steps take 40 ms, with 30, 12."""

_OPTIONAL = 3e-4  # of a member that may be left out: 300 of one object take 60 ms, 800 take 250
_BYTE = 3e-6  # of a value or name that is written out: 10,000 words take 0.3 s, a text of 1 MB takes 2.8

_decode = msgspec.json.Decoder(dict[str, JSON] | bool).decode
_encode = msgspec.json.Encoder().encode


def check_work(schema: str) -> None:
    """:raises CannotTake: compiling the schema would take too long, or it is none that could be"""
    try:
        root = _decode(schema)
    except NOT_JSON as error:
        raise CannotTake(f"the rule cannot be used: {error}") from None
    lengths: set[tuple[int, int]] = set()
    has_alternatives = False
    work = 0.0
    for part in _parts(root):
        lengths.add((part.get("minLength", 0), part.get("maxLength", 0)))
        has_alternatives = has_alternatives or "anyOf" in part
        properties = part.get("properties", {})
        work += _OPTIONAL * (len(properties) - len({*part.get("required", ())}))
        written = [part.get("enum"), part.get("const"), *properties]
        work += _BYTE * sum(len(_encode(value)) for value in written if value is not None)
    if work > MOST:
        raise CannotTake(
            "the rule cannot be used: compiling it would hold up those of others; have fewer values, and fewer members "
            "that may be left out"
        )
    if has_alternatives and len(lengths) > MOST_LENGTHS:
        raise CannotTake(
            f"the rule cannot be used: with anyOf, texts may have {MOST_LENGTHS} different lengths at most, as all may "
            "have to be counted at once; let more of them have the same minLength and maxLength"
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


__all__ = ["check_work"]
