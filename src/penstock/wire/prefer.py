"""``Prefer`` (RFC 7240): whether its caller would rather come back for the answer than wait for it."""

from __future__ import annotations

import re

import msgspec

LONGEST_WAIT = 60.0
"""Seconds for which an answer is waited for at most, whatever is preferred: proxies cut what is silent for longer."""

MOST_BYTES = 256
"""Of a field that is read; a longer one means nothing."""

# No quantifier here gives back what it has taken, so a field of any kind is read in linear time.
# Between two commas that stand in no quoted string; one that has no end goes on to the field's.
_PART = re.compile(rb"""(?:[^,"]++|"(?:[^"\\]|\\.?)*+"?)++""")
# A token, and the token or quoted string that is its value; parameters behind it are passed over (RFC 7240, 2).
_PREFERENCE = re.compile(
    rb"""[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+(?:=[ \t]*+("[^"]*+"|[^ \t";]*+))?+[ \t]*+(?:;|$)"""
)


class Preferred(msgspec.Struct, frozen=True):
    """What a caller prefers.

    :ivar responds_async: to be told at once where the answer will be (``respond-async``)
    :ivar wait: seconds for which it would wait (``wait=N``), :data:`LONGEST_WAIT` at most; 0: it says nothing of it
    """

    responds_async: bool
    wait: float


def read(field: bytes) -> Preferred:
    """Of a ``Prefer`` field."""
    preferences = _preferences(field)
    wait = preferences.get(b"wait", b"").strip(b'"')
    # Digits and no more, so that neither "inf" nor a number of a thousand digits is one.
    seconds = min(float(wait), LONGEST_WAIT) if wait.isdigit() and len(wait) < 10 else 0.0
    return Preferred(b"respond-async" in preferences, seconds)


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
