"""What one call holds of the limits that concern it, from its admission to its end.

Most calls find every bucket full and every budget whole.  So who is concerned, and by what, is put together once for
all calls of the same names (:class:`Concerned`), and a call goes through it three times: to ask, to take, to settle.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

import msgspec

from penstock.flow import gcra
from penstock.messages import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.errors import Window
    from penstock.flow.account import Account
    from penstock.flow.budget import Budget
    from penstock.flow.gcra import Bucket
    from penstock.flow.leased import AccountLease

_NOTHING = Usage()
_NO_BOUND = 1 << 62  # tokens: more than any call could ask for


class Reached(msgspec.Struct, frozen=True, eq=False):
    """A candidate, as far as limits are concerned: an upstream, and a model by both of its names.

    :param name: under which it is asked for here: that of a fallback, say
    :param model: the upstream's
    :param price: the most that so much usage costs there, in 1e-12 US dollars
    """

    upstream: str
    name: str
    model: str
    price: Callable[[Usage], int]


class Concerned:
    """The accounts that concern the calls of some names, and what they are limited in.

    :param now: monotonic seconds
    :param shared: whether other processes may have a part of it
    :ivar least_tokens: that one of the buckets holds
    :ivar spends: whether there is a budget among it
    :ivar at: what else concerns such a call at one candidate
    """

    __slots__ = (
        "_buckets",
        "_full",
        "_is_shut",
        "_leased",
        "_leases",
        "_places",
        "_rows",
        "accounts",
        "at",
        "budgets",
        "least_tokens",
        "now",
        "requests",
        "shared",
        "spends",
        "tokens",
    )

    def __init__(self, accounts: Sequence[Account], now: Callable[[], float], *, shared: bool) -> None:
        self.accounts = tuple(accounts)
        self.now = now
        self.shared = shared
        self.requests = tuple(each.requests for each in accounts if each.requests is not None)
        self.tokens = tuple(each.tokens for each in accounts if each.tokens is not None)
        self.budgets: tuple[Budget, ...] = tuple(budget for each in accounts for budget in each.budgets)
        self.spends = bool(self.budgets)
        self._buckets = (*self.requests, *self.tokens)
        limited = [(each, each.concurrent) for each in accounts if each.concurrent is not None]
        self._places = tuple((each, most) for each, most in limited if each.lease is None)
        self._leases = tuple(each.lease for each, _ in limited if each.lease is not None)
        self._is_shut = any(not bucket.limit for bucket in self._buckets)
        self.least_tokens = min((int(bucket.limit) for bucket in self.tokens), default=_NO_BOUND)
        self._full = _when_full(self.requests), _when_full(self.tokens)
        self._leased = tuple(
            budget for each in accounts if each.lease is not None for budget in each.lease.budgets
        )
        nothing = gcra.Bucket(inf)  # in the place of what an account is not limited in
        self._rows = tuple(
            (
                each,
                inf if (most := each.concurrent) is None else most,
                each.requests or nothing,
                each.tokens or nothing,
            )
            for each in (() if shared or self._is_shut else self.accounts)
        )
        self.at: dict[Reached, Concerned] = {}

    def __repr__(self) -> str:
        return f"<Concerned {self.accounts}>"

    def take(self, tokens: int, cost: int, now: float) -> bool:
        """Take a request, tokens and money of all of them, if all have room; whether they had."""
        rows = self._rows
        if not rows or tokens > self.least_tokens:
            return self._take_each(tokens, cost, now)
        for account, most, requests, of_tokens in rows:
            if account.in_progress >= most or requests.full_at > now or of_tokens.full_at > now:
                return self._take_each(tokens, cost, now)
        for budget in self.budgets:
            if budget.left <= cost and not budget.fits(cost):
                return False
        # All buckets are full, as a rule: what the functions of gcra come to then, in one go.
        for account, _, requests, of_tokens in rows:
            account.in_progress += 1
            requests.full_at = now + requests.each
            of_tokens.found_full = now
            of_tokens.full_at = now + tokens * of_tokens.each
        if cost:
            for budget in self.budgets:
                budget.left -= cost
        return True

    def _take_each(self, tokens: int, cost: int, now: float) -> bool:
        """The same, whatever there is."""
        if self._is_shut:
            return False
        for account, most in self._places:
            if account.in_progress >= most:
                return False
        for lease in self._leases:
            if not lease.has_place(now):
                return False
        if self._leased:
            if not self._may_spend(cost):
                return False
        else:
            for budget in self.budgets:
                if budget.left <= cost and not budget.fits(cost):
                    return False
        requests, of_tokens = self.requests, self.tokens
        if not (
            self.shared
            and tokens <= self.least_tokens
            and gcra.take_of_full(requests, of_tokens, tokens, now)
        ):
            if not (gcra.fit(requests, 1.0, now) and (not tokens or gcra.fit(of_tokens, tokens, now))):
                return False
            if self.shared:
                gcra.take(requests, 1.0, now)
            else:
                gcra.take_for_good(requests, now)
            gcra.take(of_tokens, tokens, now)
        if cost:
            for budget in self.budgets:
                budget.left -= cost
        for account in self.accounts:
            account.in_progress += 1
        if self.shared:
            for account in self.accounts:
                if account.lease is not None:
                    account.lease.in_progress += 1
                    account.lease.asked(tokens, now, refused=False)
            for leased in self._leased:
                leased.took(cost)
        return True

    @property
    def leases_of_money(self) -> list[AccountLease]:
        """Of the accounts whose budgets other processes share."""
        return [each.lease for each in self.accounts if each.lease is not None and each.spends]

    def may_spend(self, cost: int) -> bool:
        """Whether all budgets have so much left, of what this process has been leased where others share them."""
        return self._may_spend(cost) if self._leased else all(budget.fits(cost) for budget in self.budgets)

    def _may_spend(self, cost: int) -> bool:
        """Whether this process has been leased enough money."""
        short = [budget for budget in self._leased if not budget.fits(cost)]
        for budget in short:
            budget.want(cost)
        return not short

    def windows(self, now: float) -> tuple[Window | None, Window | None]:
        """The limits of requests and of tokens of which least is left, as they stand now; None: there is none."""
        for bucket in self._buckets:
            if bucket.full_at > now:
                shared = self.shared
                return _tightest(self.requests, now, shared=shared), _tightest(
                    self.tokens, now, shared=shared
                )
        return self._full


def _when_full(buckets: tuple[Bucket, ...]) -> Window | None:
    limit = min((bucket.limit for bucket in buckets), default=None)
    return None if limit is None else (limit, limit, 0.0)


def _tightest(buckets: tuple[Bucket, ...], now: float, *, shared: bool) -> Window | None:
    if not buckets:
        return None
    tight, least, full_in = buckets[0], inf, 0.0
    for bucket in buckets:
        left = bucket.limit
        gap = bucket.full_at - now
        if gap > 0.0:
            if shared:
                left, gap = bucket.left(now), bucket.full_in(now)
            else:  # the same: to call the methods would cost more than all the rest of this
                left = left * (1.0 - gap / bucket.period) if gap < bucket.period else 0.0
        if left < least:
            tight, least, full_in = bucket, left, gap
    if least >= tight.limit:
        return tight.limit, tight.limit, 0.0
    return int(tight.limit), int(least + 1e-6), full_in


class CallReservation(msgspec.Struct, eq=False):
    """A :class:`penstock.messages.Reservation` of a :class:`penstock.flow.limits.Limiter`.

    :param tokens: that were taken, 1 request beside; an estimate greater than a whole bucket takes all of that: a call
        must be able to begin
    :param cost: that was taken, in 1e-12 US dollars
    """

    concerned: Concerned
    taken_at: float
    tokens: int
    cost: int
    holders: int = 1
    settled: bool = False

    def hold(self) -> None:
        self.holders += 1

    def settle(self, usage: Usage, cost: int) -> None:
        if self.settled:
            return
        self.settled = True
        concerned = self.concerned
        taken, used = self.tokens, usage.input_tokens + usage.output_tokens
        if taken <= concerned.least_tokens:
            gcra.correct_by(concerned.tokens, float(used - taken), self.taken_at)
        else:
            gcra.correct(concerned.tokens, taken, used, self.taken_at)
        saved = self.cost - cost
        if cost or saved:
            for budget in concerned.budgets:
                budget.own += cost
                budget.left += saved
        if concerned.shared:
            now = concerned.now()
            for account in concerned.accounts:
                if account.lease is not None:
                    account.lease.ended(now)

    def release(self) -> None:
        self.holders -= 1
        if self.holders:
            return
        if not self.settled:
            self.settle(_NOTHING, 0)  # nobody asked an upstream
        concerned = self.concerned
        for account in concerned.accounts:
            account.in_progress -= 1
        if concerned.shared:
            now = concerned.now()
            for account in concerned.accounts:
                if account.lease is not None:
                    account.lease.in_progress -= 1
                    account.lease.ended(now)

    def hand_on(self) -> CallReservation:
        self.settled = True
        return _HandedOn(self.concerned, self.taken_at, self.tokens, self.cost, 0)

    def windows(self) -> tuple[Window | None, Window | None]:
        concerned = self.concerned
        return concerned.windows(concerned.now())

    def __repr__(self) -> str:
        state = "settled" if self.settled else f"{self.tokens} tokens, {self.cost} reserved"
        return f"<CallReservation {state}, {self.holders} holders>"


class _HandedOn(CallReservation):
    """Tokens and money of another reservation, which keeps its place among the calls at once."""

    def release(self) -> None:
        self.holders -= 1
        if not self.holders and not self.settled:
            self.settle(_NOTHING, 0)


class Aside:
    """Money that is kept for what goes on for hours, while it does; what it really costs is spent as it becomes known.

    :param concerned: whose budgets it is taken from
    """

    __slots__ = ("_budgets", "_cost", "_leases", "_now")

    def __init__(self, concerned: Sequence[Concerned], cost: int) -> None:
        self._budgets = [budget for each in concerned for budget in each.budgets]
        self._leases = [lease for each in concerned for lease in each.leases_of_money]
        self._cost = cost
        self._now = concerned[0].now
        for budget in self._budgets:
            budget.left -= cost
        for lease in self._leases:
            lease.moved_money(self._now())

    def __repr__(self) -> str:
        return f"<Aside of {self._cost / 1e12:g} in {len(self._budgets)} budgets>"

    def release(self) -> None:
        """It is over; again does nothing."""
        budgets, self._budgets = self._budgets, []
        leases, self._leases = self._leases, []
        for budget in budgets:
            budget.left += self._cost
        for lease in leases:
            lease.ended(self._now())
