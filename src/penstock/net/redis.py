"""A connection to a Redis server of our own: commands are pipelined, answers come in their order.

A look-up costs a fifth of what it costs through a client library, which takes a connection from a pool for
each.  Needs hiredis, which the extra ``redis`` installs; whoever imports this module is imported only where
the configuration names a Redis server.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

import hiredis
import msgspec

from penstock.config.redis_address import Address

CONNECT_TIMEOUT = 1.0  # seconds, for all of connecting, authenticating and the first answer
_MAX_UNREAD = 256 << 20  # bytes without a whole answer: larger than anything that we store

ERRORS = (OSError, TimeoutError, hiredis.HiredisError)
"""What connecting can raise."""


class Refused(ConnectionError):
    """The server answered with an error; its text is the server's."""


class Owner(Protocol):
    """Who has a connection.  ``answered`` counts the answers that somebody waited for."""

    answered: int

    def lost(self, connection: Connection, why: str) -> None:
        """It has ended."""

    def refused(self, connection: Connection, error: hiredis.ReplyError) -> None:
        """The server answered with an error."""

    def served(self) -> None:
        """The server answered."""


async def connect(address: Address, owner: Owner, budget: float = CONNECT_TIMEOUT) -> Connection:
    """A connection that is ready for commands.

    :param budget: seconds
    :raises OSError: nobody is there, or not who should be
    :raises TimeoutError: not within the budget
    :raises hiredis.HiredisError: it does not speak Redis' protocol
    """
    tls = ssl.create_default_context() if address.tls else None
    async with asyncio.timeout(budget):
        if address.service:
            host, port = await _master(address, tls, owner, budget / 2)
        else:
            ((host, port),) = address.hosts
        connection = await _dial(host, port, tls, owner)
        try:
            await _authenticate(connection, address.user, address.password)
            if address.database:
                await connection.ask(b"SELECT", b"%d" % address.database)
            await connection.ask(b"PING")
        except BaseException:
            connection.abort()
            raise
        return connection


async def _authenticate(connection: Connection, user: str, password: str) -> None:
    if password:
        await connection.ask(b"AUTH", *([user.encode()] if user else []), password.encode())


async def _master(
    address: Address, tls: ssl.SSLContext | None, owner: Owner, budget: float
) -> tuple[str, int]:
    """Whom the first sentinel that answers takes for the master."""
    trouble = "no sentinel answers"
    share = budget / len(address.hosts)
    for host, port in address.hosts:
        try:
            async with asyncio.timeout(share):
                sentinel = await _dial(host, port, tls, owner)
                try:
                    await _authenticate(sentinel, address.sentinel_user, address.sentinel_password)
                    service = address.service.encode()
                    answer = await sentinel.ask(b"SENTINEL", b"get-master-addr-by-name", service)
                finally:
                    sentinel.end()
        except ERRORS as error:
            trouble = f"no sentinel answers: {error}" if str(error) else trouble
            continue
        if isinstance(answer, list) and len(answer) == 2:
            return answer[0].decode(), int(answer[1])
        trouble = f"the sentinels know no {address.service!r}"
    raise ConnectionError(trouble)


async def _dial(host: str, port: int, tls: ssl.SSLContext | None, owner: Owner) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(owner), host, port, ssl=tls)
    return connection


Then: TypeAlias = Callable[[Any], None]
"""What is done with an answer, once: it is called with it, or with an :class:`OSError` where there is none."""


class Waiting(msgspec.Struct, eq=False):
    """Who waits for an answer, and what is made of it; ``read`` may raise :class:`OSError`."""

    found: asyncio.Future[Any]
    read: Callable[[Any], Any] | None

    def __call__(self, answer: Any) -> None:
        found = self.found
        if found.done():
            return
        if self.read is not None and not isinstance(answer, Exception):
            try:
                answer = self.read(answer)
            except OSError as error:
                answer = error
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)


class Connection(asyncio.Protocol):
    """Commands out, answers in, in one order."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._unread = 0
        self._cut = ""  # why it was cut off
        self.pending: deque[Then | None] = deque()

    def __repr__(self) -> str:
        return f"<Connection to Redis, {len(self.pending)} pending>"

    @property
    def unsent(self) -> int:
        """Bytes that the server has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, command: tuple[bytes, ...], then: Then | None) -> None:
        """Send a command; its answer goes to ``then``, or nowhere."""
        assert self._transport is not None
        self.pending.append(then)
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type] # its stub has one item

    async def ask(self, *command: bytes) -> Any:
        """Send a command and wait for its answer.

        :raises ConnectionError: the connection ended first, or the answer is an error
        """
        waiting = Waiting(asyncio.get_running_loop().create_future(), None)
        self.send(command, waiting)
        return await waiting.found

    def abort(self, why: str = "") -> None:
        """Cut it off; who waits gets a :class:`ConnectionError` that says why."""
        self._cut = self._cut or why
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        """Close it once everything has been sent."""
        if self._transport is not None:
            self._transport.close()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not derive from it

    def connection_lost(self, error: Exception | None) -> None:
        why = self._cut or str(error or "the connection to Redis was closed")
        self._owner.lost(self, why)
        pending, self.pending = self.pending, deque()
        for then in pending:
            if then is not None:
                then(ConnectionError(why))

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                self._unread = 0
                self._answered(answer)
        except (hiredis.ProtocolError, IndexError):  # no Redis, or one that answers what nobody asked
            self.abort()
        if self._unread > _MAX_UNREAD:
            self.abort()

    def _answered(self, answer: Any) -> None:
        then = self.pending.popleft()
        if isinstance(answer, hiredis.ReplyError):
            self._owner.refused(self, answer)
            answer = Refused(str(answer))
        elif then is not None:
            self._owner.served()
        if then is not None:
            self._owner.answered += 1
            then(answer)
