"""How much may be spent on calls that no caller asked for: so many a minute, and so much money a day."""

from __future__ import annotations

from collections.abc import Callable

from penstock.flow.budget import BACK

_PICO = 1e-12


class Allowance:
    """A bucket of calls that holds a minute's worth, and an account of the day (UTC).

    A call's cost is known when it has ended, so those under way then are beyond what may be spent.

    :param now: seconds since 1970; where that clock is set back, the bucket is not filled, and no day is spent twice
    """

    __slots__ = ("_at", "_calls", "_day", "_now", "_spent")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._calls = 1.0
        self._at = now()
        self._day = int(self._at // 86_400)
        self._spent = 0

    def __repr__(self) -> str:
        return f"<Allowance for {self._calls:.1f} calls, {self._spent * _PICO:g} $ spent today>"

    def take(self, calls_per_minute: float, usd_per_day: float) -> bool:
        """Whether one more call may be made; it is then counted."""
        now = self._now()
        rate = calls_per_minute / 60
        self._calls = min(self._calls + max(now - self._at, 0.0) * rate, max(rate * 60, 1.0))
        self._at = now
        day = int(now // 86_400)
        if day > self._day:
            self._day, self._spent = day, 0
        elif now < self._day * 86_400 - BACK:  # the clock was ahead
            self._day = day
        if self._calls < 1 or self._spent * _PICO >= usd_per_day:
            return False
        self._calls -= 1
        return True

    def spend(self, cost: int) -> None:
        """A call has cost so much, in 1e-12 US dollars."""
        self._spent += cost
