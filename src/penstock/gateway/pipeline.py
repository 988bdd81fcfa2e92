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

import msgspec

from penstock.config.model import Config
from penstock.errors import Draining, InternalError, PenstockError
from penstock.flow.retry import RetryBudget
from penstock.gateway.stages.admit import Admission, settle
from penstock.gateway.stages.attach import Attachments
from penstock.gateway.stages.authenticate import Keyring
from penstock.gateway.stages.call import Abandoned, Production
from penstock.gateway.stages.join import join
from penstock.gateway.stages.lookup import lookup
from penstock.gateway.stages.queue import by_health
from penstock.gateway.stages.read import Reading, refuse
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Router
from penstock.generation.log import Generation, State, new_id
from penstock.generation.registry import Registry
from penstock.messages import Call, Endpoint, Tenant
from penstock.net import tasks
from penstock.net.clock import Clock
from penstock.net.exchange import Exchange
from penstock.upstream.http import HTTPUpstream
from penstock.wire import request

log = logging.getLogger("penstock.gateway")


class Snapshot(msgspec.Struct, frozen=True, eq=False):
    """One configuration, ready for use.  A call keeps the one that it began with."""

    config: Config
    keyring: Keyring
    router: Router
    upstreams: dict[str, HTTPUpstream]
    budget: RetryBudget


class Pipeline:
    """The order of the stages, and what is under way in them."""

    def __init__(self, snapshot: Snapshot, registry: Registry, recorder: Recorder, clock: Clock) -> None:
        self.snapshot = snapshot
        self.registry = registry
        self.recorder = recorder
        self.clock = clock
        self.admission = Admission()
        self.attachments = Attachments()
        self.productions: dict[Production, None] = {}
        self.readings: dict[Reading, None] = {}
        self._idle: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Pipeline {self.admission}, {len(self.productions)} productions>"

    # ---- the front half: one per request ----

    def answer(self, exchange: Exchange, endpoint: Endpoint, tenant: Tenant) -> None:
        """Serve one request whose body is there; :meth:`_answered` is this function's closing half.

        Nothing here waits: the answer goes from the log to the caller in callbacks, so that a request
        needs no task beside its generation's.
        """
        try:
            call = self._decode(exchange, endpoint, tenant)
            self.admission.acquire(call)
        except PenstockError as error:
            status = refuse(exchange, error, endpoint.dialect)
            self.recorder.refused(endpoint.label, tenant, status=status, error=error.code, peer=exchange.peer)
            return
        except ConnectionError:  # the caller left before it had asked
            return
        try:
            generation, status_name = self._generation(call)
        except Exception as error:
            self.admission.settle(call)
            if not isinstance(error, PenstockError):
                raise
            status = refuse(exchange, error, endpoint.dialect, call.id)
            self.recorder.answered(call, None, status=status, error=error.code, peer=exchange.peer)
            return
        reading = Reading(call, generation, exchange, status_name, self._answered)
        self.readings[reading] = None
        generation.join(reading)
        if not reading.done:
            exchange.watch(reading)

    def _generation(self, call: Call) -> tuple[Generation, bytes]:
        """The log to read, and how it was come by."""
        generation = self.attachments.find(call)
        if generation is not None:
            return generation, b"attached"
        generation = lookup(call)
        if generation is not None:
            return generation, b"cached"
        generation = join(call, self.registry)
        self._start(call, generation, self.snapshot)
        return generation, b"created"

    def _answered(self, reading: Reading) -> None:
        """The answer has ended, or its caller has left; runs once."""
        reading.exchange.watch(None)
        reading.generation.leave(reading)
        del self.readings[reading]
        self.admission.settle(reading.call)
        self.recorder.answered(
            reading.call,
            reading.generation,
            status=reading.status,
            error=reading.error,
            peer=reading.exchange.peer,
        )

    def _decode(self, exchange: Exchange, endpoint: Endpoint, tenant: Tenant) -> Call:
        body = exchange.whole_body()
        opening = request.read(endpoint, body)
        return Call(  # by position: by name it takes twice as long
            new_id(),
            endpoint,
            opening.model,
            opening.stream,
            opening.fields,
            body,
            exchange.headers,
            self.clock.now(),
            tenant,
            opening.max_output_tokens,
            opening.include_usage,
            opening.running_usage,
        )

    # ---- the back half: one per generation ----

    def _start(self, call: Call, generation: Generation, snapshot: Snapshot) -> None:
        if call.reservation is not None:
            call.reservation.hold()
        production = Production(call, generation)
        self.productions[production] = None
        self.attachments.remember(call, generation)
        production.task = tasks.start(
            self.produce(production, call, generation, snapshot), asyncio.get_running_loop()
        )

    async def produce(
        self, production: Production, call: Call, generation: Generation, snapshot: Snapshot
    ) -> None:
        """Fill a generation, and leave it finished or failed whatever happens."""
        try:
            candidates = by_health(snapshot.router.route(call), self.clock.now())
            snapshot.budget.deposit(call.received)
            await production.run(candidates, snapshot.config.retry, snapshot.budget, self.recorder)
            settle(call, generation)  # before its caller is told how much is left
            generation.finish()
        except (Abandoned, asyncio.CancelledError):
            # Its readers have left; those that are there all the same see this process going away.
            generation.fail(Draining("this gateway is going away; try again", retry_after=1.0))
        except PenstockError as error:
            generation.fail(error)
        except Exception:
            log.exception("defect while producing %s", generation.id)
            generation.fail(InternalError("internal error"))
        finally:
            settle(call, generation)
            if call.reservation is not None:
                call.reservation.release()
            self.attachments.forget(call, generation)
            del self.productions[production]
            if self._idle and not self.productions:
                self._wake_idle()

    # ---- the whole ----

    def sweep(self, now: float) -> None:
        """Signs of life for streams that are silent."""
        for reading in list(self.readings):
            reading.keep_alive(now)

    async def wait_idle(self) -> None:
        """Until no production is under way."""
        while self.productions:
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
