"""When a report begins and ends, as people say it."""

from __future__ import annotations

import datetime as dt
import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(text: str, now: float) -> float:
    """The Unix time that somebody means by an age (``7d``) or by a date or time, in UTC unless it says otherwise.

    :raises ValueError: it is neither; the message says so
    """
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if age:
        return now - float(age[1]) * _SECONDS[age[2]]
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an age such as 1h nor a date such as 2026-11-01") from None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()
