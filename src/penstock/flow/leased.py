"""One process's part of limits that it shares with others; see ``penstock.flow.sharing`` for the whole.

Between two exchanges a process goes by what it was leased: its share of what was left then, and of what has
come in since.  Beyond that, one call may begin if, as far as is known, the limit has room for it: so the only
process that has callers gets all of a small limit, and so many processes together exceed a limit by one call
each, which the pool counts and all of them make good.

Nobody waits for an exchange, but a call that needs a place (calls at once) where this process has none, or money that
it has not been leased (:meth:`AccountLease.wait_place`).  Without any, a process keeps to the share that it had last, and after
:data:`SHARE_HOLDS` seconds to an even part of the limit.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Protocol

from penstock.flow.gcra import Bucket
from penstock.flow.guessing import Guess
from penstock.flow.learning import SharedLimit
from penstock.flow.leased_budget import LeasedBudget
from penstock.flow.places import Places
from penstock.flow.sharing import LIFE, Lease, Report, Use

if TYPE_CHECKING:
    from collections.abc import Callable

FRESH = 2.0  # seconds after an exchange in which its figures are what is known of the others
SHARE_HOLDS = 60.0
# Requests a minute: of such a limit each one is told at once, for the others go by what is left of it.
SMALL = 60
OUTAGE = 4.0  # seconds without an exchange after which what was taken in the meantime is void


class LeasedBucket(Bucket):
    """A bucket of which this process has a part: the ``whole`` as it is known here, and its ``own``.

    Whether something fits has to be asked each time, even if the whole is full (:attr:`full_at` never comes).

    :param limit: the whole, of all processes
    :param share: this process's part of it until the first lease
    """

    __slots__ = ("_acknowledged", "_even", "_fresh_until", "_overdrawn", "_reported", "own", "total", "whole")

    def __init__(self, limit: float, share: float) -> None:
        super().__init__(limit)
        self.full_at = math.inf
        self.whole = Bucket(limit)
        self.own = Bucket(limit * share)
        self._even = share
        self.total = 0.0  # taken, ever
        self._reported = self._acknowledged = 0.0  # of that
        self._overdrawn = False
        self._fresh_until = -math.inf

    def wait(self, units: float, now: float) -> float:
        own = self.own.wait(units, now)
        if not own or math.isinf(own):
            return own
        whole = self.whole.wait(units, now)
        if not whole and not self._overdrawn and now < self._fresh_until:
            return 0.0
        # A share grows once there is more asked for here than elsewhere: nobody waits for longer than by an even one.
        return max(whole, min(own, min(units, self.limit) * self.period / (self.limit * self._even)))

    def take(self, units: float, now: float) -> None:
        if self.own.wait(units, now):
            self._overdrawn = True
        self.whole.take(units, now)
        self.own.take(units, now)
        self.total += units

    def correct(self, units: float, taken_at: float) -> float:
        changed = self.whole.correct(units, taken_at)
        self.own.correct(units, taken_at)
        self.total += changed
        return changed

    def left(self, now: float) -> float:
        return self.whole.left(now) if now < self._fresh_until else self.own.left(now)

    def full_in(self, now: float) -> float:
        return self.whole.full_in(now)

    def resize(self, limit: float) -> None:
        """The configuration says something else now; what was used stays used."""
        own = self.own.limit * limit / self.limit if self.limit else 0.0
        super().resize(limit)
        self.whole.resize(limit)
        self.own.resize(own or limit * self._even)

    def use(self, now: float, *, known: bool, anew: bool) -> Use:
        """What is reported of it."""
        self._reported = self.total
        if not known:
            level = None
        elif anew:  # the others' part of the whole is not known any more: suppose that it is as full as ours
            level = self.limit * (self.own.level(now) / self.own.limit if self.own.limit else 0.0)
        else:
            level = self.whole.level(now)
        return Use(self.limit, self.total, self.total - self._acknowledged, level)

    def lease(self, left: float, share: float, even: float, now: float) -> None:
        """So much is left of the whole, less what was taken since the report; this part of it is ours."""
        self._even = even
        self._overdrawn = False
        self._fresh_until = now + FRESH
        self._acknowledged = self._reported
        since = self.total - self._reported
        self.whole.fill(left - since, now)
        self.take_part(share)
        self.own.fill(left * share - since, now)

    def take_part(self, share: float) -> None:
        """Ours is this part of the limit from now on; our bucket stays as full as it is."""
        self.own.resize(self.limit * share)

    def __repr__(self) -> str:
        share = self.own.limit / self.limit if self.limit else 0.0
        return f"<LeasedBucket of {self.limit:g}, share {share:.3f}, {self.total - self._acknowledged:g} not acknowledged>"


class LeasedPlaces:
    """Calls at once, of which this process holds some places; see ``penstock.flow.places``.

    Without word from the others a process keeps what it held, or an even part if it was never leased any: a place at
    least, so that nobody is shut out, and only where there are fewer places than processes one too many.  One that had
    none just then takes one when its lease has ended, :data:`~penstock.flow.sharing.LIFE` seconds after it: that may be
    one too many, but its callers would wait for :data:`SHARE_HOLDS`.

    :param limit: of all processes
    :param even: this process's part, if there is no word from the others
    """

    __slots__ = ("_even", "_fresh_until", "_number", "_target", "_valid_until", "held", "limit", "others")

    def __init__(self, limit: int, even: float) -> None:
        self.limit = limit
        self.others = 0  # calls under way elsewhere, when they were last told
        self.held = 0
        self._target = 0  # what is held beyond this is given back when it is free
        self._even = even
        self._number = 0
        self._fresh_until = -math.inf
        self._valid_until = -math.inf

    def has_room(self, in_progress: int, now: float, *, alone: bool) -> bool:
        """Whether one more may begin."""
        if now >= self._valid_until:  # by now our places may be others'
            if not alone:
                return False
            if not self.held:
                self.take_part(self._even if self._valid_until == -math.inf else 0.0)
        return in_progress < self.held

    def may_come(self, in_progress: int, now: float) -> bool:
        """Whether there is a place that nobody uses, as far as is known here."""
        return self.limit > 0 and not (now < self._fresh_until and in_progress + self.others >= self.limit)

    def reachable(self, now: float) -> int:
        """How many calls may be under way here, as far as is known: those places that nobody else uses, too."""
        if now < self._fresh_until:
            return max(self.held, self.limit - self.others)
        return max(self.held, 1, math.floor(self.limit * self._even))

    def is_short(self, in_progress: int) -> bool:
        """Whether so few places are left that each counts."""
        return in_progress >= self.held or in_progress + self.others >= self.limit - 2

    def told(self, in_progress: int, waiting: int) -> Places:
        """What is reported of it."""
        self._number += 1
        return Places(self.limit, self._number, self.held, min(in_progress + waiting, self.limit))

    def lease(self, places: int, others: int, in_progress: int, sent: float, now: float) -> bool:
        """So many places are ours from now on.

        :param sent: when that was asked for: the lease runs from then
        :returns: whether we gave some back, which the others do not know yet
        """
        self.others = others
        self._fresh_until = now + FRESH
        self._valid_until = sent + LIFE
        self._target = places
        if places >= self.held:
            self.held = places
            return False
        return self.give_back(in_progress)

    def give_back(self, in_progress: int) -> bool:
        """Whether there was something to give back."""
        held = max(self._target, in_progress)
        if held >= self.held:
            return False
        self.held = held
        return True

    def take_part(self, share: float) -> None:
        """There is no word from the others: this part of the limit is ours."""
        self.held = self._target = min(self.limit, max(1, math.floor(self.limit * share)))

    def let_go(self, share: float) -> None:
        """Nothing of it is ours any more."""
        self._even = share
        self.held = self._target = 0
        self._valid_until = self._fresh_until = -math.inf

    def __repr__(self) -> str:
        return f"<LeasedPlaces {self.held} of {self.limit}, {self.others} in use elsewhere>"


class Line(Protocol):
    """Calls that wait for places in an order of their own."""

    @property
    def waiting(self) -> int:
        """How many they are."""

    def go_on(self, now: float) -> None:
        """There may be places."""


class Guessing(Protocol):
    """Who guesses rates that nobody tells."""

    def guess(self) -> Guess | None:
        """What is made of them here, if anything."""

    def use_guess(self, requests: float, tokens: float, share: float, now: float) -> None:
        """What all make of them together, per second, and which part of them is for this process."""


class AccountLease:
    """What one account has of its limits here; the :class:`penstock.flow.lessee.Lessee` reports it.

    :param touched: told that there is something to report, and whether that is urgent
    :param alone: whether there is no word from the others
    :param now: monotonic seconds
    :ivar day: money for today
    :ivar month: the same for this month
    :ivar in_line: calls wait for its places in a :class:`Line`, not in :meth:`wait_place`
    :ivar share: of what is asked for, that part comes here
    :ivar learning: where the limit of its places is found out
    :ivar guessing: where rates are guessed
    """

    __slots__ = (
        "_alone",
        "_calls",
        "_known",
        "_leased_at",
        "_line",
        "_now",
        "_periods",
        "_refused",
        "_waiting",
        "_wanted",
        "day",
        "guessing",
        "in_line",
        "in_progress",
        "learning",
        "month",
        "name",
        "places",
        "requests",
        "share",
        "tokens",
        "touched",
        "touched_at",
    )

    def __init__(
        self,
        name: str,
        touched: Callable[[AccountLease, bool], None],
        alone: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._now = now
        self.in_line = False
        self._line: Line | None = None  # in which a call waited last
        self._alone = alone
        self._waiting: dict[asyncio.Future[None], None] = {}  # for a place
        self._refused = 0  # for want of a place, since the last report
        self.touched = touched
        self.touched_at = -math.inf
        self.requests: LeasedBucket | None = None
        self.tokens: LeasedBucket | None = None
        self.places: LeasedPlaces | None = None
        self.day: LeasedBudget | None = None
        self.month: LeasedBudget | None = None
        self._periods = 0, 0  # that the last report was about
        self.learning: SharedLimit | None = None
        self.guessing: Guessing | None = None
        self.share = 1.0
        self.in_progress = 0
        self._calls = 0.0
        self._wanted = 0.0
        self._known = False  # leased before, and not let go since
        self._leased_at = -math.inf

    @property
    def is_short(self) -> bool:
        """Whether so few places, or so little money, are left that each exchange counts."""
        if self.in_line:
            return self._line is not None and self._line.waiting > 0
        day, month = self.day, self.month
        if (day is not None and day.is_short) or (month is not None and month.is_short):
            return True
        return self.places is not None and (bool(self._waiting) or self.places.is_short(self.in_progress))

    @property
    def budgets(self) -> list[LeasedBudget]:
        """Those that it has."""
        return [budget for budget in (self.day, self.month) if budget is not None]

    @property
    def wants_money(self) -> bool:
        """Whether there was not enough for a call, since the last report."""
        return any(budget.is_wanted for budget in self.budgets)

    def budget(self, limit: int, even: Callable[[], float], book: str) -> LeasedBudget:
        """One of which this process is leased its part, for :attr:`day` or :attr:`month`."""
        return LeasedBudget(limit, self.is_valid, self._alone, even, book)

    def is_valid(self) -> bool:
        """Whether what was leased is ours still."""
        return self._now() - self._leased_at < LIFE

    def is_waited_for(self, now: float) -> bool:
        """Whether calls wait for a place, and there may be one."""
        return bool(self._waiting) or self._is_pressing(now)

    def _is_pressing(self, now: float) -> bool:
        """Whether a line would be shorter with what others may have to spare.

        A line may be long for long: where all places are in use, those who have some are not asked all the time.
        """
        if self._line is None or not self._line.waiting:
            return False
        return not self.in_progress or self.may_come(now)

    @property
    def held(self) -> int:
        """Places that this process has."""
        return 0 if self.places is None else self.places.held

    def reachable(self, now: float) -> int:
        """How many calls may be under way here, as far as is known."""
        return 0 if self.places is None else self.places.reachable(now)

    def has_place(self, now: float) -> bool:
        """Whether one more call may be under way here."""
        return self.places is None or self.places.has_room(self.in_progress, now, alone=self._alone())

    def may_come(self, now: float) -> bool:
        """Whether it is worth waiting for a place that others may have to spare."""
        return self.places is not None and not self._alone() and self.places.may_come(self.in_progress, now)

    async def wait_place(self, seconds: float) -> None:
        """Until there may be a place, or money, but not longer than so; whether there is is to be seen."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiting[waiter] = None
        timer = loop.call_later(seconds, _wake, waiter)
        self.touched(self, True)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiting.pop(waiter, None)

    def asked(self, tokens: float, now: float, *, refused: bool) -> None:
        """A call asked for so many tokens, and was let in or not."""
        self._calls += 1
        self._wanted += tokens
        self.touched_at = now
        if refused and not self.has_place(now):
            self._refused += 1
        small = self.requests is not None and self.requests.limit <= SMALL
        self.touched(self, small or not self._known or refused or self.is_short)

    def ended(self, now: float) -> None:
        """A call has ended, or is settled."""
        self.touched_at = now
        returned = self.places is not None and self.places.give_back(self.in_progress)
        self.wake(now)
        self.touched(self, returned or (self._is_pressing(now) if self.in_line else self.is_short))

    def asked_in_line(self) -> None:
        """A call asked for its turn, and gets it now or later (:meth:`begun`)."""
        self._calls += 1

    def begun(self, now: float) -> None:
        """A call of the line is under way."""
        self.in_progress += 1
        self.touched_at = now
        self.touched(self, not self._known or self._is_pressing(now))

    def lengthens(self, line: Line, now: float) -> None:
        """One more waits in this line, for want of a place."""
        self._line = line
        self.touched_at = now
        self.touched(self, not self._known or self._is_pressing(now))

    def wake(self, now: float) -> None:
        """Let as many try again as there are places."""
        if self._waiting and self.has_place(now):
            free = (self.places.held if self.places is not None else 0) - self.in_progress
            for waiter in list(self._waiting)[:free]:
                _wake(waiter)

    def wake_all(self) -> None:
        """There will be no word from the others for now."""
        for waiter in self._waiting:
            _wake(waiter)

    def report(self, now: float) -> Report:
        """What has happened since the last report."""
        anew = self._known and now - self._leased_at > OUTAGE
        calls, self._calls = self._calls, 0.0
        wanted, self._wanted = self._wanted, 0.0
        waiting, self._refused = len(self._waiting) + self._refused, 0
        if self._line is not None:
            waiting += self._line.waiting
        waited_for = bool(self._waiting)
        day = self.day.told(waited_for=waited_for) if self.day is not None else None
        month = self.month.told(waited_for=waited_for) if self.month is not None else None
        self._periods = day.period if day is not None else 0, month.period if month is not None else 0
        return Report(
            self.name,
            anew,
            calls,
            wanted,
            self.in_progress,
            self.requests.use(now, known=self._known, anew=anew) if self.requests is not None else None,
            self.tokens.use(now, known=self._known, anew=anew) if self.tokens is not None else None,
            self.places.told(self.in_progress, waiting) if self.places is not None else None,
            self.learning.told() if self.learning is not None else None,
            self.guessing.guess() if self.guessing is not None else None,
            day,
            month,
        )

    def leased(self, lease: Lease, even: float, sent: float, now: float) -> bool:
        """The answer to the last report, which was sent then.

        :param even: what would be everybody's share alike
        :returns: whether there is something to report at once: places that were given back
        """
        self._known = True
        self._leased_at = now
        if self.requests is not None:
            self.requests.lease(lease.requests, lease.calls_share, even, now)
        if self.tokens is not None:
            self.tokens.lease(lease.tokens, lease.tokens_share, even, now)
        self.share = lease.calls_share
        if self.guessing is not None and (lease.guessed_requests or lease.guessed_tokens):
            self.guessing.use_guess(lease.guessed_requests, lease.guessed_tokens, lease.calls_share, now)
        returned = False
        if self.day is not None:
            returned |= self.day.lease(self._periods[0], lease.day, lease.day_free)
        if self.month is not None:
            returned |= self.month.lease(self._periods[1], lease.month, lease.month_free)
        if self.places is None:
            self.wake_all()  # those who wait for money
            return returned
        if self.learning is not None and lease.learnt:
            self.learning.learnt(lease.learnt, lease.usual, lease.others)
            self.places.limit = max(1, int(lease.learnt))
        returned |= self.places.lease(lease.places, lease.others, self.in_progress, sent, now)
        if self.day is not None or self.month is not None:
            self.wake_all()
        else:
            self.wake(now)
        if self._line is not None and self._line.waiting:
            self._line.go_on(now)
        return returned

    def take_part(self, share: float) -> None:
        """There is no word from the others: keep to this part of the limits."""
        for limit in (self.requests, self.tokens, self.places):
            if limit is not None:
                limit.take_part(share)

    def is_stale(self, now: float) -> bool:
        """Whether its shares are too old to be kept to."""
        return self._known and now - self._leased_at > SHARE_HOLDS

    def let_go(self, share: float) -> None:
        """It is not used any more: its share is free for others."""
        self._known = False
        for bucket in (self.requests, self.tokens):
            if bucket is not None:
                bucket.take_part(share)
        if self.places is not None:
            self.places.let_go(share)
        for budget in self.budgets:
            budget.let_go()

    def __repr__(self) -> str:
        return f"<AccountLease {self.name}, {'leased' if self._known else 'not leased'}, {self.in_progress} in progress>"


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
