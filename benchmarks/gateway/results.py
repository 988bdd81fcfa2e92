"""The figures of a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Results:
    """Of one system: every round's figure by measurement, and what went wrong."""

    name: str
    version: str = ""
    does: str = ""
    failure: str = ""  # why there are no figures at all
    rounds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, measure: str, value: float) -> None:
        self.rounds.setdefault(measure, []).append(value)

    def fault(self, measure: str, what: str) -> None:
        told = self.errors.setdefault(measure, [])
        if len(told) < 5:
            told.append(what)

    def median(self, measure: str) -> float | None:
        values = self.rounds.get(measure)
        return statistics.median(values) if values else None


def versus(results: Mapping[str, Results], one: str, other: str, measures: Sequence[str]) -> dict[str, float]:
    """How many times as much ``one`` needs as ``other``."""
    ratios = {}
    for measure in measures:
        above = results[one].median(measure) if one in results else None
        below = results[other].median(measure) if other in results else None
        if above is not None and below:
            ratios[measure] = round(above / below, 2)
    return ratios
