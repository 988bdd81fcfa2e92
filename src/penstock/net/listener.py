"""The HTTP/1.1 server that the gateway stands on.

In the order of a request: ``_inbound`` (a connection; the theory of operation is there), ``_inbound_head``,
``_request_head``, ``_inbound_body`` and ``_chunked`` (bytes to requests, without I/O), ``_inbound_exchange`` (one request
and its answer).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from penstock.config.model import ListenerConfig
from penstock.net._inbound import Inbound
from penstock.net._serving import NEVER, Serving
from penstock.net.clock import Clock
from penstock.net.exchange import Application, Repeats

if TYPE_CHECKING:
    import ssl as ssl_module

_BACKLOG = 2_048  # connections that wait in the kernel


class ListenerStatistics(msgspec.Struct, frozen=True):
    open: int  # connections
    in_progress: int  # requests whose head has begun to come and whose answer has not ended
    accepted: int  # connections since the start
    requests: int  # since the start
    refused: dict[str, int]  # by reason, since the start


class Listener:
    """Serves one application on any number of sockets of one event loop.

    :param on_refused: told the reason of each refusal and each cut, for counting
    :param repeats: knows answers by their requests' bytes; None: every request is read
    """

    def __init__(
        self,
        application: Application,
        config: ListenerConfig,
        clock: Clock,
        *,
        on_refused: Callable[[str], None] | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        self._serving = Serving(application, config, clock, on_refused, repeats)
        self._clock = clock
        self._servers: list[tuple[asyncio.Server, socket.socket, ssl_module.SSLContext | None]] = []
        self._drain_until = NEVER
        self._next_sweep = 0.0
        clock.add(self)

    async def serve(self, *sockets: socket.socket, ssl: ssl_module.SSLContext | None = None) -> None:
        """Accept connections on these bound stream sockets, which the listener owns from now on."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            server = await loop.create_server(
                self.protocol_factory,
                sock=sock,
                ssl=ssl,
                backlog=_BACKLOG,
                ssl_handshake_timeout=self._handshake_timeout(ssl),
            )
            self._servers.append((server, sock, ssl))

    def _handshake_timeout(self, ssl: ssl_module.SSLContext | None) -> float | None:
        return (self._serving.config.header_timeout or None) if ssl is not None else None

    def protocol_factory(self) -> asyncio.Protocol:
        """A protocol for one accepted connection."""
        return Inbound(self._serving)

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections stay."""
        for server, _, _ in self._servers:
            server.close()
        self._servers.clear()

    def announce_end(self) -> None:
        """From now on each answer says ``connection: close``: who comes again has to connect, perhaps elsewhere."""
        self._serving.ending = True

    async def drain(self, deadline_seconds: float) -> int:
        """Stop accepting, let the requests under way end, then cut.

        Idle connections are closed at once; the answers that are still to come say ``connection: close``.

        :returns: how many requests were cut because the deadline had passed
        """
        serving = self._serving
        serving.ending = serving.draining = True
        waiting = [
            self._accept(sock, ssl) for _, listening, ssl in self._servers for sock in _waiting(listening)
        ]
        self.stop_accepting()
        await asyncio.gather(*waiting)
        for connection in list(serving.connections):
            connection.drain()
        if deadline_seconds > 0:
            self._drain_until = self._clock.now() + deadline_seconds
            await serving.wait_until_empty()
        cut = sum([connection.cut("drain") for connection in list(serving.connections)])
        self._clock.remove(self)
        return cut

    async def _accept(self, sock: socket.socket, ssl: ssl_module.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self.protocol_factory, sock, ssl=ssl, ssl_handshake_timeout=self._handshake_timeout(ssl)
            )
        except OSError:  # it has gone, or never meant TLS
            sock.close()

    def statistics(self) -> ListenerStatistics:
        serving = self._serving
        return ListenerStatistics(
            open=len(serving.connections),
            in_progress=sum(connection.in_progress for connection in serving.connections),
            accepted=serving.accepted,
            requests=serving.requests,
            refused=dict(serving.refused),
        )

    def sweep(self, now: float) -> None:
        """Act on the deadlines that have passed (called by the clock)."""
        serving = self._serving
        serving.openings.refresh()
        for connection in list(serving.stalled):
            connection.check_stalled(now)
        if now >= self._drain_until:
            serving.wake_drain()
        if now < self._next_sweep:
            return
        following = now + serving.shortest
        for connection in list(serving.connections):
            if connection.deadline <= now:
                connection.expire(now)
            following = min(following, connection.deadline)
        self._next_sweep = following

    def __repr__(self) -> str:
        serving = self._serving
        state = "draining" if serving.draining else "accepting" if self._servers else "not accepting"
        return (
            f"<Listener {state}, {len(serving.connections)} connections, {serving.requests} requests so far>"
        )


def _waiting(listening: socket.socket) -> list[socket.socket]:
    """The connections that wait to be accepted: closing the port would reset them, requests and all."""
    waiting: list[socket.socket] = []
    try:
        while len(waiting) < _BACKLOG:
            sock, _ = listening.accept()
            sock.setblocking(False)
            waiting.append(sock)
    except OSError:  # there are no more
        pass
    return waiting
