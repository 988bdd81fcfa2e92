"""``python -m benchmarks.flow.bursts``: small limits in the first instant, through real processes.

Gateways that share a Redis, or the workers of one gateway, meet a burst at a limit that none of them has seen before: at
each twice as many calls as it allows in a minute, all at once, over connections that are open already; those that are let
in are answered when all others have been refused, so that nothing of what they took comes back meanwhile.  Ten limits of
each size, one after the other.  Afterwards the callers of one more limit go on, each as soon as it has been refused; the
upstream notes when calls come, and how far they go beyond a bucket that holds the limit and fills by it in a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.flow.slow_upstream import SlowUpstream, closed, length_of, plain

from penstock.testing import GatewayProcess
from penstock.testing.redis import RedisServer

LIMITS = (1, 2, 5, 8, 20)
ROUNDS = 10
PAUSE = 0.1  # seconds after which one who was refused comes again, where callers go on
TOKENS = 100  # of prompt and answer together, at most: what is reserved for a call


@dataclass
class Figures:
    """What the bursts of one size came to: of each round, how many began; ``beyond`` is what callers who went on got more
    than the bucket had.
    """

    limit: int
    began: list[int] = field(default_factory=list)
    beyond: float = 0.0
    went_on: int = 0
    other: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.limit} | {min(self.began)} | {max(self.began)} | {self.went_on} | {self.beyond:+.2f} | "
            f"{len(self.other)}"
        )


class Upstream(SlowUpstream):
    """Answers at once, or once all of a burst are decided; notes when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []
        self._undecided = 0
        self._decided = asyncio.Event()
        self._decided.set()

    def expect(self, calls: int) -> None:
        """So many calls are made: nobody is answered until each of them is here, or was refused."""
        self._undecided = calls
        self._decided.clear()

    def decided(self) -> None:
        """One of them came, or never will."""
        self._undecided -= 1
        if self._undecided <= 0:
            self._decided.set()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asyncio.get_running_loop().time())
        self.decided()
        await self._decided.wait()
        writer.write(plain())


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def call(self, model: str) -> int:
        """The status.

        :raises OSError: there is no answer
        """
        asked = {"model": model, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "Now?"}]}
        body = json.dumps(asked).encode()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(length_of(head))
        return int(head.split()[1])

    async def close(self) -> None:
        await closed(self._writer)


def beyond(asked: list[float], limit: int) -> float:
    """How many calls more came at these times, at the worst, than a bucket had that was full before the first."""
    left, at, worst = float(limit), asked[0] if asked else 0.0, -math.inf
    for when in asked:
        left = min(float(limit), left + (when - at) * limit / 60.0) - 1.0
        at = when
        worst = max(worst, -left)
    return worst


async def _bursts(
    ports: list[int],
    upstream: Upstream,
    limits: tuple[int, ...],
    rounds: int,
    seconds: float,
    stop: Callable[[], None] | None,
) -> list[Figures]:
    found = []
    for limit in limits:
        figures = Figures(limit)
        many = 2 * limit + 1
        callers = [
            Caller(*await asyncio.open_connection("127.0.0.1", port)) for port in ports for _ in range(many)
        ]

        async def call(caller: Caller, model: str, *, figures: Figures = figures) -> int:
            status = await caller.call(model)
            if status not in (200, 429):
                figures.other.append(str(status))
            return status

        async def call_once(caller: Caller, model: str) -> int:
            status = await call(caller, model)
            if status != 200:
                upstream.decided()
            return status

        for number in range(rounds):
            upstream.expect(len(callers))
            answers = await asyncio.gather(*(call_once(caller, f"m{limit}-{number}") for caller in callers))
            figures.began.append(answers.count(200))
        upstream.asked.clear()
        until = asyncio.get_running_loop().time() + seconds

        async def go_on(caller: Caller, *, until: float = until, limit: int = limit) -> None:
            while asyncio.get_running_loop().time() < until:
                if await call(caller, f"m{limit}-on") == 429:
                    await asyncio.sleep(PAUSE)

        going_on = asyncio.gather(*map(go_on, callers))
        if stop is not None:
            await asyncio.sleep(seconds / 5)
            stop()
        await going_on
        figures.went_on = len(upstream.asked)
        figures.beyond = beyond(upstream.asked, limit)
        for caller in callers:
            await caller.close()
        found.append(figures)
    return found


async def _with_processes(
    processes: int,
    config: dict[str, Any],
    limits: tuple[int, ...],
    rounds: int,
    seconds: float,
    stop: Callable[[], None] | None,
) -> list[Figures]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    config["upstreams"]["up"]["base_url"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    with contextlib.ExitStack() as stack:
        gateways = []
        for _ in range(processes if config["workers"] == 1 else 1):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateways.append(await asyncio.to_thread(GatewayProcess(config, folder).start))
        try:
            ports = [int(gateway.url.rpartition(":")[2]) for gateway in gateways]
            if len(ports) == 1:
                ports *= processes
            found = await _bursts(ports, upstream, limits, rounds, seconds, stop)
            if any(figures.other for figures in found):  # nothing else will tell why
                found[-1].other += [gateway.log[-5_000:] for gateway in gateways]
            return found
        finally:
            for gateway in gateways:
                await asyncio.to_thread(gateway.stop)
            server.close()
            await upstream.close()
            await server.wait_closed()


def measure(
    processes: int,
    *,
    redis: bool,
    kind: str = "requests",
    limits: tuple[int, ...] = LIMITS,
    rounds: int = ROUNDS,
    seconds: float = 10.0,
    stops: str = "",
) -> list[Figures]:
    """One run over fresh processes.

    :param redis: gateways and a Redis; else the workers of one gateway
    :param kind: ``requests`` or ``tokens``: then the limits are so many calls' worth of them
    :param seconds: for which callers go on
    :param stops: after a fifth of that Redis is stopped by this method: ``kill`` or ``freeze``
    """
    with contextlib.ExitStack() as stack:
        models = {f"m{limit}-{number}": limit for limit in limits for number in (*range(rounds), "on")}
        each = 1 if kind == "requests" else TOKENS + 40  # somewhat more than is estimated
        shared: dict[str, Any] = {
            "models": {model: {f"{kind}_per_minute": limit * each} for model, limit in models.items()}
        }
        server = stack.enter_context(RedisServer()) if redis else None
        if server is not None:
            shared["redis"] = server.url
        config = {
            "upstreams": {"up": {"kind": "openai"}},
            "models": {model: {"candidates": [{"upstream": "up", "model": "m"}]} for model in models},
            "limits": shared,
            "workers": 1 if redis else processes,
            "log": {"requests": False},
        }
        stop = getattr(server, stops) if stops else None
        return asyncio.run(_with_processes(processes, config, limits, rounds, seconds, stop))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.bursts", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for which callers go on, for each limit")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.seconds:g} s", flush=True)
    print("| processes | limit | fewest | most | going on | beyond | other |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for redis in (True, False):
        for processes in (2, 4):
            who = f"{processes} gateways, Redis" if redis else f"{processes} workers, no Redis"
            for figures in measure(processes, redis=redis, seconds=given.seconds):
                print(f"| {who} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
