"""One process's part of limits that it shares with others; see ``penstock.flow.sharing`` for the whole.

Between two exchanges a process goes by what it was leased: its share of a large bucket (``leased_bucket``), places
(``leased_places``) and money (``leased_budget``).  Nobody waits for an exchange, but a call that needs what was not leased to
this process: a place where it has none, money, or units of a small bucket (:func:`wait_leased`).  If there is no answer within
:data:`UNHEARD` seconds, it goes by the share that the process had last; so does everybody as long as there are none at
all, and after :data:`SHARE_HOLDS` seconds by an even part of the limit.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Protocol

from penstock.flow.guessing import Guess
from penstock.flow.learning import SharedLimit
from penstock.flow.leased_bucket import LeasedBucket
from penstock.flow.leased_budget import LeasedBudget
from penstock.flow.leased_places import LeasedPlaces
from penstock.flow.sharing import LIFE, Lease, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SHARE_HOLDS = 60.0
UNHEARD = 0.2  # seconds: less than a call waits
OUTAGE = 4.0  # seconds without an exchange after which what was taken in the meantime is void


class Wish:
    """What a call waits for that needs more of an account than this process has been leased.

    :param place: whether it needs a place
    :param requests: units of that bucket, where they have to be granted; else 0
    :param tokens: the same
    :param money: whether there was not enough of it
    :ivar told: whether it has been reported
    """

    __slots__ = ("money", "place", "requests", "since", "tokens", "told")

    def __init__(self, since: float, requests: float, tokens: float, *, place: bool, money: bool) -> None:
        self.since = since
        self.requests = requests
        self.tokens = tokens
        self.place = place
        self.money = money
        self.told = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is lacking, as far as is known."""
        return not (self.place or self.requests or self.tokens or self.money)

    def __repr__(self) -> str:
        place = "a place, " if self.place else ""
        return f"<Wish for {place}{self.requests:g} requests, {self.tokens:g} tokens>"


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
    :ivar in_line: calls wait for its places in a :class:`Line`, not in :func:`wait_leased`
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
        "_unheard_since",
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
        self._waiting: dict[asyncio.Future[None], Wish] = {}
        self._unheard_since = math.inf  # when the oldest wish came that no answer takes into account
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
        """Whether so little is left here that each exchange counts, or something to give back."""
        if self.in_line:
            return self._line is not None and self._line.waiting > 0
        if self._waiting or self._has_credit:
            return True
        day, month = self.day, self.month
        if (day is not None and day.is_short) or (month is not None and month.is_short):
            return True
        return self.places is not None and self.places.is_short(self.in_progress)

    @property
    def _has_credit(self) -> bool:
        requests, tokens = self.requests, self.tokens
        return (requests is not None and requests.credit > 0.0) or (
            tokens is not None and tokens.credit > 0.0
        )

    @property
    def buckets(self) -> list[LeasedBucket]:
        """Those that it has."""
        return [bucket for bucket in (self.requests, self.tokens) if bucket is not None]

    @property
    def budgets(self) -> list[LeasedBudget]:
        """Those that it has."""
        return [budget for budget in (self.day, self.month) if budget is not None]

    @property
    def is_used(self) -> bool:
        """Whether calls are under way, or money is kept for what goes on without one."""
        return self.in_progress > 0 or any(budget.reserved > 0 for budget in self.budgets)

    @property
    def wants_money(self) -> bool:
        """Whether there was not enough for a call, since the last report."""
        return any(budget.is_wanted for budget in self.budgets)

    def bucket(self, limit: int, even: float) -> LeasedBucket:
        """One of which this process is leased its part, for :attr:`requests` or :attr:`tokens`."""
        return LeasedBucket(limit, even, self.is_alone)

    def is_alone(self) -> bool:
        """Whether there is no word from the others, or none in time."""
        return self._alone() or self._now() - self._unheard_since > UNHEARD

    def budget(self, limit: int, even: Callable[[], float], book: str) -> LeasedBudget:
        """One of which this process is leased its part, for :attr:`day` or :attr:`month`."""
        return LeasedBudget(limit, self.is_valid, self._alone, even, book)

    def is_valid(self) -> bool:
        """Whether what was leased is ours still."""
        return self._now() - self._leased_at < LIFE

    def is_waited_for(self, now: float) -> bool:
        """Whether calls wait for something that there may be."""
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

    def wish(self, tokens: float, now: float) -> Wish:
        """What a call of so many tokens, which could not begin, has to be leased here."""
        requests, of_tokens = self.requests, self.tokens
        return Wish(
            now,
            1.0 if requests is not None and requests.asks(1.0) else 0.0,
            tokens if of_tokens is not None and tokens and of_tokens.asks(tokens) else 0.0,
            place=not self.has_place(now),
            money=self.wants_money,
        )

    def enter(self, waiter: asyncio.Future[None], wish: Wish) -> None:
        """It waits for that, until :meth:`leave`; it is woken when that may have come."""
        self._waiting[waiter] = wish
        self._unheard_since = min(self._unheard_since, wish.since)
        self.touched_at = wish.since
        self.touched(self, True)

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """It waits no more."""
        self._waiting.pop(waiter, None)

    def asked(self, tokens: float, now: float, *, refused: bool) -> None:
        """A call asked for so many tokens, and was let in or not."""
        self._calls += 1
        self._wanted += tokens
        self.touched_at = now
        if refused and not self.has_place(now):
            self._refused += 1
        requests, of_tokens = self.requests, self.tokens
        counts = (requests is not None and (requests.asks(1.0) or requests.is_short)) or (
            of_tokens is not None and (of_tokens.asks(tokens) or of_tokens.is_short)
        )
        self.touched(self, counts or not self._known or refused or self.is_short)

    def moved_money(self, now: float) -> None:
        """Money was taken, or spent, without any call."""
        self.touched_at = now
        self.touched(self, not self._known or self.is_short)

    def ended(self, now: float) -> None:
        """A call has ended, or is settled."""
        self.touched_at = now
        returned = self.places is not None and self.places.give_back(self.in_progress)
        self._wake(now, news=False)
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

    def _wake(self, now: float, *, news: bool) -> None:
        """Let those try again who may get what they wait for: of places, as many as are free."""
        if not self._waiting:
            return
        places = self.places
        free = places.held - self.in_progress if places is not None and self.has_place(now) else 0
        for waiter, wish in self._waiting.items():
            if wish.place:
                if free <= 0:
                    continue
                free -= 1
            elif not (news or wish.money):
                continue
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
        wishes = self._waiting.values()
        waiting, self._refused = sum(wish.place for wish in wishes) + self._refused, 0
        if self._line is not None:
            waiting += self._line.waiting
        for wish in wishes:
            wish.told = True
        requests = [wish.requests for wish in wishes if wish.requests]
        tokens = [wish.tokens for wish in wishes if wish.tokens]
        waited_for = any(wish.money for wish in wishes)
        day = self.day.told(waited_for=waited_for) if self.day is not None else None
        month = self.month.told(waited_for=waited_for) if self.month is not None else None
        self._periods = day.period if day is not None else 0, month.period if month is not None else 0
        return Report(
            self.name,
            anew,
            calls,
            wanted,
            self.in_progress,
            self.requests.use(now, requests, known=self._known, anew=anew)
            if self.requests is not None
            else None,
            self.tokens.use(now, tokens, known=self._known, anew=anew) if self.tokens is not None else None,
            self.places.told(self.in_progress, waiting) if self.places is not None else None,
            self.learning.told() if self.learning is not None else None,
            self.guessing.guess() if self.guessing is not None else None,
            day,
            month,
        )

    def leased(self, lease: Lease, even: float, sent: float, now: float) -> bool:
        """The answer to the last report, which was sent then.

        :param even: what would be everybody's share alike
        :returns: whether there is something to report at once: what was given back, or is not needed
        """
        self._known = True
        self._leased_at = now
        self._unheard_since = min(
            (wish.since for wish in self._waiting.values() if not wish.told), default=math.inf
        )
        if self.requests is not None:
            self.requests.lease(lease.requests, lease.calls_share, lease.requests_held, even, sent, now)
        if self.tokens is not None:
            self.tokens.lease(lease.tokens, lease.tokens_share, lease.tokens_held, even, sent, now)
        self.share = lease.calls_share
        if self.guessing is not None and (lease.guessed_requests or lease.guessed_tokens):
            self.guessing.use_guess(lease.guessed_requests, lease.guessed_tokens, lease.calls_share, now)
        returned = not self._waiting and self._has_credit
        if self.day is not None:
            returned |= self.day.lease(self._periods[0], lease.day, lease.day_free)
        if self.month is not None:
            returned |= self.month.lease(self._periods[1], lease.month, lease.month_free)
        if self.places is None:
            self._wake(now, news=True)
            return returned
        if self.learning is not None and lease.learnt:
            self.learning.learnt(lease.learnt, lease.usual, lease.others)
            self.places.limit = max(1, int(lease.learnt))
        returned |= self.places.lease(lease.places, lease.others, self.in_progress, sent, now)
        self._wake(now, news=True)
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
        self._unheard_since = math.inf
        for bucket in self.buckets:
            bucket.take_part(share)
        if self.places is not None:
            self.places.let_go(share)
        for budget in self.budgets:
            budget.let_go()

    def __repr__(self) -> str:
        return f"<AccountLease {self.name}, {'leased' if self._known else 'not leased'}, {self.in_progress} in progress>"


async def wait_leased(wishes: Mapping[AccountLease, Wish], seconds: float) -> None:
    """Until one of them may have been leased what is wished for there, but not longer than so; whether it has is to be seen.

    What is granted at one meanwhile is kept there for as long as the call waits for another.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, _wake, waiter)
    for lease, wish in wishes.items():
        lease.enter(waiter, wish)
    try:
        await waiter
    finally:
        timer.cancel()
        for lease in wishes:
            lease.leave(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
