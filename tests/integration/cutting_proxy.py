"""A network that breaks: it stands between a client and a server, and cuts each connection where it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass

KINDS = ("reset", "close", "half-close", "black hole", "stall")

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_SMALL = 4_096  # bytes of a socket's buffer, so that who does not read is felt


@dataclass(frozen=True)
class Cut:
    """What becomes of one connection.

    ``after``: bytes of answers.  ``kind``: a reset at both ends; an orderly close at both ends; the server hears that
    the client sends no more, and may go on; silence, of which nobody is told; silence until :attr:`CuttingProxy.go_on`
    says otherwise.
    """

    after: int
    kind: str


class CuttingProxy:
    """Forwards connections; the first is cut by the first plan, and so on, those beyond not at all.

    :param go_on: how long a stall lasts
    """

    def __init__(self, host, port, cuts, go_on):
        self.url = ""
        self.connections = 0
        self.made = []  # the cuts that came about
        self._target = host, port
        self._cuts = list(cuts)
        self._go_on = go_on
        self._server = None
        self._tasks = set()
        self._writers = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # aborted connections are told so in the next turn

    async def _serve(self, reader, writer):
        self._tasks.add(task := asyncio.current_task())
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        cut = self._cuts.pop(0) if self._cuts else None
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._target)
        far_reader, far_writer = await asyncio.open_connection(sock=sock, limit=_SMALL)
        self._writers += [writer, far_writer]
        asking = asyncio.ensure_future(self._pump(reader, far_writer))
        self._tasks.add(asking)
        asking.add_done_callback(self._tasks.discard)
        with contextlib.suppress(ConnectionError):
            await self._answer(far_reader, far_writer, writer, cut)

    async def _pump(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_SMALL):
                writer.write(data)
                await writer.drain()

    async def _answer(self, far_reader, far_writer, writer, cut):
        left = cut.after if cut is not None else None
        while True:
            data = await far_reader.read(_SMALL if left is None else max(1, min(left, _SMALL)))
            if left is not None and len(data) >= left:
                writer.write(data[:left])
                self.made.append(cut)
                await self._cut(cut.kind, far_writer, writer)
                if cut.kind in {"reset", "close", "black hole"}:
                    return
                data, left = data[left:], None
            elif left is not None:
                left -= len(data)
            if not data and far_reader.at_eof():
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    async def _cut(self, kind, far_writer, writer):
        if kind == "reset":
            for one in (far_writer, writer):
                one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                one.transport.abort()
        elif kind == "close":
            far_writer.close()
            writer.close()
        elif kind == "half-close":
            far_writer.write_eof()
        elif kind == "black hole":
            await asyncio.get_running_loop().create_future()  # until the end of the test
        else:
            await self._go_on()
