"""When to try again: full-jitter exponential back-off under one budget.

Back-off after M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): a uniformly random
delay between nothing and the capped exponential, which spreads a crowd of retries best.  The budget is
that of Finagle's ``RetryBudget``: each call deposits a fraction of a retry, and a floor per window keeps a
quiet gateway able to retry at all.  Without it every layer's retries multiply in an outage.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

from penstock.config.model import RetryConfig

WINDOW = 10.0  # seconds over which deposits count


def delay(config: RetryConfig, attempt: int, rand: Callable[[], float] = random.random) -> float:
    """Seconds to wait after failed attempt number ``attempt`` (from 1)."""
    try:
        grown = config.factor ** (attempt - 1)
    except OverflowError:  # from 1,025 attempts on, if it doubles
        grown = sys.float_info.max
    return min(config.max_delay, config.first_delay * grown) * rand()


class RetryBudget:
    """How many retries may be spent now.  One second's granularity, ten seconds' memory.

    :param refused: told of each retry that there was nothing left for
    """

    __slots__ = ("_calls", "_config", "_refused", "_retries", "_second")

    def __init__(self, config: RetryConfig, refused: Callable[[], None] = lambda: None) -> None:
        self._config = config
        self._refused = refused
        self._calls = [0] * int(WINDOW)
        self._retries = [0] * int(WINDOW)
        self._second = 0

    def __repr__(self) -> str:
        return f"<RetryBudget {sum(self._retries)} spent of {self._allowed():.1f}>"

    def deposit(self, now: float) -> None:
        """A call began."""
        second = int(now)
        if second != self._second:
            self._slot(now)
        self._calls[second % len(self._calls)] += 1

    def withdraw(self, now: float) -> bool:
        """May a retry be made?  True spends it."""
        slot = self._slot(now)
        if sum(self._retries) >= self._allowed():
            self._refused()
            return False
        self._retries[slot] += 1
        return True

    def _allowed(self) -> float:
        return self._config.budget_floor + self._config.budget_ratio * sum(self._calls)

    def _slot(self, now: float) -> int:
        second = int(now)
        if second != self._second:
            width = len(self._calls)
            for passed in range(max(self._second + 1, second - width + 1), second + 1):
                self._calls[passed % width] = 0
                self._retries[passed % width] = 0
            self._second = second
        return second % len(self._calls)
