"""Generations that outlive their process: what this process does with one store.

It **writes** its own generations down as they grow (``generation.journal``), **reads** those that others have
written, follows one that runs in another process, keeps its **lease**, and **takes over** what somebody who
has died left unfinished.  Who reads what another process produces is told by ``generation.attention``.

When the store does not answer, calls go on without it: nothing here is awaited on the way of a new call but
the claim of an idempotency key, and that has a budget.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from penstock.errors import Gone, Overloaded, UpstreamBroken
from penstock.generation.attention import ATTENDED, Attention
from penstock.generation.bill import PATIENCE, Bookings, Books, OpenBill, booked_now
from penstock.generation.journal import Journal
from penstock.generation.log import Generation, State
from penstock.generation.store import (
    Bill,
    Claim,
    End,
    Naming,
    Record,
    Store,
    StoreUnavailable,
    Tail,
    new_owner,
    trouble_at,
)
from penstock.generation.written import Name, Written, end, ending_of
from penstock.messages import Call, Event
from penstock.net.clock import Clock

CLAIM_BUDGET = 0.5  # seconds that a call waits to learn whether its name is somebody else's
KEY_PATIENCE = 5.0  # the same, where its caller has named it: he would rather wait than pay twice
READ_BUDGET = 2.0  # seconds that a caller waits who asks for what is only in the store
LASTING = 3_600.0  # seconds for which a running generation keeps a name, at least
POLL = 0.02  # seconds between two looks at generations that are followed
SETTLING = 1.0  # seconds in which a store that is well is given what it was not yet
SETTLING_AFTER_TROUBLE = 7.0  # the same after trouble: others pause for up to 5 s before they try again
RECOVERY = 10.0  # seconds for which trouble is remembered
PROMISED = 86_400.0  # seconds for which it is known that an answer was promised
BEAT = 0.5  # seconds between two signs of life, at most
PIECE = 1 << 20  # bytes of events read at once
# Generations whose names are to be claimed again; what is more is found by its id alone.
_MAX_UNNAMED = 10_000
QUIET = 5.0  # seconds without trouble after which it is over: what comes and goes is one, and said once
TAKE_AT_ONCE = 16  # generations that one process takes over in one go
NEXT_GO = 0.005  # seconds until it takes over more, if there is more; others may take some meanwhile

# Of the request's header fields those that an upstream is sent, and that decide what it answers, and by which the ledger
# knows it.  Never a credential: a call that was made with its caller's own key cannot be gone on with by another process.
_REPEATED = (
    b"anthropic-version",
    b"anthropic-beta",
    b"openai-beta",
    b"penstock-label",
    b"x-sim-ttft-ms",
    b"x-sim-tokens-per-second",
    b"x-sim-output-tokens",
    b"x-sim-scenario",
    b"x-sim-key",
)

DEADLINE = b"penstock-deadline"
"""The field of a record that tells the moment of its call's deadline, in seconds since 1970."""

_T = TypeVar("_T")

log = logging.getLogger("penstock.gateway")


class Owner(Protocol):
    """Who runs generations in this process."""

    def go_on(self, record: Record, events: list[Event], keeper: Keeper) -> None:
        """A generation was taken over: produce the rest of it.

        :raises Overloaded: there is no room for it here, and nothing was begun
        """

    def deserted(self) -> list[Generation]:
        """Those that run without a reader, and wait for one to come back."""

    def dismissed(self, generation: Generation) -> None:
        """Nobody comes back for this one: it is given up, if it still waits, and nobody elsewhere has a use for it."""


class Keeper:
    """One store, and this process's part in it.

    :param kept_for: seconds after its end for which a generation stays in the store
    :param lease: seconds without a sign of life after which this process may be taken for dead
    """

    def __init__(self, store: Store, clock: Clock, *, kept_for: float, lease: float) -> None:
        self.store = store
        self.journal = Journal(store, clock)
        self.owner = new_owner()
        self.attention = Attention(store, self.now)
        self._clock = clock
        self._kept_for = kept_for
        self._lease = lease
        # Of our clock, the store's; until that is heard, this machine's.
        self._ahead = time.time() - clock.now()
        self.taken_over = 0  # generations, since the start
        self.unclaimed = 0  # calls that were made without knowing whether their names were somebody else's
        self.leaving = False  # this process is going away: others are to take over
        self._followed: dict[Generation, int] = {}  # how many of its events we have
        self._losses = 0  # of the store, as far as we have looked after them
        self._troubled = -math.inf  # when the store was in trouble last
        # Generations that may be ours in the store, and do not run here.
        self._half_taken: dict[str, None] = {}
        self._leapt = -math.inf  # when the time of day was set forward last
        self._vanished: dict[Generation, float] = {}  # of these, since when the store has not known them
        self._unnamed: dict[str, list[Name]] = {}  # to be claimed again, by generation
        self._naming: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._trouble_since: float | None = None  # that the log has told of
        self._bookings: Bookings | None = None  # None: no ledger of this process is known to others

    def __repr__(self) -> str:
        return f"<Keeper {self.journal}, following {len(self._followed)}>"

    def now(self) -> float:
        """Unix time as the store has it, which need not be what this machine takes it for."""
        return self._clock.now() + self._ahead

    async def start(self, runs: Owner, books: Books | None = None) -> None:
        """Open the store, and begin to tend it; one that is not there is tried until it is.

        :param books: the ledger of this process
        """
        if books is not None:
            self._bookings = Bookings(self.store, books)
            await books.open(PATIENCE)
        await self._quietly(self.store.start())
        self.journal.start()
        await self._quietly(self._begin_lease())
        loop = asyncio.get_running_loop()
        doing = self._tend(runs), self._heed_dismissals(runs), self._follow()
        self._tasks = [loop.create_task(each) for each in doing]

    async def close(self) -> None:
        if self._naming is not None:
            self._tasks.append(self._naming)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.journal.close()
        await self._quietly(self.store.close())

    # ---- writing ----

    def write(
        self,
        generation: Generation,
        call: Call,
        name: Name | None = None,
        *,
        taken: bool = True,
        recent: float = 0.0,
        question: Name | None = None,
    ) -> None:
        """Write a new generation down from now on.

        :param name: what it is to be found by, beside its id
        :param taken: the name was claimed for it; else it takes it as it begins
        :param recent: seconds after its end for which another one keeps the name
        :param question: by which those find it who ask the same; it was taken for it
        """
        names = [name] if name is not None and taken else []
        generation.journal = written = self._written(generation, names, self._open_bill(), question)
        record = self._record(generation, call)
        if question is not None:
            record.question = question.name
        naming = None
        if name is not None and not taken:
            naming = Naming(*name, record.created, record.expires_at, recent)
        written.enter(self.journal.begin(record, generation.events, written, naming))

    def write_on(self, generation: Generation, record: Record, output_tokens: int) -> None:
        """The same of one that was taken over: its first events are stored, and so are its names.

        :param output_tokens: of these events, which are all in somebody's ledger
        """
        booked = booked_now(record.bill, self.ledger, output_tokens)
        question = Name(record.tenant, record.question, b"") if record.question else None
        generation.journal = written = self._written(generation, [], self._open_bill(booked), question)
        written.enter(self.journal.resume(record, generation.events, written))

    def _written(
        self, generation: Generation, names: list[Name], bill: OpenBill | None, question: Name | None
    ) -> Written:
        if question is not None:
            names.append(question)
        return Written(generation, self._kept_for, names, self._name_again, self.now, bill, question)

    @property
    def ledger(self) -> str:
        """Of this process, as others know it; ``""``: they do not."""
        return self._bookings.books.ledger if self._bookings is not None else ""

    def _open_bill(self, booked: dict[str, int] | None = None) -> OpenBill | None:
        ledger = self.ledger
        if self._bookings is None or not ledger:
            return None
        return OpenBill(ledger, self._bookings.books.process, booked)

    def _record(self, generation: Generation, call: Call) -> Record:
        now = self.now()
        headers = call.headers
        repeated = [(name, headers[name]) for name in _REPEATED if name in headers]
        # As a moment, whoever said it: it is the same one wherever it is looked at.
        if call.deadline != math.inf:
            repeated.append((DEADLINE, b"%r" % (now + call.deadline - call.received)))
        return Record(
            id=generation.id,
            tenant=call.tenant.name,
            key_name=call.tenant.key_name,
            tier=call.tenant.tier,
            endpoint=call.endpoint.path,
            model=call.model,
            stream=call.stream,
            body=call.body,
            headers=tuple(repeated),
            created=now,
            background=call.background,
            owner=self.owner,
            expires_at=now + self._kept_for,
        )

    async def hand_over(
        self, generations: list[Generation], seconds: float, let_go: Callable[[Generation], None]
    ) -> int:
        """Let others go on with these; what has come is stored first.

        :param let_go: ends one here: nothing more may be shown to its readers, as nobody would store it
        :returns: how many others may go on with at once; those that are not stored go on here
        """
        mine = [one for one in generations if one.journal is not None and one.ending is None]
        if not mine or not await self.journal.flush(seconds):
            return 0
        mine = [one for one in mine if one.journal is not None and one.ending is None]
        bills: dict[str, Bill] = {}
        for generation in mine:
            if isinstance(generation.journal, Written) and generation.journal.bill is not None:
                bills[generation.id] = generation.journal.bill
            generation.journal = None
            let_go(generation)
        ids = [generation.id for generation in mine]
        return len(ids) if await self._quietly(self.store.release(self.owner, ids, bills)) else 0

    # ---- reading ----

    async def claim(self, name: Name, generation_id: str, old: str = "", *, patience: float = 0.0) -> Claim:
        """Say that a generation answers to a name.

        :param patience: seconds that the store may take, if that is more than :data:`CLAIM_BUDGET`
        :raises StoreUnavailable: the store does not answer in time
        """
        now = self.now()
        claiming = self.store.claim(*name, generation_id, now=now, until=now + self._kept_for, instead_of=old)
        return await _within(max(CLAIM_BUDGET, patience), claiming)

    def patience(self, longest: float, *, named: bool) -> float:
        """How long a call waits to learn whether its name is somebody else's, in seconds.

        A store that has not answered somebody lately is not waited for by everybody.

        :param longest: seconds until the answer is of no use
        :param named: whether its caller gave it the name
        """
        return min(KEY_PATIENCE, longest) if named and self._trouble_since is None else CLAIM_BUDGET

    def unheard(self, error: StoreUnavailable, *, named: bool) -> None:
        """A call is made though the store has not told in time whether its name is somebody else's."""
        self.unclaimed += 1
        if named:
            self._complain(error)

    async def take(self, name: Name, generation_id: str, instead_of: str = "") -> Claim:
        """The same, of a name that ends with its generation.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self.now()
        naming = Naming(*name, now, now + self._kept_for + LASTING, recent=0.0)  # later than any end's time
        return await _within(CLAIM_BUDGET, self.store.take(naming, generation_id, instead_of))

    async def release(self, name: Name, generation_id: str) -> None:
        """A generation does not answer to a name any more.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self.now()
        letting_go = self.store.claim(*name, generation_id, now=now, until=now, instead_of=generation_id)
        await _within(CLAIM_BUDGET, letting_go)

    @property
    def unnamed(self) -> int:
        """How many generations the store does not know by their names, as far as this process has heard."""
        return len(self._unnamed)

    def _name_again(self, generation_id: str, names: list[Name]) -> None:
        self._unnamed[generation_id] = names
        if len(self._unnamed) > _MAX_UNNAMED:
            del self._unnamed[next(iter(self._unnamed))]
        if self._naming is None or self._naming.done():
            self._naming = asyncio.get_running_loop().create_task(self._claim_again())

    async def _claim_again(self) -> None:
        """What a store lost, or did not hear of while it was away; a name that somebody else has by now stays his."""
        while self._unnamed:
            generation_id, names = next(iter(self._unnamed.items()))
            try:
                for name in list(names):
                    await self.claim(name, generation_id)
            except StoreUnavailable:
                await asyncio.sleep(10 * POLL)
            else:
                self._unnamed.pop(generation_id, None)

    async def claimed(self, claim: Claim, *, patience: float = 0.0) -> Record | None:
        """The generation that has a name.  It may have claimed it a moment before it is written down.

        :param patience: seconds for a store that is slow; one that is quick has told in :data:`CLAIM_BUDGET`
        :returns: None: it was never written, or is kept no more
        :raises StoreUnavailable: the store does not answer in time
        """
        until = self._clock.now() + max(CLAIM_BUDGET, patience)
        looks = 0  # what is slow for us is slow for who writes
        while True:
            record = await self.load(claim.generation)
            looks += 1
            if record is not None or looks * POLL >= CLAIM_BUDGET or self._clock.now() >= until:
                return record
            await asyncio.sleep(POLL)

    def is_recent(self, record: Record, seconds: float) -> bool:
        """Whether a generation runs, or has ended within the last seconds."""
        return record.ending is None or record.expires_at - self._kept_for > self.now() - seconds

    async def name_response(self, generation: Generation, response_id: str) -> None:
        """Let a response be found by the id that its upstream has given it."""
        name = Name(generation.tenant, "response " + response_id, b"")
        if isinstance(generation.journal, Written):
            generation.journal.names.append(name)
        await self._quietly(self.claim(name, generation.id))

    async def find(self, generation_id: str, tenant: str, response_id: str = "") -> Record | None:
        """A generation of this tenant, by its id or by that of its response.

        :raises Overloaded: the store does not answer in time
        """
        try:
            record = await self.load(generation_id) if generation_id else None
            if record is None and response_id:
                now = self.now()
                asking = self.store.claim(tenant, "response " + response_id, b"", "", now=now, until=now)
                claim: Claim = await _within(READ_BUDGET, asking)
                record = await self.load(claim.generation) if claim.generation else None
        except StoreUnavailable as error:
            self._troubled = self._clock.now()
            raise _unreadable() from error
        return record if record is not None and record.tenant == tenant else None

    async def was_there(self, generation_id: str, tenant: str) -> bool:
        """Whether this tenant had a generation of this id, which is gone by now.

        :raises Overloaded: the store does not answer in time
        """
        try:
            return await _within(READ_BUDGET, self.store.was_there(generation_id, tenant))
        except StoreUnavailable as error:
            raise _unreadable() from error

    @property
    def settling(self) -> float:
        """Seconds in which what the store does not know may be written anew by who has it."""
        lately = self._clock.now() - self._troubled < RECOVERY
        return SETTLING_AFTER_TROUBLE if lately else SETTLING

    async def load(self, generation_id: str) -> Record | None:
        """What the store knows of a generation.

        :raises StoreUnavailable: the store does not answer in time
        """
        return await _within(READ_BUDGET, self.store.load(generation_id))

    async def restore(self, record: Record, generation: Generation) -> None:
        """Fill a generation with what is stored; one that runs elsewhere is followed from there on.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self._clock.now()
        events = await self._events(record.id, record.events)
        if generation.producer is not None:  # this process has taken it over meanwhile
            return
        generation.append(events, now)
        generation.restored = True
        if record.ending is not None:
            end(generation, record.ending)
        else:
            generation.producer = _Elsewhere(self, generation)
            self._followed[generation] = len(events)
            self._wake.set()
            await self._quietly(self.attention.say([generation.id]))

    async def catch_up(self, generation: Generation) -> None:
        """Have at least as much of a generation that is followed as anybody has been shown until now.

        :raises StoreUnavailable: the store does not answer in time
        """
        until = self._clock.now() + READ_BUDGET
        while generation not in self._followed:  # it is being restored just now
            if generation.ending is not None:
                return
            if self._clock.now() >= until:
                raise StoreUnavailable(f"no answer within {READ_BUDGET:g} s")
            await asyncio.sleep(POLL)
        at = self._followed[generation]
        tails = await _within(READ_BUDGET, self.store.tail({generation.id: at}))
        tail = tails.get(generation.id)
        if tail is not None and self._followed.get(generation) == at:
            await self._grown(generation, at, tail)

    async def _events(self, generation_id: str, count: int) -> list[Event]:
        events: list[Event] = []
        while len(events) < count:
            piece = await _within(READ_BUDGET, self.store.events(generation_id, len(events), PIECE))
            if not piece:
                break
            events += piece
        return events

    async def delete(self, generation_id: str) -> None:
        """Remove it from the store.

        :raises Overloaded: the store does not answer in time, and may have it still
        """
        try:
            await _within(READ_BUDGET, self.store.delete(generation_id))
        except StoreUnavailable as error:
            self._complain(error)
            raise Overloaded("what is stored cannot be deleted now", retry_after=1.0) from error

    # ---- following what runs elsewhere ----

    def leave(self, generation: Generation) -> None:
        """Follow it no longer."""
        self._followed.pop(generation, None)
        self._vanished.pop(generation, None)

    async def _follow(self) -> None:
        attended = 0.0
        while True:
            if not self._followed:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(POLL)
            asked = dict(self._followed)  # whoever comes back meanwhile brings it further by :meth:`catch_up`
            try:
                tails = await self.store.tail({one.id: at for one, at in asked.items()})
                if self._clock.now() - attended > ATTENDED / 3:
                    attended = self._clock.now()
                    await self.attention.say([one.id for one in self._followed])
            except StoreUnavailable as error:
                self._complain(error)
                await asyncio.sleep(10 * POLL)
                continue
            except Exception:
                log.exception("defect while following in %r", self.store)
                await asyncio.sleep(10 * POLL)
                continue
            for generation, at in asked.items():
                tail = tails.get(generation.id)
                if tail is not None and self._followed.get(generation) == at:
                    await self._grown(generation, at, tail)

    async def _grown(self, generation: Generation, at: int, tail: Tail) -> None:
        if tail.events:
            self._followed[generation] = at + len(tail.events)
            try:
                generation.append(tail.events, self._clock.now())
            except UpstreamBroken as too_large:
                self.leave(generation)
                generation.fail(too_large)
                return
        if tail.state is State.RUNNING:
            self._vanished.pop(generation, None)
            return
        try:
            record = await self.store.load(generation.id)
        except StoreUnavailable:
            return  # the next look will tell
        if record is not None and record.ending is None:
            return
        if record is not None and record.events > len(generation.events):
            return  # it has grown since: the next look brings the rest
        if record is None:
            now = self._clock.now()
            if now - self._vanished.setdefault(generation, now) < self.settling:
                return  # its store has lost it, and its process may be writing it anew
        self.leave(generation)
        if record is None or record.ending is None:
            generation.fail(Gone("this answer is not kept any more"))
        else:
            end(generation, record.ending)

    async def cut(self, generation: Generation) -> None:
        """Store the end of what another process produces.

        :raises StoreUnavailable: the store does not answer in time
        """
        how = End(ending_of(generation), self.now() + self._kept_for)
        await _within(READ_BUDGET, self.store.cut(generation.id, how))

    async def promise(self, generation_id: str) -> None:
        """A caller was told that this goes on, whether anybody reads it or not; every process is to know."""
        now = self.now()
        claiming = self.store.claim(
            "", _promised(generation_id), b"", generation_id, now=now, until=now + PROMISED
        )
        await self._quietly(claiming)

    async def is_promised(self, generation_id: str) -> bool:
        """Whether a caller of any process was told so.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self.now()
        asking = self.store.claim("", _promised(generation_id), b"", "", now=now, until=now)
        claim: Claim = await _within(CLAIM_BUDGET, asking)
        return claim.generation == generation_id

    async def _heed_dismissals(self, runs: Owner) -> None:
        """Whose readers have left asks the store for each, and the lease does not wait for that: it may be thousands."""
        while True:
            try:
                await self._end_dismissed(runs)
            except Exception:
                log.exception("defect while asking %r who comes back", self.store)
            await asyncio.sleep(min(self._lease / 4, BEAT))

    async def _end_dismissed(self, runs: Owner) -> None:
        for generation in runs.deserted():
            written = generation.journal
            if not isinstance(written, Written) or written.entry.journal is not self.journal:
                continue
            left = await self.attention.is_dismissed(generation.id)
            if left and not await self.attention.is_paid(generation.id):
                runs.dismissed(generation)

    # ---- leases ----

    async def _tend(self, runs: Owner) -> None:
        """Stay alive in the store's eyes, and look after what the dead have left."""
        beat = min(self._lease / 4, BEAT)
        swept = -math.inf
        before: float | None = None
        while True:
            more = False  # whether there is more to take over than in one go
            try:
                now = await self._look_at_the_time()
                here = self._clock.now()
                # It was set forward, or the machine slept: the others are alive, and will say so by the new time.
                leap, before = 0.0 if before is None else self._ahead - before, self._ahead
                if leap > self._lease / 2:
                    self._leapt = here
                    log.warning(
                        "the clock of stored answers went forward by %.1f s; nobody is taken for dead by that",
                        leap,
                    )
                await self.store.renew(self.owner, now + self._lease)
                if self._losses != self.store.losses:
                    self._losses = self.store.losses
                    self.journal.verify()
                if self._half_taken:
                    await self.store.release(self.owner, list(self._half_taken))
                    self._half_taken.clear()
                # After trouble with the store those who live could not say so: they are given the time to.
                patient = self._clock.now() - self._troubled < max(self._lease, SETTLING_AFTER_TROUBLE)
                if not self.leaving and not patient and here - self._leapt >= self._lease:
                    found = await self.store.expired(now, TAKE_AT_ONCE)
                    for generation_id in found:
                        if not await self._take_over(generation_id, runs):
                            break
                    else:
                        more = len(found) == TAKE_AT_ONCE
                if self._bookings is not None:
                    await self._bookings.hear(now)
                if here - swept > 60.0:
                    swept = here
                    await self.store.expire(now)
                self._recovered()
            except StoreUnavailable as error:
                self._complain(error)
            except Exception:
                log.exception("defect while tending %r", self.store)
            await asyncio.sleep(NEXT_GO if more else beat)

    async def _begin_lease(self) -> None:
        await self.store.renew(self.owner, await self._look_at_the_time() + self._lease)

    async def _look_at_the_time(self) -> float:
        now = await self.store.time()
        self._ahead = now - self._clock.now()
        return now

    async def _take_over(self, generation_id: str, runs: Owner) -> bool:
        """Whether there may be room here for another one."""
        if self.leaving:  # since the store was asked: this may be what was just let go here
            return False
        # Until it runs: a store that fails meanwhile may have entered us as its owner, and would wait for us.
        self._half_taken[generation_id] = None
        record = await self.store.take_over(generation_id, self.owner, self.now())
        if record is not None:
            events = await self._events(generation_id, record.events)
            record.background = record.background or await self.is_promised(generation_id)
            if self.leaving:
                await self.store.release(self.owner, [generation_id])
        del self._half_taken[generation_id]
        if record is None or self.leaving:  # somebody was quicker, or will go on with it
            return True
        stored = record.events
        try:
            runs.go_on(record, events, self)
        except Overloaded:  # others may have room for it, and have until our next beat to take it
            self._half_taken[generation_id] = None
            await self.store.release(self.owner, [generation_id])
            del self._half_taken[generation_id]
            return False
        self.taken_over += 1
        log.warning(
            "taking over %s of a process that died or left, of which %d events are stored",
            generation_id,
            stored,
        )
        return True

    # ---- trouble ----

    async def _quietly(self, doing: Coroutine[Any, Any, Any]) -> bool:
        """Whether it worked; a store that does not is said once."""
        try:
            await doing
        except StoreUnavailable as error:
            self._complain(error)
            return False
        return True

    def _complain(self, error: StoreUnavailable) -> None:
        self._troubled = self._clock.now()
        if self._trouble_since is None:
            self._trouble_since = self._troubled
            log.error(
                "stored answers cannot be read now (%s): calls are answered, but who comes back for an answer of another "
                "process is told to try again, and nobody takes over what a process leaves that dies",
                trouble_at(self.store.place, str(error)),
            )

    def _recovered(self) -> None:
        now = self._clock.now()
        if self._trouble_since is not None and now - self._troubled >= QUIET:
            log.warning(
                "stored answers can be read again: %s was in trouble for %.0f s",
                *(self.store.place, self._troubled - self._trouble_since),
            )
            self._trouble_since = None


class _Elsewhere:
    """Stands for the producer of a generation that is produced in another process."""

    __slots__ = ("_generation", "_keeper")

    def __init__(self, keeper: Keeper, generation: Generation) -> None:
        self._keeper = keeper
        self._generation = generation

    @property
    def complete(self) -> bool:
        return False  # its own process knows

    def abandon(self) -> None:
        """Nobody reads it here any more; whether it goes on is its own process's affair."""
        self._keeper.leave(self._generation)
        self._generation.fail(Gone("nobody reads this here any more"))

    def drained(self) -> None:
        pass


def is_followed(generation: Generation) -> bool:
    """Whether a running generation is produced by another process, and only read here."""
    return generation.producer is None or isinstance(generation.producer, _Elsewhere)


def _unreadable() -> Overloaded:
    return Overloaded("answers that are stored cannot be read now", retry_after=1.0)


def _promised(generation_id: str) -> str:
    return "promised " + generation_id


async def _within(seconds: float, doing: Coroutine[Any, Any, _T]) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await doing
    except TimeoutError:
        raise StoreUnavailable(f"no answer within {seconds:g} s") from None
