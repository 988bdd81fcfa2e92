"""``python -m benchmarks.flow.budgets``: one budget that four processes share, spent by a flood, through real processes.

Four gateways that share a Redis and have a ledger each, or the four workers of one gateway, may spend so much on one
key's calls in a day.  All clients begin at once, at an account that nobody has seen, each over connections of its own,
and again as soon as they have been answered; who is refused waits as it is told.  Afterwards the ledgers say what was
spent.  All calls cost the same, and what is reserved for one is what it costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.flow.slow_upstream import SlowUpstream, status_of

from penstock.testing import GatewayProcess
from penstock.testing.redis import RedisServer

PROCESSES = 4
CLIENTS = 64
COST = 10_000_000_000  # of a call, in 1e-12 US dollars
LATER = 0.3  # seconds after which one who was refused comes again
_BODY = json.dumps(
    {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "How much?"}]}
).encode()
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_MESSAGE = {"role": "assistant", "content": "much"}
_ANSWER = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
).encode()


@dataclass
class Figures:
    """What one run came to: of the budget of ``calls`` calls."""

    calls: int
    spent: float = 0.0  # in calls
    refused: int = 0
    other: list[str] = field(default_factory=list)

    @property
    def beyond(self) -> float:
        """What was spent beyond the budget, in calls; negative: what was left of it."""
        return self.spent - self.calls

    def __str__(self) -> str:
        return f"{self.calls} | {self.spent:g} | {self.beyond:+g} | {self.refused} | {len(self.other)}"


class Upstream(SlowUpstream):
    """Answers each call after some time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._seconds)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(_ANSWER), _ANSWER)
        )


async def _client(port: int, until: float, figures: Figures) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        try:
            status = await status_of(port, _BODY)
        except (OSError, EOFError) as error:
            figures.other.append(repr(error))
            continue
        if status == 429:
            figures.refused += 1
            await asyncio.sleep(LATER)
        elif status != 200:
            figures.other.append(str(status))


async def _flood(
    config: dict[str, Any], seconds: float, held: float, figures: Figures, *, redis: bool
) -> None:
    upstream = Upstream(held)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    config["upstreams"]["up"]["base_url"] = f"http://127.0.0.1:{address[1]}/v1"
    with contextlib.ExitStack() as stack:
        gateways, ledgers = [], []
        for _ in range(PROCESSES if redis else 1):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            prices = folder / "prices.toml"
            dollars = COST / 1e12 * 1e6  # a million output tokens, of which each call has one
            prices.write_text(f'version = "1"\n[[price]]\nmodels = ["m"]\ninput = 0.0\noutput = {dollars}\n')
            ledgers.append(folder / "ledger.sqlite")
            own = config | {"prices": str(prices), "ledger": {"path": str(ledgers[-1])}}
            gateways.append(await asyncio.to_thread(GatewayProcess(own, folder).start))
        ports = [int(gateway.url.rpartition(":")[2]) for gateway in gateways]
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_client(ports[number % len(ports)], until, figures))
        for gateway in gateways:
            await asyncio.to_thread(gateway.stop)
        figures.spent = sum(map(_spent, ledgers)) / COST
    server.close()
    await upstream.close()
    await server.wait_closed()


def _spent(ledger: Path) -> int:
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        return int(database.execute("SELECT total(cost) FROM attempts").fetchone()[0])


def measure(calls: int, seconds: float, *, redis: bool, scope: str = "keys", held: float = 0.05) -> Figures:
    """One run over fresh processes.

    :param calls: that the budget is enough for
    :param redis: four gateways and a Redis; else the four workers of one
    :param scope: whose budget it is: the key's, or the upstream's (``upstreams``)
    :param held: seconds that the upstream works on a call
    """
    figures = Figures(calls)
    with contextlib.ExitStack() as stack:
        limits: dict[str, Any] = {scope: {"*": {"usd_per_day": calls * COST / 1e12}}}
        if redis:
            limits["redis"] = stack.enter_context(RedisServer()).url
        config = {
            "upstreams": {"up": {"kind": "openai"}},
            "models": {"m": {"candidates": [{"upstream": "up"}]}},
            "limits": limits,
            "workers": 1 if redis else PROCESSES,
            "log": {"requests": False},
        }
        asyncio.run(_flood(config, seconds, held, figures, redis=redis))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.budgets", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.seconds:g} s", flush=True)
    print("| processes | budget, calls | spent, calls | beyond | refused | failed |")
    print("|---|--:|--:|--:|--:|--:|")
    for redis in (False, True):
        who = "4 gateways, Redis" if redis else "4 workers, no Redis"
        for calls in (10, 100, 1_000):
            print(f"| {who} | {measure(calls, given.seconds, redis=redis)} |", flush=True)


if __name__ == "__main__":
    main()
