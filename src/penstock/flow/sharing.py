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

import msgspec

from penstock.flow import credit, funds, guessing, places
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


class Pool:
    """The accounts that the members of one machine share.

    Times are seconds of one clock, whichever; it may jump.
    """

    def __init__(self) -> None:
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
        return Leases(len(self._members), [self._lease(member, report, now) for report in reports])

    def _lease(self, member: str, report: Report, now: float) -> Lease:
        account = self._accounts.get(report.account)
        if account is None:
            account = self._accounts[report.account] = _Account()
        own = account.parts.pop(member, None)
        if own is None or not _lives(own.seen, now):
            own = _Part(seen=now)
        known = held = own.places
        requests_credit, tokens_credit = own.requests_credit, own.tokens_credit
        seen = report.seen
        if seen is not None:
            account.learnt = learn(account.learnt, seen, own.counts, now)
        guess = report.guess
        if guess is not None:
            account.guessed_requests = heard(
                account.guessed_requests, guess.requests, guess.requests_told, now
            )
            account.guessed_tokens = heard(account.guessed_tokens, guess.tokens, guess.tokens_told, now)
        requests, tokens = report.requests, report.tokens
        if requests is not None:
            account.requests = _level(account.requests, requests, own.requests, now, anew=report.anew)
        if tokens is not None:
            account.tokens = _level(account.tokens, tokens, own.tokens, now, anew=report.anew)
        fading = math.exp(-max(0.0, now - own.seen) / FADING)
        own = _Part(
            own.calls * fading + report.calls,
            own.wanted * fading + report.wanted,
            report.in_progress,
            now,
            requests.total if requests is not None else None,
            tokens.total if tokens is not None else None,
            counts=seen.counts if seen is not None else None,
        )
        calls, wanted, others = own.calls, own.wanted, 0
        requests_left = (
            account.requests.left if requests is not None and account.requests is not None else 0.0
        )
        tokens_left = account.tokens.left if tokens is not None and account.tokens is not None else 0.0
        elsewhere: dict[str, tuple[Holding, float]] = {}
        for name, part in list(account.parts.items()):
            if not _lives(part.seen, now):
                del account.parts[name]
                continue
            fading = math.exp(-max(0.0, now - part.seen) / FADING)
            calls += part.calls * fading
            wanted += part.wanted * fading
            others += part.in_progress
            if requests is not None:
                requests_left -= part.requests_credit.held
            if tokens is not None:
                tokens_left -= part.tokens_credit.held
            elsewhere[name] = part.places, part.calls * fading
        even = 1.0 / (len(account.parts) + 1)
        granted = 0
        recovers = 0.0 < self._recovers_until - now <= places.RECOVERY
        if report.places is not None:
            held = places.told(report.places, known, now)
            granted = held.held
            if held is not known:  # nor overtaken
                shares = [(other, _share(theirs, calls, even)) for other, theirs in elsewhere.values()]
                limit = report.places.limit
                if seen is not None and account.learnt is not None:
                    limit = int(account.learnt.value)
                granted = places.granted(
                    limit, held, _share(own.calls, calls, even), shares, recovers=recovers
                )
                held = places.kept(held, granted)
        calls_share, tokens_share = _share(own.calls, calls, even), _share(own.wanted, wanted, even)
        if requests is not None and not recovers:
            requests_credit = credit.granted(requests_left, requests, requests_credit)
        if tokens is not None and not recovers:
            tokens_credit = credit.granted(tokens_left, tokens, tokens_credit)
        account.parts[member] = msgspec.structs.replace(
            own, places=held, requests_credit=requests_credit, tokens_credit=tokens_credit
        )
        money = [0, 0, 0, 0]
        for i, told in enumerate((report.day, report.month)):
            fund = None if told is None else funds.current(account.funds[i], told)
            if told is not None and fund is not None:
                account.funds[i] = fund
                money[2 * i : 2 * i + 2] = fund.lease(member, told, calls_share, elsewhere, recovers=recovers)
        return Lease(
            requests_left,
            tokens_left,
            calls_share,
            tokens_share,
            others,
            granted,
            account.learnt.value if seen is not None and account.learnt is not None else 0.0,
            account.learnt.usual if seen is not None and account.learnt is not None else 0.0,
            account.guessed_requests.rate,
            account.guessed_tokens.rate,
            money[0],
            money[1],
            money[2],
            money[3],
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
