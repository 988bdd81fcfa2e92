"""A connection to a Redis server for those who wait for what they ask: made when it is needed, and not forever."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from penstock.net.redis import ERRORS, Address, Connection, connect

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds without a try, after one that failed


def sha_of(script: bytes) -> bytes:
    """By which a script that was loaded is called."""
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()


class Link:
    """A connection that is made when it is needed, with a budget for each answer and a breaker.

    After a failure nobody tries for a while that doubles: what is asked meanwhile fails at once.

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
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.answered = 0  # for the connection
        self.cluster = False
        self.trouble = ""
        self._address = address
        self._budget = budget
        self._scripts = scripts
        self._unavailable = unavailable
        self._full = full
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pause = 0.0
        self._retry_at = 0.0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Link {self.trouble or 'well'}>"

    async def ask(self, *command: bytes) -> Any:
        """:raises Exception: as was said: no answer in time, or an error"""
        return (await self.ask_all([command]))[0]

    async def ask_all(self, commands: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """Send all, then wait for all.

        :raises Exception: as was said: not all were answered in time, or one with an error
        """
        connection = await self.ready()
        loop = asyncio.get_running_loop()
        waiting = [loop.create_task(connection.ask(*command)) for command in commands[1:]]
        timer = loop.call_later(self._budget, self._late, connection)
        try:
            answers = [await connection.ask(*commands[0])] if commands else []
            answers += [await task for task in waiting]
        except ConnectionError as error:
            if waiting:
                await asyncio.gather(*waiting, return_exceptions=True)
            if str(error).startswith("OOM"):
                raise self._full(str(error)) from error
            raise self._unavailable(self._why(str(error))) from error
        finally:
            timer.cancel()
        return answers

    def tell(self, *command: bytes) -> None:
        """Send without waiting; it is lost if there is no connection."""
        if self._connection is not None:
            self._connection.send(command, None)

    async def ready(self) -> Connection:
        """The connection, made if need be.

        :raises Exception: as was said: there is none
        """
        if self._connection is not None:
            return self._connection
        loop = asyncio.get_running_loop()
        if self._closed:
            raise self._unavailable("the store is closed")
        if self._connecting is None:
            if loop.time() < self._retry_at:
                raise self._unavailable(self._why(self.trouble))
            self._connecting = loop.create_task(self._connect())
        await asyncio.shield(self._connecting)
        if self._connection is None:
            raise self._unavailable(self._why(self.trouble))
        return self._connection

    async def _connect(self) -> None:
        try:
            connection = await connect(self._address, self)
            try:
                async with asyncio.timeout(self._budget):
                    for script in self._scripts:
                        await connection.ask(b"SCRIPT", b"LOAD", script)
                    about = await connection.ask(b"INFO", b"cluster")
            except BaseException:
                connection.abort()
                raise
        except ERRORS as error:
            self._broken(str(error) or "it does not answer")
        else:
            self.cluster = b"cluster_enabled:1" in about
            self._connection = connection
            self.trouble = ""
            self._pause = 0.0
        finally:
            self._connecting = None

    def _late(self, connection: Connection) -> None:
        self._broken(f"no answer within {self._budget:g} s")
        connection.abort()

    def _broken(self, why: str) -> None:
        self.trouble = why
        self._pause = min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
        self._retry_at = asyncio.get_running_loop().time() + self._pause

    def _why(self, error: str) -> str:
        host, port = self._address.hosts[0]
        return f"Redis at {host}:{port}: {self.trouble or error}"

    def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.end()
            self._connection = None

    # ---- for the connection ----

    def lost(self, connection: Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            self._on_lost()
            if not self.trouble:
                self._broken(why)

    def refused(self, connection: Connection, error: hiredis.ReplyError) -> None:
        if str(error).startswith(("READONLY", "NOAUTH", "MOVED", "MASTERDOWN", "NOSCRIPT")):
            self._broken(str(error))
            connection.abort()  # it is not, or no longer, the one to talk to, or has forgotten everything

    def served(self) -> None:
        pass
