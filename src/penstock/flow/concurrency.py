"""How many calls an upstream can take at once, found out from how soon its first tokens come.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), with delay as the sign of congestion, as in
TCP Vegas: an upstream that has more calls than it can work on lets some wait, and their first tokens come
later.  While the limit is used up, it grows: by half in each window until the first congestion, by a little
afterwards.  It falls when the median of a window is ``tolerance`` times the usual, or when the upstream says
that it is overloaded.

A long prompt takes longer than a short one, and that is no congestion: first tokens are told here as
``penstock.flow.pace`` has made them comparable.

What the limit begins with must be less than the upstream can take: how soon first tokens usually come can only
be learnt from one that has room.  *Usual* is the lowest median of a window that was seen.  It creeps up, and
doubles in an hour, so that an upstream that has become slower for good is not strangled for ever; any window
that is quick sets it right.
"""

from __future__ import annotations

import math

from penstock.config.model import ConcurrencyConfig

LEAST_WINDOW = 32  # first tokens of one window; a median of fewer says little
GROWTH = 1.5  # of a window, until the first congestion
INCREASE = 0.02  # afterwards, but one at least
DECREASE = 0.95  # for late first tokens
COLLAPSE = 0.7  # for an upstream that says that it is overloaded
PAUSE = 1.0  # seconds between two decreases: what began before the first one says nothing new
CREEP = 3_600.0  # seconds in which the usual doubles
# Times: beyond it nothing of the usual is left, and a power of two would be too large for a float.
MOST_CREPT = 64.0
USED = 0.8  # of the limit; with less under way nothing can be learnt about it


def crept(usual: float, passed: float) -> float:
    """What is usual, so many seconds later."""
    return usual * math.exp2(min(max(0.0, passed) / CREEP, MOST_CREPT))


class AdaptiveLimit:
    """A number of calls, between ``least`` and ``most``."""

    __slots__ = (
        "_config",
        "_congested",
        "_most",
        "_quiet_until",
        "_since",
        "_times",
        "_used",
        "_usual",
        "value",
    )

    def __init__(self, config: ConcurrencyConfig, most: int) -> None:
        self._config = config
        self._most = most
        self.value = float(min(config.start, most) if config.adaptive else most)
        self._times: list[float] = []  # of this window
        self._used = 0
        self._usual = 0.0
        self._since = 0.0  # when the usual was last looked at
        self._congested = False
        self._quiet_until = 0.0

    def observe(self, first_token: float, in_progress: int, now: float) -> None:
        """A first token came after so many seconds, while so many calls were in progress."""
        if not self._config.adaptive:
            return
        self._times.append(first_token)
        self._used += in_progress >= USED * int(self.value)
        if len(self._times) >= max(LEAST_WINDOW, self.value):
            self._conclude(now)

    def overloaded(self, now: float) -> None:
        """The upstream says that it has too much to do."""
        if self._config.adaptive:
            self._decrease(COLLAPSE, now)

    def _conclude(self, now: float) -> None:
        """A window is full."""
        times = sorted(self._times)
        median = times[len(times) // 2]
        used = self._used * 2 > len(times)
        self._times.clear()
        self._used = 0
        self._usual = min(crept(self._usual, now - self._since), median) if self._usual else median
        self._since = now
        if median > self._config.tolerance * self._usual:
            self._decrease(DECREASE, now)
        elif used:
            little = max(1.0, self.value * INCREASE)
            self.value = min(
                float(self._most), self.value + little if self._congested else self.value * GROWTH
            )

    def _decrease(self, factor: float, now: float) -> None:
        if 0.0 < self._quiet_until - now <= PAUSE:
            return
        self._quiet_until = now + PAUSE
        self._congested = True
        self.value = max(float(min(self._config.least, self._most)), self.value * factor)

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.value:.1f} of {self._most}, usual first token {self._usual:.3f} s>"
