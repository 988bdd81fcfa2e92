"""The way to one upstream: may a call go there, now or later, and what is learnt when it has been there.

A gate puts together what ``breaker``, ``queue``, ``concurrency`` and ``provider`` decide, each by itself.  A call
*asks*; it gets a :class:`Turn` at once, or a :class:`Ticket` whose holder is told later, or is refused.  A turn
is *settled* exactly once, and with it the next one in the queue may go.

No tasks and no timer: time passes when somebody calls, and in :meth:`Gate.sweep`.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import ceil, inf, isfinite

import msgspec

from penstock.config.model import BreakerConfig, ConcurrencyConfig, TierConfig
from penstock.errors import Evicted, Overloaded, PenstockError
from penstock.flow.arrivals import Arrivals
from penstock.flow.breaker import WELL, Breaker, Ended, State
from penstock.flow.concurrency import AdaptiveLimit
from penstock.flow.learning import SharedLimit
from penstock.flow.leased import AccountLease
from penstock.flow.pace import Pace
from penstock.flow.provider import Provider
from penstock.flow.queue import Entry, Full, Queue, config_of
from penstock.messages import Headers
from penstock.metrics import Counter
from penstock.wire import ratelimits

log = logging.getLogger("penstock.upstream")

MAX_BREAKERS = 256  # models of one upstream; callers may invent names
HOPE = 0.9  # quantile of the first tokens that a deadline is compared with
SOON = 1.0  # seconds to come back in, where nothing better is known
IN_VAIN = 3  # pauses that a provider wanted, one after the other, without a call that it took: then nobody waits for it
REFUSALS = frozenset({"breaker_open", "deadline_unreachable"})
"""The codes of refusals that only a gate gives."""
_OPENED = {
    "errors": "too many calls failed",
    "slow": "first tokens came too late",
    "slow_tokens": "tokens came too slowly",
    "key": "it does not accept our key",
}
# What says something of a model: a bucket that is empty, and a key that is wrong, are no fault of it.
_OF_THE_MODEL = frozenset({"", "upstream", "overload"})


class Asked(msgspec.Struct, frozen=True):
    """What the gate knows of a call.

    ``deadline`` is the moment (monotonic seconds; ``inf``: any time) of the first token of a stream, or of the
    end of a plain answer; ``tokens`` an estimate of what the provider will count; ``callers_key``: its caller's own
    key is sent, whose rates there are nobody else's.
    """

    model: str
    tenant: str
    tier: str
    stream: bool
    deadline: float = inf
    prompt_tokens: int = 0
    tokens: float = 0.0
    max_output_tokens: int | None = None
    callers_key: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What became of a turn.

    ``blames``: ``upstream`` (5xx, broken, too late), ``overload`` (it says that it has too much to do),
    ``rate`` (its bucket is empty), ``key`` (it does not accept ours), ``""`` (it answered), or ``nobody``
    (the caller left, or asked for nonsense).
    """

    blames: str
    first_token: float | None = None  # seconds, of a stream
    tokens_per_second: float | None = None
    output_tokens: int = 0
    retry_after: float | None = None


class Turn(msgspec.Struct, eq=False):
    """The right to send one call: a place among those in progress, from when it is made until it is settled.

    :param breaker: of the model; None: there is none
    :param waited: seconds
    :param probes: the breakers that find out by this call whether the upstream is well again
    :param is_heard: what the head of its answer tells has been taken note of, or does not matter
    """

    gate: Gate
    number: int
    asked: Asked
    began: float
    waited: float
    breaker: Breaker | None
    probes: tuple[Breaker, ...] = ()
    is_heard: bool = False
    is_settled: bool = False

    def on_head(self, headers: Headers, now: float) -> None:
        """The head of the answer is there, and may tell of rate limits."""
        provider = self.gate.provider
        if provider is None or self.is_heard:
            return
        self.is_heard = True
        if ratelimits.tells(headers):
            self._told(provider, headers, now)
        elif provider.has_spoken:
            provider.answered(self.number, None, None, now)
        else:
            del provider.unanswered[self.number]

    def _told(self, provider: Provider, headers: Headers, now: float) -> None:
        gate = self.gate
        unix_time = gate.unix_time()
        requests = ratelimits.read(headers, b"requests", unix_time)
        tokens = ratelimits.read(headers, b"tokens", unix_time)
        provider.answered(self.number, requests, tokens, now, gate.part)

    def has_room(self, now: float) -> bool:
        """Whether both of the provider's buckets, by what it has told, have room for a call like this."""
        provider = self.gate.provider
        return provider is not None and provider.has(self.asked.tokens, now)

    def settle(self, outcome: Outcome, now: float) -> None:
        """The call has ended; only the first time counts."""
        if self.is_settled:
            return
        self.is_settled = True
        gate, blames, probes = self.gate, outcome.blames, self.probes
        if (breaker := self.breaker) is not None:
            if not blames and outcome.first_token is None:
                ended = WELL
            elif blames in _OF_THE_MODEL:
                ended = Ended(blames != "", outcome.first_token, outcome.tokens_per_second)
            else:
                ended = None
            if breaker.end(ended, now, probe=breaker in probes):
                gate.breaker_turned(breaker, f"as {self.asked.model!r}")
        if probes or blames == "key":
            gate.key_tried(blames, now, probes)
        if not self.is_heard and gate.provider is not None:
            gate.provider.answered(self.number, None, None, now)
        gate.ended(self, outcome, now)

    def __repr__(self) -> str:
        return f"<Turn {self.number} of {self.asked.tenant}, {'settled' if self.is_settled else 'under way'}>"


class Ticket(Entry):
    """A call's place in the queue; ``called`` is told once, a turn or why there is none."""

    __slots__ = ("asked", "called", "last")

    def __init__(
        self,
        asked: Asked,
        now: float,
        deadline: float,
        called: Callable[[Turn | PenstockError], None],
        *,
        last: bool,
    ) -> None:
        super().__init__(asked.tier, asked.tenant, now, deadline)
        self.asked = asked
        self.called = called
        self.last = last


def _nobody(_answer: Turn | PenstockError) -> None:
    raise AssertionError("who has a ticket says at once who is to be called")


def _limit(
    config: ConcurrencyConfig | None, lease: AccountLease | None, share: float
) -> AdaptiveLimit | SharedLimit | None:
    if config is None:
        return None
    if lease is not None:
        return lease.learning or AdaptiveLimit(config, config.limit)
    return AdaptiveLimit(
        msgspec.structs.replace(config, start=ceil(config.start * share), least=ceil(config.least * share)),
        ceil(config.limit * share),
    )


class Gate:
    """See the module.

    :param cell: what counts the calls of a tier, by what became of them: ``passed``, ``waited``, ``full``, ``late``,
        ``evicted``, ``expired``, ``in_vain``, ``left``, ``open``, ``sent_away``
    :param unix_time: seconds since 1970
    :param lease: of the upstream's concurrency, where other processes send calls there, too
    :param share: of it that this process may use, where it has no lease
    :ivar turns: how many there have been
    :ivar is_doubted: whether any of the breakers is not closed
    """

    def __init__(
        self,
        name: str,
        concurrency: ConcurrencyConfig | None,
        breaker: BreakerConfig | None,
        tiers: Mapping[str, TierConfig],
        cell: Callable[[str, str], Counter],
        *,
        lease: AccountLease | None = None,
        share: float = 1.0,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._cell = cell
        self.tiers = tiers
        self.unix_time = unix_time
        self._breaker_config = breaker
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        # A wrong key fails at once and for every model: one failure is enough, one probe finds out.
        self.key_breaker = (
            Breaker(msgspec.structs.replace(breaker, probes=1)) if breaker is not None else None
        )
        self.is_doubted = False
        self.limit = _limit(concurrency, lease, share)
        self.lease = lease
        self._share = share
        self.queue = Queue(tiers, concurrency.max_waiting if concurrency is not None else 0)
        follows = concurrency is not None and concurrency.follow_headers
        self.provider = Provider() if follows else None
        if lease is not None:
            lease.guessing = self.provider
        self.pace = Pace()
        self.in_progress = 0
        self.turns = 0
        self._in_vain = 0
        self._arrivals: dict[str, Arrivals] = {}  # by tier

    # ---- asking ----

    def ask(
        self,
        asked: Asked,
        now: float,
        called: Callable[[Turn | PenstockError], None] | None = None,
        *,
        last: bool = False,
    ) -> Turn | Ticket:
        """A turn, or a place in the queue: ``called`` is told when its time has come, or that it never will.

        :param called: None: who gets a ticket says it at once (:attr:`Ticket.called`)
        :param last: there is no other upstream that could be asked
        :raises Overloaded: neither; the code says why
        """
        breaker = self._breakers.get(asked.model)
        if (breaker is None and self._breaker_config is not None) or self.is_doubted:
            breaker = self._may_pass(asked, now, last=last)
        arrivals = self._arrivals.get(asked.tier) or self._first_of(asked.tier, now)
        limit, provider = self.limit, self.provider
        if limit is None:
            arrivals.passed.value += 1
            return self._begun(asked, breaker, now, 0.0)
        if self.lease is not None:
            self.lease.asked_in_line()
        latest = asked.deadline
        if latest != inf:
            if self.pace.is_known:
                latest -= self.needs(asked)
            if now > latest:
                arrivals.others += 1
                self._refuse_late(asked, now, 0.0)
        if (
            not self.queue.length
            and self.in_progress + 1 <= limit.value
            and (self.lease is None or self.lease.has_place(now))
            and (provider is None or not provider.has_spoken or not self._wait_there(asked, now))
        ):
            arrivals.passed.value += 1
            return self._begun(asked, breaker, now, 0.0)
        arrivals.others += 1
        wait = self.predicted_wait(asked, now)
        if now + wait > latest:
            self._refuse_late(asked, now, wait)
        ticket = Ticket(asked, now, latest, called or _nobody, last=last)
        try:
            evicted = self.queue.push(ticket)
            if self.lease is not None and not self.lease.has_place(now):
                self.lease.lengthens(self, now)
        except Full:
            self._cell(asked.tier, "full").add()
            raise Overloaded(f"too many calls wait for {self.name}", retry_after=self._honest(wait)) from None
        if isinstance(evicted, Ticket):
            self._cell(evicted.tier, "evicted").add()
            evicted.called(
                Evicted(
                    f"another tier or tenant had more right to this call's place in the queue for {self.name}",
                    retry_after=self._honest(self.predicted_wait(evicted.asked, now)),
                )
            )
        return ticket

    def send_away(self, why: PenstockError) -> None:
        """Nobody's turn will come: all who wait are told."""
        for entry in self.queue.clear():
            assert isinstance(entry, Ticket)
            self._cell(entry.tier, "sent_away").add()
            entry.called(why)

    def leave(self, ticket: Ticket) -> None:
        """Its holder does not want to wait any more."""
        if ticket.waiting:
            self.queue.remove(ticket)
            self._cell(ticket.tier, "left").add()

    def free(self, model: str, tokens: float, now: float) -> bool:
        """Whether a call that has no deadline would get its turn at once."""
        return not self.open_for(model, now) and self.is_free(tokens, now)

    def is_free(self, tokens: float, now: float) -> bool:
        """The same, as far as the breakers let it through."""
        if self.limit is None:
            return True
        full = self.queue.length or self.in_progress >= self.capacity(now)
        return not full and not self._remote_wait(tokens, now)

    def open_for(self, model: str, now: float) -> float:
        """Seconds until a call of this model is permitted again by the breakers; 0: it is."""
        if self.key_breaker is None or not self.is_doubted:
            return 0.0
        breaker = self._breakers.get(model)
        wait = self.key_breaker.wait(now) if self.key_breaker.is_open else 0.0
        return max(wait, breaker.wait(now)) if breaker is not None and breaker.is_open else wait

    def permits(self, model: str, now: float, *, last: bool) -> bool:
        """Whether the breakers let a call of this model through now.

        :param last: there is nobody else to ask
        """
        if self.key_breaker is None or not self.is_doubted:
            return True
        breaker = self._breakers.get(model)
        return self.key_breaker.permits(now, last=last) and (
            breaker is None or breaker.permits(now, last=last)
        )

    def load(self, model: str, now: float) -> float:
        """What there is to do, for what can be done at once: 1 is full.  ``inf``: nothing can, for now."""
        if self.is_doubted and self.open_for(model, now):
            return inf
        if (limit := self.limit) is None:
            return 0.0
        capacity = int(limit.value) if self.lease is None else self.capacity(now)
        return (self.in_progress + self.queue.length) / (capacity or 1)

    def capacity(self, now: float) -> int:
        """How many calls may be under way from here, as far as is known."""
        assert self.limit is not None
        most = int(self.limit.value)
        return most if self.lease is None else min(most, self.lease.reachable(now))

    @property
    def part(self) -> float:
        """Of what the provider allows, that part is for this process."""
        return self._share if self.lease is None else self.lease.share

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self.queue.length

    def go_on(self, now: float) -> None:
        """There may be more places than before."""
        self._next(now)

    @property
    def breakers_open(self) -> int:
        """How many breakers are not closed."""
        each = [*self._breakers.values(), *([self.key_breaker] if self.key_breaker is not None else [])]
        return sum(breaker.is_open for breaker in each)

    def predicted_wait(self, asked: Asked, now: float) -> float:
        """Seconds in the queue, as far as can be told from who waits, who comes, and how long calls take."""
        if self.limit is None or not self.pace.holding:
            return self._wait_there(asked, now)
        capacity = self.capacity(now)
        if (
            self.lease is not None and self.in_progress + self.queue.length < capacity
        ):  # a place is on its way
            return self._wait_there(asked, now)
        turns = (capacity or 1) / self.pace.holding  # per second
        config = config_of(self.tiers, asked.tier)
        higher, alike = self.queue.ahead(asked.tier, asked.tenant)
        coming = sum(
            arrivals.rate(now)
            for name, arrivals in self._arrivals.items()
            if config_of(self.tiers, name).priority > config.priority
        )
        floor = config.floor * turns
        left = max(turns - coming, floor)
        ours = alike + 1
        wait = (higher + ours) / left if left else inf
        if floor:
            wait = min(wait, ours / floor)
        return max(wait, self._wait_there(asked, now))

    # ---- time ----

    def sweep(self, now: float) -> None:
        """Those who waited in vain are told; those whose turn has come, too."""
        for arrivals in self._arrivals.values():
            arrivals.rate(now)
        for entry in self.queue.expired(now):
            assert isinstance(entry, Ticket)
            self._cell(entry.tier, "expired").add()
            entry.called(
                Overloaded(
                    f"the call's deadline cannot be met any more: it waited {now - entry.arrived:.1f} s"
                    f" for {self.name}",
                    code="deadline_unreachable",
                    retry_after=self._honest(self.predicted_wait(entry.asked, now)),
                )
            )
        self._next(now)

    def use_tiers(self, tiers: Mapping[str, TierConfig]) -> None:
        """Go on by these rules."""
        self.tiers = tiers
        self.queue.use_tiers(tiers)

    # ---- for turns ----

    def key_tried(self, blames: str, now: float, probes: tuple[Breaker, ...]) -> None:
        """A call has shown whether our key is accepted.  As long as it is, nobody counts."""
        key_breaker = self.key_breaker
        if key_breaker is None or not (blames == "key" or key_breaker in probes):
            return
        ended = Ended(failed=blames == "key") if blames in {"", "key"} else None
        was_open = key_breaker.is_open
        key_breaker.end(ended, now, probe=key_breaker in probes)
        if blames == "key" and key_breaker.state(now) is State.CLOSED:
            key_breaker.trip("key", now)
        if key_breaker.is_open is not was_open:
            self.breaker_turned(key_breaker, "by any name")

    def breaker_turned(self, breaker: Breaker, what: str) -> None:
        """Tell whoever reads the log that one has opened, and why, or has closed."""
        self.is_doubted = self.breakers_open > 0
        if breaker.is_open:
            log.warning("%s is left in peace %s: %s", self.name, what, _OPENED[breaker.reason])
        else:
            log.info("%s is asked again %s", self.name, what)

    def ended(self, turn: Turn, outcome: Outcome, now: float) -> None:
        """A call has ended."""
        in_progress, asked, blames = self.in_progress, turn.asked, outcome.blames
        self.in_progress = in_progress - 1
        if self.lease is not None:
            self.lease.in_progress -= 1
            self.lease.ended(now)
        if (provider := self.provider) is not None and not asked.callers_key:
            if not blames:
                provider.accepted(asked.tokens, now)
                self._in_vain = 0
            elif blames == "rate" and provider.refused(outcome.retry_after, now, self.part):
                self._in_vain += 1
                if self._in_vain >= IN_VAIN:
                    self._give_up_waiting(asked, now)
        if (limit := self.limit) is None:
            return
        held, queue = now - turn.began, self.queue
        if outcome.first_token is not None and blames != "overload":
            alike = self.pace.observe_first_token(outcome.first_token, asked.prompt_tokens)
            limit.observe(alike, in_progress, now)
        if queue.has_waited:
            queue.charge(asked.tier, asked.tenant, held - self.pace.holding)
        if not blames:
            self.pace.observe(held, outcome.tokens_per_second, outcome.output_tokens)
        elif blames == "overload":
            limit.overloaded(now)
        if queue.length:
            self._next(now)

    # ---- deciding ----

    def _may_pass(self, asked: Asked, now: float, *, last: bool) -> Breaker | None:
        """The breaker of this model, if it has one.

        :raises Overloaded: it is open
        """
        config = self._breaker_config
        if config is None or self.key_breaker is None:
            return None
        breaker = self._breakers.get(asked.model)
        if breaker is None:
            if len(self._breakers) >= MAX_BREAKERS:
                self._breakers.popitem(last=False)
            breaker = self._breakers[asked.model] = Breaker(config)
        for each in (self.key_breaker, breaker):
            if not each.permits(now, last=last):
                self._cell(asked.tier, "open").add()
                raise Overloaded(
                    f"{self.name} has failed too often or been too slow, and is left in peace",
                    code="breaker_open",
                    retry_after=each.wait(now) or SOON,
                )
        return breaker

    def _remote_wait(self, tokens: float, now: float) -> float:
        return 0.0 if self.provider is None else self.provider.wait(tokens, now)

    def _wait_there(self, asked: Asked, now: float) -> float:
        return 0.0 if asked.callers_key else self._remote_wait(asked.tokens, now)

    def needs(self, asked: Asked) -> float:
        """Seconds from a call's turn to what its deadline is about."""
        first = self.pace.first_token(HOPE, asked.prompt_tokens)
        return first if asked.stream else first + self.pace.answer(asked.max_output_tokens)

    def _first_of(self, tier: str, now: float) -> Arrivals:
        arrivals = self._arrivals[tier] = Arrivals(now, self._cell(tier, "passed"))
        return arrivals

    def _begun(self, asked: Asked, breaker: Breaker | None, now: float, waited: float) -> Turn:
        """A call goes there now; see :class:`Turn`."""
        probes: tuple[Breaker, ...] = ()
        if self.is_doubted:
            doubted = (breaker, self.key_breaker)
            probes = tuple(each for each in doubted if each is not None and each.begin())
        self.in_progress += 1
        self.turns = number = self.turns + 1
        if self.lease is not None:
            self.lease.begun(now)
        if (provider := self.provider) is not None:
            if asked.callers_key:  # what it tells is not heard
                return Turn(self, number, asked, now, waited, breaker, probes, is_heard=True)
            if provider.has_spoken:
                provider.sent(number, asked.tokens, now)
            else:
                provider.unanswered[number] = asked.tokens
        return Turn(self, number, asked, now, waited, breaker, probes)

    def _next(self, now: float) -> None:
        """Let go who may go."""
        if self.limit is None:
            return
        queue = self.queue
        lease = self.lease
        while (
            queue.length
            and self.in_progress + 1 <= self.limit.value
            and (lease is None or lease.has_place(now))
        ):
            entry = queue.pop(self.pace.holding, lambda entry: self._fits(entry, now))
            if entry is None:
                return
            assert isinstance(entry, Ticket)
            try:
                breaker = self._may_pass(entry.asked, now, last=entry.last)
            except Overloaded as opened:  # while it waited
                entry.called(opened)
                continue
            self._cell(entry.tier, "waited").add()
            entry.called(self._begun(entry.asked, breaker, now, now - entry.arrived))

    def _fits(self, entry: Entry, now: float) -> bool:
        assert isinstance(entry, Ticket)
        return not self._wait_there(entry.asked, now)

    # ---- refusing ----

    def _give_up_waiting(self, asked: Asked, now: float) -> None:
        """The provider takes nothing: who has no deadline would wait as long as it pleases."""
        wait = self._remote_wait(asked.tokens, now)
        for entry in self.queue.without_deadline():
            assert isinstance(entry, Ticket)
            self._cell(entry.tier, "in_vain").add()
            entry.called(
                Overloaded(
                    f"{self.name} takes no calls: it says that its rate limit is used up",
                    retry_after=self._honest(wait),
                )
            )

    def _refuse_late(self, asked: Asked, now: float, wait: float) -> None:
        self._cell(asked.tier, "late").add()
        left = asked.deadline - now
        raise Overloaded(
            f"the call's deadline is {left:.1f} s away and cannot be met: {self.name} would begin to answer"
            f" in about {wait + self.needs(asked):.1f} s"
            if isfinite(wait)
            else f"the call's deadline cannot be met: calls of higher tiers keep {self.name} busy",
            code="deadline_unreachable",
            retry_after=self._honest(wait),
        )

    def _honest(self, wait: float) -> float:
        """When it may be worth to come back: when those that wait now have gone."""
        return min(max(wait, SOON), 60.0)

    def __repr__(self) -> str:
        return f"<Gate to {self.name}, {self.in_progress} in progress, {self.queue}, {self.limit}>"
