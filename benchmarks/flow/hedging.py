"""``python -m benchmarks.flow.hedging``: first tokens with and without second calls, through real processes.

One gateway before two simulated upstreams whose first tokens have a heavy tail.  Streamed calls come at a steady
rate, whatever is answered; the same number of calls, once without and once with ``hedge``.  What it costs is what
the simulators charge, at the price of four for an output token to one for a token of the prompt; *at most* is what it
would be if they charged for the prompt of every call, also of those that were hung up on before their first token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from penstock.testing import GatewayProcess, SimulatorProcess

TAILS = {
    "2 % are 3 s late": "ttft=100,spread=0.3,slow-first-token=3000,share=0.02",
    "log-normal, 1.5": "ttft=100,spread=1.5",
    "log-normal, 1.0": "ttft=100,spread=1.0",
}
HEDGES: tuple[dict[str, Any] | None, ...] = (None, {}, {"quantile": 0.9, "extra": 0.1})
WARM_UP = 300  # calls that are not counted
OUTPUT_PRICE = 4


async def call(port: int, number: int) -> float:
    """Seconds until the first piece of text; the whole answer is read and must be complete."""
    body = json.dumps(
        {
            "model": "m",
            "stream": True,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": f"{number} " + "word " * 200}],
        }
    ).encode()
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        began = loop.time()
        writer.write(head % len(body) + body)
        await reader.readuntil(b"data: ")
        first = loop.time() - began
        rest = await reader.read(-1)
        if b"[DONE]" not in rest:
            raise RuntimeError(f"an answer is not whole: {rest[-200:]!r}")
        return first
    finally:
        writer.close()


async def load(port: int, rate: float, calls: int) -> list[float]:
    """The seconds to the first token of each call, in the order in which they were sent."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    running = []
    for number in range(calls):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        running.append(loop.create_task(call(port, number)))
    return list(await asyncio.gather(*running))


def measure(script: str, hedge: dict[str, Any] | None, rate: float, calls: int) -> dict[str, float]:
    """One run over fresh processes."""
    options = ("--scenario", script + ",tps=200,tokens=20")
    with (
        tempfile.TemporaryDirectory() as folder,
        SimulatorProcess(*options) as one,
        SimulatorProcess(*options) as two,
    ):
        more = {"hedge": hedge} if hedge is not None else {}
        config = {
            "upstreams": {
                name: {"kind": "sim", "base_url": simulator.base_url, **more}
                for name, simulator in (("one", one), ("two", two))
            },
            "models": {"m": {"candidates": [{"upstream": "one"}, {"upstream": "two"}]}},
            "log": {"requests": False},
        }
        with GatewayProcess(config, Path(folder)) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            asyncio.run(load(port, rate, WARM_UP))
            for simulator in (one, two):
                simulator.reset_bill()
            firsts = sorted(asyncio.run(load(port, rate, calls)))
            bills = [one.bill(), two.bill()]
    paid = sum(bill["input_tokens"] + OUTPUT_PRICE * bill["output_tokens"] for bill in bills)
    return {
        "p50": firsts[len(firsts) // 2],
        "p95": firsts[int(len(firsts) * 0.95)],
        "p99": firsts[int(len(firsts) * 0.99)],
        "requests": sum(bill["requests"] for bill in bills) / calls,
        "paid": paid / calls,
        "prompts": sum(bill["input_tokens"] for bill in bills) / calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.hedging", description=__doc__)
    parser.add_argument("--rate", type=float, default=60.0, help="calls per second")
    parser.add_argument("--calls", type=int, default=3_000)
    given = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.rate:g} calls/s", flush=True
    )
    print("| first tokens | hedge | p50, ms | p95, ms | p99, ms | upstream calls | upstream cost | at most |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name, script in TAILS.items():
        before = None
        for hedge in HEDGES:
            got = measure(script, hedge, given.rate, given.calls)
            before = before or got
            at_most = got["paid"] - got["prompts"] + got["requests"] * before["prompts"]
            times = " | ".join(f"{1_000 * got[key]:.0f}" for key in ("p50", "p95", "p99"))
            change = (
                f" ({100 * (got['p99'] / before['p99'] - 1):+.0f} %) | {100 * (got['requests'] - 1):+.1f} %"
                f" | {100 * (got['paid'] / before['paid'] - 1):+.1f} % | {100 * (at_most / before['paid'] - 1):+.1f} %"
                if hedge is not None
                else " | | | "
            )
            kind = "no" if hedge is None else f"{100 * hedge.get('extra', 0.03):.0f} % of the calls"
            print(f"| {name} | {kind} | {times}{change} |", flush=True)


if __name__ == "__main__":
    main()
