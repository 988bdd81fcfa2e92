"""What a hit costs: CPU time of the gateway for each answer, by tier, beside nginx, LiteLLM and a call not kept.

``python -m benchmarks.cache.hit_cost`` asks 200 questions of 1 KB again and again, on 8 connections.  Memory: the
usual case.  Disk and Redis: memory is made too small to keep anything, so that each look-up goes below.
nginx proxies the same calls to the same upstream and does nothing else; it is the measure of what is cheap.
LiteLLM's proxy keeps answers in its memory, or in the same Redis (``--without-litellm``: it is left out).
Each cost is that of all processes of the system, but not of Redis.

The systems take turns, ``--rounds`` times; the median of the rounds is shown.  Each has one core, which it shares
with those that are idle meanwhile; the load generator, the upstream and Redis have another one.  At half load, calls
arrive at random, half as many in a second as were answered when all of 64 connections were busy; latencies are from
a call's moment, whether or not it could be sent then.  nginx also answers by itself, which shows what of them is the
machine's and the load generator's.
Needs ``nginx`` and ``redis-server``; on a machine that others use as well, differences under 20 % mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import uvloop
from benchmarks.cache import arrivals
from benchmarks.gateway import install
from benchmarks.gateway.processes import on_core

from penstock.testing import GatewayProcess, RedisServer

QUESTIONS, CONNECTIONS, ARRIVING = 200, 8, 64
TICK = os.sysconf("SC_CLK_TCK")

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{ listen 127.0.0.1:{itself}; location / {{ return 200 "{answer}"; }} }}
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
    """One connection that asks, waits, and asks again; each answer's status and end are checked.

    :param requests: ends with the connection's work
    """

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
    """Seconds of CPU that these processes have used, and their children."""
    total = 0
    for pid in family(pids):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


class System:
    """What is measured.

    :param pids: of its processes, without those that it starts itself
    :param wanted: what the head of each answer must hold, in lower case
    :param share: of the calls that the others get, for one that takes longer
    :param hits: how many answers the tier has given by now that is meant to give all of them
    """

    def __init__(
        self,
        name: str,
        port: int,
        pids: Sequence[int],
        wanted: bytes,
        *,
        stream: bool = False,
        share: float = 1.0,
        hits: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.pids = pids
        self.wanted = wanted
        self.stream = stream
        self.share = share
        self.hits = hits
        self.costs: list[float] = []
        self.latencies: list[float] = []
        self.half: list[list[float]] = []  # of each round
        self.rates: list[float] = []

    def measure(self, count: int) -> None:
        count = int(count * self.share)
        hits = self.hits() if self.hits is not None else 0
        before = cpu(self.pids)
        run(load(self.port, count, self.wanted, stream=self.stream, connections=CONNECTIONS))
        self.costs.append((cpu(self.pids) - before) / count * 1e6)
        self.latencies += run(load(self.port, count // 10, self.wanted, stream=self.stream, connections=1))
        began = time.perf_counter()
        self._arriving(math.inf, count)
        self.rates.append(0.5 * count / (time.perf_counter() - began))
        self.half.append(self._arriving(statistics.median(self.rates), count))
        if self.hits is not None and (found := self.hits() - hits) != 3 * count + count // 10:
            raise RuntimeError(f"{self.name}: the tier has given {found} answers, and not every one")

    def _arriving(self, rate: float, count: int) -> list[float]:
        requests = [request(number, self.port, stream=self.stream) for number in range(QUESTIONS)]
        return arrivals.latencies(
            self.port, requests, rate=rate, count=count, wanted=self.wanted, connections=ARRIVING
        )


def run(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def process(
    *command: object, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environ or {})},
        cwd=cwd,
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def hits_of(gateway: GatewayProcess, tier: str) -> int:
    """How many answers this tier has given."""
    workers = gateway.ask("/v1/cache")["workers"]
    return sum(each["hits"] for worker in workers for each in worker["tiers"] if each["name"] == tier)


def wait_for(port: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on {port}")


def family(pids: Sequence[int]) -> list[int]:
    """These processes and all that they have started."""
    found: list[int] = []
    to_see = list(pids)
    while to_see:
        pid = to_see.pop()
        if pid not in found:
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                to_see += map(int, (task / "children").read_text().split())
    return found


@contextlib.contextmanager
def litellm(folder: Path, upstream: int, cache: Mapping[str, object]) -> Iterator[tuple[int, int]]:
    """LiteLLM's proxy with one worker: its port, and its process."""
    home = install.environment("litellm", "litellm[proxy]")
    # LiteLLM imports from the folder two above its own as well, where anybody's modules may lie.
    work = folder / "work" / "here"
    work.mkdir(parents=True)
    port = free_port()
    parameters = {
        "model": "openai/bench-1",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "sk-upstream",
    }
    config = {
        "model_list": [{"model_name": "bench-1", "litellm_params": parameters}],
        "general_settings": {"master_key": "sk-bench"},
        "litellm_settings": {"telemetry": False, "num_retries": 0, "cache": True, "cache_params": cache},
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    environ = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "PATH": f"{home / 'bin'}:{os.environ.get('PATH', '')}",
    }
    words = ["--config", file, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    with process(home / "bin" / "litellm", *words, environ=environ, cwd=work) as started:
        wait_for(port, 120.0)
        yield port, started.pid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-litellm", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cores = sorted(os.sched_getaffinity(0))
        upstream = free_port()
        with on_core(cores[-1]):
            stack.enter_context(process(sys.executable, "-m", "benchmarks.gateway.upstream", upstream))
            redis = stack.enter_context(RedisServer())
        wait_for(upstream)
        os.sched_setaffinity(0, cores[:1])

        def gateway(
            name: str, wanted: bytes, *, tier: str = "", stream: bool = False, **cache: object
        ) -> System:
            place = folder / name.replace(" ", "-").replace(",", "")
            place.mkdir()
            model = {"candidates": [{"upstream": "mock"}]}
            settings = {
                "upstreams": {
                    "mock": {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "k"}
                },
                "models": {"*": model | ({"cache": {"ttl": 3_600}} if tier else {"join": "never"})},
                "cache": {"disk_budget": 1, "redis_budget": 1, **cache},
                "ledger": {"path": str(place / "ledger.sqlite")},
                "log": {"requests": False},
            }
            started = stack.enter_context(GatewayProcess(settings, place))
            pids = [pid for pid in started.worker_pids() if pid is not None]
            port = int(started.url.rpartition(":")[2])
            hits = partial(hits_of, started, tier) if tier else None
            return System(name, port, pids, wanted, stream=stream, hits=hits)

        port, itself = free_port(), free_port()
        config = folder / "nginx.conf"
        config.write_text(
            _NGINX.format(folder=folder, port=port, itself=itself, upstream=upstream, answer="x" * 600)
        )
        proxy = stack.enter_context(process("nginx", "-e", folder / "error.log", "-c", config))
        wait_for(port)
        cached = b"penstock-status: cached"
        systems = [
            System("nginx, proxying", port, [proxy.pid], b""),
            System("nginx, answering by itself", itself, [proxy.pid], b""),
            gateway("not kept", b"penstock-status: created"),
            gateway("memory", cached, tier="memory"),
            gateway("memory, as a stream", cached, tier="memory", stream=True),
            # Memory has room for nothing, so each answer comes from below, and is not brought up.
            gateway("disk", cached, tier="disk", memory_bytes=1, disk=str(folder / "answers.sqlite")),
            gateway("redis", cached, tier="redis", memory_bytes=1, redis=redis.url, seal_key="bench"),
        ]
        if not given.without_litellm:
            kinds = {
                "memory": {"type": "local", "ttl": 3_600},
                "redis": {"type": "redis", "host": "127.0.0.1", "port": redis.port, "ttl": 3_600},
            }
            for kind, cache in kinds.items():
                place = folder / f"litellm-{kind}"
                port, pid = stack.enter_context(litellm(place, upstream, cache))
                systems.append(System(f"LiteLLM, {kind}", port, [pid], b"x-litellm-cache-key", share=0.05))
        os.sched_setaffinity(0, cores[-1:])
        for system in systems:  # ask everything: to have it kept, then to have the requests remembered
            for stream in (False, system.stream, system.stream):
                run(load(system.port, QUESTIONS, b"", stream=stream, connections=CONNECTIONS))
                time.sleep(0.5)
        for _ in range(given.rounds):
            for system in systems:
                system.measure(given.calls)
    floor = statistics.median(systems[0].costs)
    (memory,) = [system for system in systems if system.name == "memory"]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Penstock {importlib.metadata.version('penstock')}"
    )
    if not given.without_litellm:
        print(f"LiteLLM {install.installed_version(install.CACHE / 'litellm', 'litellm')}")
    print(f"load {os.getloadavg()[0]:.1f}; {given.rounds} rounds of {given.calls:,} calls\n")
    print(
        "| | µs CPU | × nginx | µs more than memory | one at a time, ms: median | p99 "
        "| half load, calls/s | median | p99 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for system in systems:
        cost = statistics.median(system.costs)
        # of each round, so that what else the machine does is in both
        more = statistics.median(mine - its for mine, its in zip(system.costs, memory.costs, strict=True))
        alone, late = (quantile(system.latencies, share) * 1e3 for share in (0.5, 0.99))
        half, half_late = (
            statistics.median(quantile(each, share) for each in system.half) * 1e3 for share in (0.5, 0.99)
        )
        print(
            f"| {system.name} | {cost:.0f} | {cost / floor:.1f} | {more:.0f} | {alone:.2f} | {late:.2f} "
            f"| {statistics.median(system.rates):,.0f} | {half:.2f} | {half_late:.2f} |"
        )


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


if __name__ == "__main__":
    main()
