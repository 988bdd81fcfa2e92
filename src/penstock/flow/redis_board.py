"""The pool of limits in a Redis server: one script does an exchange, in one round trip.  Needs the extra ``redis``."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import hiredis
import msgspec

from penstock.flow._sharing_script import EXCHANGE
from penstock.flow.sharing import Lease, Leases, Report, Use
from penstock.net.redis import ERRORS, Address, Connection, Waiting, connect

PREFIX = "{penstock:limits}"
_SHA = hashlib.sha1(EXCHANGE, usedforsecurity=False).hexdigest().encode()
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two attempts to connect
_OF_A_LEASE = 6
_NO_USE = (b"", b"", b"", b"")


class RedisBoard:
    """A :class:`~penstock.flow.lessee.Board` in a Redis server, version 7 or newer.

    :param url: see :meth:`penstock.net.redis.Address.parse`
    :param prefix: of all keys, for several gateways on one server
    :raises ValueError: the URL is none of Redis
    """

    def __init__(self, url: str, *, prefix: str = PREFIX) -> None:
        self.address = Address.parse(url)
        self.answered = 0  # for the connection
        self._member = os.urandom(8).hex().encode()
        self._prefix = prefix.encode()
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._trouble = "not connected yet"
        self._closed = False

    def __repr__(self) -> str:
        host, port = self.address.hosts[0]
        return f"<RedisBoard {host}:{port}, {self._trouble or 'well'}>"

    def exchange(self, reports: list[Report], *, rejoins: bool) -> asyncio.Future[Leases]:
        found: asyncio.Future[Leases] = asyncio.get_running_loop().create_future()
        if self._connection is None:
            self._connect_soon()
            found.set_exception(ConnectionError(self._trouble))
            return found
        words = command(self._member, self._prefix, reports, rejoins=rejoins)
        self._connection.send((b"EVALSHA", _SHA, *words), Waiting(found, read))
        return found

    def reset(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def open(self) -> None:
        self._connect_soon()
        if self._connecting is not None:
            await asyncio.wait([self._connecting])

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.end()

    # ---- the connection ----

    def _connect_soon(self) -> None:
        if not self._closed and self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        """Try until it works."""
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    connection = await connect(self.address, self)
                    try:
                        async with asyncio.timeout(1.0):
                            await connection.ask(b"SCRIPT", b"LOAD", EXCHANGE)
                    except BaseException:
                        connection.abort()
                        raise
                except ERRORS as error:
                    self._trouble = str(error) or "it does not answer"
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    self._connection = connection
                    self._trouble = ""
                    return
        finally:
            self._connecting = None

    def lost(self, connection: Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            self._trouble = why
            self._connect_soon()

    def refused(self, connection: Connection, error: hiredis.ReplyError) -> None:
        """The server answered with an error: it is not the right one any more, or has forgotten the script."""
        self._trouble = str(error)
        if connection is self._connection:
            connection.abort()

    def served(self) -> None:
        self._trouble = ""


def command(member: bytes, prefix: bytes, reports: list[Report], *, rejoins: bool) -> list[bytes]:
    """The keys and arguments of the script: the number of keys first."""
    keys = [prefix + b":members", prefix + b":recovers"]
    values = [member, b"1" if rejoins else b""]
    for report in reports:
        keys.append(prefix + b":of:" + report.account.encode())
        values += (b"1" if report.anew else b"", _text(report.calls), _text(report.wanted))
        values.append(b"%d" % report.in_progress)
        values += _use(report.requests)
        values += _use(report.tokens)
        places = report.places
        values += (
            _NO_USE if places is None else [b"%d" % figure for figure in msgspec.structs.astuple(places)]
        )
    return [b"%d" % len(keys), *keys, *values]


def _text(number: float) -> bytes:
    return repr(float(number)).encode()


def _use(use: Use | None) -> tuple[bytes, bytes, bytes, bytes]:
    if use is None:
        return _NO_USE
    return (
        _text(use.limit),
        _text(use.total),
        _text(use.taken),
        b"" if use.level is None else _text(use.level),
    )


def read(answer: Any) -> Leases:
    """What the script answers.

    :raises ConnectionError: that was something else
    """
    try:
        members, *figures = map(float, answer)
        leases = []
        for at in range(0, len(figures), _OF_A_LEASE):
            requests, tokens, calls_share, tokens_share, others, places = figures[at : at + _OF_A_LEASE]
            leases.append(Lease(requests, tokens, calls_share, tokens_share, int(others), int(places)))
    except (TypeError, ValueError, IndexError) as error:
        raise ConnectionError("Redis answered with something else") from error
    return Leases(int(members), leases)
