"""Is an upstream well, by what it answers when it is asked how it is?

So many questions in a row that fail make it unwell, so many that succeed make it well again.  Who was unwell gets its
share of the calls back over a while (slow start): a server that has just come has neither warm caches nor grown pools.

An unwell upstream is asked last, never left out: where all are unwell, or the question itself is what is wrong, calls go
on as if nobody had asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from penstock.config.model import HealthConfig

UNWELL = 1e6  # seconds in the order of candidates: behind all whose breaker will let calls through again
_COMING = 1e-3  # the same: behind those that are well, before those whose breaker is open
LEAST_SHARE = 0.1  # of its calls, that one which comes back gets from the beginning


class Health:
    """Of one upstream.

    :param rand: from 0 to 1, drawn for each call while the upstream comes back
    :ivar well: whether calls go there in their usual order
    :ivar verdict: what the questions of this process have come to; None: nothing yet
    """

    __slots__ = ("_back_since", "_config", "_in_row", "_rand", "_succeeds", "verdict", "well")

    def __init__(self, config: HealthConfig, rand: Callable[[], float] = random.random) -> None:
        self._config = config
        self._rand = rand
        self._in_row = 0  # answers alike
        self._succeeds = True  # what these were
        self._back_since: float | None = None  # None: it is there as ever
        self.verdict: bool | None = None
        self.well = True

    def __repr__(self) -> str:
        state = "unwell" if not self.well else "well" if self._back_since is None else "coming back"
        return f"<Health {state}, {self._in_row} answers in a row>"

    def answered(self, now: float, *, succeeds: bool) -> bool:
        """One question has been answered, or not; whether the others are to be told what it came to."""
        if succeeds is not self._succeeds:
            self._in_row, self._succeeds = 0, succeeds
        self._in_row += 1
        if self._in_row < (self._config.healthy_after if succeeds else self._config.unhealthy_after):
            return False
        is_news = self.verdict is not succeeds
        self.verdict = succeeds
        self.heard(now, well=succeeds)
        return is_news or not succeeds  # that one is unwell is told again, for who has come meanwhile

    def heard(self, now: float, *, well: bool) -> None:
        """What it has come to, here or in the process that asks."""
        if well is not self.well:
            self.well = well
            self._back_since = now if well and self._config.slow_start else None

    def behind(self, now: float) -> float:
        """How far back among its model's candidates it stands for a call, in seconds; 0: nowhere."""
        if not self.well:
            return UNWELL
        if self._back_since is None:
            return 0.0
        share = (now - self._back_since) / self._config.slow_start
        if share >= 1.0:
            self._back_since = None
            return 0.0
        return 0.0 if self._rand() < max(share, LEAST_SHARE) else _COMING
