"""``python -m benchmarks.flow.learnt``: what four workers find out together of an upstream that tells nobody.

One gateway with four workers, real processes, and callers over connections of their own.  The upstream counts.

* ``capacity``: it works on sixteen calls at once, and lets others wait inside, so their first tokens come late.  What
  the workers may send at most is much more (``concurrency.limit``), and what they begin with is less.
* ``rate``: it has a bucket of requests, tells in OpenAI's headers how much is left (or nothing), and says 429 with a
  ``Retry-After`` when it is empty.  Twice as many calls arrive as it allows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.flow.slow_upstream import SlowUpstream, plain

from penstock.flow.gcra import Bucket
from penstock.testing import GatewayProcess
from penstock.testing.redis import RedisServer

PROCESSES = 4
CAPACITY = 16
CLIENTS = 96
# Seconds until a call's first token, once it is worked on, and from there to its end.
FIRST, REST = (
    0.08,
    0.16,
)
REPLY = 1.5  # seconds that a plain answer takes; what it tells of the bucket is as old then
PER_MINUTE = 1_200
_CALL = {"model": "m", "messages": [{"role": "user", "content": "How many?"}], "max_tokens": 8}
_STREAMED = json.dumps({**_CALL, "stream": True}).encode()
_PLAIN = json.dumps(_CALL).encode()
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"."},"finish_reason":null}]}\n\n'
_LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@dataclass
class Seen:
    """What the upstream has seen since the time that counts began."""

    present: list[int] = field(default_factory=list)  # calls there, at the begin of each
    first_tokens: list[float] = field(default_factory=list)
    answered: int = 0
    refused: int = 0


class Upstream(SlowUpstream):
    """Counts, and is slow or says no."""

    def __init__(self, bucket: Bucket | None, *, tells: bool) -> None:
        super().__init__()
        self.seen = Seen()
        self._places = asyncio.Semaphore(CAPACITY)
        self._bucket = bucket
        self._tells = tells

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        self.seen.present.append(self.present)
        await (self._stream(writer) if self._bucket is None else self._plain(writer, self._bucket))

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        came = time.monotonic()
        async with self._places:
            await asyncio.sleep(FIRST)
            writer.write(_STREAM + _chunk(_FIRST))
            self.seen.first_tokens.append(time.monotonic() - came)
            await asyncio.sleep(REST)
            self.seen.answered += 1
            writer.write(_chunk(_LAST) + b"0\r\n\r\n")

    async def _plain(self, writer: asyncio.StreamWriter, bucket: Bucket) -> None:
        now = time.monotonic()
        wait = bucket.wait(1, now)
        if wait:
            self.seen.refused += 1
            writer.write(
                b"HTTP/1.1 429 No\r\nretry-after: %d\r\ncontent-length: 0\r\n\r\n" % max(1, math.ceil(wait))
            )
            return
        bucket.take(1, now)
        self.seen.answered += 1
        left, full = math.floor(bucket.left(now)), bucket.full_in(now)
        told = b""
        if self._tells:
            told = (
                b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
                b"x-ratelimit-reset-requests: %.3fs\r\n" % (PER_MINUTE, left, full)
            )
        await asyncio.sleep(REPLY)
        writer.write(plain(told))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _ask(port: int, body: bytes) -> None:
    """One call over a connection of its own; what becomes of it is the upstream's to count."""
    with contextlib.suppress(OSError, EOFError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            await reader.read(-1)
        finally:
            writer.close()


async def _in_turn(ports: list[int], number: int, until: float) -> None:
    """A caller who asks again as soon as it has been answered."""
    while time.monotonic() < until:
        number += 1
        await _ask(ports[number % len(ports)], _STREAMED)


async def _at_a_rate(ports: list[int], per_second: float, until: float) -> None:
    """Callers who come whether or not others have been answered; who waits for longer than the run leaves."""
    asking: set[asyncio.Task[None]] = set()
    number, due = 0, time.monotonic()
    while (now := time.monotonic()) < until:
        if now < due:
            await asyncio.sleep(due - now)
        due += 1.0 / per_second
        number += 1
        task = asyncio.ensure_future(_ask(ports[number % len(ports)], _PLAIN))
        asking.add(task)
        task.add_done_callback(asking.discard)
    for task in list(asking):
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def _run(
    config: dict[str, Any], upstream: Upstream, warm: float, seconds: float, *, redis: bool
) -> float:
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    config["upstreams"]["up"]["base_url"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    with contextlib.ExitStack() as stack:
        gateways = []
        for _ in range(PROCESSES if redis else 1):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateways.append(await asyncio.to_thread(GatewayProcess(config, folder).start))
            stack.callback(gateways[-1].stop)
        ports = [int(gateway.url.rpartition(":")[2]) for gateway in gateways]
        until = time.monotonic() + warm + seconds
        async with asyncio.TaskGroup() as group:
            if upstream._bucket is None:  # noqa: SLF001 - it is this module's
                for number in range(CLIENTS):
                    group.create_task(_in_turn(ports, number, until))
            else:
                group.create_task(_at_a_rate(ports, 2 * PER_MINUTE / 60, until))
            await asyncio.sleep(warm)
            upstream.seen = Seen()
            began = time.monotonic()
            await asyncio.sleep(seconds)
            seen, took = upstream.seen, time.monotonic() - began
            upstream.seen = Seen()
        upstream.seen = seen
    server.close()
    await upstream.close()
    return took


def measure(
    seconds: float, *, rate: bool, tells: bool = True, redis: bool = False, workers: int = PROCESSES
) -> tuple[Seen, float]:
    """One run over fresh processes: what was seen, and for how many seconds."""
    concurrency: dict[str, Any] = {
        "limit": 200,
        "adaptive": not rate,
        "shared": "machines" if redis else "workers",
    }

    async def run() -> tuple[Seen, float]:
        bucket = Bucket(PER_MINUTE) if rate else None
        if bucket is not None:
            # Else a minute would pass until it is the rate that counts.
            bucket.take(PER_MINUTE, time.monotonic())
        upstream = Upstream(bucket, tells=tells)
        took = await _run(config, upstream, 20.0, seconds, redis=redis)
        return upstream.seen, took

    with contextlib.ExitStack() as stack:
        config: dict[str, Any] = {
            "upstreams": {"up": {"kind": "openai", "concurrency": concurrency, "pool": {"max_open": 400}}},
            "models": {"m": {"candidates": [{"upstream": "up"}]}},
            "limits": {"redis": stack.enter_context(RedisServer()).url} if redis else {},
            "workers": 1 if redis else workers,
            "tiers": {"default": {"deadline": 10}},
            "retry": {"attempts": 1},
            "log": {"requests": False},
        }
        return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.learnt", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each line")
    parser.add_argument("--only", choices=["capacity", "rate"])
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.seconds:g} s", flush=True)
    if given.only != "rate":
        print(
            f"| upstream | calls there, of {CAPACITY}: median | 95 % | most | of its capacity used |"
            " first token p50, ms | p95, ms |",
            "|---|--:|--:|--:|--:|--:|--:|",
            sep="\n",
        )
        for who, redis, workers in (
            ("1 worker", False, 1),
            ("4 workers", False, 4),
            ("4 gateways, Redis", True, 1),
        ):
            seen, took = measure(given.seconds, rate=False, redis=redis, workers=workers)
            present, first = _quantiles(seen.present), _quantiles(seen.first_tokens)
            used = seen.answered * (FIRST + REST) / (CAPACITY * took)
            print(
                f"| capacity, {who} | {present[9]:.0f} | {present[18]:.0f} "
                f"| {max(seen.present)} | {100 * used:.0f} % | {1000 * first[9]:.0f} | {1000 * first[18]:.0f} |",
                flush=True,
            )
    if given.only != "capacity":
        print("| upstream | of its rate used | answered 429 |", "|---|--:|--:|", sep="\n")
        for tells in (True, False):
            seen, took = measure(given.seconds, rate=True, tells=tells)
            used = seen.answered / (PER_MINUTE / 60 * took)
            refused = seen.refused / (seen.answered + seen.refused)
            print(
                f"| rate, {'told' if tells else 'not told'}, 4 workers | {100 * used:.1f} % | {100 * refused:.2f} % |",
                flush=True,
            )


def _quantiles(values: list[Any]) -> list[float]:
    return statistics.quantiles(values, n=20)


if __name__ == "__main__":
    main()
