"""Money that may be spent per day or month: what was spent, and what is reserved for calls under way.

Costs are integers, in 1e-12 US dollars, as the ledger has them.  Days and months are those of UTC.
"""

from __future__ import annotations

import datetime as dt

_DAY = 86_400.0
BACK = 3_600.0  # seconds before its day by which a clock is set back that was wrong before; less is the usual correction


class Calendar:
    """Which day and which month it is.  A clock that is set back changes neither: no budget comes twice.

    Only where the day has not begun by far (:meth:`was_ahead`), it never was that day.
    """

    __slots__ = ("day", "day_ends", "month", "month_ends")

    def __init__(self, unix_time: float) -> None:
        self.day = self.month = 0
        self.day_ends = self.month_ends = float("-inf")
        self.look(unix_time)

    def look(self, unix_time: float) -> None:
        """It is now ``unix_time`` (seconds since 1970)."""
        if unix_time < self.day_ends:
            return
        date = dt.datetime.fromtimestamp(unix_time, dt.UTC)
        self.day = int(unix_time // _DAY)
        self.day_ends = (self.day + 1) * _DAY
        self.month = date.year * 12 + date.month
        first_of_next = dt.datetime(date.year + date.month // 12, date.month % 12 + 1, 1, tzinfo=dt.UTC)
        self.month_ends = first_of_next.timestamp()

    def was_ahead(self, unix_time: float) -> bool:
        """Whether it is so much earlier now that the clock was wrong which said that this day had begun."""
        return unix_time < self.day_began - BACK

    @property
    def day_began(self) -> float:
        return self.day_ends - _DAY

    @property
    def month_began(self) -> float:
        """Unix time."""
        year, month = divmod(self.month - 1, 12)
        return dt.datetime(year, month + 1, 1, tzinfo=dt.UTC).timestamp()

    def __repr__(self) -> str:
        return f"<Calendar day {self.day}, month {self.month}>"


class Budget:
    """A sum of money for one period after another.

    ``others`` is what was spent in this period by anybody but this process: other workers, and processes
    that have ended.

    :ivar left: what is neither spent nor reserved.  It is kept, not added up for each call: whoever reserves takes it
        from here, and gives it back with what was really spent
    """

    __slots__ = ("_before", "_period", "left", "limit", "others", "own")

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit
        self.own = 0
        self.others = 0
        self._period = 0
        self._before = 0, 0  # the period before this one, and what this process spent in it

    def turn(self, period: int) -> None:
        """It is now this day (or month); a later one than before begins with nothing spent."""
        if period > self._period:
            self._before = self._period, self.own
            self._period = period
            self.left += self.own + self.others
            self.own = self.others = 0

    def date(self, period: int) -> None:
        """It has been this day (or month) all the time: what was spent counts, also before another was taken for begun."""
        before, spent = self._before
        if period == before < self._period:
            self.spend(spent)
            self._before = 0, 0
        self._period = period

    def resize(self, limit: int) -> None:
        """So much may be spent from now on; what was spent stays spent."""
        self.left += limit - self.limit
        self.limit = limit

    def spend(self, cost: int) -> None:
        """So much more was spent by this process; negative: less than was thought."""
        self.own += cost
        self.left -= cost

    def credit(self, others: int) -> None:
        """The others have spent so much in all."""
        self.left -= others - self.others
        self.others = others

    @property
    def spent(self) -> int:
        """By anybody, as far as is known here."""
        return self.own + self.others

    @property
    def known_left(self) -> int:
        """What this process could spend yet, as far as it knows."""
        return max(0, self.left)

    @property
    def reserved(self) -> int:
        """For calls under way."""
        return self.limit - self.own - self.others - self.left

    def fits(self, cost: int) -> bool:
        """Whether a call that may cost so much can begin.  Of an untouched budget even the last cent can be
        spent: a call whose estimate is more than all of it gets what there is.
        """
        left = self.left
        return left > 0 and (left >= cost or left >= self.limit)

    def would_fit(self, cost: int) -> bool:
        """Whether it could begin if the calls under way cost nothing: then it is worth to come back soon."""
        left = self.left + self.reserved
        return left > 0 and left >= min(cost, self.limit)

    def __repr__(self) -> str:
        spent = (self.own + self.others) / 1e12
        return f"<Budget of {self.limit / 1e12:g}: {spent:g} spent, {self.reserved / 1e12:g} reserved>"
