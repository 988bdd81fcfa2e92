"""Versions of models that end: from when on callers are told, from when on they get something else."""

from __future__ import annotations

import datetime as dt
from math import inf

import msgspec

from penstock.config.model import CandidateConfig, Config

NOTICE = 90  # days before its end from which a version is warned of that has no `deprecated`
_DAY = 86_400.0


class Sunset(msgspec.Struct, frozen=True):
    """Unix times; ``ends`` is infinite where a version is deprecated without an end."""

    deprecated: float | None
    ends: float


def sunset_of(candidate: CandidateConfig) -> Sunset | None:
    """None: nothing is said about an end."""
    if not candidate.deprecated and not candidate.sunset:
        return None
    return Sunset(
        began(candidate.deprecated) if candidate.deprecated else None,
        began(candidate.sunset) if candidate.sunset else inf,
    )


def began(day: str) -> float:
    """The Unix time at which a day begins, in UTC.

    :param day: ``2026-12-31``
    :raises ValueError: it is none
    """
    return dt.datetime.combine(dt.date.fromisoformat(day), dt.time(), dt.UTC).timestamp()


def warnings(config: Config, now: float) -> list[str]:
    """One sentence for each version that ends soon, or has ended.

    :param now: Unix time
    """
    found: dict[str, None] = {}
    for name, model in config.models.items():
        for candidate in model.candidates:
            sunset = sunset_of(candidate)
            if sunset is None:
                continue
            what = f"the version {candidate.version!r} of {name!r}" if candidate.version else f"{name!r}"
            what += f" at {candidate.upstream}"
            if sunset.ends <= now:
                then = "is refused" if model.after_sunset == "refuse" else "is replaced by the others"
                found[f"{what} has ended on {candidate.sunset}, and {then}"] = None
            elif (sunset.ends - NOTICE * _DAY if sunset.deprecated is None else sunset.deprecated) <= now:
                left = "" if sunset.ends == inf else f", and ends on {candidate.sunset}"
                left += "" if sunset.ends == inf else f", in {(sunset.ends - now) / _DAY:.0f} days"
                is_deprecated = sunset.deprecated is not None
                found[f"{what} {'is deprecated' if is_deprecated else 'will end'}{left}"] = None
    return list(found)
