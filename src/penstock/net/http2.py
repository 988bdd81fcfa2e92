"""The streams of HTTP/2 to one upstream origin: the same interface as :class:`~penstock.net.pool.Pool`.

Where a pool has connections, there are streams here, each of which takes one request and feeds its answer to a
receiver; they share a connection.  So whatever asks for a connection, waits, pauses, hangs up or runs clocks does so
without knowing which of the two it has.  A slot is the right to one stream.  There is a second connection only where
the first has as many streams as its server allows, or takes no new ones any more.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections import OrderedDict

from penstock.config.model import PoolConfig
from penstock.errors import Overloaded, UpstreamUnreachable
from penstock.net._http2_connection import Http2Connection, Stream
from penstock.net.clock import Clock
from penstock.net.dial import DIRECT, Way
from penstock.net.origin import Origin
from penstock.net.pool import PoolStatistics, connect_error


class Streams:
    """Stands where other upstreams have a pool; registers itself with ``clock`` and is swept by it.

    :param connect_timeout: seconds for name, TCP and TLS together; 0: no limit
    :param ssl: for https: a context that offers ``h2``
    :param way: how each connection is made
    """

    def __init__(
        self,
        origin: Origin,
        config: PoolConfig,
        clock: Clock,
        *,
        connect_timeout: float,
        ssl: tls.SSLContext | None = None,
        way: Way = DIRECT,
    ) -> None:
        self.origin = origin
        self.now = clock.now
        self._config = config
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._ssl = ssl
        self._way = way
        self._slots = 0
        self._connections: set[Http2Connection] = set()
        self._opening: asyncio.Task[Http2Connection] | None = None
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._closed = False
        self._opened_total = 0
        self._reused_total = 0
        self._stale_total = 0
        self._connect_errors_total = 0
        clock.add(self)

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return (
            f"<Streams to {self.origin}: {self._slots} of {self._config.max_open} on {len(self._connections)} "
            f"connections, {len(self._waiters)} waiting{state}>"
        )

    def acquire_nowait(self) -> Stream | None:
        """A stream of a connection that is there, or None."""
        if self._slots >= self._config.max_open:
            return None
        connection = self._usable()
        if connection is None:
            return None
        self._slots += 1
        self._reused_total += 1
        return connection.stream()

    async def acquire(self, *, fresh: bool = False) -> Stream:  # noqa: ARG002 - what is not usable is not used
        """A stream, in order of arrival, on a new connection if there is no other.

        Whoever gets one must :meth:`~Stream.send` on it or :meth:`~Stream.abort` it.

        :raises Overloaded: ``max_waiting`` calls wait already
        :raises UpstreamUnreachable: refused, no such host, TLS failed, no HTTP/2 there
        :raises UpstreamUntrusted: its certificate
        :raises UpstreamTimeout: no connection within ``connect_timeout``
        """
        stream = self.acquire_nowait()
        if stream is not None:
            return stream
        if self._slots < self._config.max_open:
            self._slots += 1
        else:
            await self._wait()
        try:
            while (connection := self._usable()) is None:
                (await self._open()).must_take_streams()
        except BaseException:
            self._free_slot()
            raise
        return connection.stream()

    def statistics(self) -> PoolStatistics:
        idle = sum(not each.busy for each in self._connections)
        return PoolStatistics(
            open=self._slots + idle,
            idle=idle,
            busy=self._slots,
            waiting=len(self._waiters),
            opened_total=self._opened_total,
            reused_total=self._reused_total,
            stale_total=self._stale_total,
            connect_errors_total=self._connect_errors_total,
        )

    async def close(self) -> None:
        """Close each connection when its last stream has ended; who knows this pool may still acquire."""
        self._closed = True
        idle = [each for each in self._connections if not each.busy]
        for connection in idle:
            connection.close()
        self._leave_clock()
        for connection in idle:
            await connection.wait_lost()

    def sweep(self, now: float) -> None:
        """Close what has been idle or open for too long, and give back what was cancelled without a word."""
        opened_before = now - self._config.max_life
        for connection in list(self._connections):
            connection.sweep(now - self._config.idle_timeout, opened_before)

    # ---- for connections ---------------------------------------------------------------------------

    def let_go(self) -> None:
        """A stream has ended."""
        self._free_slot()

    def idle(self, connection: Http2Connection) -> None:
        """The last stream of a connection has ended."""
        if self._closed:
            connection.close()

    def forget(self, connection: Http2Connection) -> None:
        """It takes no new streams, and has none."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._leave_clock()

    def stale(self) -> None:
        """A stream was turned away by a connection that went just then."""
        self._stale_total += 1

    # ---- slots and connections ---------------------------------------------------------------------

    def _usable(self) -> Http2Connection | None:
        opened_before = self.now() - self._config.max_life
        for connection in self._connections:
            if connection.takes_streams and connection.opened > opened_before:
                return connection
        return None

    async def _wait(self) -> None:
        """Queue for a slot."""
        if len(self._waiters) >= self._config.max_waiting:
            raise Overloaded(
                f"all {self._config.max_open} streams to {self.origin.address} are busy "
                f"and {len(self._waiters)} calls wait for one"
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        except asyncio.CancelledError:
            self._waiters.pop(waiter, None)
            if not waiter.cancelled():  # it was served in the same turn of the loop: pass it on
                self._free_slot()
            raise

    def _free_slot(self) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)  # the slot stays taken, for the waiter
                return
        self._slots -= 1
        self._leave_clock()

    async def _open(self) -> Http2Connection:
        """Wait for the connection that is being made, or make one: all who wait share its fate."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._connected())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[Http2Connection]) -> None:
        self._opening = None
        # The error is asked for, so that asyncio need not complain.
        if not opening.cancelled() and opening.exception() is None:
            connection = opening.result()
            if not connection.retired:
                self._connections.add(connection)
            self._opened_total += 1
            if self._closed:
                self._clock.add(self)

    async def _connected(self) -> Http2Connection:
        address = self.origin.address + self._way.through
        connection = Http2Connection(self, asyncio.get_running_loop(), self.origin)
        try:
            async with asyncio.timeout(self._connect_timeout or None):
                await self._way.connect(self.origin, connection, self._ssl)
            connection.must_be_open()
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                self._connect_errors_total += 1
                raise connect_error(error, address, self._connect_timeout) from error
            raise
        if self._ssl is not None and not connection.is_http2:
            connection.close()
            self._connect_errors_total += 1
            raise UpstreamUnreachable(f"{address} does not speak HTTP/2: leave out http2 for it")
        connection.opened = self.now()
        return connection

    def _leave_clock(self) -> None:
        if self._closed and not self._slots and not self._connections:
            self._clock.remove(self)
