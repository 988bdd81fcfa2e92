"""Limits and budgets: what a key, a tenant, a tier, a model and an upstream may use.

Before a call an estimate is reserved: one request, the prompt's tokens and the longest answer that it asks
for, and what that would cost at the dearest of its candidates.  Afterwards the true figures take the
estimate's place, once.  All limits that concern a call are looked at before anything is taken from any of
them, so a call that is refused has used nothing.

What a call *names* is looked at once, when it comes (:meth:`Limiter.reserve`).  What it *reaches*, an upstream, and a
model by a fallback or under another name, is looked at for each attempt (:meth:`Limiter.reserve_at`), which an estimate
is reserved for in the same way: what is over its limit is no candidate just then.

Where several processes share the limits, each has its part leased (``penstock.flow.lessee``), and what others have
spent of a budget before it learns from the ledger (:meth:`Limiter.credit`).
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec

from penstock.config.model import LimitConfig, LimitsConfig
from penstock.config.patterns import resolve
from penstock.errors import LeaseWanted, RateLimited
from penstock.flow.account import DOLLAR, Account
from penstock.flow.budget import Budget, Calendar
from penstock.flow.leased import Wish, wait_leased
from penstock.flow.lessee import Lessee
from penstock.flow.reservation import Aside, CallReservation, Concerned, Reached
from penstock.messages import Call, Endpoint, Spent, Tenant, Usage
from penstock.wire import merge, opaque
from penstock.wire.not_json import NOT_JSON
from penstock.wire.usage import estimate_tokens

OUTPUT_TOKENS = 1_000  # reserved for the answer of a call that sets no limit to it
SPARED_WITHIN = 3.0  # seconds; who holds what it does not need says so once a second
SOON = 1.0  # seconds to come back in, where it depends on calls under way, whose ends nobody knows
MAX_OUTPUT_TOKENS = 131_072  # no model answers with more, whatever a call asks for
MAX_CHOICES = 128  # what OpenAI allows for "n"
MAX_REMEMBERED = 4_096
_COMPLETIONS, _COMPACT = Endpoint.COMPLETIONS, Endpoint.COMPACT
_PLACES = "concurrent"
_RATES = frozenset({"requests", "tokens"})
_BUDGETS = frozenset({"day", "month"})
_NO_RATE = "rate_limit_exceeded"
_NO_PLACE = "concurrency_exceeded"
_NO_MONEY = "budget_exceeded"

_integer = msgspec.json.Decoder(int, strict=False).decode

Names: TypeAlias = tuple[str, str, str, str]  # key, tenant, tier and model of a call
SCOPES = ("key", "tenant", "tier", "model")


class Price(Protocol):
    """The most that a call can cost, in 1e-12 US dollars."""

    def __call__(self, call: Call, usage: Usage, /) -> int: ...


class Routes(Protocol):
    """Where calls go."""

    def reaches(self, model: str, upstream: str, upstream_model: str) -> Reached | None:
        """The candidate of a model, by its upstream and its name there; None: no limit holds there."""

    def falls_back(self, model: str) -> bool:
        """Whether another model stands in for this one: then its limits are those of its own candidates."""


class Limiter:
    """The limits of one worker.

    :param now: monotonic seconds
    :param price: see :class:`Price`; asked only where a budget holds
    :param refused: told the scope and the kind of limit of each refusal
    :param passed_over: the same of each candidate that is over its limit, after its upstream
    :param routes: who knows where calls go; None: nowhere but to the model that they name
    :param lessee: leases this process's part of limits that several share; None: nobody shares them
    :param unix_time: seconds since 1970; None: as the lessee has it, which is this machine's time without others
    """

    def __init__(
        self,
        config: LimitsConfig,
        now: Callable[[], float],
        price: Price,
        refused: Callable[[str, str], None],
        *,
        lessee: Lessee | None = None,
        passed_over: Callable[[str, str, str], None] = lambda *_: None,
        routes: Callable[[], Routes] | None = None,
        unix_time: Callable[[], float] | None = None,
    ) -> None:
        self.now = now
        self.unix_time = unix_time or (time.time if lessee is None else lessee.unix_time)
        self.calendar = Calendar(self.unix_time())
        self._price = price
        self._refused = refused
        self._passed_over = passed_over
        self._routes = routes
        self.lessee = lessee
        if lessee is not None:
            lessee.on_time = self.date
        self._accounts: dict[tuple[str, str], Account] = {}
        self._of_call: dict[tuple[str, str, str, str], Concerned] = {}
        self._others: dict[tuple[str, str], tuple[int, int]] = {}
        self._told: list[Spent] = []
        self.configure(config)

    def configure(self, config: LimitsConfig) -> None:
        """Use these limits from now on; what was used stays used."""
        self._tables: dict[str, Mapping[str, LimitConfig]] = {
            "key": config.keys,
            "tenant": config.tenants,
            "tier": config.tiers,
            "model": config.models,
            "upstream": config.upstreams,
        }
        self._of_call.clear()
        for (scope, name), account in list(self._accounts.items()):
            found = self._limits(scope, name)
            if found is None:
                account.drop()
                del self._accounts[scope, name]
            else:
                account.configure(found)
        self._spread()

    @property
    def spends(self) -> bool:
        """Whether there is a budget at all."""
        return any(
            limit.usd_per_day is not None or limit.usd_per_month is not None
            for table in self._tables.values()
            for limit in table.values()
        )

    def reserve(self, call: Call, *, patient: bool = False) -> CallReservation | None:
        """Take what the call may need; None: no limit concerns it.

        :param patient: whether the caller would wait a moment to be leased what it needs; see :meth:`wait_leased`
        :raises RateLimited: it must not begin; nothing was taken
        :raises LeaseWanted: the same, but if it is tried again in a moment, it may
        """
        tenant = call.tenant
        names = (tenant.key_name, tenant.name, tenant.tier, call.model)
        concerned = self._of_call.get(names) or self._find(names)
        if not concerned.accounts:
            return None
        return self._reserve(call, concerned, self._price, self._refused, patient=patient)

    def reserve_at(self, call: Call, reached: Reached, *, patient: bool = False) -> CallReservation | None:
        """Take what an attempt at a candidate may need, beyond what is reserved for the call; see :meth:`reserve`.

        The attempt settles and releases it.
        """
        concerned = self._at(call, reached)
        if not concerned.accounts:
            return None

        def price(_: Call, usage: Usage) -> int:
            return reached.price(usage)

        passed_over = functools.partial(self._passed_over, reached.upstream)
        return self._reserve(call, concerned, price, passed_over, patient=patient)

    def _reserve(
        self,
        call: Call,
        concerned: Concerned,
        price: Price,
        refused: Callable[[str, str], None],
        *,
        patient: bool,
    ) -> CallReservation:
        now, cost = self.now(), 0
        prompt, output = _estimate(call)
        if concerned.spends:
            cost = price(call, _likely(call, prompt, output))
        tokens = prompt + output
        if not concerned.take(tokens, cost, now):
            refusal = self._refusal(concerned, now, tokens, cost, refused, patient=patient)
            # None: the others' word has come to be too old just between the two looks, and our share has room.
            if refusal is not None or not concerned.take(tokens, cost, now):
                raise refusal or RateLimited("try again in a moment", code=_NO_RATE, retry_after=SOON)
        return CallReservation(concerned, now, tokens, cost)

    async def wait_leased(self, call: Call, seconds: float, reached: Reached | None = None) -> None:
        """Until this process may have been leased what the call needs, or it at a candidate; so long at most."""
        now, tokens = self.now(), sum(_estimate(call))
        concerned = self._concerned(call) if reached is None else self._at(call, reached)
        leases = [account.lease for account in concerned.accounts if account.lease is not None]
        wishes = {lease: lease.wish(tokens, now) for lease in leases}
        await wait_leased(
            {lease: wish for lease, wish in wishes.items() if not wish.is_empty} or wishes, seconds
        )

    def explain(self, call: Call, reached: Reached | None = None) -> list[dict[str, Any]]:
        """The limits that concern a call, the most pressing first, and what it would meet there; nothing is taken.

        ``wait`` is in seconds; None: no time helps.

        :param reached: at this candidate; None: when it comes
        """
        concerned, now = self._concerned(call) if reached is None else self._at(call, reached), self.now()
        prompt, output = _estimate(call)
        tokens, cost = prompt + output, 0
        if concerned.spends:
            usage = _likely(call, prompt, output)
            cost = self._price(call, usage) if reached is None else reached.price(usage)
        self.look()
        found: list[dict[str, Any]] = []
        for account in concerned.accounts:
            waits = dict(self._waits(account, now, tokens, cost))
            if account.may_get_money(cost):
                waits = {kind: wait for kind, wait in waits.items() if kind not in _BUDGETS}
            if account.may_get_units(tokens, now):
                waits = {kind: wait for kind, wait in waits.items() if kind not in _RATES}
            for kind, limit, left in _figures(account, now):
                wait = waits.get(kind, 0.0)
                found.append(
                    {
                        "scope": account.scope,
                        "name": account.name,
                        "limit": kind,
                        "of": limit,
                        "left": left,
                        "wait": wait if math.isfinite(wait) else None,
                    }
                )
        found.sort(key=lambda told: math.inf if told["wait"] is None else told["wait"], reverse=True)
        return found

    def accounts_of(self, tenant: Tenant) -> list[Account]:
        """Those that limit a caller whatever it asks for: its key's, its tenant's and its tier's; of this moment."""
        self.look()
        names = (tenant.key_name, tenant.name, tenant.tier)
        found = (self._account(scope, name) for scope, name in zip(SCOPES[:3], names, strict=True))
        return [account for account in found if account is not None]

    async def wait_told(self, accounts: Iterable[Account], seconds: float) -> None:
        """Until others have told what they use of what limits these, as far as they share it; so long at most."""
        now = self.now()
        leases = [each.lease for each in accounts if each.lease is not None and not each.lease.is_alone()]
        nothing = [{lease: Wish(now, 0.0, 0.0, place=False, money=False)} for lease in leases]
        await asyncio.gather(*(wait_leased(wish, seconds) for wish in nothing))

    def credit(self, spent: list[Spent]) -> None:
        """What others have spent in the present day and month; takes the place of what was told before."""
        self._told = spent
        self._spread()

    def correct(self, names: Names, cost: int, served_by: tuple[str, str] | None = None) -> None:
        """What a call of this key, tenant, tier and model has cost was by so much more, in 1e-12 US dollars.

        :param served_by: the upstream, and the model there; None: their accounts know it
        """
        self.look()
        for each in self._served(names, served_by):
            for budget in each.budgets:
                budget.spend(cost)
            for lease in each.leases_of_money:
                lease.moved_money(self.now())

    def set_aside(
        self, names: Names, served_by: tuple[str, str], cost: int, *, is_spent: bool
    ) -> Aside | None:
        """Take money for what goes on for hours, from all budgets that it concerns.

        :param names: key, tenant, tier and model; ``served_by``: as for :meth:`correct`
        :param cost: the most that it will cost, in 1e-12 US dollars
        :param is_spent: it is under way, so there is no refusing it
        :returns: None: one of them has not so much left just now
        """
        self.look()
        both = self._served(names, served_by)
        may = [each.may_spend(cost) for each in both]  # all of them are asked: each says what it wants
        if not is_spent and not all(may):
            return None
        return Aside(both, cost)

    async def wait_set_aside(self, names: Names, served_by: tuple[str, str], cost: int) -> Aside | None:
        """Take it as soon as this process has been leased so much, where others may have it to spare; see :meth:`set_aside`."""
        until = self.now() + SPARED_WITHIN
        while (aside := self.set_aside(names, served_by, cost, is_spent=False)) is None:
            now = self.now()
            both = self._served(names, served_by)
            accounts = [account for each in both for account in each.accounts if account.spends]
            short = [lease for each in both for lease in each.leases_of_money if lease.wants_money]
            if now >= until or not short or not all(each.may_get_money(cost) for each in accounts):
                return None
            wishes = {lease: Wish(now, 0.0, 0.0, place=False, money=True) for lease in short}
            await wait_leased(wishes, until - now)
        return aside

    def _served(self, names: Names, served_by: tuple[str, str] | None) -> list[Concerned]:
        """Who is concerned by calls of these names that are answered there."""
        concerned = self._of_call.get(names) or self._find(names)
        reached = None if served_by is None else self._reaches(names[3], *served_by)
        return [concerned] if reached is None else [concerned, self._beyond(concerned, reached)]

    def look(self) -> None:
        """See which day it is: whoever has a clock asks for it several times a second, not each call."""
        clock = self.unix_time
        now = clock()
        if now >= self.calendar.day_ends:
            self.calendar.look(now)
            for account in self._accounts.values():
                account.turn(self.calendar.day, self.calendar.month)
        elif self.calendar.was_ahead(now):
            self.date()

    def date(self) -> None:
        """The clock was wrong, or it is heard what day it is for all who share limits: what was spent until now was spent on
        that one.
        """
        self.calendar = Calendar(self.unix_time())
        for account in self._accounts.values():
            account.date(self.calendar.day, self.calendar.month)

    # ---- who is concerned ----

    def _concerned(self, call: Call) -> Concerned:
        """Who is asked when the call comes."""
        tenant = call.tenant
        names = (tenant.key_name, tenant.name, tenant.tier, call.named or call.model)
        return self._of_call.get(names) or self._find(names)

    def _at(self, call: Call, reached: Reached) -> Concerned:
        """Who is concerned by an attempt there, and has not been asked when the call came."""
        return self._beyond(self._concerned(call), reached)

    def _beyond(self, concerned: Concerned, reached: Reached) -> Concerned:
        found = concerned.at.get(reached)
        if found is None:
            accounts: dict[Account, None] = {}
            for scope, name in _places_of(reached):
                account = self._account(scope, name)
                if account is not None and account not in concerned.accounts:
                    accounts[account] = None
            if len(concerned.at) >= MAX_REMEMBERED:
                concerned.at.clear()
            found = concerned.at[reached] = Concerned(
                list(accounts), self.now, shared=self.lessee is not None
            )
        return found

    def _find(self, names: tuple[str, str, str, str]) -> Concerned:
        accounts = []
        for scope, name in zip(SCOPES, names, strict=True):
            if scope == "model" and self._falls_back(name):
                continue
            account = self._account(scope, name)
            if account is not None:
                accounts.append(account)
        if len(self._of_call) >= MAX_REMEMBERED:
            self._of_call.clear()
        found = self._of_call[names] = Concerned(accounts, self.now, shared=self.lessee is not None)
        return found

    def _account(self, scope: str, name: str) -> Account | None:
        """None: it is not limited."""
        limits = self._limits(scope, name)
        if limits is None:
            return None
        name = self._entry(scope, name)
        account = self._accounts.get((scope, name))
        if account is None:
            account = self._accounts[scope, name] = Account(scope, name, limits, self.lessee)
            self._tell(account)
        return account

    def _entry(self, scope: str, name: str) -> str:
        """Callers invent models' names: what fits one pattern is one account."""
        return resolve(self._tables[scope], name) or name if scope == "model" else name

    def _reaches(self, model: str, upstream: str, upstream_model: str) -> Reached | None:
        return None if self._routes is None else self._routes().reaches(model, upstream, upstream_model)

    def _falls_back(self, model: str) -> bool:
        return self._routes is not None and self._routes().falls_back(model)

    def _limits(self, scope: str, name: str) -> LimitConfig | None:
        table = self._tables[scope]
        if scope == "model":
            entry = resolve(table, name)
            return None if entry is None else table[entry]
        return table.get(name) or table.get("*")

    # ---- what others have spent ----

    def _spread(self) -> None:
        """Add up what was told by key, tenant, tier, model and upstream."""
        self._others = {}
        for spent in self._told:
            names = (spent.key, spent.tenant, spent.tier, spent.model)
            places = [
                (scope, self._entry(scope, name))
                for scope, name in zip(SCOPES, names, strict=True)
                if scope != "model" or not self._falls_back(name)
            ]
            reached = self._reaches(spent.model, spent.upstream, spent.upstream_model)
            if reached is not None:
                places += [(scope, self._entry(scope, name)) for scope, name in _places_of(reached)]
            for place in dict.fromkeys(places):
                day, month = self._others.get(place, (0, 0))
                self._others[place] = day + spent.day, month + spent.month
        for account in self._accounts.values():
            self._tell(account)

    def _tell(self, account: Account) -> None:
        day, month = self._others.get((account.scope, account.name), (0, 0))
        account.turn(self.calendar.day, self.calendar.month)
        if account.day is not None:
            account.day.credit(day)
        if account.month is not None:
            account.month.credit(month)

    # ---- may it begin? ----

    def _refusal(
        self,
        concerned: Concerned,
        now: float,
        tokens: int,
        cost: int,
        refused: Callable[[str, str], None],
        *,
        patient: bool,
    ) -> RateLimited | None:
        """Why there is no room, by the limit that lasts longest; None: there is, now."""
        longest = -1.0
        worst: tuple[Account, str] | None = None
        for account in concerned.accounts:
            for kind, wait in self._waits(account, now, tokens, cost):
                patient = patient and (
                    (kind == _PLACES and account.may_get_place(now))
                    or (kind in _BUDGETS and account.may_get_money(cost))
                    or (kind in _RATES and account.may_get_units(tokens, now))
                )
                if wait > longest:
                    longest, worst = wait, (account, kind)
        if worst is None:
            return None
        account, kind = worst
        if patient:
            return LeaseWanted(_sentence(account, kind, longest, cost))
        refused(account.scope, kind)
        for wanted in concerned.accounts:
            if wanted.lease is not None:
                wanted.lease.asked(tokens, now, refused=True)
        short_of_place = kind == _PLACES
        requests, tokens_left = concerned.windows(now)
        return RateLimited(
            _sentence(account, kind, longest, cost),
            code=_NO_MONEY if kind in _BUDGETS else _NO_PLACE if short_of_place else _NO_RATE,
            retry_after=longest if math.isfinite(longest) else None,
            requests=requests,
            tokens=tokens_left,
        )

    def _waits(self, account: Account, now: float, tokens: int, cost: int) -> Iterable[tuple[str, float]]:
        """The account's limits that do not let the call in, each with the seconds until it may."""
        if not account.has_place(now):
            yield _PLACES, SOON if account.concurrent else math.inf
        if account.requests is not None and (wait := account.requests.wait(1, now)):
            yield "requests", wait
        if account.tokens is not None and tokens and (wait := account.tokens.wait(tokens, now)):
            yield "tokens", wait
        if account.spends:
            calendar, unix_time = self.calendar, self.unix_time()
            for budget in account.budgets:
                if not budget.fits(cost):
                    daily = budget is account.day
                    ends = calendar.day_ends if daily else calendar.month_ends
                    wait = max(0.0, ends - unix_time) if budget.limit else math.inf
                    yield "day" if daily else "month", SOON if budget.would_fit(cost) else wait

    def __repr__(self) -> str:
        return f"<Limiter of {len(self._accounts)} accounts>"


def _places_of(reached: Reached) -> Iterable[tuple[str, str]]:
    """By which accounts a candidate may be limited."""
    return ("upstream", reached.upstream), ("model", reached.name), ("model", reached.model)


def _figures(account: Account, now: float) -> Iterable[tuple[str, float, float]]:
    """What the account is limited in: the limit, and what is left of it; money in US dollars."""
    if account.concurrent is not None:
        yield _PLACES, account.concurrent, account.free_places(now)
    for kind, bucket in (("requests", account.requests), ("tokens", account.tokens)):
        if bucket is not None:
            yield kind, int(bucket.limit), math.floor(bucket.left(now))
    for kind, budget in (("day", account.day), ("month", account.month)):
        if budget is not None:
            yield kind, budget.limit / DOLLAR, max(0, budget.left) / DOLLAR


def _sentence(account: Account, kind: str, wait: float, cost: int) -> str:
    whose = f"the {account.scope} {account.name!r}"
    if math.isinf(wait):
        return f"{whose} may not call: its limit is 0"
    if kind == _PLACES:
        return f"{whose} may have {account.concurrent} calls in progress, and has them"
    if kind in _BUDGETS:
        budget = account.day if kind == "day" else account.month
        assert budget is not None, "what has no budget is not refused for it"
        return f"{whose} {_short_of_money(budget, kind, cost)}"
    bucket = account.requests if kind == "requests" else account.tokens
    limit = bucket.limit if bucket is not None else 0
    return f"{whose} may use {limit:.15g} {kind} a minute; try again in {wait:.3g} s"


def _short_of_money(budget: Budget, kind: str, cost: int) -> str:
    whole = f"its budget of {_dollars(budget.limit)} for this {kind}, in UTC"
    if budget.left <= 0:
        return f"has spent {whole}{', or reserved it for calls under way' if budget.reserved > 0 else ''}"
    left, most = _dollars(budget.left, ".3g"), _dollars(cost, ".3g")
    return f"has {left} left of {whole}, and this call may cost {most}: ask for fewer tokens"


def _dollars(amount: int, form: str = "") -> str:
    """An amount in 1e-12 dollars as people write it: never as 2e-05.

    :param form: of the number of dollars, before its digits are written out
    """
    return f"${float(format(amount / DOLLAR, form)):.12f}".rstrip("0").rstrip(".")


def most_used(call: Call) -> Usage:
    """What a call may use at the most, as far as its request tells."""
    return _likely(call, *_estimate(call))


def _estimate(call: Call) -> tuple[int, int]:
    """The tokens of its prompt, by its size, and the most that it will be answered with, as far as it tells."""
    endpoint = call.endpoint
    prompt = opaque.prompt_tokens(call) if endpoint.opaque else estimate_tokens(len(call.body))
    if not endpoint.streams and endpoint is not _COMPACT:
        return prompt, 0
    asked = call.max_output_tokens
    output = OUTPUT_TOKENS if asked is None else min(max(asked, 0), MAX_OUTPUT_TOKENS)
    fields = call.fields
    if (raw := fields.get("n")) is not None:
        output *= _choices(raw)
    if endpoint is _COMPLETIONS:
        if (raw := fields.get("best_of")) is not None:  # all are made and billed
            output = max(output, output // _choices(fields.get("n")) * _choices(raw))
        output *= merge.count_inputs(call)
    return prompt, output


def _choices(raw: msgspec.Raw | None) -> int:
    """What "n" asks for; whether it may is the upstream's affair.  Some take 2.0 and "2" as well."""
    if raw is None:
        return 1
    try:
        return min(max(_integer(raw), 1), MAX_CHOICES)
    except NOT_JSON:
        return 1


def _likely(call: Call, prompt: int, output: int) -> Usage:
    """What a call may use at the most, as far as its request tells; images may be billed by number or by token."""
    if not call.endpoint.opaque:
        return Usage(prompt, output)
    units = opaque.units(call)
    if call.endpoint.unit == "images":
        output = OUTPUT_TOKENS * units
    return Usage(prompt, output, units=units)
