"""Keys that end: from when on they are refused, and what is said of it before.

A date is the moment at which that day begins, in UTC, as for everything that ends (``sunset``).  A time of day says its
zone: a machine's own is an accident, and differs between machines.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from math import inf

from penstock.config.model import KeyConfig

NOTICE = 7  # days before its end from which a key is warned of
MOST_NAMED = 5  # keys in one warning; there may be thousands
_DAY = 86_400.0
_AHEAD = re.compile(r"(\d+(?:\.\d+)?)([smhdw])\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": _DAY, "w": 7 * _DAY}
_FORM = "is no date such as 2027-01-01, nor a time with its zone, such as 2027-01-01T12:00:00Z"


def ends_at(expires: str) -> float:
    """The Unix time from which on a key is refused; infinite for one without an end.

    :param expires: as a configuration has it; empty: never
    :raises ValueError: it is neither a date nor a time with its zone; the message says so, and not what it is
    """
    if not expires:
        return inf
    try:
        return dt.datetime.combine(dt.date.fromisoformat(expires), dt.time(), dt.UTC).timestamp()
    except ValueError:
        pass
    try:
        found = dt.datetime.fromisoformat(expires)
    except ValueError:
        raise ValueError(_FORM) from None
    if found.tzinfo is None:
        raise ValueError("has no zone: end it in Z for UTC, or in +01:00, say")
    return found.timestamp()


def said(wanted: str, now: float) -> str:
    """The same as a configuration has it, of an end that may also be so far ahead: ``12h``, ``30d``.

    :param now: Unix time
    :raises ValueError: it is none of these, or past
    """
    ahead = _AHEAD.match(wanted)
    if ahead:
        try:
            return moment(now + float(ahead[1]) * _SECONDS[ahead[2]])
        except (ValueError, OverflowError):
            raise ValueError("is further ahead than there are years") from None
    if ends_at(wanted) <= now:
        raise ValueError("is past")
    return wanted


def moment(unix_time: float) -> str:
    """A Unix time as people and programs read it: ``2027-01-01T00:00:00Z``; what is within a second is left out."""
    return dt.datetime.fromtimestamp(int(unix_time), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ended(keys: Iterable[KeyConfig], now: float) -> tuple[int, float]:
    """How many keys have ended, and the Unix time at which the next one does; infinite if none will.

    :param now: Unix time
    """
    ends = [ends_at(key.expires) for key in keys if key.expires]
    return sum(at <= now for at in ends), min((at for at in ends if at > now), default=inf)


def warnings(keys: Iterable[KeyConfig], now: float) -> list[str]:
    """A sentence for each key that ends soon, and one for all that have ended.

    :param now: Unix time
    """
    ends = sorted((ends_at(key.expires), key.name) for key in keys if key.expires)
    past = [name for at, name in ends if at <= now]
    soon = [(at, name) for at, name in ends if now < at <= now + NOTICE * _DAY]
    found = [f"the key {name!r} ends at {moment(at)}, in {_left(at - now)}" for at, name in soon[:MOST_NAMED]]
    if len(soon) > MOST_NAMED:
        found.append(f"{len(soon) - MOST_NAMED} more keys end within {NOTICE} days")
    if past:
        found.append(f"{_named(past)} ended, and every call with it is refused: take it out")
    return found


def _left(seconds: float) -> str:
    hours = int(seconds // 3_600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours" if hours >= 2 else "less than 2 hours"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:MOST_NAMED]))
    if len(names) == 1:
        return f"the key {shown} has"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"each of the keys {shown}{more} has"
