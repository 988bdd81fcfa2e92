"""``python -m benchmarks.flow.places``: calls at once of one limit that four processes share, through real processes.

Four gateways that share a Redis, or the four workers of one gateway, may have six calls of one key under way
together.  Clients come over connections of their own, each as soon as it has been answered; who is refused waits a
little.  The upstream counts: how many it had at once, and how much of its places' time was used.  One of the processes
is killed in the middle where the line says so; its calls end with it, and its places are others' when its lease has
run out.  The same again with six places of the upstream instead (``concurrency``): who has none waits for its turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.flow.slow_upstream import SlowUpstream, plain, status_of

from penstock.testing import GatewayProcess
from penstock.testing.redis import RedisServer

PROCESSES = 4
LIMIT = 6
CLIENTS = 16
HELD = 0.1  # seconds that the upstream works on a call
PAUSE = 0.05  # seconds after which one who was refused comes again
_CALL = json.dumps({"model": "m", "messages": [{"role": "user", "content": "How many?"}]}).encode()


@dataclass
class Figures:
    """What one run came to; ``waits`` are seconds until a refusal, ``used`` is a share of the places' time."""

    most: int = 0
    answered: int = 0
    refused: int = 0
    cut: int = 0
    other: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def used(self) -> float:
        return self.answered * HELD / (LIMIT * self.seconds)

    def __str__(self) -> str:
        longest = f"{1000 * max(self.waits):.0f}" if self.waits else "-"
        return (
            f"{self.most} | {100 * self.used:.0f} % | {self.answered} | {self.refused} | {longest} "
            f"| {self.cut} | {len(self.other)}"
        )


class Upstream(SlowUpstream):
    """Answers each call after :data:`HELD` seconds, and counts how many it has at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        self.most = max(self.most, self.present)
        await asyncio.sleep(HELD)
        writer.write(plain())


async def _client(ports: list[int], number: int, until: float, figures: Figures) -> None:
    loop = asyncio.get_running_loop()
    while (now := loop.time()) < until:
        number += 1
        try:
            status = await status_of(ports[number % len(ports)], _CALL)
        except (OSError, EOFError):
            figures.cut += 1
            await asyncio.sleep(PAUSE)
            continue
        if status == 200:
            figures.answered += 1
        elif status == 429:
            figures.refused += 1
            figures.waits.append(loop.time() - now)
            await asyncio.sleep(PAUSE)
        else:
            figures.other.append(str(status))


async def _load(config: dict[str, Any], seconds: float, *, redis: bool, kill: bool) -> Figures:
    figures, upstream, loop = Figures(), Upstream(), asyncio.get_running_loop()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    config["upstreams"]["up"] |= {"kind": "openai", "base_url": f"http://127.0.0.1:{address[1]}/v1"}
    with contextlib.ExitStack() as stack:
        gateways = []
        for _ in range(PROCESSES if redis else 1):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateways.append(await asyncio.to_thread(GatewayProcess(config, folder).start))
            stack.callback(gateways[-1].stop)
        ports = [int(gateway.url.rpartition(":")[2]) for gateway in gateways]
        victim = gateways[0].worker_pids()[0]
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_client(ports, number, began + seconds, figures))
            await asyncio.sleep(seconds / 3)
            if kill and victim is not None:
                os.kill(victim, signal.SIGKILL)
        figures.seconds = loop.time() - began
    server.close()
    await upstream.close()
    await server.wait_closed()
    figures.most = upstream.most
    return figures


def measure(seconds: float, *, redis: bool, kill: bool, upstream: bool = False) -> Figures:
    """One run over fresh processes.

    :param redis: four gateways and a Redis; else the four workers of one
    :param upstream: it is the upstream's ``concurrency``, and who has no place waits; else a limit of the key
    :param kill: kill a worker a third into the time
    """
    with contextlib.ExitStack() as stack:
        limits: dict[str, Any] = {} if upstream else {"keys": {"anonymous": {"concurrent": LIMIT}}}
        concurrency = {"limit": LIMIT, "adaptive": False, "shared": "machines" if redis else "workers"}
        if redis:
            limits["redis"] = stack.enter_context(RedisServer()).url
        config = {
            "upstreams": {"up": {"concurrency": concurrency} if upstream else {}},
            "models": {"m": {"candidates": [{"upstream": "up"}]}},
            "limits": limits,
            "workers": 1 if redis else PROCESSES,
            "log": {"requests": False},
        }
        return asyncio.run(_load(config, seconds, redis=redis, kill=kill))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.places", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each line")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.seconds:g} s", flush=True)
    print(
        "| processes | limit | most at once | used | answered | refused | latest refusal, ms | cut | other |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        sep="\n",
    )
    for upstream in (False, True):
        for redis in (False, True):
            for kill in (False, True):
                who = "4 gateways, Redis" if redis else "4 workers, no Redis"
                figures = measure(given.seconds, redis=redis, kill=kill, upstream=upstream)
                what = f"{LIMIT}{' of the upstream' if upstream else ''}"
                print(f"| {who}{', one killed' if kill else ''} | {what} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
