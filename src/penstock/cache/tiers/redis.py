"""The tier that several machines share: Redis, or what speaks its protocol.

One connection of our own for each worker, on which commands are pipelined: a look-up costs a fifth of
what it costs through a client library, which takes a connection from a pool for each.  Nothing is ever
waited for but look-ups, and those are bounded by their guard; while there is no connection they fail at
once, and a task tries to make one.

``redis://`` and ``rediss://`` name one server, ``redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`` the sentinels that
know the present master.  Entries expire by themselves, and are bounded by the server's ``maxmemory``.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import msgspec

from penstock.cache.tiers.tier import TierStatistics

PREFIX = b"penstock:cache:"
_PURGES = PREFIX + b"purges"
_PURGES_KEPT = 90 * 86_400  # seconds: longer than any entry is kept

_CONNECT_TIMEOUT = 1.0  # seconds, for all of connecting, authenticating and the first answer
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries to connect
_MAX_UNSENT = 4 << 20  # bytes that wait for a slow server; further entries are dropped
_MAX_UNREAD = 256 << 20  # bytes without a whole answer: larger than any entry
_MAX_PENDING = 10_000
_DEFAULT_PORT, _SENTINEL_PORT = 6379, 26379


class Address(msgspec.Struct, frozen=True):
    """Where the server is.  ``hosts`` are the sentinels' if ``service`` is set, else there is one."""

    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    tls: bool = False
    user: str = ""
    password: str = ""
    database: int = 0

    @classmethod
    def parse(cls, url: str) -> Address:
        """:raises ValueError: this is no address of a Redis server"""
        parts = urlsplit(url)
        sentinel = parts.scheme == "redis+sentinel"
        if not sentinel and parts.scheme not in ("redis", "rediss"):
            raise ValueError("it must begin with redis://, rediss:// or redis+sentinel://")
        credentials, _, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        steps = [step for step in parts.path.split("/") if step]
        service = steps.pop(0) if sentinel and steps else ""
        found = tuple(_host(host, _SENTINEL_PORT if sentinel else _DEFAULT_PORT) for host in hosts.split(","))
        if (sentinel and not service) or len(steps) > 1 or (len(found) > 1 and not sentinel):
            raise ValueError("it names too much or too little")
        return cls(
            found,
            service,
            parts.scheme == "rediss",
            unquote(user),
            unquote(password),
            int(steps[0]) if steps else 0,
        )


def _host(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit("//" + text)
    if not parts.hostname:
        raise ValueError("it names no host")
    return parts.hostname, parts.port or default


class RedisTier:
    """Entries in a Redis server; see the module's text.

    :param url: see :meth:`Address.parse`
    :param now: seconds since 1970
    :raises ValueError: the URL is none of Redis
    """

    name = "redis"

    def __init__(self, url: str, now: Callable[[], float] = time.time) -> None:
        self.address = Address.parse(url)
        self.answered = 0
        self._now = now
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._written = self._dropped = self._errors = 0
        self._trouble = "not connected yet"
        self._closed = False

    def __repr__(self) -> str:
        host, port = self.address.hosts[0]
        return f"<RedisTier {host}:{port}, {self._trouble or 'connected'}>"

    def start(self) -> None:
        self._connect_soon()

    def get(self, key: bytes) -> asyncio.Future[bytes | None]:
        return self._ask(b"GET", PREFIX + key, read=_read_entry)

    def purges(self) -> asyncio.Future[dict[str, float]]:
        return self._ask(b"HGETALL", _PURGES, read=_read_purges)

    def put(self, key: bytes, sealed: bytes, kept_until: float) -> None:
        lifetime = int((kept_until - self._now()) * 1_000)
        if lifetime <= 0:
            return
        if self._tell(b"SET", PREFIX + key, sealed, b"PX", b"%d" % lifetime):
            self._written += 1
        else:
            self._dropped += 1

    def remove(self, key: bytes) -> None:
        self._tell(b"DEL", PREFIX + key)

    def purged(self, tag: str, at: float) -> None:
        self._tell(b"HSET", _PURGES, tag.encode(), repr(at).encode())
        self._tell(b"EXPIRE", _PURGES, b"%d" % _PURGES_KEPT)

    def reset(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def flush(self) -> None:
        if self._connecting is not None:
            await self._tried.wait()
        try:
            await self._ask(b"PING")
        except OSError:
            pass

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.end()

    def statistics(self) -> TierStatistics:
        return TierStatistics(
            written=self._written, dropped=self._dropped, errors=self._errors, trouble=self._trouble
        )

    # ---- commands ----

    def _ask(self, *command: bytes, read: Callable[[Any], Any] | None = None) -> asyncio.Future[Any]:
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        connection = self._connection
        if connection is None or len(connection.pending) >= _MAX_PENDING:
            self._connect_soon()
            found.set_exception(ConnectionError(self._trouble or "too much waits for Redis"))
        else:
            connection.send(command, _Waiting(found, read))
        return found

    def _tell(self, *command: bytes) -> bool:
        connection = self._connection
        if connection is None or connection.unsent > _MAX_UNSENT or len(connection.pending) >= _MAX_PENDING:
            self._connect_soon()
            return False
        connection.send(command, None)
        return True

    # ---- the connection ----

    def _connect_soon(self) -> None:
        if not self._closed and self._connection is None and self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        """Try until it works."""
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    async with asyncio.timeout(_CONNECT_TIMEOUT):
                        self._connection = await self._open()
                except (OSError, TimeoutError, hiredis.HiredisError) as error:
                    self._errors += 1
                    self._trouble = str(error) or "it does not answer"
                    self._tried.set()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    self._trouble = ""
                    break
        finally:
            self._connecting = None
            self._tried.set()

    async def _open(self) -> _Connection:
        address = self.address
        if address.service:
            host, port = await self._master()
        else:
            ((host, port),) = address.hosts
        tls = ssl.create_default_context() if address.tls else None
        connection = await self._dial(host, port, tls)
        try:
            if address.password:
                user = [address.user.encode()] if address.user else []
                await connection.ask(b"AUTH", *user, address.password.encode())
            if address.database:
                await connection.ask(b"SELECT", b"%d" % address.database)
            await connection.ask(b"PING")
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _master(self) -> tuple[str, int]:
        """Whom the first sentinel that answers takes for the master."""
        trouble = "no sentinel answers"
        share = _CONNECT_TIMEOUT / 2 / len(self.address.hosts)
        for host, port in self.address.hosts:
            try:
                async with asyncio.timeout(share):
                    sentinel = await self._dial(host, port, None)
                    try:
                        service = self.address.service.encode()
                        answer = await sentinel.ask(b"SENTINEL", b"get-master-addr-by-name", service)
                    finally:
                        sentinel.end()
            except (OSError, TimeoutError, hiredis.HiredisError):
                continue
            if isinstance(answer, list) and len(answer) == 2:
                return answer[0].decode(), int(answer[1])
            trouble = f"the sentinels know no {self.address.service!r}"
        raise ConnectionError(trouble)

    async def _dial(self, host: str, port: int, tls: ssl.SSLContext | None) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self), host, port, ssl=tls)
        return connection

    def lost(self, connection: _Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            if not self._closed:
                self._errors += 1
                self._trouble = why
                self._tried.clear()
                self._connect_soon()

    def refused(self, connection: _Connection, error: hiredis.ReplyError) -> None:
        """The server answered with an error."""
        self._errors += 1
        self._trouble = str(error)
        if connection is self._connection and str(error).startswith(
            ("READONLY", "NOAUTH", "MOVED", "MASTERDOWN")
        ):
            connection.abort()  # it is not, or no longer, the one to talk to

    def served(self) -> None:
        self._trouble = ""


def _read_entry(answer: Any) -> bytes | None:
    if answer is None or isinstance(answer, bytes):
        return answer
    raise ConnectionError("Redis answered with something else")


def _read_purges(answer: Any) -> dict[str, float]:
    try:
        return {tag.decode(): float(at) for tag, at in zip(answer[::2], answer[1::2], strict=True)}
    except (TypeError, ValueError, AttributeError) as error:
        raise ConnectionError("Redis answered with something else") from error


class _Waiting(msgspec.Struct, eq=False):
    found: asyncio.Future[Any]
    read: Callable[[Any], Any] | None


class _Connection(asyncio.Protocol):
    """Commands out, answers in, in one order."""

    def __init__(self, owner: RedisTier) -> None:
        self._owner = owner
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._unread = 0
        self.pending: deque[_Waiting | None] = deque()

    def __repr__(self) -> str:
        return f"<_Connection to Redis, {len(self.pending)} pending>"

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, command: tuple[bytes, ...], waiting: _Waiting | None) -> None:
        assert self._transport is not None
        self.pending.append(waiting)
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type] # its stub has one item

    async def ask(self, *command: bytes) -> Any:
        waiting = _Waiting(asyncio.get_running_loop().create_future(), None)
        self.send(command, waiting)
        return await waiting.found

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        why = str(error) if error is not None else "the connection to Redis was closed"
        self._owner.lost(self, why)
        pending, self.pending = self.pending, deque()
        for waiting in pending:
            if waiting is not None and not waiting.found.done():
                waiting.found.set_exception(ConnectionError(why))

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
        waiting = self.pending.popleft()
        if isinstance(answer, hiredis.ReplyError):
            self._owner.refused(self, answer)
            answer = ConnectionError(str(answer))
        if waiting is None:
            return
        self._owner.answered += 1
        found = waiting.found
        if found.done():
            return
        if waiting.read is not None and not isinstance(answer, Exception):
            try:
                answer = waiting.read(answer)
            except OSError as error:
                answer = error
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            self._owner.served()
            found.set_result(answer)
