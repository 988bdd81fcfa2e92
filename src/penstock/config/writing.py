"""YAML by hand, so that what is written can have comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

# What every YAML reader takes for text, as it stands: no indicator, no `: `, nothing like a number.
_PLAIN = re.compile(r"[A-Za-z_$/][A-Za-z0-9_./:${}@+=-]*(?<!:)\Z")
_EXACT = 2**53  # below it a whole number is the same with and without a fraction
_OTHER_TYPES = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
# Beyond what JSON escapes, YAML allows neither these nor half a surrogate pair.
_NOT_PRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def scalar(text: str) -> str:
    """The text as YAML: plain where no reader can take it for anything else, else in double quotes."""
    if _PLAIN.match(text) and text.lower() not in _OTHER_TYPES:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _NOT_PRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", quoted)


def flow_list(texts: Iterable[str]) -> str:
    """The texts as a YAML list in one line."""
    inner = (scalar(text) for text in texts)
    return (
        "["
        + ", ".join(
            json.dumps(t, ensure_ascii=False) if set("{}") & set(t) and t[0] != '"' else t for t in inner
        )
        + "]"
    )


def flow(value: Any) -> str:
    """What JSON can say, as YAML in one line: whatever is text stays text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(str(key))}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _NOT_PRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", written)


def _key(text: str) -> str:
    return text if text.isidentifier() and text.isascii() and scalar(text) == text else flow(text)


def escaped(text: str) -> str:
    """The text, so that the reader does not take a ``${`` in it for a reference."""
    return text.replace("${", "$${")
