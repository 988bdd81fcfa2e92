"""The way to an upstream through an HTTP proxy: it is asked for a connection (CONNECT, RFC 9110, 9.3.6), on which
everything is then as if it had been made directly: TLS, names of servers, protocols.

Two protocols stand before the one that the connection is for: one that reads what the proxy answers, and one that
the connection has during the upstream's handshake.  An upstream may speak first (HTTP/2 does), and that in the turn
of the loop in which the handshake ends; so both keep what comes until it can be handed over.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl as tls
from typing import cast

from penstock.config.proxy import Proxy
from penstock.net.dial import TLS_SHUTDOWN_TIMEOUT, connected, dial
from penstock.net.origin import Origin

MAX_HEAD = 16_384  # bytes that a proxy may say before the connection is there
_LOGIN_WANTED = 407


class Tunnel:
    """Connects through ``proxy``; nothing that is shown of it has its password.

    :param ssl: for a proxy that is spoken to over TLS
    """

    def __init__(self, proxy: Proxy, ssl: tls.SSLContext | None = None) -> None:
        if proxy.secure != (ssl is not None):
            raise ValueError(f"{proxy}: a TLS context belongs to https, and to nothing else")
        self.through = f" through the proxy {proxy}"
        self._proxy = proxy
        self._ssl = ssl

    def __repr__(self) -> str:
        return f"<Tunnel{self.through}>"

    async def connect(self, origin: Origin, protocol: asyncio.Protocol, ssl: tls.SSLContext | None) -> None:
        """Give ``protocol`` a connection to ``origin``.

        :raises OSError: the proxy cannot be reached or refuses (with words, without a number), or no TLS with ``origin``
        """
        before = _Kept()
        try:
            await self._reach(before)
            before.transport.write(self._request(origin))
            self._check(await before.head())
            ready = before if ssl is None else await self._secured(before, origin, ssl)
            ready.hand_over(protocol)
        except BaseException:
            before.abort()
            raise

    async def _reach(self, protocol: asyncio.Protocol) -> None:
        proxy = self._proxy
        try:
            await connected(await dial(proxy.host, proxy.port), protocol, self._ssl, proxy.host)
        except tls.SSLCertVerificationError as error:
            raise OSError(f"its own TLS certificate is not trusted: {error.verify_message}") from error
        except tls.SSLError as error:
            raise OSError(f"no TLS with the proxy itself: {error.reason or error}") from error
        except socket.gaierror as error:
            raise OSError(f"it has no address: {error.strerror}") from error

    async def _secured(self, before: _Kept, origin: Origin, ssl: tls.SSLContext) -> _Kept:
        """The same connection after the upstream's handshake."""
        if before.kept:
            raise OSError("it speaks where the upstream should")
        inside = _Kept()
        made = await asyncio.get_running_loop().start_tls(
            before.transport,
            inside,
            ssl,
            server_hostname=origin.host,
            ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT,
        )
        if made is None:  # lost in its handshake
            raise ConnectionResetError("the connection was closed")
        inside.connection_made(made)
        return inside

    def _request(self, origin: Origin) -> bytes:
        lines = [f"CONNECT {origin.address} HTTP/1.1", f"host: {origin.address}"]
        if self._proxy.login is not None:
            login = base64.b64encode(self._proxy.login.reveal().encode()).decode()
            lines.append(f"proxy-authorization: Basic {login}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _check(self, head: bytes) -> None:
        """:raises OSError: the proxy's answer is not that the connection is there"""
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
        if len(words) < 2 or len(words[1]) != 3 or not (words[1].isascii() and words[1].isdigit()):
            raise OSError("what it answers is not HTTP")
        status = int(words[1])
        if 200 <= status < 300:
            return
        if status == _LOGIN_WANTED:
            wish = "wants a user and password" if self._proxy.login is None else "does not accept this login"
            raise OSError(f"it answers 407: it {wish}")
        reason = "".join(c for c in " ".join(words[2:])[:80] if c.isascii() and c.isprintable())
        raise OSError(f"it refuses with {status} {reason}".rstrip())


class _Kept(asyncio.Protocol):
    """Keeps what comes, until it is handed over."""

    def __init__(self) -> None:
        self.kept = bytearray()
        self._made: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False

    @property
    def transport(self) -> asyncio.Transport:
        assert self._made is not None
        return self._made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.kept += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - lost is lost
        self._lost = True
        self._wake()

    async def head(self) -> bytes:
        """The head of the answer; what comes behind it stays.

        :raises OSError: there is none, or no end of it
        """
        while True:
            end = self.kept.find(b"\r\n\r\n")
            if end > MAX_HEAD or (end < 0 and len(self.kept) > MAX_HEAD):
                raise OSError(f"the head of its answer has no end within {MAX_HEAD} bytes")
            begun = bytes(self.kept[:7])
            if not b"HTTP/1.".startswith(begun):
                raise OSError("what it answers is not HTTP")
            if end >= 0:
                head = bytes(self.kept[:end])
                del self.kept[: end + 4]
                if head[8:10] != b" 1":  # an interim one says nothing: RFC 9110, 15.2
                    return head
                continue
            if self._lost:
                raise OSError("it hung up without an answer")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """From now on the connection is that of ``protocol``.

        :raises ConnectionResetError: it is gone already
        """
        if self._lost:
            raise ConnectionResetError("the connection was closed")
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if self.kept:
            protocol.data_received(bytes(self.kept))

    def abort(self) -> None:
        if self._made is not None:
            self._made.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
