"""What several processes share of a limit: how much is left of it, and whose part that is.

A process decides about its calls by itself, at once, and tells what it took a moment later.  So that several of
them keep to one limit together, there is one **pool** (here, or in a Redis: ``_sharing_script`` is this module
in Lua), and each process (a *member*) has a **lease**: its share of what is left, and of what comes in.  In one
exchange, a few times a second, a member reports what it has taken since the last one, and is leased anew.

* What has been taken is counted once, in the pool, for everybody.  A member that took more than there was leaves
  a debt, which all of them wait for: over time no more is admitted than the limit, whatever the shares are.
* A share follows what a member's callers ask for, admitted or not: a sum of which a half fades in seven
  seconds.  :data:`FLOOR` of a limit is shared evenly, so that nobody is left without.
* Where a share is but a few calls, a call's units are granted before it begins, and nobody takes too much (``credit``).
* Calls under way are told as a number, not as steps up and down: a process that dies leaves nothing behind, and
  what it held is free :data:`LIFE` seconds after it was last heard of.  What may be under way is not counted
  afterwards, though, because a call cannot be made good: each *place* is leased to one member (``places``).
* No figure depends on a clock that all of them would have.  Levels, not moments, are kept; a clock that is
  set back adds nothing, and one that is set forward no more than one full bucket.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec

from penstock.flow import credit, funds, guessing, places
from penstock.flow.budget import BACK, Calendar
from penstock.flow.credit import Credit, Use
from penstock.flow.funds import Fund, Funds
from penstock.flow.gcra import PERIOD
from penstock.flow.guessing import Guess, Heard, heard
from penstock.flow.learning import Learnt, Seen, learn
from penstock.flow.places import Holding, Places

LIFE = 5.0  # seconds that a member is counted after it was last heard of
FRESH = 2.0  # seconds after an exchange in which its figures are what is known of the others
FADING = 10.0  # seconds after which what was asked for counts 1/e
FLOOR = 0.05  # of each limit, for all members alike


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What a member says of one account (a key, tenant, tier, model or upstream).

    :param anew: the last lease was long ago: what was taken since is void, and ``level`` counts
    :param calls: that were asked for since the last exchange, admitted or not
    :param wanted: tokens of these calls
    :param in_progress: calls under way
    :param places: what the member has of a limit of calls at once; None: there is no such limit
    :param seen: where that limit is found out: what the member has seen of it
    :param guess: what the member makes of rates that nobody tells
    :param day: money that it has spent and may spend today; None: there is no such budget
    :param month: the same, of this month
    """

    account: str
    anew: bool
    calls: float
    wanted: float
    in_progress: int
    requests: Use | None
    tokens: Use | None
    places: Places | None = None
    seen: Seen | None = None
    guess: Guess | None = None
    day: Funds | None = None
    month: Funds | None = None


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """What a member has of one account until the next exchange.

    :param requests: left of that bucket, and granted to no other member; negative: owed.  0 where there is no such limit
    :param tokens: the same
    :param calls_share: the member's share of requests and of calls under way
    :param tokens_share: the member's share of tokens
    :param others: calls under way at the other members
    :param places: how many calls the member may have under way; what it holds beyond that it gives back
    :param learnt: the limit that was found out, of all members together; 0: there is no such limit
    :param usual: seconds that first tokens usually take there; 0: it is not known
    :param guessed_requests: a rate that nobody tells, per second, of all members together; 0: it is not guessed
    :param guessed_tokens: the same
    :param day: money that the member may hold of today's budget, in 1e-12 US dollars
    :param day_free: of that budget, what nobody holds; negative: owed
    :param month: the same, of this month's
    :param month_free: the same
    :param requests_held: what the member may hold of what it was granted, or :data:`~penstock.flow.credit.NOT_YET`
    :param tokens_held: the same
    """

    requests: float
    tokens: float
    calls_share: float
    tokens_share: float
    others: int
    places: int = 0
    learnt: float = 0.0
    usual: float = 0.0
    guessed_requests: float = 0.0
    guessed_tokens: float = 0.0
    day: int = 0
    day_free: int = 0
    month: int = 0
    month_free: int = 0
    requests_held: float = 0.0
    tokens_held: float = 0.0


class Leases(msgspec.Struct, frozen=True, array_like=True):
    """The answer to some reports, in their order.

    :param members: how many processes there are at all
    :param now: Unix time, where the members are on several machines; None: they have one clock
    """

    members: int
    leases: list[Lease]
    now: float | None = None


class _Part(msgspec.Struct, frozen=True):
    """One member's of one account."""

    calls: float = 0.0
    wanted: float = 0.0
    in_progress: int = 0
    seen: float = 0.0
    requests: float | None = None  # all that it has taken; None: it is not known
    tokens: float | None = None
    places: Holding = places.NOTHING
    counts: tuple[int, int, int, int] | None = None  # of first tokens, where a limit is found out
    requests_credit: Credit = credit.NOTHING
    tokens_credit: Credit = credit.NOTHING


class _Level(msgspec.Struct, frozen=True):
    left: float
    at: float
    limit: float


class _Sums(msgspec.Struct):
    """What all members of an account have together, and what is left to the one that reports."""

    calls: float
    wanted: float
    requests_left: float
    tokens_left: float
    others: int = 0  # calls under way at the other members
    elsewhere: dict[str, tuple[Holding, float]] = {}  # their places, and what was asked of them


class _Account:
    __slots__ = (
        "funds",
        "guessed_requests",
        "guessed_tokens",
        "learnt",
        "parts",
        "requests",
        "tokens",
    )

    def __init__(self) -> None:
        self.funds: list[Fund | None] = [None, None]  # of the day, and of the month
        self.guessed_requests: Heard = guessing.NOTHING
        self.guessed_tokens: Heard = guessing.NOTHING
        self.learnt: Learnt | None = None
        self.parts: dict[str, _Part] = {}
        self.requests: _Level | None = None
        self.tokens: _Level | None = None

    def enter(self, report: Report, before: _Part, now: float) -> None:
        """What a member has seen and taken since it was heard of last."""
        seen, guess, requests, tokens = report.seen, report.guess, report.requests, report.tokens
        if seen is not None:
            self.learnt = learn(self.learnt, seen, before.counts, now)
        if guess is not None:
            self.guessed_requests = heard(self.guessed_requests, guess.requests, guess.requests_told, now)
            self.guessed_tokens = heard(self.guessed_tokens, guess.tokens, guess.tokens_told, now)
        if requests is not None:
            self.requests = _level(self.requests, requests, before.requests, now, anew=report.anew)
        if tokens is not None:
            self.tokens = _level(self.tokens, tokens, before.tokens, now, anew=report.anew)

    def sums(self, report: Report, own: _Part, now: float) -> _Sums:
        """Of the reporting member's part, and of those of the others that live."""
        requests = self.requests if report.requests is not None else None
        tokens = self.tokens if report.tokens is not None else None
        sums = _Sums(
            own.calls,
            own.wanted,
            requests.left if requests is not None else 0.0,
            tokens.left if tokens is not None else 0.0,
        )
        for name, part in list(self.parts.items()):
            if not _lives(part.seen, now):
                del self.parts[name]
                continue
            fading = _fading(part, now)
            sums.calls += part.calls * fading
            sums.wanted += part.wanted * fading
            sums.others += part.in_progress
            if requests is not None:
                sums.requests_left -= part.requests_credit.held
            if tokens is not None:
                sums.tokens_left -= part.tokens_credit.held
            sums.elsewhere[name] = part.places, part.calls * fading
        return sums

    def lease_money(
        self,
        member: str,
        report: Report,
        share: float,
        elsewhere: dict[str, tuple[Holding, float]],
        *,
        recovers: bool,
        begun: tuple[int, int],
    ) -> tuple[int, int, int, int]:
        """What the member may hold of the day's budget and what of it nobody holds, and the same of the month's.

        :param begun: the latest day and month that may have begun
        """
        money = [0, 0, 0, 0]
        for i, told in enumerate((report.day, report.month)):
            fund = None if told is None else funds.current(self.funds[i], told, begun[i])
            if told is not None and fund is not None:
                self.funds[i] = fund
                money[2 * i : 2 * i + 2] = fund.lease(member, told, share, elsewhere, recovers=recovers)
        day, day_free, month, month_free = money
        return day, day_free, month, month_free


class Pool:
    """The accounts that the members of one machine share.

    Times are seconds of one clock, whichever; it may jump.

    :param unix_time: seconds since 1970
    """

    def __init__(self, unix_time: Callable[[], float] = time.time) -> None:
        self._unix_time = unix_time
        self._accounts: dict[str, _Account] = {}
        self._members: dict[str, float] = {}
        self._cleaned = -math.inf
        self._recovers_until = -math.inf

    def exchange(self, member: str, reports: list[Report], now: float, *, rejoins: bool = False) -> Leases:
        """Enter what a member reports, and lease anew.

        :param rejoins: the member has been leased before; if it is not known here, others may not be either
        """
        if rejoins and not _lives(self._members.get(member, -math.inf), now):
            self._recovers_until = now + places.RECOVERY
        self._members[member] = now
        for other, seen in list(self._members.items()):
            if not _lives(seen, now):
                del self._members[other]
        if not self._cleaned <= now < self._cleaned + PERIOD:
            self._clean(now)
        calendar = Calendar(self._unix_time() + BACK)
        begun = calendar.day, calendar.month
        leases = [self._lease(member, report, now, begun) for report in reports]
        return Leases(len(self._members), leases)

    def _lease(self, member: str, report: Report, now: float, begun: tuple[int, int]) -> Lease:
        account = self._accounts.get(report.account)
        if account is None:
            account = self._accounts[report.account] = _Account()
        before = account.parts.pop(member, None)
        if before is None or not _lives(before.seen, now):
            before = _Part(seen=now)
        account.enter(report, before, now)
        own = _entered(before, report, now)
        sums = account.sums(report, own, now)
        even = 1.0 / (len(account.parts) + 1)
        calls_share = _share(own.calls, sums.calls, even)
        recovers = 0.0 < self._recovers_until - now <= places.RECOVERY

        held, granted = before.places, 0
        if report.places is not None:
            held = places.told(report.places, before.places, now)
            granted = held.held
            if held is not before.places:  # nor overtaken
                shares = [
                    (other, _share(calls, sums.calls, even)) for other, calls in sums.elsewhere.values()
                ]
                limit = report.places.limit
                if report.seen is not None and account.learnt is not None:
                    limit = int(account.learnt.value)
                granted = places.granted(limit, held, calls_share, shares, recovers=recovers)
                held = places.kept(held, granted)
        requests_credit, tokens_credit = before.requests_credit, before.tokens_credit
        if report.requests is not None and not recovers:
            requests_credit = credit.granted(sums.requests_left, report.requests, requests_credit)
        if report.tokens is not None and not recovers:
            tokens_credit = credit.granted(sums.tokens_left, report.tokens, tokens_credit)
        account.parts[member] = msgspec.structs.replace(
            own, places=held, requests_credit=requests_credit, tokens_credit=tokens_credit
        )
        learnt = account.learnt if report.seen is not None else None
        return Lease(
            sums.requests_left,
            sums.tokens_left,
            calls_share,
            _share(own.wanted, sums.wanted, even),
            sums.others,
            granted,
            learnt.value if learnt is not None else 0.0,
            learnt.usual if learnt is not None else 0.0,
            account.guessed_requests.rate,
            account.guessed_tokens.rate,
            *account.lease_money(member, report, calls_share, sums.elsewhere, recovers=recovers, begun=begun),
            credit.NOT_YET if recovers else requests_credit.held,
            credit.NOT_YET if recovers else tokens_credit.held,
        )

    def _clean(self, now: float) -> None:
        """Forget accounts that nobody uses, and whose buckets are full by now: they are as good as new."""
        self._cleaned = now
        for name, account in list(self._accounts.items()):
            used = any(_lives(part.seen, now) for part in account.parts.values())
            levels = [level for level in (account.requests, account.tokens) if level is not None]
            if (
                not used
                and account.funds == [None, None]
                and all(level.left >= 0 and now - level.at > PERIOD for level in levels)
            ):
                del self._accounts[name]

    def __repr__(self) -> str:
        return f"<Pool of {len(self._members)} members, {len(self._accounts)} accounts>"


def _lives(seen: float, now: float) -> bool:
    """Who was seen in the future, was seen before the clock was set back: it has as long as that takes to show."""
    return abs(now - seen) <= LIFE


def _fading(part: _Part, now: float) -> float:
    """By how much what a member was asked counts less than when it was heard of last."""
    return math.exp(-max(0.0, now - part.seen) / FADING)


def _entered(before: _Part, report: Report, now: float) -> _Part:
    """A member's part with what it reports, but for what it is granted."""
    fading = _fading(before, now)
    return _Part(
        before.calls * fading + report.calls,
        before.wanted * fading + report.wanted,
        report.in_progress,
        now,
        report.requests.total if report.requests is not None else None,
        report.tokens.total if report.tokens is not None else None,
        counts=report.seen.counts if report.seen is not None else None,
    )


def _share(own: float, whole: float, even: float) -> float:
    return FLOOR * even + (1.0 - FLOOR) * own / whole if whole > 0 else even


def _level(known: _Level | None, use: Use, total: float | None, now: float, *, anew: bool) -> _Level:
    if known is None:
        left = use.level if use.level is not None else use.limit - use.taken
    else:
        # As full as it was, if the limit changes.
        was = known.left * use.limit / known.limit if known.limit else use.limit
        left = min(use.limit, was + max(0.0, now - known.at) * use.limit / PERIOD)
        if not anew:
            left -= use.taken if total is None else use.total - total
        elif use.level is not None:
            left = min(left, use.level)
    return _Level(min(left, use.limit), now, use.limit)
