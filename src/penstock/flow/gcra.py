"""A token bucket that is one number: the generic cell rate algorithm (ITU-T I.371, annex A).

The bucket holds ``limit`` units when it is full, and fills at ``limit`` units per period.  What is kept is
the time at which it will be full again, if nobody takes anything more.  A bucket may be in debt: what a
call really used is taken even where it is more than was estimated.

What an estimate took too much is given back later.  By then the bucket may have been nearly full in spite of
it; what did not find room then must not be given back now.  So it is remembered how far from full the
bucket was whenever something was taken: a short list of (time, gap), of which only those matter that are
smaller than every later one.
"""

from __future__ import annotations

from math import inf

PERIOD = 60.0  # seconds: limits are per minute
MAX_GAPS = 32  # remembered; with fewer, what is given back may be too little, never too much


class Bucket:
    """``limit`` units per ``period`` seconds, of which as many may come at once.

    :param limit: units; 0: nothing ever fits
    """

    __slots__ = ("_full_at", "_gaps", "limit", "period")

    def __init__(self, limit: float, period: float = PERIOD) -> None:
        self.limit = limit
        self.period = period
        self._full_at = -inf
        self._gaps: list[tuple[float, float]] = []  # when something was taken: seconds until full before it

    def wait(self, units: float, now: float) -> float:
        """Seconds until so many units can be taken; 0: now.

        Whoever wants more than the bucket ever holds gets all of it: 0 or more, but never "never", unless
        the limit is 0.
        """
        if not self.limit:
            return inf
        units = min(units, self.limit)
        late = max(self._full_at, now) + units * self.period / self.limit - (now + self.period)
        # Rounding must not make somebody wait who was told to come back exactly now.
        return late if late > self.period * 1e-9 else 0.0

    def take(self, units: float, now: float) -> None:
        """Take them, whether they are there or not."""
        if not self.limit:
            return
        gap = self._full_at - now
        if gap < 0:
            gap = 0.0
            self._full_at = now
        gaps = self._gaps
        while gaps and gaps[-1][1] >= gap:
            gaps.pop()
        gaps.append((now, gap))
        if len(gaps) > MAX_GAPS:
            gaps[:2] = [(gaps[1][0], gaps[0][1])]
        self._full_at += units * self.period / self.limit

    def correct(self, units: float, taken_at: float) -> float:
        """So many units more were used than were taken at ``taken_at``, or, negative, fewer.

        :returns: units that this changed the bucket by: what finds no room is not given back
        """
        if not self.limit:
            return 0.0
        seconds = units * self.period / self.limit
        if seconds < 0:
            later = [gap for at, gap in self._gaps if at > taken_at]
            seconds = max(seconds, -later[0]) if later else seconds
            self._gaps = [(at, gap + seconds if at > taken_at else gap) for at, gap in self._gaps]
        self._full_at += seconds
        return seconds * self.limit / self.period

    def fill(self, left: float, now: float) -> None:
        """So many units are left, as somebody knows who counts for more than one process; negative: owed."""
        if self.limit:
            self._full_at = now + (self.limit - left) * self.period / self.limit

    def level(self, now: float) -> float:
        """What is left, and negative what is owed."""
        return self.limit * (1.0 - self.full_in(now) / self.period)

    def left(self, now: float) -> float:
        """Units that can be taken now; 0 also in debt."""
        return max(0.0, self.level(now))

    def full_in(self, now: float) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self._full_at - now)

    def __repr__(self) -> str:
        return f"<Bucket of {self.limit:g} per {self.period:g} s, full at {self._full_at:.3f}>"
