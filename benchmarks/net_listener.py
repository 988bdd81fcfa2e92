"""CPU of the HTTP listener alone, under load from raw clients in another process.

    python benchmarks/net_listener.py [--seconds 3] [--loop uvloop|asyncio]

An application that answers 600 B at once stands behind it.  The requests carry the 18 header fields that
the openai SDK sends.  ``floor`` is a protocol that parses nothing and writes the same bytes: what the
event loop and the kernel cost, whatever stands on them.  Figures are microseconds of this process's CPU
per request, or per piece of a stream: user and system together, and user alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import socket

import uvloop

from penstock.config.model import ListenerConfig
from penstock.net.clock import Clock
from penstock.net.listener import Listener

FIELDS = (
    b"Host: 127.0.0.1:8080\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n"
    b"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: AsyncOpenAI/Python 3.52.0\r\n"
    b"X-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.52.0\r\nX-Stainless-OS: Linux\r\n"
    b"X-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.13.0\r\n"
    b"Authorization: Bearer sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\nX-Stainless-Async: async:asyncio\r\n"
    b"x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nIdempotency-Key: 0123456789abcdef\r\n"
)
ANSWER = b"y" * 600
ANSWER_FIELDS = [(b"content-type", b"application/json"), (b"x-request-id", b"0123456789abcdef")]
PIECE = b"z" * 60
PIECES = 1_000


def request(path, size):
    head = b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (path, FIELDS, size)
    return head, b"x" * size


class Answering:
    """The application: 600 B at once, a stream in one burst, or a stream of one piece per turn."""

    def opening(self, exchange):
        return 1_000_000

    async def __call__(self, exchange):
        await exchange.body()
        if exchange.path == "/plain":
            exchange.respond(200, ANSWER_FIELDS, ANSWER)
            return
        exchange.start(200, ANSWER_FIELDS)
        for _ in range(PIECES):
            exchange.write(PIECE)
            if exchange.path == "/paced":
                await asyncio.sleep(0)
        exchange.end()


class Floor(asyncio.Protocol):
    """Counts bytes and writes an answer."""

    def __init__(self, size):
        self.size = size

    def connection_made(self, transport):
        self.transport = transport
        self.missing = self.size

    def data_received(self, data):
        self.missing -= len(data)
        if self.missing <= 0:
            self.missing = self.size
            self.transport.write(FLOOR_ANSWER)


FLOOR_ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-length: 600\r\n"
    b"content-type: application/json\r\nx-request-id: 0123456789abcdef\r\n\r\n" + ANSWER
)


class RawClient(asyncio.Protocol):
    """Sends, waits for as many bytes as an answer has or for its end, and sends again."""

    def __init__(self, head, body, split, streamed):
        self.head, self.body, self.split, self.streamed = head, body, split, streamed
        self.done = 0
        self.size = 0
        self.expected = 0

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send()

    def send(self):
        if self.split:
            self.transport.write(self.head)
            asyncio.get_running_loop().call_soon(self.transport.write, self.body)
        else:
            self.transport.write(self.head + self.body)

    def data_received(self, data):
        if self.streamed:
            ended = data.endswith(b"0\r\n\r\n")
        else:
            if not self.expected:
                self.expected = data.index(b"\r\n\r\n") + 4 + 600
            self.size += len(data)
            ended = self.size == self.expected
        if ended:
            self.size = 0
            self.done += 1
            self.send()


def load(orders):
    """The other process: takes an order, loads for so long, reports how much was done."""

    async def main():
        loop = asyncio.get_running_loop()
        while True:
            order = await loop.run_in_executor(None, orders.recv)
            if order is None:
                return
            port, callers, seconds, path, size, split = order
            head, body = request(path, size)
            clients = []
            for _ in range(callers):
                _, client = await loop.create_connection(
                    lambda: RawClient(head, body, split, path != b"/plain"),  # noqa: B023
                    "127.0.0.1",
                    port,
                )
                clients.append(client)
            await asyncio.sleep(0.2)
            for phase in ("begin", "end"):
                orders.send((phase, sum(client.done for client in clients)))
                if phase == "begin":
                    await asyncio.sleep(seconds)
            for client in clients:
                client.transport.abort()

    uvloop.run(main())


CASES = {
    # name: callers, path, bytes of the request's body, in two segments, floor
    "1 KB, 1 caller": (1, b"/plain", 1_024, False, False),
    "1 KB, 32 callers": (32, b"/plain", 1_024, False, False),
    "1 KB in two segments, 32 callers": (32, b"/plain", 1_024, True, False),
    "100 KB, 8 callers": (8, b"/plain", 102_400, False, False),
    "piece of a burst, 8 callers": (8, b"/burst", 100, False, False),
    "piece a turn, 8 callers": (8, b"/paced", 100, False, False),
    "floor, 1 KB, 1 caller": (1, b"/plain", 1_024, False, True),
    "floor, 1 KB, 32 callers": (32, b"/plain", 1_024, False, True),
    "floor, 1 KB in two segments, 32 callers": (32, b"/plain", 1_024, True, True),
    "floor, 100 KB, 8 callers": (8, b"/plain", 102_400, False, True),
}


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


async def measure(orders, seconds, only):
    loop = asyncio.get_running_loop()
    clock = Clock()
    clock.start(loop)
    listener = Listener(Answering(), ListenerConfig(), clock)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await listener.serve(sock)
    figures = {}
    for name, (callers, path, size, split, floor) in CASES.items():
        if only and only not in name:
            continue
        port = sock.getsockname()[1]
        if floor:
            total = sum(map(len, request(path, size)))
            server = await loop.create_server(lambda: Floor(total), "127.0.0.1", 0)  # noqa: B023
            port = server.sockets[0].getsockname()[1]
        orders.send((port, callers, seconds, path, size, split))
        _, before = await loop.run_in_executor(None, orders.recv)
        user, system = cpu()
        _, after = await loop.run_in_executor(None, orders.recv)
        user, system = cpu()[0] - user, cpu()[1] - system
        done = (after - before) * (1 if path == b"/plain" else PIECES)
        figures[name] = {
            "us": round((user + system) / done * 1e6, 2),
            "us_user": round(user / done * 1e6, 2),
            "per_second": round(done / seconds),
        }
        if floor:
            server.close()
    await listener.drain(0)
    clock.stop()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--only", default="", help="the cases whose names hold this")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=load, args=(there,))
    other.start()
    try:
        run = uvloop.run if options.loop == "uvloop" else asyncio.run
        print(json.dumps(run(measure(here, options.seconds, options.only)), indent=1))
    finally:
        here.send(None)
        other.join(5)
        other.terminate()


if __name__ == "__main__":
    main()
