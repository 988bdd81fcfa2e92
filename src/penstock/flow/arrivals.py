"""How many calls of a tier come to a gate, lately: those of higher tiers will go before who waits now."""

from __future__ import annotations

from math import exp

from penstock.metrics import Counter

RATE_WINDOW = 10.0  # seconds over which arrivals are counted


class Arrivals:
    """See the module.

    :ivar passed: counts those that get their turn at once
    :ivar others: how many do not, since it was last looked
    """

    __slots__ = ("_at", "_lately", "_passed", "others", "passed")

    def __init__(self, now: float, passed: Counter) -> None:
        self.passed = passed
        self.others = 0
        self._passed = passed.value  # when it was last looked
        self._at = now
        self._lately = 0.0  # per second

    def rate(self, now: float) -> float:
        """Calls per second, lately: exact if it is looked several times in :data:`RATE_WINDOW`."""
        past = self._lately * exp(min(0.0, self._at - now) / RATE_WINDOW)
        new = self.passed.value - self._passed + self.others
        self._lately = past + new / RATE_WINDOW
        self._at, self._passed, self.others = now, self.passed.value, 0
        return self._lately

    def __repr__(self) -> str:
        return f"<Arrivals {self._lately:.2f} per second>"
