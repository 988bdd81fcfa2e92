"""The connections to one upstream origin.

A slot is the right to one open connection; there are ``max_open``.  A slot is taken before connecting
and given back when a connection retires, both in one place (:meth:`Pool._open`, :meth:`Pool.forget`), so
that no path can leak one.  A slot or connection that comes free goes to the first waiter directly, never
through the idle ones, so that nobody overtakes: while somebody waits, nobody is idle.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as tls
from collections import OrderedDict

import msgspec

from penstock.config.model import PoolConfig
from penstock.errors import Overloaded, UpstreamTimeout, UpstreamUnreachable, UpstreamUntrusted
from penstock.net.clock import Clock
from penstock.net.connection import Connection
from penstock.net.dial import DIRECT, Way
from penstock.net.origin import Origin

ABANDONED_INTERVAL = 1.0  # seconds between looks for calls that were cancelled without a word


class PoolStatistics(msgspec.Struct, frozen=True):
    """What a pool holds now, and what it has done since it was made."""

    open: int  # slots taken: connecting, busy, hanging up, idle
    idle: int
    busy: int  # open and not idle
    waiting: int  # calls that wait for a slot
    opened_total: int
    reused_total: int
    stale_total: int  # idle connections that turned out to be closed or spoke unasked
    connect_errors_total: int


class Pool:
    """Keeps connections to ``origin``; registers itself with ``clock`` and is swept by it.

    :param connect_timeout: seconds for name, TCP and TLS together; 0: no limit
    :param ssl: for https, from :func:`penstock.net.client_tls.client_context`
    :param way: how each of them is made
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
        if origin.secure != (ssl is not None):
            raise ValueError(f"{origin}: a TLS context belongs to https, and to nothing else")
        self.origin = origin
        self.now = clock.now
        self._config = config
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._ssl = ssl
        self._way = way
        self._slots = 0
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # the most recently used last
        self._watched: set[Connection] = set()
        self._waiters: OrderedDict[asyncio.Future[Connection | None], bool] = OrderedDict()  # value: fresh
        self._closed = False
        self._next_look = 0.0
        self._opened_total = 0
        self._reused_total = 0
        self._stale_total = 0
        self._connect_errors_total = 0
        clock.add(self)

    def acquire_nowait(self) -> Connection | None:
        """The idle connection that was used last, or None."""
        if self._idle:
            self._reused_total += 1
            return self._idle.popitem()[0]
        return None

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """An idle connection, else a new one, else the first that comes free, in order of arrival.

        Whoever gets one must :meth:`~Connection.send` on it or :meth:`~Connection.abort` it.

        :param fresh: never one that was used before (after a :class:`StaleConnection`)
        :raises Overloaded: ``max_waiting`` calls wait already
        :raises UpstreamUnreachable: refused, no such host, TLS failed
        :raises UpstreamUntrusted: its certificate
        :raises UpstreamTimeout: no connection within ``connect_timeout``
        """
        if not fresh:
            connection = self.acquire_nowait()
            if connection is not None:
                return connection
        if self._slots >= self._config.max_open and fresh and self._idle:
            next(iter(self._idle)).close()
        if self._slots < self._config.max_open:
            self._slots += 1
        else:
            waited = await self._wait(fresh)
            if waited is not None:
                return waited
        return await self._open()

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            open=self._slots,
            idle=len(self._idle),
            busy=self._slots - len(self._idle),
            waiting=len(self._waiters),
            opened_total=self._opened_total,
            reused_total=self._reused_total,
            stale_total=self._stale_total,
            connect_errors_total=self._connect_errors_total,
        )

    async def close(self) -> None:
        """Close the idle connections, and each busy one when its exchange is done.

        Calls that already know this pool may still acquire (a new configuration has taken its place and
        cuts nobody off); nothing is kept afterwards.  Returns when the idle ones are gone.
        """
        self._closed = True
        idle = list(self._idle)
        for connection in idle:
            connection.close()
        self._leave_clock()
        for connection in idle:
            await connection.wait_lost()

    def sweep(self, now: float) -> None:
        """Close what has been idle or open for too long, and what has hung up and used its grace."""
        for connection in [each for each in self._watched if each.deadline <= now]:
            connection.out_of_grace()
        if self._idle:
            unused_since = now - self._config.idle_timeout
            opened_before = now - self._config.max_life
            for connection in [
                each for each in self._idle if each.idle_since <= unused_since or each.opened <= opened_before
            ]:
                connection.close()
        if now >= self._next_look:
            self._next_look = now + ABANDONED_INTERVAL
            for connection in [each for each in self._connections if each.abandoned]:
                connection.abort()

    # ---- for connections (connection.Home) ---------------------------------------------------------

    def take_back(self, connection: Connection) -> None:
        now = self.now()
        if self._closed or now - connection.opened >= self._config.max_life:
            connection.close()
            return
        while self._waiters:
            waiter, fresh = self._waiters.popitem(last=False)
            if waiter.done():
                continue
            if fresh:
                self._waiters[waiter] = fresh
                self._waiters.move_to_end(waiter, last=False)
                connection.close()  # its slot goes to that waiter
            else:
                self._reused_total += 1
                waiter.set_result(connection)
            return
        connection.idle_since = now
        self._idle[connection] = None
        if len(self._idle) > self._config.max_idle:
            next(iter(self._idle)).close()

    def forget(self, connection: Connection) -> None:
        if connection not in self._connections:
            return  # it never came to be: _open gives the slot back
        self._connections.remove(connection)
        self._idle.pop(connection, None)
        self._watched.discard(connection)
        self._free_slot()

    def watch(self, connection: Connection) -> None:
        self._watched.add(connection)

    def stale(self) -> None:
        self._stale_total += 1

    # ---- slots -------------------------------------------------------------------------------------

    async def _wait(self, fresh: bool) -> Connection | None:
        """Queue for a connection, or for a slot (None)."""
        if len(self._waiters) >= self._config.max_waiting:
            raise Overloaded(
                f"all {self._config.max_open} connections to {self.origin.address} are busy "
                f"and {len(self._waiters)} calls wait for one"
            )
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = fresh
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiters.pop(waiter, None)
            if not waiter.cancelled():  # it was served in the same turn of the loop: pass it on
                connection = waiter.result()
                if connection is None:
                    self._free_slot()
                elif not connection.retired:
                    self.take_back(connection)
            raise

    def _free_slot(self) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)  # the slot stays taken, for the waiter
                return
        self._slots -= 1
        if self._closed:
            self._leave_clock()

    async def _open(self) -> Connection:
        """Connect, in a slot that is taken already; gives it back if that fails."""
        connection = Connection(self, asyncio.get_running_loop(), self.origin.address)
        try:
            async with asyncio.timeout(self._connect_timeout or None):
                await self._way.connect(self.origin, connection, self._ssl)
            connection.must_be_open()
        except BaseException as error:
            connection.abort()  # cancelled or too late, it may have been made all the same
            self._free_slot()
            if isinstance(error, OSError):
                self._connect_errors_total += 1
                address = self.origin.address + self._way.through
                raise connect_error(error, address, self._connect_timeout) from error
            raise
        connection.opened = self.now()
        self._connections.add(connection)
        self._opened_total += 1
        if self._closed:
            self._clock.add(self)
        return connection

    def _leave_clock(self) -> None:
        if self._closed and not self._slots:
            self._clock.remove(self)

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return (
            f"<Pool {self.origin}: {self._slots} open of {self._config.max_open}, {len(self._idle)} idle, "
            f"{len(self._waiters)} waiting{state}>"
        )


def connect_error(error: OSError, address: str, limit: float) -> UpstreamUnreachable | UpstreamTimeout:
    """The loop's error in the words of the person who has to mend it.

    :param limit: seconds that connecting may take
    """
    if isinstance(error, TimeoutError) and error.errno is None:
        return UpstreamTimeout(f"no connection to {address} within {limit:g} s", clock="connect")
    if isinstance(error, tls.SSLCertVerificationError):
        return UpstreamUntrusted(f"the TLS certificate of {address} is not trusted: {error.verify_message}")
    if isinstance(error, tls.SSLError):
        return UpstreamUnreachable(f"no TLS with {address}: {error.reason or error}")
    if isinstance(error, socket.gaierror):
        return UpstreamUnreachable(f"no address for {address}: {error.strerror}")
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return UpstreamUnreachable(f"cannot connect to {address}: {reason}")
