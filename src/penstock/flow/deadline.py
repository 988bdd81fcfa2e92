"""When is an answer of no use any more?

What a call or its tier says is found once, when the call is decoded (:func:`told_of`).  How long its SDK would wait,
which nearly every call tells, is looked up only where somebody waits (:func:`deadline_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import inf

from penstock.messages import Call
from penstock.wire.deadline import seconds_until


def told_of(call: Call, tiers: Mapping[str, float], unix_time: Callable[[], float]) -> float:
    """The moment (monotonic) at which the first token of a stream, or a plain answer, is of no use any more.

    What the call says itself, else what its tier says.

    :param tiers: seconds that a call may take which does not say, by the names of those tiers that have a deadline
    :param unix_time: asked where the call names a moment, in seconds since 1970
    :raises penstock.errors.BadRequest: what the call says makes no sense
    """
    said = call.headers.get(b"penstock-deadline")
    seconds = seconds_until(said, unix_time()) if said is not None else tiers.get(call.tenant.tier, inf)
    return call.received + seconds


def deadline_of(call: Call) -> float:
    """The same, but never later than the call's SDK would wait, unless the answer is asked for later."""
    deadline = call.deadline
    patience = call.headers.get(b"x-stainless-read-timeout")
    if patience is not None and not call.deferred:
        longest = call.received + _patience(patience)
        deadline = longest if longest < deadline else deadline  # noqa: FURB136 - min() costs three times as much
    return deadline


@lru_cache(16)  # SDKs know few values; what callers invent is not kept for long
def _patience(said: bytes) -> float:
    """Seconds; the SDK writes it: what makes no sense is no caller's mistake, and means nothing."""
    try:
        seconds = float(said)
    except ValueError:
        return inf
    return seconds if seconds > 0.0 else inf
