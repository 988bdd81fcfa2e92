"""An HTTP proxy in the test's own loop."""

import asyncio
import base64
import contextlib


class ForwardProxy:
    """Opens what it is asked for by CONNECT, whatever the name, at one port of this machine.

    :param to: that port
    :param login: ``user:password`` that it wants
    :param context: it is spoken to over TLS
    """

    def __init__(self, to, *, login=None, context=None):
        self.to = to
        self.login = login
        self.asked = []  # heads, as they came
        self._context = context
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=60)

    @property
    def targets(self):
        return [head.split()[1].decode() for head in self.asked]

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._forward(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(asyncio.current_task())

    async def _forward(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        if not head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
            return
        if self.login is not None:
            wanted = b"\r\nproxy-authorization: Basic " + base64.b64encode(self.login.encode()) + b"\r\n"
            if wanted not in head:
                writer.write(
                    b'HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm="p"\r\n\r\n'
                )
                await writer.drain()
                return
        there, to_there = await asyncio.open_connection("127.0.0.1", self.to)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\nvia: a proxy\r\n\r\n")
            await asyncio.gather(_pass_on(reader, to_there), _pass_on(there, writer))
        finally:
            to_there.transport.abort()


async def _pass_on(reader, writer):
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()
