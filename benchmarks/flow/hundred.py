"""``python -m benchmarks.flow.hundred``: a hundred calls at once, through a blocking client, a wrapper, and Penstock.

The setting of an article that says: a hundred concurrent requests take 12.3 s on average with a blocking client, and
4.9 s with an asynchronous one.  Neither tells how many threads its client had.  The model of it here: an upstream that
takes 4.8 s for each call, whatever else it does (a simulator: first token after 0.8 s, 200 tokens, 50 a second, not
streamed), and a hundred callers in the same moment.  With 25 threads a blocking client has four rounds of that to go
through, and 2.5 times the time on average, which is the article's ratio; 8 and 32 are what ``ThreadPoolExecutor`` takes by
itself on four cores and at most.

Time is measured in one process of the load's own, for each caller from the common start; the wrapper and Penstock are
processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gateway.load import KEY
from benchmarks.gateway.processes import free_port
from benchmarks.gateway.systems import FastAPIHttpx

from penstock.testing import GatewayProcess, SimulatorProcess

CALLS = 100
TTFT, PACE, TOKENS = 0.8, 50.0, 200  # seconds, tokens a second, tokens
THREADS = (8, 25, 32)
ARTICLES = "blocking, 25 threads"  # the way that comes to the article's ratio


def _body(number: int) -> bytes:
    return json.dumps(
        {"model": "m", "max_tokens": TOKENS, "messages": [{"role": "user", "content": f"Number {number}"}]}
    ).encode()


def blocking(port: int, threads: int) -> list[float]:
    """What a client takes that holds a thread for each call."""
    began = time.perf_counter()

    def call(number: int) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        try:
            headers = {"content-type": "application/json", "authorization": "Bearer " + KEY}
            connection.request("POST", "/v1/chat/completions", _body(number), headers)
            answer = connection.getresponse()
            _check(answer.status, answer.read())
        finally:
            connection.close()
        return time.perf_counter() - began

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, range(CALLS)))


async def _call(port: int, number: int, began: float) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = _body(number)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (KEY.encode(), len(body), body)
        )
        answer = await reader.read(-1)
        head, _, rest = answer.partition(b"\r\n\r\n")
        _check(int(head.split()[1]), rest)
        return time.perf_counter() - began
    finally:
        writer.close()


def _check(status: int, body: bytes) -> None:
    if status != 200 or b'"usage"' not in body:
        raise RuntimeError(f"an answer is not whole: {status} {body[:200]!r}")


def at_once(port: int) -> list[float]:
    """What a client takes that holds nothing but a connection for each call."""

    async def main() -> list[float]:
        began = time.perf_counter()
        return list(await asyncio.gather(*(_call(port, number, began) for number in range(CALLS))))

    return asyncio.run(main())


def measure(scale: float, told: Callable[[str, list[float]], None]) -> None:
    """Every way once, one after the other.

    :param scale: of the upstream's time
    :param told: a way, and the seconds of its calls
    """
    script = f"ttft={1000 * TTFT * scale:g},tps={PACE / scale:g},tokens={TOKENS}"
    with tempfile.TemporaryDirectory() as folder, SimulatorProcess("--scenario", script) as simulator:
        upstream = int(simulator.url.rpartition(":")[2])
        for threads in THREADS:
            told(f"blocking, {threads} threads", blocking(upstream, threads))
        told("asynchronous, no gateway", at_once(upstream))
        wrapper = FastAPIHttpx(Path(folder, "wrapper"), upstream, free_port())
        wrapper.start(core=0)
        try:
            wrapper.wait_ready()
            told("FastAPI + httpx", at_once(wrapper.port))
        finally:
            wrapper.end()
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"m": {"candidates": [{"upstream": "sim"}]}},
            "log": {"requests": False},
        }
        with GatewayProcess(config, Path(folder)) as gateway:
            told("Penstock", at_once(int(gateway.url.rpartition(":")[2])))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.hundred", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the upstream's 4.8 s")
    given = parser.parse_args()
    least = (TTFT + TOKENS / PACE) * given.scale
    print(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; the upstream takes {least:g} s",
        "",
        f"| 100 calls at once | mean, s | latest, s | ÷ the upstream's time | {ARTICLES} ÷ this |",
        "|---|--:|--:|--:|--:|",
        sep="\n",
        flush=True,
    )

    found: dict[str, list[float]] = {}
    measure(given.scale, found.__setitem__)
    articles = statistics.fmean(found[ARTICLES])
    for way, seconds in found.items():
        mean = statistics.fmean(seconds)
        print(f"| {way} | {mean:.2f} | {max(seconds):.2f} | {mean / least:.2f} | {articles / mean:.2f} |")


if __name__ == "__main__":
    main()
