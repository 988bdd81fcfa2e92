"""``python -m benchmarks.flow.leases``: one limit, four processes: what they admit together, through real processes.

Four gateways that share a Redis, or the four workers of one gateway without any, keep to the limits of one key.
Calls come at a steady rate, twice what the limit allows, evenly or nearly all at one process.  What the buckets
held at the start is used up first, and what that took too much is made good for ten seconds; then one minute is
counted: calls that were answered 200, and the tokens that their answers say were used.  Redis is killed a third
into the minute where the line says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.testing import GatewayProcess, SimulatorProcess
from penstock.testing.redis import RedisServer

PROCESSES = 4
EVEN = (0.25, 0.25, 0.25, 0.25)
UNEVEN = (0.85, 0.05, 0.05, 0.05)
TIMES_TOO_MANY = 2.0
TOKENS = 64  # of each answer
DRAINED, ROUNDS, PAUSE = 3, 3, 0.3  # so many refusals in a row, several times: the bucket is used up
SETTLING = 10.0  # seconds of calls that are not counted
SHARE = 0.2  # of the calls, from which on a process takes part in that


@dataclass
class Figures:
    """What became of the calls of one run; ``limit`` is what its time allows."""

    limit: float
    admitted: float = 0.0
    refused: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def off(self) -> float:
        """By how much of the limit more was admitted; negative: less."""
        return self.admitted / self.limit - 1.0

    def __str__(self) -> str:
        return f"{self.limit:.0f} | {self.admitted:.0f} | {100 * self.off:+.1f} % | {self.refused} | {len(self.failed)}"


class Door:
    """One process's port, and the connections to it that are free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, tokens: int) -> tuple[int, int]:
        """The status, and what was used.

        :raises OSError: there is no answer
        """
        asked = {"model": "m", "max_tokens": tokens, "messages": [{"role": "user", "content": "How much?"}]}
        body = json.dumps(asked).encode()
        reader, writer = (
            self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        )
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        answer = json.loads(await reader.readexactly(length))
        self._free.append((reader, writer))
        return int(head.split()[1]), answer.get("usage", {}).get("total_tokens", 0)

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def used_up(doors: list[Door], spread: tuple[float, ...]) -> None:
    """Use what the buckets hold when they are full, at those who have most of the calls."""

    async def use(door: Door) -> None:
        for _ in range(ROUNDS):
            refused = 0
            while refused < DRAINED:
                status, _ = await door.call(TOKENS)
                refused = refused + 1 if status == 429 else 0
            await asyncio.sleep(PAUSE)

    await asyncio.gather(*(use(door) for door, share in zip(doors, spread, strict=True) if share >= SHARE))


async def load(
    ports: list[int],
    spread: tuple[float, ...],
    per_minute: int,
    kind: str,
    seconds: float,
    *,
    kill: Any = None,
) -> Figures:
    """:param kill: called a third into the time"""
    doors = [Door(port) for port in ports]
    counts_tokens = kind == "tokens"
    figures = Figures(0.0)
    each = 80.0 if counts_tokens else 1.0  # about what a call takes of the limit
    rate = TIMES_TOO_MANY * per_minute / 60.0 / each
    loop = asyncio.get_running_loop()
    rng = random.Random(1)
    await used_up(doors, spread)

    async def call(door: Door, *, counts: bool) -> None:
        try:
            status, used = await door.call(TOKENS)
        except (OSError, EOFError, ValueError) as error:
            figures.failed.append(repr(error))
            return
        if status not in (200, 429):
            figures.failed.append(str(status))
        elif not counts:
            pass
        elif status == 200:
            figures.admitted += used if counts_tokens else 1
        else:
            figures.refused += 1

    async with asyncio.TaskGroup() as group:
        started = loop.time()
        began = started + SETTLING
        number = 0
        while (now := loop.time()) < began + seconds:
            await asyncio.sleep(max(0.0, started + number / rate - now))
            group.create_task(call(rng.choices(doors, spread)[0], counts=loop.time() >= began))
            number += 1
            if kill is not None and loop.time() > began + seconds / 3:
                kill()
                kill = None
        figures.limit = per_minute * (loop.time() - began) / 60.0
    for door in doors:
        door.close()
    return figures


def measure(
    kind: str,
    spread: tuple[float, ...],
    seconds: float,
    *,
    per_minute: int,
    redis: bool = True,
    kill: bool = False,
) -> Figures:
    """One run over fresh processes.

    :param kind: ``requests`` or ``tokens``
    :param per_minute: the limit
    :param redis: four gateways and a Redis; else the four workers of one
    :param kill: kill Redis a third into the time
    """
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(SimulatorProcess("--output-tokens", str(TOKENS)))
        limits: dict[str, Any] = {"keys": {"anonymous": {f"{kind}_per_minute": per_minute}}}
        server = stack.enter_context(RedisServer()) if redis else None
        if server is not None:
            limits["redis"] = server.url
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"m": {"candidates": [{"upstream": "sim"}]}},
            "limits": limits,
            "workers": 1 if redis else PROCESSES,
            "log": {"requests": False},
        }
        ports = []
        for _ in range(PROCESSES if redis else 1):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateway = stack.enter_context(GatewayProcess(config, folder))
            ports.append(int(gateway.url.rpartition(":")[2]))
        end = server.kill if server is not None and kill else None
        if not redis:
            spread = (1.0,)
        return asyncio.run(load(ports, spread, per_minute, kind, seconds, kill=end))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.leases", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="that are counted, for each line")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.seconds:g} s", flush=True)
    print("| processes | limit | calls | allowed | admitted | off | refused | failed |")
    print("|---|---|---|--:|--:|--:|--:|--:|")
    for redis, kill in ((True, False), (True, True), (False, False)):
        who = "4 gateways, Redis killed" if kill else "4 gateways, Redis" if redis else "4 workers, no Redis"
        for kind, per_minute in (("requests", 1_200), ("tokens", 120_000)):
            for name, spread in (("even", EVEN), ("85 / 5 / 5 / 5 %", UNEVEN)):
                if redis or spread is EVEN:
                    figures = measure(
                        kind, spread, given.seconds, per_minute=per_minute, redis=redis, kill=kill
                    )
                    print(f"| {who} | {per_minute} {kind} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
