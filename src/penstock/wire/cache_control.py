"""What a request's ``Cache-Control`` says (RFC 9111, 5.2.1, and RFC 5861)."""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec


class Control(msgspec.Struct, frozen=True):
    """What may be done for a request; times are seconds."""

    reads: bool = True  # neither no-cache nor no-store
    stores: bool = True  # not no-store
    only: bool = False  # only-if-cached: an answer that is here, or none
    max_age: float = math.inf
    stale_while_revalidate: float | None = None
    stale_if_error: float | None = None


USUAL = Control()
"""Of a request that says nothing."""


@lru_cache(256)
def control_of(field: bytes) -> Control:
    """A directive whose number is none is taken at its strictest (RFC 9111, 4.2.1)."""
    told: dict[str, str] = {}
    for directive in field.decode("latin-1").lower().split(","):
        name, _, value = directive.partition("=")
        told.setdefault(name.strip(), value.strip().strip('"'))
    return Control(
        reads="no-cache" not in told and "no-store" not in told,
        stores="no-store" not in told,
        only="only-if-cached" in told,
        max_age=_seconds(told["max-age"]) if "max-age" in told else math.inf,
        stale_while_revalidate=_seconds(told["stale-while-revalidate"])
        if "stale-while-revalidate" in told
        else None,
        stale_if_error=_seconds(told["stale-if-error"]) if "stale-if-error" in told else None,
    )


def _seconds(value: str) -> float:
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 16 else 0.0
