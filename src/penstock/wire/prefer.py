"""``Prefer`` (RFC 7240): whether its caller would rather come back for the answer than wait for it."""

from __future__ import annotations

import re

LONGEST_WAIT = 60.0
"""Seconds for which an answer is waited for at most, whatever is preferred: proxies cut what is silent for longer."""

MOST_BYTES = 1_024
"""Of a field that is read; a longer one means nothing."""

_PART = re.compile(
    rb"""(?:[^,"]|"(?:[^"\\]|\\.)*"|")+"""
)  # between two commas that stand in no quoted string
# A token, and the token or quoted string that is its value; parameters behind it are passed over (RFC 7240, 2).
_PREFERENCE = re.compile(
    rb"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:=[ \t]*("[^"]*"|[^ \t";]*))?[ \t]*(?:;|$)"""
)


def wait_of(field: bytes) -> float:
    """Seconds for which the caller would wait (``wait=N``), :data:`LONGEST_WAIT` at most; 0: it says nothing of it."""
    value = _preferences(field).get(b"wait", b"").strip(b'"')
    # Digits and no more, so that neither "inf" nor a number of a thousand digits is one.
    return min(float(value), LONGEST_WAIT) if value.isdigit() and len(value) < 10 else 0.0


def responds_async(field: bytes) -> bool:
    """Whether the caller would rather be told at once where the answer will be (``respond-async``)."""
    return b"respond-async" in _preferences(field)


def applied(wait: float, *, promised: bool) -> bytes:
    """``Preference-Applied``, where an answer was not there in so many seconds; empty: nothing was preferred.

    :param promised: its caller has asked for that
    """
    return b", ".join([*[b"respond-async"] * promised, *([b"wait=%d" % wait] if wait else [])])


def _preferences(field: bytes) -> dict[bytes, bytes]:
    """By name, in lower case.  Of one that is said twice the first counts."""
    found: dict[bytes, bytes] = {}
    for part in _PART.findall(field) if len(field) <= MOST_BYTES else ():
        if (match := _PREFERENCE.match(part)) is not None:
            found.setdefault(match[1].lower(), match[2] or b"")
    return found
