"""Values that no column can hold: what they raise, and what is kept instead.

Callers invent models' names, and upstreams report nonsense such as 2**70 tokens.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from penstock.messages import Attempt, Usage

UNWRITABLE = (
    OverflowError,
    UnicodeError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a value raises that no column can hold; :func:`mended` makes it one that it can."""

MAX_INTEGER = 2**63 - 1
MAX_NAME = 256  # characters of a model's name


def mended(attempt: Attempt) -> Attempt:
    """A copy whose every value fits its column."""
    changes: dict[str, Any] = {}
    for name in attempt.__struct_fields__:
        if name == "row":  # which is ours
            continue
        value = getattr(attempt, name)
        if isinstance(value, Usage):
            counts: dict[str, Any] = {
                field: min(max(0, int(count)), MAX_INTEGER)
                for field, count in msgspec.structs.asdict(value).items()
            }
            changes[name] = Usage(**{**counts, "estimated": True})
        elif isinstance(value, str):
            changes[name] = value[:MAX_NAME].encode("utf-8", "replace").decode()
        elif isinstance(value, int):
            least = -MAX_INTEGER if name == "cache_saved" else 0
            changes[name] = min(max(least, value), MAX_INTEGER)
    return msgspec.structs.replace(attempt, **changes)
