"""``python -m benchmarks.flow.batching``: embeddings of single-input clients, through real processes.

One gateway before one simulator whose answers take 60 ms.  Two loads of about 500 calls a second: 32 clients of which
each asks again as soon as it has been answered, and calls that come whenever they come (Poisson), by whom nobody waits
for anybody; and one call a second.  *Added* is the median time of a call, less that without batching.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from penstock.testing import GatewayProcess, SimulatorProcess

SYSTEMS: dict[str, dict[str, Any] | None] = {
    "each by itself": None,
    "adaptive, 32 / 5 ms": {},
    "adaptive, 32 / 20 ms": {"max_queue_delay": 0.02},
    "timed, 5 ms": {"window": "fixed", "max_batch_size": 2_048},
    "timed, 20 ms": {"window": "fixed", "max_batch_size": 2_048, "max_queue_delay": 0.02},
    "size, 32, 1 s at most": {"window": "fixed", "max_queue_delay": 1.0},
    "size or time, 32 / 100 ms": {"window": "fixed", "max_queue_delay": 0.1},
}
CLIENTS = 32
RATE = 500.0
DIMENSIONS = 16
_HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n"


class Client:
    """One connection, one call at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, number: int) -> float:
        """Seconds that it took; the answer must be one vector.

        :raises RuntimeError: it was something else
        """
        text = f"Chunk {number} of a document, with the words that such a chunk is made of. " * 5
        body = json.dumps({"model": "m", "input": text, "dimensions": DIMENSIONS}).encode()
        loop = asyncio.get_running_loop()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        began = loop.time()
        writer.write(_HEAD % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        answer = await reader.readexactly(length)
        took = loop.time() - began
        if not head.startswith(b"HTTP/1.1 200") or len(json.loads(answer)["data"]) != 1:
            raise RuntimeError(f"no answer: {head + answer!r}")
        return took

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def in_turn(port: int, seconds: float) -> list[float]:
    """Each client asks again when it has been answered."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    times: list[float] = []

    async def client(number: int) -> None:
        client = Client(port)
        while loop.time() < end:
            times.append(await client.call(number))
            number += CLIENTS
        client.close()

    await asyncio.gather(*map(client, range(CLIENTS)))
    return times


async def whenever(port: int, seconds: float, rate: float = RATE) -> list[float]:
    """Calls at random moments, whatever becomes of those before."""
    loop = asyncio.get_running_loop()
    rand = random.Random(1)
    idle: list[Client] = []
    times: list[float] = []

    async def one(number: int) -> None:
        client = idle.pop() if idle else Client(port)
        times.append(await client.call(number))
        idle.append(client)

    began, at, running = loop.time(), 0.0, []
    while at < seconds:
        await asyncio.sleep(max(0.0, began + at - loop.time()))
        running.append(loop.create_task(one(len(running))))
        at += rand.expovariate(rate)
    await asyncio.gather(*running)
    for client in idle:
        client.close()
    return times


async def now_and_then(port: int, seconds: float) -> list[float]:
    """One call a second."""
    client = Client(port)
    times = []
    for number in range(max(1, round(seconds))):
        times.append(await client.call(number))
        await asyncio.sleep(1.0)
    client.close()
    return times


LOADS: dict[str, Callable[[int, float], Awaitable[list[float]]]] = {
    "32 clients in turn": in_turn,
    "500/s at random": whenever,
    "1/s": now_and_then,
}


def measure(load: str, batching: dict[str, Any] | None, seconds: float) -> dict[str, float]:
    """One run over fresh processes; the first second is not counted."""
    with tempfile.TemporaryDirectory() as folder, SimulatorProcess("--scenario", "ttft=60") as simulator:
        more = {"batching": batching} if batching is not None else {}
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url, **more}},
            "models": {"m": {"candidates": [{"upstream": "sim"}]}},
            "log": {"requests": False},
        }
        with GatewayProcess(config, Path(folder)) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            play = LOADS[load]
            asyncio.run(_timed(play, port, 1.0))
            simulator.reset_bill()
            times = sorted(asyncio.run(_timed(play, port, seconds)))
            bill = simulator.bill()
    return {
        "calls": len(times) / seconds,
        "merged": len(times) / bill["requests"],
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
    }


async def _timed(
    play: Callable[[int, float], Awaitable[list[float]]], port: int, seconds: float
) -> list[float]:
    return await play(port, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.batching", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--load", choices=LOADS, help="only this one")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}", flush=True)
    print("| load | batching | calls/s | upstream requests | p50, ms | added, ms | p99, ms |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for load in [given.load] if given.load else LOADS:
        alone = 0.0
        for system, batching in SYSTEMS.items():
            got = measure(load, batching, given.seconds)
            alone = alone or got["p50"]
            print(
                f"| {load} | {system} | {got['calls']:.0f} | ÷ {got['merged']:.1f} | {1_000 * got['p50']:.1f} "
                f"| {1_000 * (got['p50'] - alone):+.1f} | {1_000 * got['p99']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
