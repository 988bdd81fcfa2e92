"""A token bucket that is one number: the generic cell rate algorithm (ITU-T I.371, annex A).

The bucket holds ``limit`` units when it is full, and fills at ``limit`` units per period.  What is kept is
the time at which it will be full again, if nobody takes anything more.  A bucket may be in debt: what a
call really used is taken even where it is more than was estimated.

What an estimate took too much is given back later.  By then the bucket may have been full in spite of it, or
nearly so; what did not find room then must not be given back now.  So it is remembered when the bucket was last
found full, which in most is a moment ago, and since then, how far from full it was whenever something was taken: a
short list of (time, gap), of which only those matter that are smaller than every later one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from math import inf

PERIOD = 60.0  # seconds: limits are per minute
MAX_GAPS = 32  # remembered; with fewer, what is given back may be too little, never too much


class Bucket:
    """``limit`` units per ``period`` seconds, of which as many may come at once.

    :param limit: units; 0: nothing ever fits
    :ivar full_at: from then on it is full, if nothing more is taken: unless the limit is 0, everything fits
    :ivar each: seconds in which a unit comes in
    :ivar found_full: when something was last taken of the whole
    """

    __slots__ = ("_gaps", "each", "found_full", "full_at", "limit", "period")

    def __init__(self, limit: float, period: float = PERIOD) -> None:
        self.period = float(period)
        Bucket.resize(self, limit)
        self.full_at = -inf
        self.found_full = -inf
        self._gaps: list[tuple[float, float]] = []  # when something was taken: seconds until full before it

    def resize(self, limit: float) -> None:
        """It holds so many units from now on."""
        self.limit = float(limit)
        self.each = self.period / limit if limit else 0.0

    def wait(self, units: float, now: float) -> float:
        """Seconds until so many units can be taken; 0: now.

        Whoever wants more than the bucket ever holds gets all of it: 0 or more, but never "never", unless
        the limit is 0.
        """
        limit = self.limit
        if not limit:
            return inf
        left = self.full_at - now
        if left <= 0.0:  # full
            return 0.0
        wanted = units if units < limit else limit  # noqa: FURB136 - min() costs three times as much
        late = left + wanted * self.each - self.period
        # Rounding must not make somebody wait who was told to come back exactly now.
        return late if late > self.period * 1e-9 else 0.0

    def take(self, units: float, now: float) -> None:
        """Take them, whether they are there or not."""
        gap = self.full_at - now
        if gap > 0.0:
            self._remember(gap, now)
            self.full_at += units * self.each
        else:
            self.found_full = now
            self.full_at = now + units * self.each

    def correct(self, units: float, taken_at: float) -> float:
        """So many units more were used than were taken at ``taken_at``, or, negative, fewer.

        :returns: units that this changed the bucket by: what finds no room is not given back
        """
        seconds = units * self.each
        if seconds < 0.0:
            if taken_at < self.found_full:
                return 0.0
            if self._gaps:
                seconds = self._with_room(seconds, taken_at)
        self.full_at += seconds
        return seconds * self.limit / self.period

    def _remember(self, gap: float, now: float) -> None:
        gaps = self._gaps
        if gaps and gaps[-1][0] <= self.found_full:  # what was before that does not matter any more
            gaps.clear()
        while gaps and gaps[-1][1] >= gap:
            gaps.pop()
        gaps.append((now, gap))
        if len(gaps) > MAX_GAPS:
            _, smallest = gaps.pop(0)
            gaps[0] = gaps[0][0], smallest

    def _with_room(self, seconds: float, taken_at: float) -> float:
        """How much of these seconds, which are negative, found room whenever something was taken after that."""
        gaps = self._gaps
        first = bisect_right(gaps, (taken_at, inf))
        later = gaps[first:]
        if later:
            seconds = max(seconds, -later[0][1])
            gaps[first:] = [(at, gap + seconds) for at, gap in later]
        return seconds

    def fill(self, left: float, now: float) -> None:
        """So many units are left, as somebody knows who counts for more than one process; negative: owed."""
        if self.limit:
            self.full_at = now + (self.limit - left) * self.period / self.limit

    def level(self, now: float) -> float:
        """What is left, and negative what is owed."""
        return self.limit * (1.0 - self.full_in(now) / self.period)

    def left(self, now: float) -> float:
        """Units that can be taken now; 0 also in debt."""
        gap = self.full_at - now
        if gap <= 0.0:
            return self.limit
        return self.limit * (1.0 - gap / self.period) if gap < self.period else 0.0

    def known_left(self, now: float) -> float:
        """The same, for people: of all who use the bucket, as far as is known here."""
        return self.left(now)

    def full_in(self, now: float) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.full_at - now)

    def __repr__(self) -> str:
        return f"<Bucket of {self.limit:g} per {self.period:g} s, full at {self.full_at:.3f}>"


# ---- several at once: what follows is one call where each call of a bucket's methods would cost as much ----


def fit(buckets: Iterable[Bucket], units: float, now: float) -> bool:
    """Whether each bucket has room for so many; one that is smaller, for the whole."""
    for bucket in buckets:
        gap = bucket.full_at - now
        # What is more than the bucket holds, and what is a matter of rounding, only its own method knows.
        if gap > 0.0 and gap + units * bucket.each > bucket.period and bucket.wait(units, now):
            return False
    return True


def take(buckets: Iterable[Bucket], units: float, now: float) -> None:
    """Take them from each bucket; of one that is smaller, the whole."""
    for bucket in buckets:
        limit = bucket.limit
        bucket.take(units if units < limit else limit, now)  # noqa: FURB136 - min() costs three times as much


def take_for_good(buckets: Iterable[Bucket], now: float) -> None:
    """Take 1 from each bucket, to which nothing is ever given back: so nothing has to be remembered."""
    for bucket in buckets:
        full_at = bucket.full_at
        bucket.full_at = (full_at if full_at > now else now) + bucket.each  # noqa: FURB136 - the same


def take_of_full(ones: Iterable[Bucket], others: Iterable[Bucket], units: float, now: float) -> bool:
    """Take 1 of each of the ones, for good, and ``units``, which they hold, of each of the others, if all are full;
    whether they were.

    :func:`take_for_good` and :meth:`Bucket.take` come to this then.
    """
    for bucket in ones:
        if bucket.full_at > now:
            return False
    for bucket in others:
        if bucket.full_at > now:
            return False
    for bucket in ones:
        bucket.full_at = now + bucket.each
    for bucket in others:
        bucket.found_full = now
        bucket.full_at = now + units * bucket.each
    return True


def correct(buckets: Iterable[Bucket], taken: float, used: float, taken_at: float) -> None:
    """So much was used, of which so much was taken by :func:`take`."""
    for bucket in buckets:
        limit = bucket.limit
        bucket.correct(used - (taken if taken < limit else limit), taken_at)  # noqa: FURB136 - the same


def correct_by(buckets: Iterable[Bucket], units: float, taken_at: float) -> None:
    """The same for so many units more, or, negative, fewer, of buckets that hold what was taken."""
    for bucket in buckets:
        if units >= 0.0 or taken_at >= bucket.found_full:  # as a rule it was full in spite of it
            bucket.correct(units, taken_at)
