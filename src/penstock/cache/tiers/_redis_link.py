"""One Redis server of a tier: commands go to it while it is there, and it is connected to again when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import hiredis

from penstock.net.redis import ERRORS, Address, Connection, Waiting, connect

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries to connect
_MAX_UNSENT = 4 << 20  # bytes that wait for a slow server; further entries are dropped
_MAX_PENDING = 10_000


class Counts(Protocol):
    """Whose server it is."""

    answered: int
    errors: int


class Link:
    """See the module's text.

    :param counts: is told of answers and errors
    :param on_trouble: told what went wrong: the connection was lost, could not be made, or the server refused something
    """

    def __init__(
        self, address: Address, counts: Counts, on_trouble: Callable[[str], None] | None = None
    ) -> None:
        self.address = address
        self.trouble = "not connected yet"
        self.tried = asyncio.Event()  # to connect, since the last connection was lost
        self.connecting: asyncio.Task[None] | None = None
        self._counts = counts
        self._on_trouble = on_trouble
        self._connection: Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        host, port = self.address.hosts[0]
        return f"<Link to {host}:{port}, {self.trouble or 'connected'}>"

    def ask(self, *command: bytes, read: Callable[[Any], Any] | None = None) -> asyncio.Future[Any]:
        """Send a command.

        :returns: what ``read`` makes of the answer; a :class:`ConnectionError` where there is none
        """
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        connection = self._connection
        if connection is None or len(connection.pending) >= _MAX_PENDING:
            self.connect_soon()
            found.set_exception(ConnectionError(self.trouble or "too much waits for Redis"))
        else:
            connection.send(command, Waiting(found, read))
        return found

    def tell(self, *command: bytes) -> bool:
        """Send a command whose answer nobody waits for.

        :returns: whether it was sent
        """
        connection = self._connection
        if connection is None or connection.unsent > _MAX_UNSENT or len(connection.pending) >= _MAX_PENDING:
            self.connect_soon()
            return False
        connection.send(command, None)
        return True

    def connect_soon(self) -> None:
        if not self._closed and self._connection is None and self.connecting is None:
            self.connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        """Try until it works."""
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    self._connection = await connect(self.address, self)
                except ERRORS as error:
                    self._failed(str(error) or "it does not answer")
                    self.tried.set()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                else:
                    self.trouble = ""
                    break
        finally:
            self.connecting = None
            self.tried.set()

    def reset(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def close(self) -> None:
        self._closed = True
        if self.connecting is not None:
            self.connecting.cancel()
            await asyncio.wait([self.connecting])
        if self._connection is not None:
            self._connection.end()

    def _failed(self, why: str) -> None:
        self._counts.errors += 1
        self.trouble = why
        if self._on_trouble is not None:
            self._on_trouble(why)

    # ---- penstock.net.redis.Owner ----

    @property
    def answered(self) -> int:
        return self._counts.answered

    @answered.setter
    def answered(self, count: int) -> None:
        self._counts.answered = count

    def lost(self, connection: Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            if not self._closed:
                self.tried.clear()
                self._failed(why)
                self.connect_soon()

    def refused(self, connection: Connection, error: hiredis.ReplyError) -> None:
        """The server answered with an error."""
        why = str(error)
        self._failed(why)
        if connection is self._connection and why.startswith(("READONLY", "NOAUTH", "MASTERDOWN")):
            connection.abort()  # it is not, or no longer, the one to talk to

    def served(self) -> None:
        self.trouble = ""
