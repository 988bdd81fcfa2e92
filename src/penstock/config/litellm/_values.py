"""What stands in LiteLLM's file, read as what it is meant to be."""

from __future__ import annotations

import re
from typing import Any

from penstock.config.writing import escaped

Plain = dict[str, Any]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def as_list(value: Any) -> list[Any]:
    """A single thing is a list of one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def number(value: Any) -> float | None:
    """A number that is at least 0, also one in quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < 1e15 else None


def text(value: Any) -> str | None:
    """The text as it stands in our file: ``os.environ/NAME`` becomes ``${NAME}``."""
    if value is None or isinstance(value, dict | list) or value == "":
        return None
    found = str(value)
    variable = found.removeprefix("os.environ/")
    if variable != found and _VARIABLE.match(variable):
        return "${" + variable + "}"
    return escaped(found)
