"""What the connections of one listener share: limits, counters, and who is open."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable
from typing import Protocol

from penstock.config.model import ListenerConfig
from penstock.net._proxies import Proxies
from penstock.net._request_head import HeadParser
from penstock.net.clock import Clock
from penstock.net.exchange import Application, Repeats
from penstock.net.responses import Openings

NEVER = math.inf
LINGER_SILENCE = 2.0  # seconds without a byte after which a refused client has had its time to read
LINGER_TOTAL = 30.0  # seconds; a client that sends a long body reads the answer only when it is through


class Connection(Protocol):
    """An accepted connection, as its listener sees it."""

    deadline: float  # when to :meth:`expire`, in seconds of the listener's clock

    @property
    def in_progress(self) -> bool:
        """Whether a request is under way."""

    def expire(self, now: float) -> None: ...

    def check_stalled(self, now: float) -> None: ...

    def drain(self) -> None: ...

    def cut(self, reason: str) -> bool:
        """Abort at once; whether something was lost by it."""


class Unflushed(Protocol):
    """An exchange that has kept what it is to send at the loop's next turn."""

    def flush(self) -> None: ...


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
        self.proxies = Proxies(config.trusted_proxies)
        self.context = contextvars.copy_context()  # of no request
        self.connections: set[Connection] = set()
        self.stalled: set[Connection] = set()  # get no events: each sweep looks after them
        self.tasks: set[asyncio.Task[None]] = set()  # that answer; the loop alone would not keep them alive
        self.coming = 0  # bytes of bodies that are not whole yet
        self.over_limit = 0  # connections that only linger for their 503
        self.accepted = 0
        self.requests = 0
        self.refused: dict[str, int] = {}
        self.ending = False  # each answer is the last one of its connection
        self.draining = False  # idle connections are closed
        # 0 switches a timeout off.  Every deadline set between two sweeps lies at least `shortest` ahead.
        self.header_timeout = config.header_timeout or NEVER
        self.body_timeout = config.body_timeout or NEVER
        self.idle_timeout = config.idle_timeout or NEVER
        self.write_timeout = config.write_timeout or NEVER
        self.shortest = min(self.header_timeout, self.body_timeout, self.idle_timeout, LINGER_SILENCE)
        self._on_refused = on_refused
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unflushed: list[Unflushed] = []
        self._emptied: asyncio.Future[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def flush_soon(self, exchange: Unflushed) -> None:
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

    def lost(self, connection: Connection) -> None:
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
        return f"<Serving {len(self.connections)} connections, {len(self.tasks)} answers under way>"
