"""``python -m benchmarks.flow.routing``: strategies of a model with three upstreams, through real processes.

One of the simulators is quick, one is slow in every way, and one is quick but fails half of its calls, which are then
tried again.  Streamed calls come at a steady rate, whatever is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
from pathlib import Path

from penstock.testing import GatewayProcess, SimulatorProcess

STRATEGIES = ("weighted", "least_busy", "fastest")
SCRIPTS = ("ttft=100,tps=200", "ttft=400,tps=40", "ttft=100,tps=200,503,share=0.5")
TOKENS = 32


async def call(port: int, number: int) -> tuple[float, float]:
    """Seconds to the first piece of text, and to the end.

    :raises RuntimeError: the answer is not whole
    """
    asked = {
        "model": "m",
        "stream": True,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": f"{number}"}],
    }
    body = json.dumps(asked).encode()
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        began = loop.time()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"data: ")
        first = loop.time() - began
        rest = await reader.read(-1)
        if b"[DONE]" not in rest:
            raise RuntimeError(f"an answer is not whole: {rest[-200:]!r}")
        return first, loop.time() - began
    finally:
        writer.close()


async def load(port: int, rate: float, calls: int, since: int) -> list[tuple[float, float]]:
    loop = asyncio.get_running_loop()
    began, running = loop.time(), []
    for number in range(calls):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        running.append(loop.create_task(call(port, since + number)))
    return list(await asyncio.gather(*running))


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def measure(strategy: str, rate: float, calls: int) -> str:
    """One run over fresh processes: a line of the table."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        simulators = [
            stack.enter_context(SimulatorProcess("--scenario", f"{script},tokens={TOKENS}"))
            for script in SCRIPTS
        ]
        upstreams = {
            f"up{i}": {"kind": "sim", "base_url": each.base_url} for i, each in enumerate(simulators)
        }
        config = {
            "upstreams": upstreams,
            "models": {"m": {"strategy": strategy, "candidates": [{"upstream": name} for name in upstreams]}},
            "retry": {"budget_ratio": 1},
            "log": {"requests": False},
        }
        gateway = stack.enter_context(GatewayProcess(config, Path(folder)))
        port = int(gateway.url.rpartition(":")[2])
        asyncio.run(load(port, rate, 100, 0))
        for each in simulators:
            each.reset_bill()
        times = asyncio.run(load(port, rate, calls, 1_000))
        shares = [each.bill()["requests"] / calls for each in simulators]
    firsts, ends = [first for first, _ in times], [end for _, end in times]
    figures = [quantile(firsts, 0.5), quantile(firsts, 0.99), quantile(ends, 0.5), quantile(ends, 0.99)]
    return (
        f"| {strategy} | {' / '.join(f'{100 * share:.0f}' for share in shares)} | "
        + " | ".join(f"{1_000 * each:.0f}" for each in figures)
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.routing", description=__doc__)
    parser.add_argument("--rate", type=float, default=40.0, help="calls per second")
    parser.add_argument("--calls", type=int, default=1_200)
    given = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.rate:g} calls/s", flush=True
    )
    print(
        "| strategy | upstream calls, % of the calls | first token p50, ms | p99, ms | answer p50, ms | p99, ms |"
    )
    print("|---|---|--:|--:|--:|--:|")
    for strategy in STRATEGIES:
        print(measure(strategy, given.rate, given.calls), flush=True)


if __name__ == "__main__":
    main()
