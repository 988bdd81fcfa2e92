"""A server that answers calls, and the question how it is."""

import asyncio
import contextlib

from serving import COMPLETION, plain

from penstock.config.model import UpstreamConfig

HEALTH = b"/health"


class Server:
    """Answers calls and the question how it is, each as the test says at the moment."""

    def __init__(self, name, answer=None):
        self.answer = answer or plain({**COMPLETION, "id": name})
        self.health = plain({})
        self.calls = 0
        self.asked = 0
        self.port = 0

    async def _serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.split(b" ", 2)[1].endswith(HEALTH):
                    self.asked += 1
                    if self.health is None:  # it falls silent
                        break
                    writer.write(self.health)
                    continue
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.calls += 1
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    def upstream(self, **more):
        return UpstreamConfig(kind="openai", base_url=f"http://127.0.0.1:{self.port}/v1", **more)
