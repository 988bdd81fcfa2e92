"""Redis for those who wait for what they ask, within a budget."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from penstock.config.redis_address import Address
from penstock.net.redis import CONNECT_TIMEOUT, Connection, Waiting
from penstock.net.redis_link import FATAL, Link

STOOD_STILL = 0.5  # seconds by which a timer is late only if this process was stopped, or hung
SECOND_LOOK = 0.1  # seconds that it is given then to read what has come


def sha_of(script: bytes) -> bytes:
    """By which a script that was loaded is called."""
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()


async def load(connection: Connection, scripts: Sequence[bytes], budget: float = CONNECT_TIMEOUT) -> None:
    """Have the server know scripts by their sums.

    :raises TimeoutError: not within the budget
    :raises ConnectionError: the connection ended, or the server refuses them
    """
    async with asyncio.timeout(budget):
        for script in scripts:
            await connection.ask(b"SCRIPT", b"LOAD", script)


class _Late:
    """Calls back when a budget is spent; the time in which this process stood still is no part of it.

    On uvloop timers run before what has come meanwhile is read: the answer may lie there.
    """

    __slots__ = ("_due", "_handle", "_loop", "_spent")

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: float, spent: Callable[[], None]) -> None:
        self._loop = loop
        self._spent = spent
        self._due = loop.time() + budget
        self._handle = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        if self._loop.time() - self._due < STOOD_STILL:
            self._spent()
        else:
            self._handle = self._loop.call_later(SECOND_LOOK, self._spent)

    def cancel(self) -> None:
        self._handle.cancel()


class Client:
    """Asks over a :class:`~penstock.net.redis_link.Link`, with a budget for the answers.

    An answer that does not come in time ends the connection.  The first who asks without one waits for the try to make
    it, which may take as long: who has time for a late answer is not refused for a late connection.  Until a later try
    succeeds, all others are told at once that there is none.

    :param budget: seconds
    :param scripts: that every connection begins with loading
    :param unavailable: what is raised if there is no answer, or an error; ``full`` if the server has no memory left
    :param on_lost: is told that a connection has ended
    """

    def __init__(
        self,
        address: Address,
        budget: float,
        scripts: Sequence[bytes],
        unavailable: Callable[[str], Exception],
        full: Callable[[str], Exception],
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.cluster = False  # whether the server belongs to one
        self._budget = budget
        self._scripts = {script: sha_of(script) for script in scripts}
        self._unavailable = unavailable
        self._full = full
        self._link = Link(
            address,
            budget=max(budget, CONNECT_TIMEOUT),
            prepare=self._prepare,
            fatal=(*FATAL, "MOVED"),
            on_lost=on_lost,
        )

    def __repr__(self) -> str:
        return f"<Client of {self._link!r}>"

    @property
    def trouble(self) -> str:
        """Why nothing is answered now; empty: it is."""
        return self._link.trouble

    async def ask(self, *command: bytes) -> Any:
        """:raises Exception: as was said: no answer in time, or an error"""
        return (await self.ask_all([command]))[0]

    async def run(self, script: bytes, keys: Sequence[bytes], *values: bytes) -> Any:
        """What one of the scripts returns.

        :raises Exception: as was said: no answer in time, or an error
        """
        return await self.ask(b"EVALSHA", self._scripts[script], b"%d" % len(keys), *keys, *values)

    async def ask_all(self, commands: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """Send all, then wait for all.

        :raises Exception: as was said: not all were answered in time, or one with an error
        """
        connection = await self.ready()
        loop = asyncio.get_running_loop()
        found: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        for command, future in zip(commands, found, strict=True):
            connection.send(command, Waiting(future, None))
        late = _Late(loop, self._budget, functools.partial(self._late, connection))
        try:
            answers = await asyncio.gather(*found, return_exceptions=True)
        finally:
            late.cancel()
        for answer in answers:
            if isinstance(answer, ConnectionError):
                why = str(answer)
                raise (self._full if why.startswith("OOM") else self._unavailable)(self._why(why)) from answer
        return answers

    def tell(self, *command: bytes) -> None:
        """Send without waiting; it is lost if there is no connection."""
        if self._link.connection is not None:
            self._link.connection.send(command, None)

    async def ready(self) -> Connection:
        """The connection, made if need be.

        :raises Exception: as was said: there is none
        """
        link = self._link
        if link.connection is None:
            await link.wait_tried()
            if link.connection is None:
                raise self._unavailable(self._why(link.trouble))
        return link.connection

    async def close(self) -> None:
        await self._link.close()

    async def _prepare(self, connection: Connection) -> None:
        await load(connection, tuple(self._scripts), self._budget)
        async with asyncio.timeout(self._budget):
            about = await connection.ask(b"INFO", b"cluster")
        self.cluster = b"cluster_enabled:1" in about

    def reset(self, why: str) -> None:
        """End the connection, whose answers are not to be believed; the next one is made anew."""
        if self._link.connection is not None:
            self._link.reset(why)

    def _late(self, connection: Connection) -> None:
        if connection is self._link.connection:
            self._link.reset(f"no answer within {self._budget:g} s")

    def _why(self, error: str) -> str:
        host, port = self._link.address.hosts[0]
        return f"Redis at {host}:{port}: {error}"
