"""The tier that several machines share: Redis, or what speaks its protocol.

One connection for each worker, on which commands are pipelined (``net.redis``); one to each master of a cluster
(``cache.tiers.redis_cluster``).  Nothing is ever waited for but look-ups, and those are bounded by their guard; while
there is no connection they fail at once, and a task tries to make one.  Entries expire by themselves, and are bounded by
the server's ``maxmemory``.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from penstock.cache.shared_clock import SharedClock
from penstock.cache.tiers.tier import Learn, Then, TierStatistics, forget
from penstock.config.redis_address import Address
from penstock.net.redis import CONNECT_TIMEOUT, Connection, Refused, Waiting
from penstock.net.redis import Then as Answered
from penstock.net.redis_link import Link

PREFIX = b"penstock:cache:"
_CLAIMS = b"penstock:asking:"
_RELEASE = b"if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
_RENEW = b"if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
PURGES = PREFIX + b"purges"
# In one go: what another machine purges anew meanwhile is dated later, and stays.
_COVER = (
    b"if tonumber(redis.call('hget', KEYS[1], ARGV[1]) or '0') < tonumber(ARGV[2]) then"
    b" redis.call('hset', KEYS[1], ARGV[1], ARGV[2]) end"
    b" local told = redis.call('hgetall', KEYS[1])"
    b" for i = 1, #told, 2 do if told[i] ~= ARGV[1] and told[i] ~= ARGV[3]"
    b" and tonumber(told[i + 1]) <= tonumber(ARGV[2]) then redis.call('hdel', KEYS[1], told[i]) end end"
)
TIME = (b"TIME",)
# Beside the purges, whose tags are ``all`` or have a colon: see ``cache.shared_clock``.
_ADVANCED = "advanced"
_Send: TypeAlias = Callable[[tuple[bytes, ...], Answered], None]
SILENT = "it does not answer in time"
_PURGES_KEPT = 90 * 86_400  # seconds: longer than any entry is kept


class RedisEntries(ABC):
    """Entries in Redis, whatever way its servers are reached.

    :param url: see :meth:`Address.parse`
    :param clock: which is told the server's time
    :raises ValueError: the URL is none of Redis
    """

    name = "redis"
    by_use = True
    clusters = False

    def __init__(self, url: str, clock: SharedClock | None = None) -> None:
        self.address = Address.parse(url, clusters=self.clusters)
        self._clock = clock or SharedClock()
        self._learn: Learn = forget
        self._timeless = False  # the connection's user may not ask for the time
        self._errors = 0
        self._written = self._dropped = 0

    def get(self, key: bytes, then: Then) -> None:
        self._call((b"GET", PREFIX + key), partial(_tell_entry, then))

    async def purges(self) -> dict[str, float]:
        return await self._heard(self._call)

    async def _heard(self, send: _Send) -> dict[str, float]:
        """What has been purged; the clock is told what time it is.

        :raises ConnectionError: there is no answer; :class:`Refused`: or what was purged may not be read
        """
        clock = self._clock
        sent, server = clock.monotonic(), None
        if not self._timeless:
            try:
                server, received = await _asked(
                    send, *TIME, read=lambda answer: (_seconds(answer), clock.monotonic())
                )
            except Refused:
                self._timeless = True
                clock.refused()
        found: dict[str, float] = await _asked(send, b"HGETALL", PURGES, read=_read_purges)
        advanced = found.pop(_ADVANCED, 0.0)
        if server is not None and (needed := clock.heard(server, sent, received, advanced)) != advanced:
            self.purged(_ADVANCED, needed)
        return found

    async def _greet(self, connection: Connection) -> None:
        """Learn from a server what time it is, and what has been purged, before anything is looked up there."""
        self._timeless = False
        async with asyncio.timeout(CONNECT_TIMEOUT):
            try:
                self._learn(await self._heard(connection.send))
            except Refused:
                await connection.ask(b"PING")  # it is done without

    def put(self, key: bytes, sealed: bytes, kept_until: float) -> None:
        lifetime = int((kept_until - self._clock.now()) * 1_000)
        if lifetime <= 0:
            return
        if self._tell(b"SET", PREFIX + key, sealed, b"PX", b"%d" % lifetime):
            self._written += 1
        else:
            self._dropped += 1

    def remove(self, key: bytes) -> None:
        self._tell(b"DEL", PREFIX + key)

    def used(self, keys: Sequence[bytes]) -> None:
        self._tell(b"TOUCH", *(PREFIX + key for key in keys))

    def claim(self, key: bytes, token: bytes, lifetime: float) -> asyncio.Future[bool]:
        expiry = b"%d" % max(lifetime * 1_000, 1)
        return self._ask(b"SET", _CLAIMS + key, token, b"NX", b"PX", expiry, read=_read_claim)

    def renew(self, key: bytes, token: bytes, lifetime: float) -> None:
        self._tell(b"EVAL", _RENEW, b"1", _CLAIMS + key, token, b"%d" % max(lifetime * 1_000, 1))

    def release(self, key: bytes, token: bytes) -> None:
        self._tell(b"EVAL", _RELEASE, b"1", _CLAIMS + key, token)

    def purged(self, tag: str, at: float) -> None:
        self._tell_purges(b"HSET", PURGES, tag.encode(), repr(at).encode())

    def covered(self, tag: str, at: float) -> None:
        self._tell_purges(b"EVAL", _COVER, b"1", PURGES, tag.encode(), repr(at).encode(), _ADVANCED.encode())

    def _tell_purges(self, *command: bytes) -> None:
        self._tell(*command)
        self._tell(b"EXPIRE", PURGES, b"%d" % _PURGES_KEPT)

    def statistics(self) -> TierStatistics:
        return TierStatistics(
            written=self._written, dropped=self._dropped, errors=self._errors, trouble=self._trouble()
        )

    @abstractmethod
    def _trouble(self) -> str:
        """Why it cannot be used now; empty: it can."""

    # ---- commands, each for one key ----

    def _ask(self, *command: bytes, read: Callable[[Any], Any] | None = None) -> asyncio.Future[Any]:
        """What ``read`` makes of the answer; a :class:`ConnectionError` where there is none."""
        return _asked(self._call, *command, read=read)

    @abstractmethod
    def _call(self, command: tuple[bytes, ...], then: Callable[[Any], None]) -> None:
        """See :meth:`Link.call`."""

    @abstractmethod
    def _tell(self, *command: bytes) -> bool:
        """See :meth:`Link.tell`."""


class RedisTier(RedisEntries):
    """Entries in one server, or in whatever master its sentinels name."""

    def __init__(self, url: str, clock: SharedClock | None = None) -> None:
        super().__init__(url, clock)
        self._link = Link(self.address, prepare=self._greet, on_trouble=self._count)

    def __repr__(self) -> str:
        return f"<RedisTier by {self._link!r}>"

    def start(self, learn: Learn = forget) -> None:
        self._learn = learn
        self._link.connect_soon()

    @property
    def answered(self) -> int:
        return self._link.answered

    def reset(self) -> None:
        self._link.reset(SILENT)

    async def flush(self) -> None:
        await flushed(self._link)

    async def close(self) -> None:
        await self._link.close()

    def _trouble(self) -> str:
        return self._link.trouble

    def _count(self, _why: str) -> None:
        self._errors += 1

    def _call(self, command: tuple[bytes, ...], then: Callable[[Any], None]) -> None:
        self._link.call(command, then)

    def _tell(self, *command: bytes) -> bool:
        return self._link.tell(*command)


def _asked(send: _Send, *command: bytes, read: Callable[[Any], Any] | None = None) -> asyncio.Future[Any]:
    found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    send(command, Waiting(found, read))
    return found


async def flushed(link: Link) -> None:
    """Wait until the server has done what it was told, or is known not to be there."""
    await link.wait_tried()
    try:
        await link.ask(b"PING")
    except OSError:
        pass


def _tell_entry(then: Then, answer: Any) -> None:
    if answer is None or isinstance(answer, bytes | OSError):
        then(answer)
    else:
        then(ConnectionError("Redis answered with something else"))


def _seconds(answer: Any) -> float:
    try:
        seconds, micros = answer
        return int(seconds) + int(micros) / 1e6
    except (TypeError, ValueError) as error:
        raise ConnectionError("Redis answered with something else") from error


def _read_claim(answer: Any) -> bool:
    return answer is not None


def _read_purges(answer: Any) -> dict[str, float]:
    try:
        return {tag.decode(): float(at) for tag, at in zip(answer[::2], answer[1::2], strict=True)}
    except (TypeError, ValueError, AttributeError) as error:
        raise ConnectionError("Redis answered with something else") from error
