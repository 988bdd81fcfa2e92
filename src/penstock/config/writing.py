"""YAML by hand, so that what is written can have comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

# What every YAML reader takes for text, as it stands: no indicator, no `: `, nothing like a number.
_PLAIN = re.compile(r"[A-Za-z_$/][A-Za-z0-9_./:${}@+=-]*(?<!:)\Z")
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


def escaped(text: str) -> str:
    """The text, so that the reader does not take a ``${`` in it for a reference."""
    return text.replace("${", "$${")
