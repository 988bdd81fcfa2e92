"""One process's part of a bucket that it shares with others; see ``penstock.flow.sharing`` for the whole.

Of a large one a process uses its share of what was left when it last heard of the others, and of what has come in since.
Beyond that, one call may begin if, as far as is known, the whole has room for it: so a process that alone has callers gets
all of it, and processes together exceed the limit by one call each, which the pool counts and all of them make good.

Where a share is but a few calls (:meth:`LeasedBucket.asks`), a call's units are granted one by one (``penstock.flow.credit``):
it waits for that, and no more begin than the limit allows.  Without word from the others, or from a pool that knows what
they took, a process goes by its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from penstock.flow.credit import NOT_YET, ROUNDING, Use
from penstock.flow.gcra import Bucket
from penstock.flow.sharing import FRESH, LIFE

SMALL = 60.0  # calls a minute: of a limit of no more each is granted, and told at once
FEW = 10.0  # calls: where an even share is no more, each is granted as well
PARTS = 16  # of what a process has left: when one of them is taken, the others should know
SOON = 0.1  # seconds: what comes in within them is waited for


class LeasedBucket(Bucket):
    """A bucket of which this process has a part: the ``whole`` as it is known here, and its ``own``.

    Whether something fits has to be asked each time, even if the whole is full (:attr:`full_at` never comes).

    :param limit: the whole, of all processes
    :param share: this process's part of it until the first lease
    :param alone: whether there is no word from the others
    :ivar credit: granted, and not taken by a call yet
    """

    __slots__ = (
        "_acknowledged",
        "_alone",
        "_asked_from",
        "_credit_until",
        "_drawn",
        "_even",
        "_fresh_until",
        "_number",
        "_overdrawn",
        "_recovers",
        "_reported",
        "_tells_from",
        "credit",
        "own",
        "total",
        "whole",
    )

    def __init__(self, limit: float, share: float, alone: Callable[[], bool]) -> None:
        super().__init__(limit)
        self.full_at = math.inf
        self.whole = Bucket(limit)
        self.own = Bucket(limit * share)
        self._set_even(share)
        self.total = 0.0  # taken, ever
        self._reported = self._acknowledged = 0.0  # of that
        self._overdrawn = False
        self._fresh_until = -math.inf
        self._alone = alone
        self.credit = 0.0
        self._credit_until = -math.inf
        self._drawn = 0.0  # of it, since the last report
        self._number = 0
        self._recovers = False  # the pool, which cannot grant anything yet
        self._tells_from = math.inf  # the total from which on the others' shares are much too large

    @property
    def is_short(self) -> bool:
        """Whether so much was taken since the last exchange that the others have shares of what is not there any more."""
        return self.total >= self._tells_from

    def asks(self, units: float) -> bool:
        """Whether a call of so many has to be granted them, as a share is but a few such calls."""
        return units >= self._asked_from

    def _set_even(self, share: float) -> None:
        self._even = share
        self._asked_from = min(self.limit / SMALL, self.limit * share / FEW)

    def may_come(self, units: float, now: float) -> bool:
        """Whether it is worth asking for so many: as far as is known, they are there, or are about to be."""
        return self._waits(units) and self.whole.wait(units, now) <= SOON

    def wait(self, units: float, now: float) -> float:
        if self._waits(units):
            if self.limit and self._granted(now) >= min(units, self.limit) - ROUNDING:
                return 0.0
            return max(self.whole.wait(units, now), SOON)
        own = self.own.wait(units, now)
        if not own or math.isinf(own):
            return own
        whole = self.whole.wait(units, now)
        if not whole and not self._overdrawn and not self.asks(units) and now < self._fresh_until:
            return 0.0
        # A share grows once there is more asked for here than elsewhere: nobody waits for longer than by an even one.
        return max(whole, min(own, min(units, self.limit) * self.period / (self.limit * self._even)))

    def take(self, units: float, now: float) -> None:
        if self.own.wait(units, now):
            self._overdrawn = True
        self.whole.take(units, now)
        self.own.take(units, now)
        self.total += units
        if self.credit and self.asks(units):
            drawn = min(units, self.credit)
            self.credit -= drawn
            self._drawn += drawn

    def correct(self, units: float, taken_at: float) -> float:
        changed = self.whole.correct(units, taken_at)
        self.own.correct(units, taken_at)
        self.total += changed
        return changed

    def left(self, now: float) -> float:
        return self.whole.left(now) if now < self._fresh_until else self.own.left(now)

    def known_left(self, now: float) -> float:
        return (self.own if self._alone() else self.whole).left(now)

    def full_in(self, now: float) -> float:
        return self.whole.full_in(now)

    def resize(self, limit: float) -> None:
        """The configuration says something else now; what was used stays used."""
        own = self.own.limit * limit / self.limit if self.limit else 0.0
        super().resize(limit)
        self._set_even(self._even)
        self.whole.resize(limit)
        self.own.resize(own or limit * self._even)

    def _waits(self, units: float) -> bool:
        """Whether a call of so many waits to be granted them."""
        return self.asks(units) and not self._recovers and not self._alone()

    def _granted(self, now: float) -> float:
        return self.credit if now < self._credit_until else 0.0

    def use(self, now: float, waiting: Sequence[float] = (), *, known: bool, anew: bool) -> Use:
        """What is reported of it.

        :param waiting: what each of the calls needs that wait to be granted it; of what was granted, no more is kept
        """
        self._reported = self.total
        self._tells_from = math.inf
        self._number += 1
        needs = [min(units, self.limit) for units in waiting]
        least, credit = min(needs, default=0.0), min(self._granted(now), sum(needs))
        self.credit = credit = credit if credit >= least - ROUNDING else 0.0
        self._drawn = 0.0
        if not known:
            level = None
        elif anew:  # the others' part of the whole is not known any more: suppose that it is as full as ours
            level = self.limit * (self.own.level(now) / self.own.limit if self.own.limit else 0.0)
        else:
            level = self.whole.level(now)
        return Use(
            self.limit,
            self.total,
            self.total - self._acknowledged,
            level,
            self._number,
            credit,
            sum(needs) - credit,
            least,
        )

    def lease(self, left: float, share: float, held: float, even: float, sent: float, now: float) -> None:
        """So much is left of the whole, less what was taken since the report; this part of it is ours.

        :param held: of what was granted, so much is ours as well
        :param sent: when the report was sent
        """
        self._set_even(even)
        self._overdrawn = False
        self._fresh_until = now + FRESH
        self._acknowledged = self._reported
        since = self.total - self._reported
        self._recovers = held == NOT_YET
        if self._recovers:  # our own bucket is all that is certain
            self.credit = 0.0
            return
        self.credit = max(0.0, held - self._drawn)
        self._credit_until = sent + LIFE
        self.whole.fill(left - since, now)
        self.take_part(share)
        ours = (left - held) * share - since
        self.own.fill(ours, now)
        self._tells_from = self.total + ours / PARTS

    def take_part(self, share: float) -> None:
        """Ours is this part of the limit from now on; our bucket stays as full as it is."""
        self.own.resize(self.limit * share)

    def __repr__(self) -> str:
        share = self.own.limit / self.limit if self.limit else 0.0
        return f"<LeasedBucket of {self.limit:g}, share {share:.3f}, {self.total - self._acknowledged:g} not acknowledged>"
