"""CPU of the two ways to an upstream, HTTP/1.1 and HTTP/2, against the same hypercorn in another process.

    python benchmarks/net_http2.py [--calls 2000] [--rounds 5]

One caller, or 32 at once, send 1 KB requests and take 600 B answers; then streams of 1,000 events of 60 bytes.  Printed:
CPU of this process per request and per event, in microseconds, the least of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import time

import uvloop

from penstock.config.model import PoolConfig
from penstock.net.clock import Clock
from penstock.net.http2 import Streams
from penstock.net.origin import Origin
from penstock.net.pool import Pool

BODY = b'{"model":"m","messages":"' + b"x" * 970 + b'"}'
EVENTS = 1_000
EVENT = b"z" * 60


def head(path):
    return (
        b"POST /%b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nuser-agent: penstock\r\n"
        b"authorization: Bearer sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\ncontent-length: %d\r\n\r\n"
        % (path, len(BODY))
    )


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/plain":
        await send({"type": "http.response.body", "body": b"y" * 600})
        return
    for _ in range(EVENTS):
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    await send({"type": "http.response.body"})


def serve(descriptor):
    import hypercorn.asyncio
    import hypercorn.config

    config = hypercorn.config.Config()
    config.bind, config.errorlog, config.keep_alive_max_requests = [f"fd://{descriptor}"], None, 10**9
    asyncio.run(hypercorn.asyncio.serve(app, config))


class Sink:
    def on_head(self, status, headers):
        assert status == 200

    def on_data(self, data):
        pass


async def cost(pool, path, calls, at_once):
    """Microseconds of CPU per call."""
    sink, asked = Sink(), head(path)

    async def caller(count):
        for _ in range(count):
            stream = pool.acquire_nowait() or await pool.acquire()
            await stream.send(asked, BODY, sink)

    began = time.process_time()
    await asyncio.gather(*(caller(calls // at_once) for _ in range(at_once)))
    return (time.process_time() - began) / (calls // at_once * at_once) * 1e6


async def measure(port, calls, rounds):
    origin, config = Origin("http", "127.0.0.1", port), PoolConfig()
    pools = {kind: kind(origin, config, Clock(), connect_timeout=5.0) for kind in (Pool, Streams)}
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    print("| | HTTP/1.1, µs | HTTP/2, µs |\n|---|--:|--:|")
    for name, path, count, at_once, parts in (
        ("a request, one at a time", b"plain", calls, 1, 1),
        ("a request, 32 at once", b"plain", calls, 32, 1),
        ("an event", b"stream", max(calls // 100, 1), 1, EVENTS),
    ):
        least = dict.fromkeys(pools, float("inf"))
        for number in range(rounds + 1):
            for kind, pool in pools.items():
                found = await cost(pool, path, count, at_once) / parts
                if number:  # the first one warms up
                    least[kind] = min(least[kind], found)
        print(f"| {name} | {least[Pool]:.1f} | {least[Streams]:.1f} |", flush=True)
    for pool in pools.values():
        await pool.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.set_inheritable(True)
        server = multiprocessing.get_context("fork").Process(target=serve, args=(sock.fileno(),), daemon=True)
        server.start()
        try:
            uvloop.run(measure(sock.getsockname()[1], options.calls, options.rounds))
        finally:
            server.kill()
            server.join()


if __name__ == "__main__":
    main()
