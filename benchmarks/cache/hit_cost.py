"""What a hit costs: CPU time of the gateway's worker for each answer, by tier, beside nginx and a call that is not kept.

``python -m benchmarks.cache.hit_cost`` asks 200 questions of 1 KB again and again, on 8 connections.  Memory: the
usual case.  Disk and Redis: memory is made too small to keep anything, so that each look-up goes below.
nginx proxies the same calls to the same upstream and does nothing else; it is the measure of what is cheap.
The systems take turns, ``--rounds`` times; the median of the rounds is shown.  Needs ``nginx`` and
``redis-server``; on a machine that others use as well, differences under 20 % mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import uvloop

from penstock.testing import GatewayProcess, RedisServer

QUESTIONS, CONNECTIONS = 200, 8
TICK = os.sysconf("SC_CLK_TCK")

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return cast("int", sock.getsockname()[1])


def request(number: int, port: int, *, stream: bool) -> bytes:
    body = json.dumps(
        {
            "model": "bench-1",
            "messages": [{"role": "user", "content": f"mock:plain; question {number} " + "word " * 180}],
            "temperature": 0,
            "max_tokens": 100,
            "stream": stream,
        },
        separators=(",", ":"),
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nauthorization: Bearer sk-bench\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Asking(asyncio.Protocol):
    """One connection that asks, waits, and asks again; each answer's status and end are checked."""

    def __init__(self, requests: Iterator[bytes], wanted: bytes, done: asyncio.Future[None]) -> None:
        self.requests = requests
        self.wanted = wanted
        self.done = done
        self.latencies: list[float] = []
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.ask()

    def ask(self) -> None:
        following = next(self.requests, None)
        if following is None:
            if not self.done.done():
                self.done.set_result(None)
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(following)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        if b"content-length: " in lowered:
            length = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
            whole = len(body) >= length
        else:
            whole = body.endswith(b"0\r\n\r\n")
        if not whole:
            return
        if not lowered.startswith(b"http/1.1 200") or self.wanted not in lowered:
            self.done.set_exception(RuntimeError(f"not what was expected: {self.buffer[:600]!r}"))
            self.transport.close()
            return
        self.latencies.append(time.perf_counter() - self.sent)
        self.buffer = b""
        self.ask()


async def load(port: int, count: int, wanted: bytes, *, stream: bool, connections: int) -> list[float]:
    """Seconds that each answer took."""
    loop = asyncio.get_running_loop()
    requests = [request(number, port, stream=stream) for number in range(QUESTIONS)]
    numbers = iter(range(count))
    source = (requests[number % QUESTIONS] for number in numbers)
    asking = []
    for _ in range(connections):
        done = loop.create_future()
        _, protocol = await loop.create_connection(
            lambda done=done: Asking(source, wanted, done), "127.0.0.1", port
        )
        asking.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in asking))
    return [latency for protocol in asking for latency in protocol.latencies]


def cpu(pids: Sequence[int]) -> float:
    """Seconds of CPU that these processes have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


class System:
    def __init__(
        self, name: str, port: int, pids: Sequence[int], wanted: bytes, *, stream: bool = False
    ) -> None:
        self.name = name
        self.port = port
        self.pids = pids
        self.wanted = wanted
        self.stream = stream
        self.costs: list[float] = []
        self.latencies: list[float] = []

    def measure(self, count: int) -> None:
        before = cpu(self.pids)
        run(load(self.port, count, self.wanted, stream=self.stream, connections=CONNECTIONS))
        self.costs.append((cpu(self.pids) - before) / count * 1e6)
        self.latencies += run(load(self.port, count // 10, self.wanted, stream=self.stream, connections=1))


def run(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def process(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def wait_for(port: int) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on {port}")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = free_port()
        stack.enter_context(process(sys.executable, "-m", "benchmarks.gateway.upstream", upstream))
        wait_for(upstream)
        redis = stack.enter_context(RedisServer())

        def gateway(
            name: str, wanted: bytes, *, kept: bool = True, stream: bool = False, **cache: object
        ) -> System:
            place = folder / name.replace(" ", "-").replace(",", "")
            place.mkdir()
            model = {"candidates": [{"upstream": "mock"}]}
            settings = {
                "upstreams": {
                    "mock": {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "k"}
                },
                "models": {"*": model | ({"cache": {}} if kept else {"join": "never"})},
                "cache": {"disk_budget": 1, "redis_budget": 1, **cache},
                "ledger": {"path": str(place / "ledger.sqlite")},
                "log": {"requests": False},
            }
            started = stack.enter_context(GatewayProcess(settings, place))
            pids = [pid for pid in started.worker_pids() if pid is not None]
            return System(name, int(started.url.rpartition(":")[2]), pids, wanted, stream=stream)

        port = free_port()
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream))
        proxy = stack.enter_context(process("nginx", "-e", folder / "error.log", "-c", config))
        wait_for(port)
        cached = b"penstock-status: cached"
        systems = [
            System("nginx, proxying", port, [proxy.pid, *children(proxy.pid)], b""),
            gateway("not kept", b"penstock-status: created", kept=False),
            gateway("memory", cached),
            gateway("memory, as a stream", cached, stream=True),
            gateway("disk", cached, memory_bytes=1, disk=str(folder / "answers.sqlite")),
            gateway("redis", cached, memory_bytes=1, redis=redis.url, seal_key="bench"),
        ]
        for system in systems:  # ask everything once
            run(load(system.port, QUESTIONS, b"", stream=False, connections=CONNECTIONS))
        time.sleep(1)
        for _ in range(given.rounds):
            for system in systems:
                system.measure(given.calls)
    floor = statistics.median(systems[0].costs)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
    )
    print(f"load {os.getloadavg()[0]:.1f}; {given.rounds} rounds of {given.calls:,} calls\n")
    print("| | µs CPU | × nginx | one at a time, ms: median | p99 |")
    print("|---|---|---|---|---|")
    for system in systems:
        cost = statistics.median(system.costs)
        latencies = sorted(system.latencies)
        middle, late = (latencies[int(len(latencies) * share)] * 1e3 for share in (0.5, 0.99))
        print(f"| {system.name} | {cost:.0f} | {cost / floor:.1f} | {middle:.2f} | {late:.2f} |")


if __name__ == "__main__":
    main()
