"""A worker process around an application that only tests need: run as a script by the supervisor.

``/hello`` answers with the configuration's model and the pid; ``/stream?FIFO`` passes on what the test
writes into the FIFO until the FIFO ends.  A model called ``unbuildable`` is refused when a gateway is built
or reloaded, one called ``crash`` kills the process.
"""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace

from penstock.admin.worker import main
from penstock.errors import ConfigError


class Gone:
    """Ends an answer whose client has left."""

    def __init__(self, ended):
        self.ended = ended

    def on_gone(self):
        if not self.ended.done():
            self.ended.set_result(None)

    def on_writable(self):
        pass


class Standin:
    def __init__(self, config, clock):
        if "unbuildable" in config.models:
            raise ConfigError("models: unbuildable")
        if "crash" in config.models:
            os.abort()
        self.config = config
        self.streams = set()
        self.leaving = SimpleNamespace()
        self.health = SimpleNamespace()
        self.repeats = None
        self.reception = self

    def opening(self, exchange):
        return 1_000_000

    async def start(self, board=None):
        pass

    def reload(self, config):
        if "unbuildable" in config.models:
            raise ConfigError("models: unbuildable")
        self.config = config

    def greeting(self):
        return f"{','.join(self.config.models)} {os.getpid()}".encode()

    async def __call__(self, exchange):
        if exchange.path == "/hello":
            exchange.respond(200, [(b"content-type", b"text/plain")], self.greeting())
        elif exchange.path == "/stream":
            self.streams.add(exchange)
            exchange.start(200, [(b"content-type", b"text/plain")])
            exchange.write(self.greeting() + b"\n")
            fifo = exchange.query
            loop = asyncio.get_running_loop()
            # Whatever the test writes into the FIFO goes out; its end is the answer's end.
            descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            ended = loop.create_future()

            def readable():
                data = os.read(descriptor, 1000)
                if data and not ended.done():
                    exchange.write(data)
                elif not ended.done():
                    ended.set_result(None)

            exchange.watch(Gone(ended))
            loop.add_reader(descriptor, readable)
            try:
                await ended
                exchange.end()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                self.streams.discard(exchange)
        else:
            exchange.respond(404, [], b"")

    def state(self):
        return {
            "metrics": [],
            "generations": [{"id": f"gen_{id(exchange):032x}"} for exchange in self.streams],
            "pools": {},
            "config_version": 1,
            "lag": 0.0,
        }

    async def drain(self, seconds):
        return 0

    async def close(self):
        pass


if __name__ == "__main__":
    sys.exit(main(build=lambda config, *, clock: Standin(config, clock)))
