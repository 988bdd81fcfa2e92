"""What one key, tenant, tier, model or upstream has used of its limits, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from penstock.config.model import LimitConfig
from penstock.flow.budget import Budget
from penstock.flow.gcra import Bucket
from penstock.flow.leased import AccountLease
from penstock.flow.leased_bucket import LeasedBucket
from penstock.flow.leased_budget import LeasedBudget
from penstock.flow.leased_places import LeasedPlaces

if TYPE_CHECKING:
    from penstock.flow.lessee import Lessee

B = TypeVar("B", bound=Budget)

_NO_LIMIT = LimitConfig()
DOLLAR = 10**12  # the ledger's units


class Account:
    """The buckets and budgets of one name.

    :param lessee: leases the account's part of its limits; None: this process has them to itself
    """

    __slots__ = (
        "concurrent",
        "day",
        "in_progress",
        "lease",
        "lessee",
        "month",
        "name",
        "requests",
        "scope",
        "tokens",
    )

    def __init__(self, scope: str, name: str, config: LimitConfig, lessee: Lessee | None) -> None:
        self.scope = scope
        self.name = name
        self.lessee = lessee
        self.lease: AccountLease | None = None
        self.in_progress = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.concurrent: int | None = None
        self.day: Budget | None = None
        self.month: Budget | None = None
        self.configure(config)

    def configure(self, config: LimitConfig) -> None:
        """Use these limits from now on; what was used stays used."""
        self.concurrent = config.concurrent
        if self.lessee is None:
            self.day = _budget(self.day, config.usd_per_day, Budget)
            self.month = _budget(self.month, config.usd_per_month, Budget)
            self.requests = _bucket(self.requests, config.requests_per_minute)
            self.tokens = _bucket(self.tokens, config.tokens_per_minute)
        else:
            self._configure_shared(config, self.lessee)

    def _configure_shared(self, config: LimitConfig, lessee: Lessee) -> None:
        if config == _NO_LIMIT:
            self.requests = self.tokens = self.day = self.month = None
            self.drop()
            return
        lease = self.lease
        if lease is None:
            lease = self.lease = lessee.account(f"{self.scope}:{self.name}")
            lease.in_progress = self.in_progress
        lease.requests = _leased(lease.requests, config.requests_per_minute, lease, lessee.even)
        lease.tokens = _leased(lease.tokens, config.tokens_per_minute, lease, lessee.even)
        self.requests, self.tokens = lease.requests, lease.tokens

        def part(limit: int) -> LeasedBudget:
            return lease.budget(limit, lambda: lessee.even, lessee.book)

        self.day = lease.day = _budget(lease.day, config.usd_per_day, part)
        self.month = lease.month = _budget(lease.month, config.usd_per_month, part)
        if config.concurrent is None:
            lease.places = None
        elif lease.places is None:
            lease.places = LeasedPlaces(config.concurrent, lessee.even)
        else:
            lease.places.limit = config.concurrent

    def drop(self) -> None:
        """Nothing of it is shared any more."""
        if self.lease is not None and self.lessee is not None:
            self.lessee.drop(self.lease)
            self.lease = None

    @property
    def spends(self) -> bool:
        return self.day is not None or self.month is not None

    @property
    def budgets(self) -> list[Budget]:
        """Those that it has."""
        return [budget for budget in (self.day, self.month) if budget is not None]

    def turn(self, day: int, month: int) -> None:
        """It is now this day of this month."""
        if self.day is not None:
            self.day.turn(day)
        if self.month is not None:
            self.month.turn(month)

    def date(self, day: int, month: int) -> None:
        """It has been this day of this month all the time."""
        if self.day is not None:
            self.day.date(day)
        if self.month is not None:
            self.month.date(month)

    def has_place(self, now: float) -> bool:
        """Whether one more call may be in progress."""
        if self.concurrent is None:
            return True
        if self.lease is not None:
            return self.lease.has_place(now)
        return self.in_progress < self.concurrent

    def free_places(self, now: float) -> int:
        """How many more calls may be in progress, as far as is known here; 0 where that is not limited."""
        if self.concurrent is None:
            return 0
        places = None if self.lease is None else self.lease.places
        others = 0 if places is None else places.in_use_elsewhere(now)
        return max(0, self.concurrent - self.in_progress - others)

    def may_get_place(self, now: float) -> bool:
        """Whether it is worth waiting for a place that other processes may have to spare."""
        return self.lease is not None and self.lease.may_come(now)

    def may_get_money(self, cost: int) -> bool:
        """Whether it is worth waiting for money that other processes may have to spare."""
        return self.lease is not None and all(budget.may_come(cost) for budget in self.lease.budgets)

    def may_get_units(self, tokens: float, now: float) -> bool:
        """Whether a request, and so many tokens, that the account does not let in may be granted to this process."""
        return self.lease is not None and all(
            bucket is None or not units or not bucket.wait(units, now) or bucket.may_come(units, now)
            for bucket, units in ((self.lease.requests, 1.0), (self.lease.tokens, tokens))
        )

    def __repr__(self) -> str:
        return (
            f"<Account {self.scope} {self.name}, {self.in_progress} in progress, {self.requests}, {self.day}>"
        )


def _bucket(old: Bucket | None, limit: int | None) -> Bucket | None:
    if limit is None:
        return None
    if old is None:
        return Bucket(limit)
    old.resize(limit)
    return old


def _leased(
    old: LeasedBucket | None, limit: int | None, lease: AccountLease, even: float
) -> LeasedBucket | None:
    if limit is None:
        return None
    if old is None:
        return lease.bucket(limit, even)
    old.resize(limit)
    return old


def _budget(old: B | None, dollars: float | None, made: Callable[[int], B]) -> B | None:
    if dollars is None:
        return None
    limit = round(dollars * DOLLAR)
    if old is None:
        return made(limit)
    old.resize(limit)
    return old
