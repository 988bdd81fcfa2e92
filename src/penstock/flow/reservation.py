"""What one call holds of the limits that concern it, from its admission to its end.

Most calls find every bucket full and every budget whole.  So who is concerned, and by what, is put together once for
all calls of the same names (:class:`Concerned`), and a call goes through it three times: to ask, to take, to settle.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from penstock.messages import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.errors import Window
    from penstock.flow.account import Account
    from penstock.flow.budget import Budget
    from penstock.flow.gcra import Bucket
    from penstock.flow.limits import Limiter

_NOTHING = Usage()


class Concerned:
    """The accounts that concern the calls of some names, and what they are limited in.

    :ivar spends: whether there is a budget among it
    :ivar is_shut: whether there is a limit of 0
    """

    __slots__ = ("accounts", "budgets", "is_shut", "places", "requests", "spends", "tokens")

    def __init__(self, accounts: Sequence[Account]) -> None:
        self.accounts = tuple(accounts)
        self.places = tuple((each, each.concurrent) for each in accounts if each.concurrent is not None)
        self.requests = tuple(each.requests for each in accounts if each.requests is not None)
        self.tokens = tuple(each.tokens for each in accounts if each.tokens is not None)
        self.budgets: tuple[Budget, ...] = tuple(budget for each in accounts for budget in each.budgets)
        self.spends = bool(self.budgets)
        self.is_shut = any(not bucket.limit for bucket in (*self.requests, *self.tokens))

    def __repr__(self) -> str:
        return f"<Concerned {self.accounts}>"

    def has_room(self, tokens: int, cost: int, now: float) -> bool:
        """Whether all of them let the call in."""
        if self.is_shut:
            return False
        for account, most in self.places:
            if account.in_progress >= most if account.lease is None else not account.lease.has_place(now):
                return False
        for bucket in self.requests:
            if bucket.full_at > now and bucket.wait(1, now):
                return False
        if tokens:
            for bucket in self.tokens:
                if bucket.full_at > now and bucket.wait(tokens, now):
                    return False
        for budget in self.budgets:  # noqa: SIM110 - a generator would cost more than all it asks
            if not budget.fits(cost):
                return False
        return True


def tightest(buckets: tuple[Bucket, ...], now: float) -> Window | None:
    """The limit of which least is left, as it stands now; None: there is none."""
    if not buckets:
        return None
    tight, least = buckets[0], inf
    for bucket in buckets:
        left = bucket.limit if bucket.full_at <= now else bucket.left(now)
        if left < least:
            tight, least = bucket, left
    if least >= tight.limit:
        return tight.limit, tight.limit, 0.0
    return int(tight.limit), int(least + 1e-6), tight.full_in(now)


class CallReservation:
    """A :class:`penstock.messages.Reservation` of a :class:`penstock.flow.limits.Limiter`.

    :param tokens: that the call may use, 1 request beside; an estimate greater than a whole bucket takes all of that:
        a call must be able to begin
    :param cost: that it may come to, in 1e-12 US dollars
    """

    __slots__ = ("_concerned", "_cost", "_holders", "_limiter", "_settled", "_taken_at", "_tokens")

    def __init__(self, limiter: Limiter, concerned: Concerned, now: float, tokens: int, cost: int) -> None:
        self._limiter = limiter
        self._concerned = concerned
        self._taken_at = now
        self._tokens = wanted = float(tokens)
        self._cost = cost
        self._holders = 1
        self._settled = False
        for bucket in concerned.requests:
            bucket.take(1.0, now)
        for bucket in concerned.tokens:
            limit = bucket.limit
            bucket.take(wanted if wanted < limit else limit, now)  # noqa: FURB136 - min() costs three times as much
        for budget in concerned.budgets:
            budget.reserved += cost
        for account in concerned.accounts:
            account.in_progress += 1
            if account.lease is not None:
                account.lease.in_progress += 1
                account.lease.asked(tokens, now, refused=False)

    def hold(self) -> None:
        self._holders += 1

    def settle(self, usage: Usage, cost: int) -> None:
        if self._settled:
            return
        self._settled = True
        concerned, taken_at, taken = self._concerned, self._taken_at, self._tokens
        used = float(usage.input_tokens + usage.output_tokens)
        for bucket in concerned.tokens:
            limit = bucket.limit
            bucket.correct(used - (taken if taken < limit else limit), taken_at)  # noqa: FURB136 - the same
        if concerned.spends:
            self._limiter.look()
            reserved = self._cost
            for budget in concerned.budgets:
                budget.reserved -= reserved
                budget.own += cost
        if self._limiter.lessee is not None:
            now = self._limiter.now()
            for account in concerned.accounts:
                if account.lease is not None:
                    account.lease.ended(now)

    def release(self) -> None:
        self._holders -= 1
        if self._holders:
            return
        if not self._settled:
            self.settle(_NOTHING, 0)  # nobody asked an upstream
        for account in self._concerned.accounts:
            account.in_progress -= 1
            if account.lease is not None:
                account.lease.in_progress -= 1
                account.lease.ended(self._limiter.now())

    def windows(self) -> tuple[Window | None, Window | None]:
        now, concerned = self._limiter.now(), self._concerned
        return tightest(concerned.requests, now), tightest(concerned.tokens, now)

    def __repr__(self) -> str:
        state = "settled" if self._settled else f"{self._tokens:g} tokens, {self._cost} reserved"
        return f"<CallReservation {state}, {self._holders} holders>"
