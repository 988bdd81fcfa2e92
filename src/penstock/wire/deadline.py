"""``Penstock-Deadline``: until when an answer is of use, as its caller says it."""

from __future__ import annotations

from math import inf, isnan

from penstock.errors import BadRequest

UNIX_TIME = 1e9  # a deadline of more seconds is a moment, not a span; the year 2001


def seconds_until(text: bytes, unix_time: float) -> float:
    """Seconds from now.

    :param unix_time: it is now, in seconds
    :raises penstock.errors.BadRequest: it makes no sense
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if isnan(seconds):
        raise BadRequest(
            "Penstock-Deadline must be a number of seconds, or a moment in seconds since 1970",
            param="Penstock-Deadline",
        )
    return seconds - unix_time if seconds >= UNIX_TIME and seconds != inf else seconds
