"""What the connections of one listener share: limits, counters, who is open, and how the application runs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from penstock.config.model import ListenerConfig
from penstock.net._request_head import HeadParser
from penstock.net.clock import Clock
from penstock.net.exchange import Application, Repeats
from penstock.net.responses import Openings
from penstock.net.tasks import start

if TYPE_CHECKING:
    from penstock.net._inbound import Inbound
    from penstock.net._inbound_exchange import InboundExchange

_log = logging.getLogger(__name__)

NEVER = math.inf
LINGER_SILENCE = 2.0  # seconds without a byte after which a refused client has had its time to read
LINGER_TOTAL = 30.0  # seconds; a client that sends a long body reads the answer only when it is through


class Serving:
    """One listener's state, as its connections see it."""

    def __init__(
        self,
        application: Application,
        config: ListenerConfig,
        clock: Clock,
        on_refused: Callable[[str], None] | None,
        repeats: Repeats | None = None,
    ) -> None:
        self.application = application
        self.repeats = repeats
        self.config = config
        self.clock = clock
        self.heads = HeadParser(config)
        self.openings = Openings()
        self.context = contextvars.copy_context()  # of no request
        self.connections: set[Inbound] = set()
        self.stalled: set[Inbound] = set()  # get no events: each sweep looks after them
        self.coming = 0  # bytes of bodies that are not whole yet
        self.over_limit = 0  # connections that only linger for their 503
        self.accepted = 0
        self.requests = 0
        self.refused: dict[str, int] = {}
        self.draining = False
        # 0 switches a timeout off.  Every deadline set between two sweeps lies at least `shortest` ahead.
        self.header_timeout = config.header_timeout or NEVER
        self.body_timeout = config.body_timeout or NEVER
        self.idle_timeout = config.idle_timeout or NEVER
        self.write_timeout = config.write_timeout or NEVER
        self.shortest = min(self.header_timeout, self.body_timeout, self.idle_timeout, LINGER_SILENCE)
        self._on_refused = on_refused
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # the loop alone would not keep them alive
        self._unflushed: list[InboundExchange] = []
        self._emptied: asyncio.Future[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def run(self, exchange: InboundExchange) -> None:
        """Start the application; eagerly, so that an answer at hand costs no turn of the loop."""
        try:
            answering = self.application(exchange)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            exchange.defect(error)
            return
        if answering is None:  # it answers in callbacks
            return
        task = start(self._answer(exchange, answering), self.loop)
        if not task.done():
            exchange.task = task
            self._tasks.add(task)

    async def _answer(self, exchange: InboundExchange, answering: Coroutine[Any, Any, None]) -> None:
        try:
            await answering
            if not exchange.ended and not exchange.gone:
                _log.error("the application left %r without an answer", exchange)
                exchange.defect(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            exchange.defect(error)
        except BaseException:  # cancelled: nobody will end this answer
            exchange.abort()
            raise
        finally:
            if exchange.task is not None:
                self._tasks.discard(exchange.task)
                exchange.task = None

    def flush_soon(self, exchange: InboundExchange) -> None:
        """Send what an exchange has kept at the loop's next turn."""
        if not self._unflushed:
            self.loop.call_soon(self._flush, context=self.context)
        self._unflushed.append(exchange)

    def _flush(self) -> None:
        unflushed = self._unflushed
        self._unflushed = []
        for exchange in unflushed:
            exchange.flush()

    def count_refusal(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if self._on_refused is not None:
            self._on_refused(reason)

    def lost(self, connection: Inbound) -> None:
        """A connection has closed."""
        self.connections.discard(connection)
        self.stalled.discard(connection)
        if not self.connections:
            self.wake_drain()

    async def wait_until_empty(self) -> None:
        """Until the last connection has closed, or :meth:`wake_drain`."""
        if self.connections:
            self._emptied = self.loop.create_future()
            await self._emptied

    def wake_drain(self) -> None:
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def __repr__(self) -> str:
        return f"<Serving {len(self.connections)} connections, {len(self._tasks)} answers under way>"
