"""Reach one of a host's addresses over TCP, and an upstream's protocol there.

Happy Eyeballs (RFC 8305) in its simple form: addresses are tried in order, families in turn, each a
quarter of a second after the one before or as soon as that has failed; the first to connect wins.
uvloop has nothing of the kind, and would wait for a dead IPv6 route until the connect clock runs out;
asyncio's own leaks the winner's socket if it is cancelled just then.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl as tls
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from penstock.net.origin import Origin

ATTEMPT_DELAY = 0.25  # seconds; RFC 8305, section 5
TLS_SHUTDOWN_TIMEOUT = 2.0  # seconds that a closing connection waits for the peer's close_notify

AddressInfo: TypeAlias = tuple[int, int, int, str, Any]


class Way(Protocol):
    """How the connections to an upstream are made."""

    through: str  # for messages, behind the upstream's address

    async def connect(self, origin: Origin, protocol: asyncio.Protocol, ssl: tls.SSLContext | None) -> None:
        """Give ``protocol`` a connection to ``origin``.

        :param ssl: for https
        :raises OSError: there is none to be had
        """


class Direct:
    """The way on which nobody stands between."""

    through = ""

    async def connect(self, origin: Origin, protocol: asyncio.Protocol, ssl: tls.SSLContext | None) -> None:
        await connected(await dial(origin.host, origin.port), protocol, ssl, origin.host)


DIRECT = Direct()


async def connected(
    sock: socket.socket, protocol: asyncio.Protocol, ssl: tls.SSLContext | None, host: str
) -> None:
    """Give ``protocol`` this socket, after a handshake if there is to be TLS; closes it if that fails."""
    loop = asyncio.get_running_loop()
    try:
        if ssl is None:
            await loop.create_connection(lambda: protocol, sock=sock)
        else:
            await loop.create_connection(
                lambda: protocol,
                sock=sock,
                ssl=ssl,
                server_hostname=host,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT,
            )
    except BaseException:
        sock.close()
        raise


async def dial(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket.

    :raises socket.gaierror: the name has no address
    :raises OSError: no address can be reached; the error is the first address's
    """
    loop = asyncio.get_running_loop()
    queue = alternating(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    attempts: set[asyncio.Task[socket.socket]] = set()
    first_error: BaseException | None = None
    try:
        while queue or attempts:
            if queue:
                attempts.add(asyncio.create_task(_attempt(loop, queue.pop(0))))
            done, _ = await asyncio.wait(
                attempts, timeout=ATTEMPT_DELAY if queue else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                error = attempt.exception()
                attempts.discard(attempt)
                if error is None:
                    return attempt.result()
                first_error = first_error or error
        raise first_error or OSError(f"{host} has no address")
    finally:
        # Nothing is awaited here: a cancellation would take the winner with it.
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_result)


async def _attempt(loop: asyncio.AbstractEventLoop, info: AddressInfo) -> socket.socket:
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_result(attempt: asyncio.Task[socket.socket]) -> None:
    """An attempt that connected all the same, in the turn of the loop in which it was called off."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def alternating(infos: Sequence[AddressInfo]) -> list[AddressInfo]:
    """Address families in turn, beginning with the resolver's first choice."""
    families: dict[int, list[AddressInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    return [info for turn in itertools.zip_longest(*families.values()) for info in turn if info is not None]
