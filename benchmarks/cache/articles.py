"""A cache before an LLM API, as articles build it and as the gateway does, side by side: real processes, one workload.

``python -m benchmarks.cache.articles``: people work through documents of twelve sections, popular ones more often; a
tenth of them leave after each section (``benchmarks.cache.prefetch``; everything ten times as quick, so five minutes'
lifetime are 30 s).  Each call goes over a connection of its own when it is due, whether or not those before it have been
answered; what is counted is the second half, when the caches are warm.  The upstream takes ``--miss`` milliseconds.

"Redis" is FastAPI with Redis; "local, ahead" keeps answers in the process as well, and fetches the next section whenever
one was asked for (``benchmarks/cache/fastapi_redis.py``).  The gateway has memory and the same kind of Redis; *ahead* is
``prefetch``, which learns; *numbers* has ``neighbours: [numbers]`` beside it, and *neighbours* a function that knows what
a next section is, as "local, ahead" does.  One process each.  Needs
``redis-server``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cache.asking import quantile, run
from benchmarks.cache.prefetch import arrivals
from benchmarks.cache.systems import process, wait_for
from benchmarks.gateway import install
from benchmarks.gateway.processes import free_port
from benchmarks.gateway.upstream import ANSWER

from penstock.testing import GatewayProcess, RedisServer

QUICKER = 10.0
TTL = 300.0 / QUICKER
PEOPLE = 250  # keys that callers have; one is used by one person at a time
ROOT = Path(__file__).resolve().parents[2]
AHEAD: Mapping[str, Sequence[str]] = {
    "Penstock, ahead": (),
    "Penstock, numbers": ("numbers",),
    "Penstock, neighbours": ("benchmarks.cache.sections:following",),
}
SYSTEMS = ("Redis", "local, ahead", "Penstock", *AHEAD)


class Call(NamedTuple):
    """What one call took, in seconds."""

    hit: bool
    latency: float
    failed: bool


async def upstream(port: int, miss: float) -> None:
    """Answers after so many seconds, and counts: ``GET /statistics``."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                text = b"%d" % count
                if head.startswith(b"POST"):
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    count += 1
                    await asyncio.sleep(miss)
                    text = ANSWER
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(text), text)
                )

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def request(question: int, person: int) -> bytes:
    text = f"Summarise section {question % 12} of document {question // 12}."
    body = json.dumps(
        {
            "model": "bench-1",
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 50,
        },
        separators=(",", ":"),
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (key_of(person), len(body), body)
    )


def key_of(person: int) -> bytes:
    return b"sk-person-%d" % (person % PEOPLE)


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head, in lower case, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    return head, body


async def load(port: int, asked: Sequence[tuple[float, int, str]]) -> list[Call]:
    """Ask each question when it is due; the calls in the order in which they were due."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    started = time.perf_counter() + 0.1

    async def ask(due: float, question: int, who: str) -> Call:
        await asyncio.sleep(started + due - time.perf_counter())
        sent = time.perf_counter()
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(question, int(who.removeprefix("person "))))
        head, body = await answer(reader)
        took = time.perf_counter() - sent
        idle.append((reader, writer))
        return Call(b"penstock-status: cached" in head, took, body != ANSWER)

    calls = await asyncio.gather(*(ask(when / QUICKER, question, who) for when, question, who in asked))
    for _, writer in idle:
        writer.close()
    return calls


async def counted(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /statistics HTTP/1.1\r\n\r\n")
    found = int((await answer(reader))[1])
    writer.close()
    return found


@contextlib.contextmanager
def wrapper(upstream_port: int, redis: str, *, ahead: bool) -> Iterator[int]:
    home = install.environment("fastapi-redis", "fastapi", "uvicorn[standard]", "httpx", "redis[hiredis]")
    environ = {
        "WRAPPER_UPSTREAM": f"http://127.0.0.1:{upstream_port}",
        "WRAPPER_REDIS": redis,
        "WRAPPER_TTL": str(TTL),
        "WRAPPER_AHEAD": "1" if ahead else "",
    }
    port = free_port()
    words = ["fastapi_redis:app", "--port", port, "--no-access-log", "--log-level", "error"]
    words += ["--timeout-keep-alive", "600"]
    with process(home / "bin" / "uvicorn", *words, environ=environ, cwd=Path(__file__).parent):
        wait_for(port, 60.0)
        yield port


@contextlib.contextmanager
def gateway(upstream_port: int, redis: str, prefetch: Mapping[str, object] | None) -> Iterator[int]:
    cache = {"ttl": TTL, "usage": "original"} | ({} if prefetch is None else {"prefetch": prefetch})
    with tempfile.TemporaryDirectory() as place:
        settings = {
            "upstreams": {
                "mock": {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "k"}
            },
            "models": {"*": {"candidates": [{"upstream": "mock"}], "cache": cache}},
            "keys": [
                {"name": f"p{number}", "hash": "sha256:" + hashlib.sha256(key_of(number)).hexdigest()}
                for number in range(PEOPLE)
            ],
            "cache": {"redis": redis, "seal_key": "bench"},
            "ledger": {"path": f"{place}/ledger.sqlite"},
            "log": {"requests": False},
        }
        with GatewayProcess(settings, Path(place)) as started:
            yield int(started.url.rpartition(":")[2])


def system(name: str, upstream_port: int, redis: str) -> contextlib.AbstractContextManager[int]:
    if not name.startswith("Penstock"):
        return wrapper(upstream_port, redis, ahead="ahead" in name)
    if name not in AHEAD:
        return gateway(upstream_port, redis, None)
    ahead = {"calls_per_minute": 600 * QUICKER, "usd_per_day": 1e6, "neighbours": AHEAD[name]}
    return gateway(upstream_port, redis, ahead)


def row(name: str, calls: Sequence[Call], asked: int, all_of_them: int) -> str:
    warm = calls[len(calls) // 2 :]
    hits = [call.latency * 1e3 for call in warm if call.hit]
    misses = [call.latency * 1e3 for call in warm if not call.hit]
    mean = statistics.fmean(call.latency * 1e3 for call in warm)
    cells = " | ".join(f"{quantile(some, share):.2f}" for some in (hits, misses) for share in (0.5, 0.99))
    return f"| {name} | {100 * len(hits) / len(warm):.1f} | {mean:.1f} | {cells} | {asked:,} of {all_of_them:,} | {sum(call.failed for call in calls)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=12_000)
    parser.add_argument("--miss", type=float, default=50.0, help="milliseconds that the upstream takes")
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)  # where the gateway finds the function that it is given
    workload = arrivals(given.calls, 300, 12, random.Random(5), ordered=True)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {given.calls:,} calls, upstream {given.miss:.0f} ms\n"
    )
    print(
        "| | hits, % | mean, ms | a hit, ms: median | p99 | a miss: median | p99 | calls of the upstream | failed |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in given.systems:
        port = free_port()
        command = "import sys, asyncio; from benchmarks.cache.articles import upstream; "
        command += f"asyncio.run(upstream({port}, {given.miss / 1e3}))"
        with process(sys.executable, "-c", command), RedisServer() as redis:
            wait_for(port)
            with system(name, port, redis.url) as listening:
                calls = run(load(listening, workload))
            print(row(name, calls, run(counted(port)), len(calls)), flush=True)


if __name__ == "__main__":
    main()
