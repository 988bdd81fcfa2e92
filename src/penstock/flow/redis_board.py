"""The pool of limits in a Redis server: one script does an exchange, in one round trip.  Needs the extra ``redis``."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec

from penstock.config.redis_address import Address
from penstock.flow._sharing_script import EXCHANGE
from penstock.flow.credit import Use
from penstock.flow.funds import Funds
from penstock.flow.sharing import Lease, Leases, Report
from penstock.net.redis_client import load, sha_of
from penstock.net.redis_link import Link

PREFIX = "{penstock:limits}"
_SHA = sha_of(EXCHANGE)
_KINDS = (*4 * (float,), int, int, *4 * (float,), *4 * (int,), float, float)  # of a lease's figures
_OF_A_LEASE = len(_KINDS)
_NO_USE = _NO_PLACES = _NO_CREDIT = (b"",) * 4
_NOTHING_SEEN = (b"",) * 8
_NO_GUESS = (b"",) * 4
_NO_FUNDS = (b"",) * 9


class RedisBoard:
    """A :class:`~penstock.flow.lessee.Board` in a Redis server, version 7 or newer.

    :param url: see :meth:`penstock.config.redis_address.Address.parse`
    :param prefix: of all keys, for several gateways on one server
    :raises ValueError: the URL is none of Redis
    """

    def __init__(self, url: str, *, prefix: str = PREFIX) -> None:
        self._member = os.urandom(8).hex().encode()
        self._prefix = prefix.encode()
        self._link = Link(Address.parse(url), prepare=lambda connection: load(connection, [EXCHANGE]))

    def __repr__(self) -> str:
        return f"<RedisBoard by {self._link!r}>"

    @property
    def name(self) -> str:
        host, port = self._link.address.hosts[0]
        return f"Redis at {host}:{port} (limits.redis)"

    def exchange(self, reports: list[Report], *, rejoins: bool) -> asyncio.Future[Leases]:
        words = command(self._member, self._prefix, reports, rejoins=rejoins)
        return self._link.ask(b"EVALSHA", _SHA, *words, read=read)

    def reset(self) -> None:
        self._link.reset("it does not answer in time")

    async def open(self) -> None:
        await self._link.wait_connected()

    async def close(self) -> None:
        await self._link.close()


def command(member: bytes, prefix: bytes, reports: list[Report], *, rejoins: bool) -> list[bytes]:
    """The keys and arguments of the script: the number of keys first."""
    keys = [prefix + b":members", prefix + b":recovers"]
    values = [member, b"1" if rejoins else b""]
    for report in reports:
        name = report.account.encode()
        keys += (prefix + b":of:" + name, prefix + b":day:" + name, prefix + b":month:" + name)
        values += (b"1" if report.anew else b"", _text(report.calls), _text(report.wanted))
        values.append(b"%d" % report.in_progress)
        values += _use(report.requests)
        values += _use(report.tokens)
        places = report.places
        values += (
            _NO_PLACES if places is None else [b"%d" % figure for figure in msgspec.structs.astuple(places)]
        )
        seen = report.seen
        values += (
            _NOTHING_SEEN if seen is None else [_number(figure) for figure in msgspec.structs.astuple(seen)]
        )
        guess = report.guess
        values += (
            _NO_GUESS if guess is None else [_number(figure) for figure in msgspec.structs.astuple(guess)]
        )
        for funds in (report.day, report.month):
            values += _NO_FUNDS if funds is None else _funds(funds)
        for use in (report.requests, report.tokens):
            values += _NO_CREDIT if use is None else _credit(use)
    return [b"%d" % len(keys), *keys, *values]


def _number(number: float) -> bytes:
    return repr(number).encode()


def _text(number: float) -> bytes:
    return repr(float(number)).encode()


def _funds(funds: Funds) -> list[bytes]:
    *sums, book = msgspec.structs.astuple(funds)
    return [*(b"%d" % figure for figure in sums), b"b:" + book.encode()]


def _credit(use: Use) -> tuple[bytes, bytes, bytes, bytes]:
    return b"%d" % use.number, _text(use.held), _text(use.wants), _text(use.least)


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
        members, now, *figures = map(float, answer)
        leases = []
        for at in range(0, len(figures), _OF_A_LEASE):
            figures_of_one = figures[at : at + _OF_A_LEASE]
            leases.append(Lease(*(kind(figure) for kind, figure in zip(_KINDS, figures_of_one, strict=True))))
    except (TypeError, ValueError, IndexError) as error:
        raise ConnectionError("Redis answered with something else") from error
    return Leases(int(members), leases, now)
