"""``Penstock-Heartbeat``: how soon a stream that is silent shows a sign of life, as its caller wants it."""

from __future__ import annotations

LEAST = 1.0
USUAL = 15.0
"""Seconds of silence after which a stream is kept alive: proxies cut at 60 (nginx, ALB) and even 55."""


def read(told: bytes | None) -> float:
    """Seconds: what is told in whole ones, of 1 to 15; what is not, and all else, comes to the usual."""
    if told is None or not told.isdigit() or len(told) > 2:
        return USUAL
    return min(max(float(told), LEAST), USUAL)
