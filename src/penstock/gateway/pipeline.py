"""The life of a request, in order.

::

    bytes → listener → opening: authenticate → decode → Call
          → admit → attach → lookup → join → read → bytes          answer(): one per request
                                      │        ↑
                                      ↓     Generation
                         route → queue → call(upstream) → append    produce(): one per generation

:meth:`Pipeline.answer` and :meth:`Pipeline.produce` are the whole order; every stage is a file in
``gateway.stages``.  What ``answer`` does belongs to a connection, what ``produce`` does belongs to the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from penstock.errors import (
    Cancelled,
    InternalError,
    LeaseWanted,
    PenstockError,
    PressureError,
    UpstreamError,
    untraced,
)
from penstock.flow.deadline import deadline_of
from penstock.gateway.durable import Durable
from penstock.gateway.promises import Promises
from penstock.gateway.readings import Readings
from penstock.gateway.renewals import Renewals
from penstock.gateway.repeats import Repeats
from penstock.gateway.snapshot import Snapshot
from penstock.gateway.stages import attach, converse, join, recall
from penstock.gateway.stages.admit import Admission, settle
from penstock.gateway.stages.call import Production
from penstock.gateway.stages.decode import decode, heed_left_out, tidy
from penstock.gateway.stages.degrade import Degradation
from penstock.gateway.stages.failure import Abandoned
from penstock.gateway.stages.lookup import FRESH, SIMILAR, STALE, Found, Lookup, Question
from penstock.gateway.stages.queue import by_health
from penstock.gateway.stages.read import CLIENT_GONE, refuse
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Router
from penstock.gateway.stages.unfinished import TakenUp
from penstock.generation.conversations import Conversations
from penstock.generation.log import Generation, State
from penstock.generation.registry import Registry
from penstock.messages import Call, Endpoint, Event, Reduction, Tenant
from penstock.net import tasks
from penstock.net.clock import Clock
from penstock.net.exchange import BATCH, Exchange
from penstock.wire import responses

log = logging.getLogger("penstock.gateway")

_RESPONSES, _INPUT_TOKENS = Endpoint.RESPONSES, Endpoint.INPUT_TOKENS
_CONVERSES = frozenset({_RESPONSES, _INPUT_TOKENS, Endpoint.COMPACT})


class Pipeline:
    """The order of the stages, and what is under way in them."""

    def __init__(
        self,
        snapshot: Snapshot,
        registry: Registry,
        recorder: Recorder,
        clock: Clock,
        conversations: Conversations,
    ) -> None:
        self.snapshot = snapshot
        self.registry = registry
        self.recorder = recorder
        self.clock = clock
        self.conversations = conversations
        self.admission = Admission()
        self.lookup: Lookup | None = None  # None: no answer of any model is kept
        self.durable: Durable | None = None  # None: no answer outlives this process
        self.repeats = Repeats(self)
        self.renewals = Renewals(self)
        self.promises = Promises(self)
        self.recalls = False  # whether a response was made here that its upstream could not go on from
        self.waiting: set[asyncio.Task[None]] = set()  # for lower tiers of the cache, or stored generations
        self.productions: dict[Production, None] = {}
        self.readings = Readings(self)
        self.on_background_end: Callable[[Call, Generation], None] | None = None  # None: nobody is to be told
        self.on_finish: Callable[[Call, Generation], None] | None = None  # None: nothing is written down
        self._idle: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Pipeline {self.admission}, {len(self.productions)} productions>"

    # ---- the front half: one per request ----

    def answer(self, exchange: Exchange, endpoint: Endpoint, tenant: Tenant) -> None:
        """Serve one request whose body is there; ``Readings._answered`` is this function's closing half.

        Nothing here waits: the answer goes from the log to the caller in callbacks, so that a request
        needs no task.  Only a call that may be another one's repetition where answers
        outlive a process, or for which the cache has tiers below memory, is a task (:meth:`_waiting_for`).
        """
        call: Call | None = None
        recalled: recall.Recalled | None = None
        try:
            router = self.snapshot.router
            call = decode(endpoint, exchange.headers, exchange.whole_body(), tenant, self.clock.now(), router)
            if b"penstock-prompt-changed" in call.headers:
                heed_left_out(call)
            if self.recorder.tracer is not None:
                self.recorder.tracer.begin(call)
            if endpoint in _CONVERSES and (self.recalls or self.durable is not None):
                recalled = recall.recall(call, self.registry, self.snapshot.config.listener.max_body_bytes)
            policy = router.tidying(call.model)
            if policy is not None and (left := tidy(call, policy)) is not None:
                self.recorder.left_out(left)
            degradation = self.snapshot.degradation
            if degradation is not None:
                degradation.look(call, router)
            self.admission.acquire(call, patient=True)
        except LeaseWanted:
            assert call is not None
            self.soon(self._admit_late(exchange, call, recalled))
            return
        except PenstockError as error:
            self._refuse(exchange, error, endpoint, tenant, call)
            return
        except ConnectionError:  # the caller left before it had asked
            return
        try:
            self._find(exchange, call, recalled)
        except Exception as error:  # noqa: BLE001 - raised again, if it is a defect
            self._give_back(exchange, call, error)

    async def _admit_late(self, exchange: Exchange, call: Call, recalled: recall.Recalled | None) -> None:
        """The rest of :meth:`answer` for a call that needs what others may have to spare; a quarter of a second at most."""
        try:
            await self.admission.acquire_late(call)
        except PenstockError as error:
            self._refuse(exchange, error, call.endpoint, call.tenant, call)
        except Exception:
            log.exception("defect while admitting %s", call.id)
            self._refuse(exchange, InternalError("internal error"), call.endpoint, call.tenant, call)
        else:
            await self._waiting_for(self._find_late(exchange, call, recalled), exchange, call)

    async def _find_late(self, exchange: Exchange, call: Call, recalled: recall.Recalled | None) -> None:
        if exchange.gone:
            self._left(exchange, call)
        else:
            self._find(exchange, call, recalled)

    def _refuse(
        self, exchange: Exchange, error: PenstockError, endpoint: Endpoint, tenant: Tenant, call: Call | None
    ) -> None:
        """The call was not admitted; None: it was none."""
        status = refuse(exchange, error, endpoint.dialect)
        self.recorder.refused(exchange, endpoint.label, tenant, call=call, status=status, error=error.code)

    def _give_back(self, exchange: Exchange, call: Call, error: Exception) -> None:
        """The call was admitted, and there will be no generation for it."""
        self.admission.settle(call)
        if not isinstance(error, PenstockError):
            raise error
        status = refuse(exchange, error, call.endpoint.dialect, call.id)
        self.recorder.answered(call, None, status=status, error=error.code, peer=exchange.peer)

    def _find(self, exchange: Exchange, call: Call, recalled: recall.Recalled | None) -> None:
        """The log to read, if it is there already: attach and lookup."""
        if (
            call.endpoint in _CONVERSES
            and self.durable is not None
            and (recalled is not None or recall.lacking(call))
        ):
            doing = self._recall_stored(exchange, call, self.durable, recalled)
            self.soon(self._waiting_for(doing, exchange, call))
        else:
            self._find_whole(exchange, call)

    async def _recall_stored(
        self, exchange: Exchange, call: Call, durable: Durable, recalled: recall.Recalled | None
    ) -> None:
        most = self.snapshot.config.listener.max_body_bytes
        if recalled is not None:
            await recall.make_sure(call, recalled, self.registry, durable, most)
        if recall.lacking(call):
            await recall.recall_stored(call, self.registry, durable, most)
        self._find_whole(exchange, call)

    def _find_whole(self, exchange: Exchange, call: Call) -> None:
        """The same, of a call that names no other any more."""
        generation = attach.find(call, self.registry, call.received)
        durable = self.durable
        if generation is not None:
            if durable is not None and durable.may_be_deleted(generation):
                doing = self._attach_kept(exchange, call, generation, durable)
                self.soon(self._waiting_for(doing, exchange, call))
            else:
                self._attach(exchange, call, generation)
        elif durable is not None and durable.may_know(call):
            self.soon(self._waiting_for(self._find_stored(exchange, call, durable), exchange, call))
        else:
            self._look_up(exchange, call)

    async def _attach_kept(
        self, exchange: Exchange, call: Call, generation: Generation, durable: Durable
    ) -> None:
        if await durable.has(generation):
            self._attach(exchange, call, generation)
        else:
            self.registry.delete(generation)
            self._find_whole(exchange, call)

    def _attach(self, exchange: Exchange, call: Call, generation: Generation) -> None:
        self._show(exchange, call, generation, b"attached" if generation.ending is None else b"replayed")

    async def _find_stored(self, exchange: Exchange, call: Call, durable: Durable) -> None:
        generation = await durable.find(call)
        # Another call of the same name may have come meanwhile, and was told that it is the first.
        generation = generation or attach.find(call, self.registry, call.received)
        if generation is not None:
            self._attach(exchange, call, generation)
        else:
            self._look_up(exchange, call)

    def _look_up(self, exchange: Exchange, call: Call) -> None:
        if call.endpoint in _CONVERSES and converse.goes_on(call):
            self.soon(self._waiting_for(self._converse(exchange, call), exchange, call))
            return
        lookup = self.lookup
        question = None
        if lookup is not None:
            snapshot = self.snapshot
            question = lookup.question(call, snapshot.router, open_to_all=snapshot.keyring.open)
            if question is not None:
                if call.reduction is not None:
                    question.lenient = call.reduction.stale
                # It is not told to come back only after somebody else's answer has been waited for.
                if call.deferred:
                    question.patient = False
                if lookup.prefetch is not None and question.policy.prefetch is not None:
                    asyncio.get_running_loop().call_soon(self.renewals.foresee, call, lookup, question)
                found = lookup.find(call, question, snapshot.router)
                if found is not None:
                    self._serve(exchange, call, lookup, question, found, exchange.segment)
                    return
                if lookup.waits(question):
                    come = exchange.segment, self.repeats.cleared
                    look = self._look_below(exchange, call, lookup, question, *come)
                    self.soon(self._waiting_for(look, exchange, call))
                    return
                self.repeats.saw(exchange.segment)
        self._make(exchange, call, question)

    async def _converse(self, exchange: Exchange, call: Call) -> None:
        await converse.converse(call, self.conversations, self.snapshot.config.listener.max_body_bytes)
        self._look_up(exchange, call)

    async def _look_below(
        self,
        exchange: Exchange,
        call: Call,
        lookup: Lookup,
        question: Question,
        segment: bytes,
        cleared: int,
    ) -> None:
        """The rest of :meth:`_look_up` for a call that memory has no answer to; some milliseconds at most.

        :param segment: the exchange's, as it was in the beginning
        :param cleared: how often repeats had been forgotten then: whose key has gone since is not to be remembered
        """
        try:
            found = await lookup.find_below(question)
            if found is None and question.patient and lookup.claims is not None:
                name = self._question(call)
                # Who joins what other machines ask reads it as it comes, and need not wait until it is kept.
                if name is None or self.durable is None or not self.durable.joins_machines(call):
                    found = await lookup.wait_for_others(
                        question,
                        lambda: (
                            exchange.gone or (name is not None and join.find(name, self.registry) is not None)
                        ),
                        deadline_of(call),
                    )
                if exchange.gone and found is None:
                    lookup.release(question)
                    self._left(exchange, call)
                    return
            if found is not None:
                known = segment if cleared == self.repeats.cleared else b""
                self._serve(exchange, call, lookup, question, found, known)
            else:
                self.repeats.saw(segment)
                self._make(exchange, call, question)
        except Exception:
            lookup.release(question)
            raise

    def _left(self, exchange: Exchange, call: Call) -> None:
        """Its caller has gone before there was anything to read."""
        self.admission.settle(call)
        self.recorder.answered(call, None, status=CLIENT_GONE, error="", peer=exchange.peer)

    async def _waiting_for(self, doing: Coroutine[Any, Any, None], exchange: Exchange, call: Call) -> None:
        """A part of the order that waits."""
        try:
            await doing
        except PenstockError as error:
            self._give_back(exchange, call, error)
        except Exception:
            log.exception("defect on the way of %s", call.id)
            self._give_back(exchange, call, InternalError("internal error"))

    def soon(self, doing: Coroutine[Any, Any, None]) -> None:
        """Begin what nobody else waits for; :meth:`wait_idle` does."""
        task = tasks.start(doing, asyncio.get_running_loop())
        if not task.done():
            self.waiting.add(task)
            task.add_done_callback(self._waited)

    def _waited(self, task: asyncio.Task[None]) -> None:
        self.waiting.discard(task)
        if self._idle and not self.productions and not self.waiting:
            self._wake_idle()

    def _serve(
        self,
        exchange: Exchange,
        call: Call,
        lookup: Lookup,
        question: Question,
        found: Found,
        segment: bytes = b"",
    ) -> None:
        """Answer from the cache; what is stale is renewed behind the answer, by one call, and so is what is verified.

        :param segment: the whole request as it came, if it may be remembered by that
        """
        generation = lookup.served(call, question, found)
        if found.status_name == STALE and question.lenient and self.snapshot.degradation is not None:
            self.snapshot.degradation.stale(call)  # and is not renewed now, of all times
        elif (found.status_name == STALE and question.key not in lookup.renewing) or (
            found.status_name == SIMILAR and lookup.is_to_verify(question)
        ):
            self.renewals.renew(call, lookup, question)
        self._show(exchange, call, generation, found.status_name)
        if segment and found.status_name == FRESH:
            self.repeats.remember(segment, call, question, found.entry)

    def _make(self, exchange: Exchange, call: Call, question: Question | None) -> None:
        """Join the log of an identical call, or begin one."""
        asked = call.asked or call  # by which its repetitions are known, also where a lesser one is made
        if call.reduction is not None and (degradation := self.snapshot.degradation) is not None:
            call, question = self._reduced(call, call.reduction, question, degradation)
            if question is not None and self.lookup is not None:
                found = self.lookup.find(call, question, self.snapshot.router)
                if found is not None:
                    self._serve(exchange, call, self.lookup, question, found)
                    return
        # What is promised must not be another call's, whose caller may let go of it.
        name = None if call.promised else self._question(call)
        if name is not None:
            generation = join.find(name, self.registry)
            if generation is not None:
                self._join(exchange, call, generation, question, asked)
                return
            if self.durable is not None and self.durable.questions.may_run_elsewhere(call):
                doing = self._join_elsewhere(exchange, call, question, name, asked, self.durable)
                self.soon(self._waiting_for(doing, exchange, call))
                return
        self._create(exchange, call, question, name, asked)

    async def _join_elsewhere(
        self,
        exchange: Exchange,
        call: Call,
        question: Question | None,
        name: join.Name,
        asked: Call,
        durable: Durable,
    ) -> None:
        """The rest of :meth:`_make` where an identical call may be under way in another process; a second at most."""
        try:
            generation = await durable.questions.find(name, call)
            if generation is not None:
                self._join(exchange, call, generation, question, asked)
                return
            if not exchange.gone:
                self._create(exchange, call, question, name, asked)
                return
            if question is not None and self.lookup is not None:
                self.lookup.release(question)
            self._left(exchange, call)
            await durable.questions.forgo(name, call)
        except Exception:
            if question is not None and self.lookup is not None:
                self.lookup.release(question)
            raise

    def _join(
        self, exchange: Exchange, call: Call, generation: Generation, question: Question | None, asked: Call
    ) -> None:
        if question is not None and question.claimed and self.lookup is not None:
            self.lookup.release(question)
        is_new = attach.remember_joined(asked, generation, self.registry)
        if is_new and self.durable is not None:
            self.durable.joined(asked, generation)
        self._show(exchange, call, generation, b"joined")

    def _create(
        self, exchange: Exchange, call: Call, question: Question | None, name: join.Name | None, asked: Call
    ) -> None:
        generation = self.registry.create(asked)
        if call.asked is not None:
            generation.whole = call.body
        made = call
        if self.durable is not None and exchange.peer == BATCH:
            made = self.durable.in_pieces(call, generation)
        self._start(made, generation, self.snapshot, name, question, asked)
        if self.durable is not None and generation.ending is None:
            self.durable.write(generation, made, asked, name)
        self._show(exchange, call, generation, b"created")

    def _reduced(
        self, call: Call, reduction: Reduction, question: Question | None, degradation: Degradation
    ) -> tuple[Call, Question | None]:
        """The call that is asked instead, because of the load, and what its answer is kept as."""
        if not reduction.changes:
            return call, question
        less = degradation.reduced(call, reduction)
        if question is None or self.lookup is None:
            return less, None
        self.lookup.release(question)
        snapshot = self.snapshot
        return less, self.lookup.question(less, snapshot.router, open_to_all=snapshot.keyring.open)

    def _show(self, exchange: Exchange, call: Call, generation: Generation, status_name: bytes) -> None:
        if call.deferred:
            self.promises.make(exchange, call, generation, status_name, call.wait)
        else:
            self.readings.begin(exchange, call, generation, status_name)

    def _question(self, call: Call) -> join.Name | None:
        """What an identical call in flight is found by; None: this call is not to be joined."""
        snapshot = self.snapshot
        policy = snapshot.router.joining(call.model)
        if policy == "never" and b"penstock-join" not in call.headers:
            return None
        return join.name_of(call, policy, open_to_all=snapshot.keyring.open)

    def reread_whole(self, exchange: Exchange, call: Call, generation: Generation) -> None:
        """Show the answer that a log is, once it is whole; ``call`` is what the reader is like, and how long it waits."""
        self.admission.enter()
        self.promises.make(exchange, call, generation, b"resumed", call.wait)

    # ---- the back half: one per generation ----

    def _start(
        self,
        call: Call,
        generation: Generation,
        snapshot: Snapshot,
        name: join.Name | None,
        question: Question | None,
        asked: Call | None = None,
        taken_up: TakenUp | None = None,
    ) -> None:
        """:param asked: as the caller made it, if another call is made in its place"""
        if call.reservation is not None:
            call.reservation.hold()
        production = Production(
            call, generation, snapshot.config.retry, snapshot.budget, self.recorder, taken_up
        )
        self.productions[production] = None
        attach.remember(asked or call, generation, self.registry)
        if name is not None:
            self.registry.bind(generation, name)
        if call.endpoint is _RESPONSES:
            generation.on_first = self._name_response
        if call.background:
            generation.grace = math.inf
        production.task = tasks.run(self.produce(production, call, generation, snapshot, name, question))

    def _name_response(self, generation: Generation, first: Event) -> None:
        """Where the upstream made the response's id, it is known when the first event is there."""
        response_id = responses.id_in(first, stream=generation.stream)
        if response_id:
            self.recalls = self.recalls or response_id.endswith(generation.id.removeprefix("gen_"))
            self.registry.bind(generation, ("response", generation.tenant, response_id))
            if self.durable is not None:
                self.durable.name_response(generation, response_id)

    @property
    def router(self) -> Router:
        return self.snapshot.router

    def begin(
        self,
        call: Call,
        generation: Generation,
        question: Question | None = None,
        name: join.Name | None = None,
        taken_up: TakenUp | None = None,
    ) -> None:
        """Produce a generation that nobody here reads: a renewal, or from where it is, one of another process.

        :param question: what its answer is kept as
        :param taken_up: as for :class:`Production`
        """
        self._start(call, generation, self.snapshot, name, question, taken_up=taken_up)

    async def produce(
        self,
        production: Production,
        call: Call,
        generation: Generation,
        snapshot: Snapshot,
        name: join.Name | None,
        question: Question | None,
    ) -> None:
        """Fill a generation, and leave it finished or failed whatever happens."""
        try:
            candidates = snapshot.router.route(call)
            first = candidates[0]
            substitutes = snapshot.router.substitutes
            if substitutes is not None:
                candidates = substitutes.fit(call, generation, candidates)
            candidates = by_health(candidates, self.clock.now())
            snapshot.budget.deposit(call.received)
            cascades = snapshot.cascades
            if cascades is None or not await cascades.answered(call, generation, snapshot.router):
                if call.named and (degradation := snapshot.degradation) is not None:
                    await degradation.run(production, candidates, substitutes, first, snapshot.router)
                else:
                    await production.run(candidates, substitutes, first)
            settle(call, generation)  # before its caller is told how much is left
            generation.finish()
            if call.asked is not None:
                self.soon(converse.settle(call, generation, self.conversations))
            if self.on_finish is not None:
                self.on_finish(call, generation)
            if question is not None and self.lookup is not None:
                self.lookup.keep(call, question, generation, snapshot.router)
        except (Abandoned, asyncio.CancelledError):
            generation.fail(Cancelled("the call was cancelled, or nobody waited for its answer any more"))
        except PenstockError as error:
            if question is None or not self._fall_back(call, question, generation, error):
                generation.fail(untraced(error))
        except Exception:
            log.exception("defect while producing %s", generation.id)
            generation.fail(InternalError("internal error"))
        finally:
            self.admission.produced(call, generation)
            if name is not None:
                self.registry.unbind(generation, name)
            if question is not None and self.lookup is not None:
                self.lookup.release(question)
                self.lookup.prefetched(call, question, generation, snapshot.router)
            if self.on_background_end is not None:
                if self.durable is not None and (generation.journal is not None or generation.background):
                    self.durable.tell_end(call, generation, self.on_background_end)
                elif generation.background:
                    self.on_background_end(call, generation)
            del self.productions[production]
            if self._idle and not self.productions and not self.waiting:
                self._wake_idle()

    def _fall_back(
        self, call: Call, question: Question, generation: Generation, error: PenstockError
    ) -> bool:
        """No upstream answers: an old answer is better than none, if nothing has been delivered yet."""
        if self.lookup is None or question.reserve is None or generation.events:
            return False
        if not isinstance(error, UpstreamError | PressureError):
            return False
        for reading in self.readings:
            if reading.generation is generation:
                reading.status_name = STALE
        try:
            self.lookup.fill(call, generation, question, self.clock.now())
        except Exception:  # then the error is the answer
            log.exception("defect while falling back for %s", generation.id)
            return False
        generation.finish()
        return True

    # ---- the whole ----

    def sweep(self, now: float) -> None:
        """Signs of life for streams that are silent, and an end for what nobody comes back to."""
        self.registry.sweep(now)
        self.readings.keep_alive(now)
        if self.promises:
            self.promises.sweep(now)

    async def wait_idle(self) -> None:
        """Until no production is under way, and nothing is waited for."""
        while self.productions or self.waiting:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    def _wake_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for idle in waiting:
            if not idle.done():
                idle.set_result(None)

    def cut_all(self, error: PenstockError) -> int:
        """End every answer under way with an error, and hang up; what each upstream sent is settled.

        :returns: how many there were
        """
        running = self.in_flight()
        productions = list(self.productions)  # an answer that fails lets go of its producer
        for generation in running:
            generation.fail(error)
        for production in productions:
            production.abandon()
        return len(running)

    def in_flight(self) -> list[Generation]:
        return [generation for generation in self.registry if generation.state is State.RUNNING]
