"""An upstream that does exactly what a test says, byte by byte."""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeAlias, cast


class Step(enum.Enum):
    """What is not a piece of an answer."""

    REQUEST = "wait until a whole request has come (Content-Length or chunked)"
    CLOSE = "close in order"
    HALF_CLOSE = "close the sending side in order, and go on reading"
    RESET = "close with a TCP reset"
    GONE = "wait until the client has closed its sending side"


Script: TypeAlias = Sequence[bytes | Step | asyncio.Event]
"""Bytes are sent as one write; an event is waited for; what is left open at the end stays open."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ScriptedUpstream:
    r"""Listens on a free port of 127.0.0.1 and plays one script per connection.

    ::

        async with ScriptedUpstream([[Step.REQUEST, b"HTTP/1.1 200 OK\r\n", go_on, Step.RESET]]) as upstream:
            ...  # connect to upstream.url
            go_on.set()
            await upstream.wait_played(1)
            assert upstream.received[0].startswith(b"POST")

    :param scripts: for the first connection, the second, ...; the last one serves all that come after
    """

    def __init__(self, scripts: Sequence[Script]) -> None:
        if not scripts:
            raise ValueError("there must be a script for the first connection")
        self.port = 0
        self._scripts = list(scripts)
        self._server: asyncio.Server | None = None
        self._stage = _Stage()
        self._players: list[_Player] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def received(self) -> list[bytes]:
        """What each connection has sent us so far."""
        return [bytes(player.received) for player in self._players]

    @property
    def connections(self) -> int:
        """How many have been made so far."""
        return len(self._players)

    async def wait_played(self, scripts: int) -> None:
        """Until so many scripts have come to their end (or their clients have left)."""
        await self._stage.until(lambda: sum(player.played for player in self._players) >= scripts)

    async def wait_connections(self, connections: int) -> None:
        await self._stage.until(lambda: self.connections >= connections)

    async def wait_received(self, what: bytes, connection: int = 0) -> None:
        """Until a connection has sent us these bytes."""
        await self._stage.until(
            lambda: self.connections > connection and what in self._players[connection].received
        )

    async def wait_gone(self, connection: int = 0) -> None:
        """Until the client of a connection has closed or reset it."""
        await self._stage.until(lambda: self.connections > connection and self._players[connection].gone)

    def _accept(self) -> _Player:
        player = _Player(self._stage, self._scripts[min(self.connections, len(self._scripts) - 1)])
        self._players.append(player)
        return player

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for player in self._players:
            await player.cut()

    def __repr__(self) -> str:
        return f"<ScriptedUpstream at {self.url}, {self.connections} connections>"


class _Stage:
    """Wakes those who wait for something whenever anything has happened."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class _Player(asyncio.Protocol):
    """One connection."""

    def __init__(self, stage: _Stage, script: Script) -> None:
        self.received = bytearray()
        self.gone = False  # the client has closed
        self.played = False
        self._stage = stage
        self._script = script
        self._transport: asyncio.Transport
        self._answered = 0  # bytes of the requests that the script has waited for
        self._task: asyncio.Task[None]
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._task = asyncio.get_running_loop().create_task(self._play())
        self._stage.changed()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._stage.changed()

    def eof_received(self) -> bool:
        self.gone = True
        self._stage.changed()
        return True  # what the script still has to send goes out

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.gone = True
        self._lost.set_result(None)
        self._stage.changed()

    async def cut(self) -> None:
        self._task.cancel()
        self._transport.abort()
        await self._lost

    async def _play(self) -> None:
        try:
            for step in self._script:
                if isinstance(step, bytes):
                    self._transport.write(step)
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    await self._take(step)
        finally:
            self.played = True
            self._stage.changed()
        await self._stage.until(lambda: self.gone)
        self._transport.close()

    async def _take(self, step: Step) -> None:
        if step is Step.REQUEST:
            await self._stage.until(lambda: self.gone or self._has_request())
        elif step is Step.GONE:
            await self._stage.until(lambda: self.gone)
        elif step is Step.HALF_CLOSE:
            self._transport.write_eof()
        elif step is Step.CLOSE:
            self._transport.close()
        else:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    def _has_request(self) -> bool:
        """Whether one more request is there; if so, the next wait is for the one after it."""
        head, blank, body = bytes(self.received[self._answered :]).partition(b"\r\n\r\n")
        if not blank:
            return False
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            end = body.find(b"0\r\n\r\n")
            length = end + 5 if end >= 0 else len(body) + 1
        else:
            length = int(fields.get(b"content-length", b"0"))
        if len(body) < length:
            return False
        self._answered += len(head) + 4 + length
        return True

    def __repr__(self) -> str:
        state = "gone" if self.gone else "played" if self.played else "playing"
        return f"<_Player {state}, {len(self.received)} bytes received>"
