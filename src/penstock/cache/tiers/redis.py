"""The tier that several machines share: Redis, or what speaks its protocol.

One connection for each worker, on which commands are pipelined (``net.redis``).  Nothing is ever waited
for but look-ups, and those are bounded by their guard; while there is no connection they fail at once, and a
task tries to make one.  Entries expire by themselves, and are bounded by the server's ``maxmemory``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import hiredis

from penstock.cache.tiers.tier import TierStatistics
from penstock.net.redis import ERRORS, Address, Connection, Waiting, connect

PREFIX = b"penstock:cache:"
_CLAIMS = b"penstock:asking:"
_RELEASE = b"if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
_PURGES = PREFIX + b"purges"
_PURGES_KEPT = 90 * 86_400  # seconds: longer than any entry is kept

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries to connect
_MAX_UNSENT = 4 << 20  # bytes that wait for a slow server; further entries are dropped
_MAX_PENDING = 10_000


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
        self._connection: Connection | None = None
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

    def claim(self, key: bytes, token: bytes, lifetime: float) -> asyncio.Future[bool]:
        expiry = b"%d" % max(lifetime * 1_000, 1)
        return self._ask(b"SET", _CLAIMS + key, token, b"NX", b"PX", expiry, read=_read_claim)

    def release(self, key: bytes, token: bytes) -> None:
        self._tell(b"EVAL", _RELEASE, b"1", _CLAIMS + key, token)

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
            connection.send(command, Waiting(found, read))
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
                    self._connection = await connect(self.address, self)
                except ERRORS as error:
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

    def lost(self, connection: Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            if not self._closed:
                self._errors += 1
                self._trouble = why
                self._tried.clear()
                self._connect_soon()

    def refused(self, connection: Connection, error: hiredis.ReplyError) -> None:
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


def _read_claim(answer: Any) -> bool:
    return answer is not None


def _read_purges(answer: Any) -> dict[str, float]:
    try:
        return {tag.decode(): float(at) for tag, at in zip(answer[::2], answer[1::2], strict=True)}
    except (TypeError, ValueError, AttributeError) as error:
        raise ConnectionError("Redis answered with something else") from error
