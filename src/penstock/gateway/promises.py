"""Callers who come back for their answer: they are told where it will be, at once or after a while.

Who prefers that (``Prefer: respond-async``) gets 202 with the generation's state, and asks for the answer by its id.
An answer, or a refusal, that is there at once is given at once; with ``wait=N`` so is one that comes within so many
seconds.  A response with ``background: true`` is promised as its own API has it.

What is promised goes on whether anybody reads it or not, and is kept like anything that can be asked for again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Protocol

from penstock.gateway import stored
from penstock.gateway.durable import Durable
from penstock.gateway.readings import Readings
from penstock.gateway.stages.admit import Admission
from penstock.gateway.stages.read import CLIENT_GONE
from penstock.gateway.stages.record import Recorder
from penstock.generation.log import Generation, State
from penstock.generation.registry import Registry
from penstock.messages import Call
from penstock.net.clock import Clock
from penstock.net.exchange import Exchange
from penstock.wire import prefer

_RUNNING = State.RUNNING


class Answering(Protocol):
    """Who answers calls from logs."""

    admission: Admission
    recorder: Recorder
    registry: Registry
    clock: Clock
    readings: Readings

    @property
    def durable(self) -> Durable | None: ...

    def soon(self, doing: Coroutine[Any, Any, None]) -> None:
        """Begin what nobody waits for."""


class Promises:
    """Those of one worker."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._waiting: dict[Waiting, None] = {}

    def __repr__(self) -> str:
        return f"<Promises, {len(self._waiting)} callers wait for a while>"

    def __len__(self) -> int:
        return len(self._waiting)

    def make(
        self, exchange: Exchange, call: Call, generation: Generation, status_name: bytes, wait: float
    ) -> None:
        """Tell the caller the answer if it is there, in so many seconds, or else where it will be.

        :param wait: 0: it is told at once
        """
        answering = self._answering
        if call.deferred and not call.promised:
            answering.soon(self._tell_response(exchange, generation))
            self._told(exchange, call, generation, status_name, 200)
            return
        if generation.ending is not None:
            answering.readings.begin(exchange, call, generation, status_name)
            return
        if call.deferred and not generation.background:  # it was made for somebody who reads it
            self._keep(generation)
        if wait:
            waiting = Waiting(self, exchange, call, generation, status_name, wait)
            self._waiting[waiting] = None
            generation.join(waiting)
            exchange.watch(waiting)
        else:
            answering.soon(self._promise_stored(exchange, call, generation, status_name))

    async def _tell_response(self, exchange: Exchange, generation: Generation) -> None:
        answering = self._answering
        if answering.durable is not None:
            await answering.durable.wait_begun(generation)
        await stored.respond_response(exchange, generation, "", answering.clock.now())

    async def _promise_stored(
        self, exchange: Exchange, call: Call, generation: Generation, status_name: bytes
    ) -> None:
        if self._answering.durable is not None:
            await self._answering.durable.wait_begun(generation)
        self._promise(exchange, call, generation, status_name, 0)

    def _keep(self, generation: Generation) -> None:
        """It goes on from now on, whoever it was made for, and whoever produces it."""
        answering = self._answering
        generation.background, generation.grace = True, math.inf
        if not generation.readers:  # else it is given up when he whom it was made for has not come back
            answering.registry.deserted(generation)
        if answering.durable is not None:
            answering.durable.promise(generation)

    def sweep(self, now: float) -> None:
        """Those who have waited for long enough are told."""
        for waiting in list(self._waiting):
            if now >= waiting.until and not waiting.has_come:
                self._leave(waiting)
                waiting.exchange.watch(None)
                what = waiting.exchange, waiting.call, waiting.generation, waiting.status_name
                self._promise(*what, waiting.wait)

    # ---- of those who wait ----

    def come(self, waiting: Waiting) -> None:
        """The answer is there, or begins."""
        if waiting in self._waiting:
            waiting.exchange.watch(None)
            what = waiting.exchange, waiting.call, waiting.generation, waiting.status_name
            self._answering.readings.begin(*what)
            self._leave(waiting)

    def gone(self, waiting: Waiting) -> None:
        """The caller has left; the answer is made all the same."""
        if waiting in self._waiting:
            self._leave(waiting)
            what = waiting.exchange, waiting.call, waiting.generation, waiting.status_name
            self._told(*what, CLIENT_GONE, "client_gone")

    def _leave(self, waiting: Waiting) -> None:
        del self._waiting[waiting]
        waiting.generation.leave(waiting)

    # ---- telling ----

    def _promise(
        self, exchange: Exchange, call: Call, generation: Generation, status_name: bytes, wait: float
    ) -> None:
        where = f"{exchange.root}/v1/generations/{generation.id}".encode()
        fields = [
            (b"location", where),
            (b"penstock-generation", generation.id.encode()),
            (b"penstock-status", status_name),
        ]
        if preferred := prefer.applied(wait, promised=call.deferred):
            fields.append((b"preference-applied", preferred))
        stored.respond_state(exchange, generation, self._answering.clock.now(), 202, fields)
        self._told(exchange, call, generation, status_name, 202)

    def _told(
        self,
        exchange: Exchange,
        call: Call,
        generation: Generation,
        status_name: bytes,
        status: int,
        error: str = "",
    ) -> None:
        answering = self._answering
        answering.admission.settle(call)
        read = "" if status_name == b"created" else status_name.decode()
        answering.recorder.answered(
            call, generation, status=status, error=error, peer=exchange.peer, read=read
        )


class Waiting:
    """A caller who waits for a while: a reader of the log that only looks whether there is an answer."""

    __slots__ = ("_promises", "call", "exchange", "generation", "has_come", "status_name", "until", "wait")

    def __init__(
        self,
        promises: Promises,
        exchange: Exchange,
        call: Call,
        generation: Generation,
        status_name: bytes,
        wait: float,
    ) -> None:
        self._promises = promises
        self.exchange = exchange
        self.call = call
        self.generation = generation
        self.status_name = status_name
        self.wait = wait
        self.until = call.received + wait
        self.has_come = False

    def __repr__(self) -> str:
        return f"<Waiting for {self.generation.id}, {'it has come' if self.has_come else 'until'} {self.until:.3f}>"

    # ---- Reader ----

    @property
    def read_bytes(self) -> int:
        return self.generation.size  # it holds nobody up

    def advance(self) -> None:
        """The end of the answer, or of a stream the first event, ends the wait: in a moment, for others read, too."""
        generation = self.generation
        if not self.has_come and (
            generation.state is not _RUNNING or (self.call.stream and generation.readable)
        ):
            self.has_come = True
            asyncio.get_running_loop().call_soon(self._promises.come, self)

    # ---- Watcher ----

    def on_gone(self) -> None:
        self._promises.gone(self)

    def on_writable(self) -> None:
        """Nothing has been written."""
