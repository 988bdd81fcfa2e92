"""A connection to a Redis server that is kept: a task makes it, and makes it anew when it is lost, until that works.

Who asks while there is none is told so at once, because nobody's answer shall wait for Redis.  Whoever would rather
wait has a :class:`penstock.net.redis_client.Client`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis

from penstock.config.redis_address import Address
from penstock.net.redis import CONNECT_TIMEOUT, ERRORS, Connection, Then, Waiting, connect

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries to connect, doubling
FATAL = ("READONLY", "NOAUTH", "MASTERDOWN", "NOSCRIPT")
"""Errors of a server that is not, or no longer, the one to talk to, or has forgotten what it was told."""

_NOT_PERMITTED = re.compile(r"NOPERM .*\brun the '(\w+)[|\w]*'")
_MAX_UNSENT = 4 << 20  # bytes that wait for a slow server; what is told beyond that is dropped
_MAX_PENDING = 10_000

log = logging.getLogger("penstock.redis")


class Link:
    """See the module's text.

    A command that the server's user may not run is said once, and no more told to it until there is another connection.

    A connection that did not last for :data:`LONGEST_PAUSE` is a try that failed: the next one comes after a pause.

    :param budget: seconds that a try to connect may take, without ``prepare``
    :param prepare: is done with each connection before it is used; fails with one of :data:`~penstock.net.redis.ERRORS`
    :param fatal: the beginnings of errors that end the connection
    :param on_lost: told when a connection has ended
    :param on_trouble: told what went wrong: that, no connection could be made, or the server refused something
    """

    def __init__(
        self,
        address: Address,
        *,
        budget: float = CONNECT_TIMEOUT,
        prepare: Callable[[Connection], Awaitable[None]] | None = None,
        fatal: tuple[str, ...] = FATAL,
        on_lost: Callable[[], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.address = address
        self.answered = 0  # for the connection
        self.connection: Connection | None = None
        self.trouble = "not connected yet"
        self._budget = budget
        self._prepare = prepare
        self._fatal = fatal
        self._on_lost = on_lost
        self._on_trouble = on_trouble
        self._connecting: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()  # to connect, since the last connection was lost
        self._pause = 0.0  # until the next try
        self._connected_at = 0.0
        self._closed = False
        self._forbidden: set[bytes] = set()  # commands, by this connection
        self._said: set[bytes] = set()  # of these, that the log knows of

    def __repr__(self) -> str:
        host, port = self.address.hosts[0]
        return f"<Link to {host}:{port}, {self.trouble or 'connected'}>"

    # ---- commands, of those who do not wait for a connection ----

    def ask(self, *command: bytes, read: Callable[[Any], Any] | None = None) -> asyncio.Future[Any]:
        """Send a command.

        :returns: what ``read`` makes of the answer; a :class:`ConnectionError` where there is none
        """
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.call(command, Waiting(found, read))
        return found

    def call(self, command: tuple[bytes, ...], then: Then) -> None:
        """Send a command whose answer goes to ``then``; a :class:`ConnectionError` where there is none, maybe at once."""
        connection = self.connection
        if connection is None or len(connection.pending) >= _MAX_PENDING:
            self.connect_soon()
            then(ConnectionError(self.trouble or "too much waits for Redis"))
        else:
            connection.send(command, then)

    def tell(self, *command: bytes) -> bool:
        """Send a command whose answer nobody waits for.

        :returns: whether it was sent
        """
        if self._forbidden and command[0] in self._forbidden:
            return False
        connection = self.connection
        if connection is None or connection.unsent > _MAX_UNSENT or len(connection.pending) >= _MAX_PENDING:
            self.connect_soon()
            return False
        connection.send(command, None)
        return True

    # ---- the connection ----

    def connect_soon(self) -> None:
        if not self._closed and self.connection is None and self._connecting is None:
            self._tried.clear()
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def wait_tried(self) -> None:
        """Until there is a connection, or the first try to make one has failed since the last was lost."""
        self.connect_soon()
        if self._connecting is not None:
            await self._tried.wait()

    async def wait_connected(self) -> None:
        """Until there is a connection, or the link is closed."""
        self.connect_soon()
        if self._connecting is not None:
            await asyncio.wait([self._connecting])

    def reset(self, why: str) -> None:
        """Cut off a connection that is of no use; another one is made."""
        if self.connection is not None:
            self.connection.abort(why)

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self.connection is not None:
            self.connection.end()
            self.connection = None
        self.trouble = "it was closed"

    async def _connect(self) -> None:
        """Try until it works."""
        try:
            while True:
                if self._pause:
                    self._tried.set()  # a pause is not waited for
                    await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
                try:
                    self.connection = await self._ready()
                except ERRORS as error:
                    self._failed(str(error) or "it does not answer")
                else:
                    self._forbidden.clear()
                    self._connected_at = asyncio.get_running_loop().time()
                    self.trouble = ""
                    break
        finally:
            self._connecting = None
            self._tried.set()

    async def _ready(self) -> Connection:
        connection = await connect(self.address, self, self._budget)
        if self._prepare is not None:
            try:
                await self._prepare(connection)
            except BaseException:
                connection.abort()
                raise
        return connection

    def _failed(self, why: str) -> None:
        self.trouble = why
        if self._on_trouble is not None:
            self._on_trouble(why)

    # ---- penstock.net.redis.Owner ----

    def lost(self, connection: Connection, why: str) -> None:
        if connection is not self.connection:
            return  # it never was ready, or was closed
        self.connection = None
        if asyncio.get_running_loop().time() - self._connected_at > LONGEST_PAUSE:
            self._pause = 0.0
        if self._on_lost is not None:
            self._on_lost()
        self._failed(why)
        self.connect_soon()

    def refused(self, connection: Connection, error: hiredis.ReplyError) -> None:
        if connection is not self.connection:
            return  # it is not ready yet: that makes connecting fail
        why = str(error)
        if why.startswith(self._fatal):
            self.reset(why)
            return
        if (found := _NOT_PERMITTED.match(why)) is not None:
            command = found[1].upper().encode()
            self._forbidden.add(command)
            if command not in self._said:
                self._said.add(command)
                log.warning(
                    "the user at Redis %s:%d may not run %s: what needs it is done without, until its rights are extended "
                    "(%s)",
                    *(*self.address.hosts[0], found[1].upper(), why),
                )
        self._failed(why)

    def served(self) -> None:
        self.trouble = ""
