"""Generations that outlive their process: what this process does with one store.

It **writes** its own generations down as they grow (``generation.journal``) and finds them again by their **names**
(``generation.names``), **follows** those that another process produces (``generation.following``), tells and hears for
whom they go on (``generation.attention``), keeps its **lease** (``generation.lease``), and **takes over** what somebody
who has died left unfinished.

When the store does not answer, calls go on without it: nothing here is awaited on the way of a new call but
the claim of an idempotency key, and that has a budget.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Protocol

from penstock.errors import Overloaded
from penstock.generation import reading
from penstock.generation.attention import Attention
from penstock.generation.bill import PATIENCE, Bookings, Books, OpenBill, booked_now
from penstock.generation.following import Following
from penstock.generation.journal import Journal
from penstock.generation.lease import Lease
from penstock.generation.log import Generation
from penstock.generation.names import Names
from penstock.generation.store import Bill, End, Naming, Record, Store, StoreUnavailable
from penstock.generation.trouble import Trouble
from penstock.generation.written import Name, Written, ending_of
from penstock.messages import Call, Event
from penstock.net.clock import Clock

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

log = logging.getLogger("penstock.gateway")


class Owner(Protocol):
    """Who runs generations in this process."""

    def go_on(self, record: Record, events: list[Event], keeper: Keeper) -> None:
        """A generation was taken over: produce the rest of it.

        :raises Overloaded: there is no room for it here, and nothing was begun
        """

    def inherit(self, record: Record, events: list[Event], keeper: Keeper) -> None:
        """What was ended here was produced by a process that is no more: see to what that has left."""

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
        self.trouble = Trouble(store, clock)
        self.lease = Lease(store, clock, lease)
        self.names = Names(store, self.now, clock, self.trouble, kept_for)
        self.attention = Attention(store, self.now)
        self.following = Following(store, clock, self.trouble, self.attention)
        self._clock = clock
        self._kept_for = kept_for
        self.taken_over = 0  # generations, since the start
        self.leaving = False  # this process is going away: others are to take over
        self._losses = 0  # of the store, as far as we have looked after them
        # Generations that may be ours in the store, and do not run here.
        self._half_taken: dict[str, None] = {}
        # What was ended here and is another's, with its events; and until when that one was believed to live then.
        self._ended: dict[str, tuple[Record, list[Event], float]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._bookings: Bookings | None = None  # None: no ledger of this process is known to others

    def __repr__(self) -> str:
        return f"<Keeper {self.journal}, following {len(self.following)}>"

    def now(self) -> float:
        """Unix time as the store has it, which need not be what this machine takes it for."""
        return self.lease.now()

    async def start(self, runs: Owner, books: Books | None = None) -> None:
        """Open the store, and begin to tend it; one that is not there is tried until it is.

        :param books: the ledger of this process
        """
        if books is not None:
            self._bookings = Bookings(self.store, books)
            await books.open(PATIENCE)
        await self.trouble.told_of(self.store.start())
        self.journal.start()
        await self.trouble.told_of(self.lease.begin())
        loop = asyncio.get_running_loop()
        doing = self._tend(runs), self._heed_dismissals(runs), self.following.run()
        self._tasks = [loop.create_task(each) for each in doing]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.names.close()
        await self.journal.close()
        await self.trouble.told_of(self.store.close())

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

    def write_on(
        self, generation: Generation, record: Record, output_tokens: int, *, read_on: bool = False
    ) -> None:
        """The same of one that was taken over: its first events are stored, and so are its names.

        :param output_tokens: of these events, which are all in somebody's ledger
        :param read_on: its upstream's run is about to be read on; until that has begun, its bill is what it was
        """
        booked = booked_now(record.bill, self.ledger, output_tokens)
        question = Name(record.tenant, record.question, b"") if record.question else None
        generation.journal = written = self._written(
            generation, [], self._open_bill(booked, record.bill if read_on else None), question
        )
        written.enter(self.journal.resume(record, generation.events, written))

    def _written(
        self, generation: Generation, names: list[Name], bill: OpenBill | None, question: Name | None
    ) -> Written:
        if question is not None:
            names.append(question)
        return Written(generation, self._kept_for, names, self.names.claim_again, self.now, bill, question)

    @property
    def ledger(self) -> str:
        """Of this process, as others know it; ``""``: they do not."""
        return self._bookings.books.ledger if self._bookings is not None else ""

    def _open_bill(
        self, booked: dict[str, int] | None = None, inherited: Bill | None = None
    ) -> OpenBill | None:
        ledger = self.ledger
        if self._bookings is None or not ledger:
            return None
        return OpenBill(ledger, self._bookings.books.process, booked, inherited)

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
            deferred=call.deferred and not call.promised,
            owner=self.lease.owner,
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
        return len(ids) if await self.trouble.told_of(self.store.release(self.lease.owner, ids, bills)) else 0

    async def cut(self, generation: Generation) -> bool:
        """Store the end of what another process produces.

        :returns: whether it ran until now
        :raises StoreUnavailable: the store does not answer in time
        """
        how = End(ending_of(generation), self.now() + self._kept_for)
        return await reading.in_time(self.store.cut(generation.id, how))

    async def bequeath(self, record: Record, events: list[Event]) -> None:
        """It was ended here in the store, and is another's: that one hears of it, and if it is dead we are to inherit.

        :raises StoreUnavailable: the store does not answer in time
        """
        if record.owner == self.lease.owner:
            return
        self._ended[record.id] = record, events, await reading.in_time(self.store.lease(record.owner))
        await reading.in_time(self.attention.tell_ended(record.owner))

    # ---- reading ----

    async def find(self, generation_id: str, tenant: str, response_id: str = "") -> Record | None:
        """A generation of this tenant, by its id or by that of its response.

        :raises Overloaded: the store does not answer in time
        """
        try:
            record = await self.load(generation_id) if generation_id else None
            if record is None and response_id:
                named = await self.names.find_response(tenant, response_id)
                record = await self.load(named) if named else None
        except StoreUnavailable as error:
            self.trouble.note()
            raise _unreadable() from error
        return record if record is not None and record.tenant == tenant else None

    async def was_there(self, generation_id: str, tenant: str) -> bool:
        """Whether this tenant had a generation of this id, which is gone by now.

        :raises Overloaded: the store does not answer in time
        """
        try:
            return await reading.in_time(self.store.was_there(generation_id, tenant))
        except StoreUnavailable as error:
            raise _unreadable() from error

    async def load(self, generation_id: str) -> Record | None:
        """What the store knows of a generation.

        :raises StoreUnavailable: the store does not answer in time
        """
        return await reading.load(self.store, generation_id)

    async def delete(self, generation_id: str) -> None:
        """Remove it from the store.

        :raises Overloaded: the store does not answer in time, and may have it still
        """
        try:
            await reading.in_time(self.store.delete(generation_id))
        except StoreUnavailable as error:
            self.trouble.tell(error)
            raise Overloaded("what is stored cannot be deleted now", retry_after=1.0) from error

    # ---- whom it goes on for ----

    async def _heed_dismissals(self, runs: Owner) -> None:
        """Whose readers have left asks the store for each, and the lease does not wait for that: it may be thousands."""
        while True:
            try:
                await self._end_dismissed(runs)
            except Exception:
                log.exception("defect while asking %r who comes back", self.store)
            await asyncio.sleep(self.lease.beat)

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
        swept = -math.inf
        while True:
            more = False  # whether there is more to take over than in one go
            try:
                now = await self.lease.renew()
                if self._losses != self.store.losses:
                    self._losses = self.store.losses
                    self.journal.verify()
                if self._half_taken:
                    await self.store.release(self.lease.owner, list(self._half_taken))
                    self._half_taken.clear()
                if await self.attention.is_any_ended(self.lease.owner):
                    self.journal.ask_of_all()
                if self._ended and self._others_could_speak():
                    await self._inherit(now, runs)
                if not self.leaving and self._others_could_speak():
                    more = await self._take_over_expired(now, runs)
                if self._bookings is not None:
                    await self._bookings.hear(now)
                here = self._clock.now()
                if here - swept > 60.0:
                    swept = here
                    await self.store.expire(now)
                self.trouble.none_now()
            except StoreUnavailable as error:
                self.trouble.tell(error)
            except Exception:
                log.exception("defect while tending %r", self.store)
            await asyncio.sleep(NEXT_GO if more else self.lease.beat)

    async def _inherit(self, now: float, runs: Owner) -> None:
        """Of what was ended here, that whose producers have died since, or had before."""
        for generation_id, (record, events, before) in list(self._ended.items()):
            until = await self.store.lease(record.owner)
            if until > now and until <= before:
                continue  # it has said nothing since
            del self._ended[generation_id]
            if until <= now:
                runs.inherit(record, events, self)

    def _others_could_speak(self) -> bool:
        """Whether those who live have had the time to say so: there was no trouble, nor was the clock set forward."""
        return self.lease.is_of_steady_time and not self.trouble.excuses(self.lease.seconds)

    async def _take_over_expired(self, now: float, runs: Owner) -> bool:
        """Whether there is more than in one go."""
        found = await self.store.expired(now, TAKE_AT_ONCE)
        for generation_id in found:
            if not await self._take_over(generation_id, runs):
                return False
        return len(found) == TAKE_AT_ONCE

    async def _take_over(self, generation_id: str, runs: Owner) -> bool:
        """Whether there may be room here for another one."""
        if self.leaving:  # since the store was asked: this may be what was just let go here
            return False
        # Until it runs: a store that fails meanwhile may have entered us as its owner, and would wait for us.
        self._half_taken[generation_id] = None
        record = await self.store.take_over(generation_id, self.lease.owner, self.now())
        if record is not None:
            events = await reading.events(self.store, generation_id, record.events)
            record.background = record.background or await self.attention.is_promised(generation_id)
            if self.leaving:
                await self.store.release(self.lease.owner, [generation_id])
        del self._half_taken[generation_id]
        if record is None or self.leaving:  # somebody was quicker, or will go on with it
            return True
        stored = record.events
        try:
            runs.go_on(record, events, self)
        except Overloaded:  # others may have room for it, and have until our next beat to take it
            self._half_taken[generation_id] = None
            await self.store.release(self.lease.owner, [generation_id])
            del self._half_taken[generation_id]
            return False
        self.taken_over += 1
        log.warning(
            "taking over %s of a process that died or left, of which %d events are stored",
            generation_id,
            stored,
        )
        return True


def _unreadable() -> Overloaded:
    return Overloaded("answers that are stored cannot be read now", retry_after=1.0)
