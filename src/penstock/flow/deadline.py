"""When is an answer of no use any more?"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from penstock.config.model import TierConfig
from penstock.flow.queue import DEFAULT_TIER
from penstock.messages import Call
from penstock.wire.deadline import seconds_until


def deadline_of(call: Call, tiers: Mapping[str, TierConfig], unix_time: float) -> float:
    """The moment (monotonic) at which the first token of a stream, or a plain answer, is of no use any more.

    What the call says itself, else what its tier says; but never later than its SDK would wait.

    :raises penstock.errors.BadRequest: what the call says makes no sense
    """
    tier = tiers.get(call.tenant.tier, DEFAULT_TIER).deadline or inf
    said = call.headers.get(b"penstock-deadline")
    seconds = tier if said is None else seconds_until(said, unix_time)
    patience = call.headers.get(b"x-stainless-read-timeout")
    if patience is not None:
        seconds = min(seconds, _patience(patience))
    return call.received + seconds


def _patience(text: bytes) -> float:
    """The SDK writes it, so what makes no sense is no caller's mistake, and means nothing."""
    try:
        seconds = float(text)
    except ValueError:
        return inf
    return seconds if seconds > 0 else inf
