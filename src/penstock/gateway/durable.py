"""Generations that outlive this process, as the pipeline sees them.

What is written down where is each model's ``durability``; for each kind that is configured there is a
:class:`~penstock.generation.keeper.Keeper`.  A call looks there for its answer only if it may be the repetition
of one that another process knows; nothing else waits for a store.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from penstock.errors import Cancelled, Gone, HandedOver, NotFound, Overloaded
from penstock.flow.deadline import deadline_of, told_of
from penstock.gateway import questions
from penstock.gateway.inheritance import Inheritance
from penstock.gateway.stages import attach, join
from penstock.gateway.stages.call import Production
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Router
from penstock.gateway.stages.unfinished import TakenUp
from penstock.generation import reading
from penstock.generation.attention import ATTENDED
from penstock.generation.following import is_followed
from penstock.generation.keeper import DEADLINE, Keeper
from penstock.generation.log import Generation, Journal, State
from penstock.generation.names import CLAIM_BUDGET
from penstock.generation.registry import Registry
from penstock.generation.store import Record, StoreUnavailable
from penstock.generation.written import Written
from penstock.messages import BY_PATH, Call, Endpoint, Event, Tenant
from penstock.net.clock import Clock
from penstock.wire import request

_LOOK_AGAIN = 0.1  # seconds between two looks for what may be written down just now
# Whose answers are said piece by piece, and of which a half is of use to who goes on with it.
_IN_PIECES = frozenset({Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES})


class Producing(Protocol):
    """What produces generations here."""

    registry: Registry
    recorder: Recorder
    clock: Clock

    on_background_end: Callable[[Call, Generation], None] | None

    @property
    def router(self) -> Router: ...

    def begin(
        self,
        call: Call,
        generation: Generation,
        *,
        name: join.Name | None = None,
        taken_up: TakenUp | None = None,
    ) -> None:
        """Produce a generation from where it is, which those read who ask the question of this name."""

    def soon(self, doing: Coroutine[Any, Any, None]) -> None:
        """Begin what nobody waits for."""


class Durable:
    """The stores of one worker, and what is done with them for its calls."""

    def __init__(self, producing: Producing) -> None:
        self.keepers: dict[str, Keeper] = {}  # by durability
        self._producing = producing
        self.questions = questions.Questions(producing, self)
        # Of which the store has not heard yet that they go on.
        self._promising: dict[Generation, asyncio.Event] = {}
        self._inheritance = Inheritance(producing)

    def __repr__(self) -> str:
        return f"<Durable {self.keepers}>"

    def keeper_of(self, model: str) -> Keeper | None:
        """Where the answers of a model are written down, if they are to outlive the process."""
        return self.keepers.get(self._producing.router.durability(model))

    # ---- for new calls ----

    def may_know(self, call: Call) -> bool:
        """Whether this call may be the repetition of one that is stored."""
        return (
            attach.may_be_elsewhere(call)
            and not call.endpoint.opaque
            and self.keeper_of(call.model) is not None
        )

    async def find(self, call: Call) -> Generation | None:
        """The generation that a call asks for once more; None: it is a new call, and takes the name.

        :raises KeyReused: the key came with another body before
        :raises Overloaded: too much is in flight here
        """
        keeper = self.keeper_of(call.model)
        if keeper is None:
            return None
        longest = deadline_of(call) - self._producing.clock.now()
        record = await attach.find_elsewhere(call, keeper.names, longest)
        return None if record is None else await self.restored(record, keeper)

    def write(self, generation: Generation, call: Call, asked: Call, name: join.Name | None) -> None:
        """Write a new generation down from now on, if its model's answers are, and anybody can ask for it again.

        :param asked: the call as its caller wrote it, by which its repetitions are known
        :param name: of the question that it answers for all who ask it
        """
        keeper = self.keeper_of(call.model)
        if keeper is None or call.endpoint.opaque or not (name is not None or attach.can_come_back(call)):
            return
        question = None if name is None else questions.stored_name(name, call.tenant.name)
        if attach.has_name(call):
            # Of one that is repeated the name was taken when it was looked for.
            known_by, taken = attach.stored_name(asked), not attach.is_first(call)
            keeper.write(generation, call, known_by, taken=taken, recent=attach.RECENT, question=question)
        else:
            keeper.write(generation, call, question=question)

    def joins_machines(self, call: Call) -> bool:
        """Whether a call that may be joined is joined by those of other machines, and they by it."""
        keeper = self.keeper_of(call.model)
        return (
            keeper is not None
            and keeper is self.keepers.get("shared")
            and self.questions.may_run_elsewhere(call)
        )

    def joined(self, call: Call, generation: Generation) -> None:
        """A call that has a name reads what another one has asked for: every process is to find that by it."""
        if generation.journal is not None or generation.restored:
            self._producing.soon(self.questions.remember(call, generation))

    def in_pieces(self, call: Call, generation: Generation) -> Call:
        """The call to make for a plain one that will be asked once more if this process dies, as a line of a batch is.

        It is made for a stream, if it is to outlive the process: then what has come is stored, and gone on with, where
        half a plain answer would have to be bought again.  Who reads it is given it whole all the same.
        """
        if call.stream or call.endpoint not in _IN_PIECES or self.keeper_of(call.model) is None:
            return call
        generation.stream = True
        # As its caller names it: who goes on with it reads there which version he wants.
        fields, body = request.streamed(call.fields, request.read(call.endpoint, call.body).model)
        return msgspec.structs.replace(call, stream=True, fields=fields, body=body)

    def name_response(self, generation: Generation, response_id: str) -> None:
        """Let a response be found by the id that its upstream has given it."""
        keeper = self.keeper_of(generation.model)
        if keeper is not None and generation.journal is not None:
            self._producing.soon(keeper.names.name_response(generation, response_id))

    # ---- for what is there already ----

    async def known(self, generation_id: str, response_id: str, tenant: Tenant, shown: int = 0) -> Generation:
        """A generation of this tenant that is stored, by its id or its response's.

        What is not there, or not as far as its reader was shown it, may be written down anew just now, because its
        store was in trouble.  So it is looked for again for a while before that is said.

        :param shown: how many events its reader says to have
        :raises NotFound: this tenant has none of this id
        :raises Gone: it had one
        :raises Overloaded: a store does not answer in time
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            generation = await self._stored(generation_id, response_id, tenant)
            if generation is not None and (generation.readable >= shown or not self.is_elsewhere(generation)):
                return generation
            settling = max((keeper.trouble.settling for keeper in self.keepers.values()), default=0.0)
            if loop.time() - began >= settling:
                if generation is None:
                    for keeper in list(self.keepers.values()) if generation_id else ():
                        if await keeper.was_there(generation_id, tenant.name):
                            raise gone()
                    raise missing(self._producing.registry, generation_id, response_id, tenant)
                return generation
            await asyncio.sleep(_LOOK_AGAIN)

    async def _stored(self, generation_id: str, response_id: str, tenant: Tenant) -> Generation | None:
        for keeper in list(self.keepers.values()):
            record = await keeper.find(generation_id, tenant.name, response_id)
            if record is not None:
                return await self.restored(record, keeper)
        return None

    @staticmethod
    def may_be_deleted(generation: Generation) -> bool:
        """Whether it is a response that another process may have deleted from the store, which has had all of it."""
        return (
            generation.endpoint is Endpoint.RESPONSES
            and generation.ending is not None
            and generation.stored  # else the store does not have it yet
        )

    async def has(self, generation: Generation) -> bool:
        """Whether the store still has what it had; where it does not answer, what is here counts."""
        keeper = self.keeper_of(generation.model)
        try:
            return keeper is None or await keeper.load(generation.id) is not None
        except StoreUnavailable:
            return True

    def shown(self, generation: Generation) -> None:
        """Somebody has looked how far it is: follow it for as long as he may look again, but no longer.

        Else it would be said to be read here, and never be given up where it is produced.
        """
        if not generation.readers and self.is_elsewhere(generation):
            generation.grace = max(generation.grace, ATTENDED)
            self._producing.registry.deserted(generation)

    @staticmethod
    def is_elsewhere(generation: Generation) -> bool:
        """Whether another process produces it: its readers there may have more of it than is known here."""
        return generation.ending is None and is_followed(generation)

    def cancel(self, generation: Generation, *, unread: bool) -> None:
        """End what another process produces: it finds out when it stores the next event, which is refused.

        In the store it has ended then, so that every process tells of it as of one that was cancelled there.

        :param unread: only if nobody reads it: what its readers there are, only that process knows, and is told
        """
        if unread:
            self._producing.soon(self._dismiss(generation))
            return
        keeper = self.keeper_of(generation.model)
        generation.fail(Cancelled("the call was cancelled"))
        if keeper is not None:
            keeper.following.leave(generation)
            self._producing.soon(self._cut(generation, keeper))

    async def wait_begun(self, generation: Generation) -> None:
        """Wait until another process would go on with it, if it is to outlive this one; no longer than for any store."""
        promising, written = self._promising.get(generation), generation.journal
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_BUDGET):
                if promising is not None:
                    await promising.wait()
                if isinstance(written, Written):
                    await written.entry.wait_begun()

    def promise(self, generation: Generation) -> None:
        """It was promised to a caller: also who takes it over, or produces it elsewhere, is to go on with it."""
        keeper = self.keeper_of(generation.model)
        if keeper is not None and (generation.journal is not None or self.is_elsewhere(generation)):
            told = self._promising.setdefault(generation, asyncio.Event())
            self._producing.soon(self._promise(generation, keeper, told))

    async def _promise(self, generation: Generation, keeper: Keeper, told: asyncio.Event) -> None:
        try:
            await keeper.trouble.told_of(keeper.attention.promise(generation.id))
        finally:
            self._promising.pop(generation, None)
            told.set()

    def tell_end(self, call: Call, generation: Generation, tell: Callable[[Call, Generation], None]) -> None:
        """Tell how it has ended, if it was promised to anybody: once that is stored, for another process may have ended it.

        :param tell: is given both
        """
        self._producing.soon(self._tell_end(call, generation, tell))

    async def _tell_end(
        self, call: Call, generation: Generation, tell: Callable[[Call, Generation], None]
    ) -> None:
        await _Ending(generation).seen
        keeper = self.keeper_of(call.model)
        if (
            isinstance(generation.error, Gone)
            and keeper is not None
            and await self._was_there(generation, keeper)
        ):
            # Who has deleted it tells of that; or another process has told of its end, which is not kept any more.
            return
        if generation.background or (keeper is not None and await self._is_promised(generation, keeper)):
            tell(call, generation)

    async def _dismiss(self, generation: Generation) -> None:
        await asyncio.sleep(0)  # who has asked for this is answered first
        keeper = self.keeper_of(generation.model)
        if keeper is not None:
            with contextlib.suppress(StoreUnavailable):
                await keeper.attention.dismiss(generation.id)
        if not generation.readers:
            generation.abandon()  # here; who follows it says in the store that it is read

    def deserted(self) -> list[Generation]:
        return self._producing.registry.waiting()

    def dismissed(self, generation: Generation) -> None:
        self._producing.registry.wait_no_longer(generation)

    async def _cut(self, generation: Generation, keeper: Keeper) -> None:
        mine = await self._inheritance.insist(
            lambda: keeper.cut(generation), f"that {generation.id} was cancelled"
        )
        if mine is False:
            return  # it had ended, or somebody else cancels it, too: who was quicker enters what it cost
        with contextlib.suppress(StoreUnavailable):
            record = await keeper.load(generation.id)
            if record is None:
                return
            failure = record.ending.failure if record.ending is not None else None
            if failure is None or failure.code != Cancelled.code:
                return  # its producer was quicker, and has entered what it cost
            events = await reading.events(keeper.store, record.id, record.events)
            call = _call_of(record, self._producing.clock.now())
            await self._inheritance.ended(call, generation, record, events, keeper)
            await self._tell_ended(call, generation, keeper)

    async def _tell_ended(self, call: Call, generation: Generation, keeper: Keeper) -> None:
        """Tell of the end that was put to what another process produces, if it was promised to anybody."""
        tell = self._producing.on_background_end
        if tell is not None:
            generation.background = (
                call.background or generation.background or await self._is_promised(generation, keeper)
            )
            if generation.background:
                tell(call, generation)

    async def delete(self, generation: Generation, *, elsewhere: bool) -> None:
        """Remove it from the stores.

        :param elsewhere: whether another process had it to produce
        :raises Overloaded: one of them does not answer in time, and may have it still
        """
        record, keeper = None, self.keeper_of(generation.model)
        if elsewhere and keeper is not None:
            with contextlib.suppress(StoreUnavailable):
                record = await keeper.load(generation.id)
                if record is not None:
                    events = await reading.events(keeper.store, record.id, record.events)
        for each in self.keepers.values():
            await each.delete(generation.id)
        if record is not None and record.ending is None and keeper is not None:
            call = _call_of(record, self._producing.clock.now())
            with contextlib.suppress(StoreUnavailable):
                await self._inheritance.ended(call, generation, record, events, keeper)
                await self._tell_ended(call, generation, keeper)

    async def restored(self, record: Record, keeper: Keeper) -> Generation:
        """A log that is in the store, as one of this process: whole, or followed while another produces it.

        :raises Overloaded: too much is in flight here, or what is here cannot be brought up to date
        """
        while (present := self._producing.registry.get(record.id)) is not None:
            if self.is_elsewhere(present):
                try:
                    await keeper.following.catch_up(present)
                except StoreUnavailable as error:
                    raise Overloaded(f"this answer cannot be read now: {error}", retry_after=1.0) from error
            if self._producing.registry.get(record.id) is present:
                return present  # else its last reader here left just now, and it was let go
        generation = self._create(record, _call_of(record, self._producing.clock.now()), keeper)
        if generation.endpoint is Endpoint.RESPONSES:
            # A conversation may go on from it: what has a name keeps its request.
            self._producing.registry.bind(generation, ("restored", generation.id))
        try:
            await keeper.following.restore(record, generation)
        except StoreUnavailable as error:
            self._unread(generation, str(error))
        except asyncio.CancelledError:  # who asked for it has waited for long enough
            keeper.following.leave(generation)
            self._unread(generation, "it takes too long")
            raise
        return generation

    def _unread(self, generation: Generation, why: str) -> None:
        self._producing.registry.delete(generation)  # who asks once more looks once more
        generation.fail(Overloaded(f"this answer cannot be read now: {why}", retry_after=1.0))

    def _create(self, record: Record, call: Call, keeper: Keeper) -> Generation:
        generation = self._producing.registry.create(call)
        generation.started = call.received - (keeper.now() - record.created)
        return generation

    # ---- when processes go ----

    def go_on(self, record: Record, events: list[Event], keeper: Keeper) -> None:
        """Produce the rest of what a process that is no more has left unfinished."""
        registry = self._producing.registry
        call = _call_of(record, self._producing.clock.now())
        if DEADLINE in call.headers:
            call.deadline = told_of(call, {}, keeper.now)
        router = self._producing.router
        if events:
            call.version = router.version_of(record.model, record.upstream, record.upstream_model)
        elif router.has_versions:
            _, call.version = router.wanted(request.read(call.endpoint, call.body).model, call.headers)
        generation = registry.get(record.id)
        if generation is not None and generation.ending is not None:  # it was taken from here, and comes back
            registry.delete(generation)
            generation = None
        if generation is not None:  # followed by a caller who has come here already
            keeper.following.leave(generation)
        else:
            generation = self._create(record, call, keeper)
        generation.background = record.background
        generation.append(events[len(generation.events) :], call.received)
        if record.upstream:
            generation.served_by = (record.upstream, record.upstream_model)
            generation.attempts = 1
        inheritance = self._inheritance
        taken_up = inheritance.taken_up(call, generation, record, keeper)
        died, output_tokens = None, 0
        if taken_up is None:
            died, output_tokens = inheritance.died(call, record, events, keeper)
        generation.grace = attach.COMES_BACK
        keeper.write_on(generation, record, output_tokens, read_on=taken_up is not None)
        if died is not None:
            generation.cost += died.cost
            inheritance.enter_confirmed(died, generation, record, keeper)
        self._producing.begin(call, generation, name=questions.name_of(record), taken_up=taken_up)
        if not generation.readers and generation.ending is None:
            registry.deserted(generation)

    def leave(self) -> None:
        """Take nothing over any more: this process is going away."""
        for keeper in self.keepers.values():
            keeper.leaving = True

    def inherit(self, record: Record, events: list[Event], keeper: Keeper) -> None:
        """Enter what a process has left that is no more, of an answer that was ended here."""
        self._inheritance.inherit(_call_of(record, self._producing.clock.now()), record, events, keeper)

    def close(self) -> None:
        """Wait no longer for a store that is away."""
        self._inheritance.close()

    async def hand_over(self, running: list[Generation], seconds: float) -> int:
        """Let other processes go on with what runs here and is written down.

        :returns: how many generations were let go
        """
        journals = {generation: generation.journal for generation in running}

        def let_go(generation: Generation) -> None:
            _let_go(generation, journals[generation])

        return sum([await keeper.hand_over(running, seconds, let_go) for keeper in self.keepers.values()])

    def give_up(self, generation: Generation) -> None:
        """Nobody here waits for a generation any more; but perhaps in another process, which reads it.

        Who could not come back is not looked for there, unless he may have joined what he asked as well.
        """
        keeper = self.keeper_of(generation.model)
        may_be_read = generation.grace or questions.question_of(generation) is not None
        if keeper is None or generation.journal is None or not may_be_read:
            generation.abandon()
        else:
            self._producing.soon(self._give_up_unread(generation, keeper))

    async def _give_up_unread(self, generation: Generation, keeper: Keeper) -> None:
        await self.questions.let_go(generation, keeper)
        attended = await keeper.attention.is_paid(generation.id)
        promised = not attended and await self._is_promised(generation, keeper)
        if promised:
            generation.background, generation.grace = True, math.inf
        if not (attended or promised or generation.is_wanted):
            generation.abandon()
        elif generation.ending is None:
            await self.questions.keep(generation, keeper)
            if not generation.readers and generation.ending is None:
                generation.grace = max(generation.grace, ATTENDED)
                self._producing.registry.deserted(generation)

    @staticmethod
    async def _was_there(generation: Generation, keeper: Keeper) -> bool:
        try:
            return await keeper.was_there(generation.id, generation.tenant)
        except Overloaded:
            return True

    @staticmethod
    async def _is_promised(generation: Generation, keeper: Keeper) -> bool:
        with contextlib.suppress(StoreUnavailable):
            return await keeper.attention.is_promised(generation.id)
        return False


class _Ending:
    """Reads a log for its end alone, which may be seen once it is stored."""

    def __init__(self, generation: Generation) -> None:
        self.seen = asyncio.get_running_loop().create_future()
        self._generation = generation
        generation.join(self)

    @property
    def read_bytes(self) -> int:
        return self._generation.size  # it holds nobody up

    def advance(self) -> None:
        if self._generation.state is not State.RUNNING and not self.seen.done():
            self.seen.set_result(None)
            self._generation.leave(self)


def _let_go(generation: Generation, journal: Journal | None) -> None:
    production = generation.producer
    bill = journal.bill if isinstance(journal, Written) else None
    generation.fail(HandedOver("this gateway is going away; ask for the rest", retry_after=1.0))
    if isinstance(production, Production):
        production.pass_on(kept=bill is not None and bill.kept)
    elif production is not None:
        production.abandon()


def gone() -> Gone:
    """The error of what is known to have been there."""
    return Gone("this answer is not kept any more")


def missing(
    registry: Registry, generation_id: str, response_id: str, tenant: Tenant, *, alone: bool = True
) -> NotFound | Gone:
    """The error of what cannot be found.

    :param alone: whether no other process may have it that cannot be asked
    """
    if generation_id and registry.was_there(generation_id, tenant.name):
        return gone()
    message = f"there is no {'response' if response_id else 'generation'} of this id here"
    if not alone:
        message += "; another worker may have it, and tells of it only where generations.durability is disk or shared"
    return NotFound(message)


def _call_of(record: Record, now: float) -> Call:
    """The call that a stored generation answers, made again."""
    endpoint = BY_PATH[record.endpoint]
    opening = request.read(endpoint, record.body)
    return Call(
        id=record.id,
        endpoint=endpoint,
        model=record.model,
        stream=record.stream,
        fields=opening.fields,
        body=record.body,
        headers=dict(record.headers),
        received=now,
        tenant=Tenant(record.tenant, record.key_name, record.tier),
        max_output_tokens=opening.max_output_tokens,
        include_usage=opening.include_usage,
        running_usage=opening.running_usage,
        background=record.background,
        deferred=record.deferred,
    )
