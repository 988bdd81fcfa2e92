"""The whole run: gateway and simulator are started, visited, sampled and judged."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from benchmarks.soak.books import books
from benchmarks.soak.growth import slopes
from benchmarks.soak.held import HELD, left_over, sample
from benchmarks.soak.visitors import Load
from benchmarks.soak.wanted import KINDS

from penstock.testing import GatewayProcess, SimulatorProcess

# MiB per minute: twelve in an hour would be noticed; less cannot be told from the allocator's moods
LEAK = 0.2
JUDGED = 5.0  # minutes
RELOADS = 20.0  # seconds between two reloads
SETTLING = 30.0  # seconds that everything has to come back to nothing


def soak(minutes: float, workers: int, seed: int) -> dict[str, Any]:
    """The whole run; ``leaks`` in what is returned is empty where nothing did."""
    with tempfile.TemporaryDirectory(prefix="penstock-soak-") as name, SimulatorProcess() as simulator:
        folder = Path(name)
        gateway = GatewayProcess(configuration(simulator, folder, workers), folder).start()
        try:
            before = sample(gateway, simulator, time.monotonic())
            pids = gateway.worker_pids()
            load, samples = uvloop.run(_visited(gateway, simulator, minutes * 60, seed))
            after = _settled(gateway, simulator, before)
            leaks = left_over(after, before)
            if gateway.worker_pids() != pids:
                leaks.append("a worker died")
            restarts = sum(worker["restarts"] for worker in gateway.readiness()["workers"])
            status = gateway.stop()
            if status or restarts:
                leaks.append(f"the gateway ended with {status}, after {restarts} restarts of workers")
        finally:
            gateway.stop()
        bill = simulator.bill()
        account = books(folder / "ledger.sqlite", bill)
        complaints = _complaints(gateway.log)
    memory = slopes(samples, before, after)
    leaks += _unsettled(account, bill)
    leaks += [f"{count} of {name!r} were failed" for name, count in load.faults.items()]
    leaks += _growing(memory) if minutes >= JUDGED else []
    return {
        "minutes": minutes,
        "seed": seed,
        "leaks": leaks,
        "wishes": dict(load.done),
        "faults": dict(load.faults),
        "fault_examples": load.examples,
        "requests": sum(worker["requests"] for worker in after["workers"]),
        "cpu_seconds": [worker["cpu"] for worker in after["workers"]],
        "memory": memory,
        "most": {
            key: max(sum(worker[key] for worker in each["workers"]) for each in samples)
            for key in (*HELD, "tasks", "fds")
        },
        "before": before,
        "after": after,
        "books": account,
        "warnings_and_errors_logged": complaints,
        "samples": samples,
    }


def configuration(simulator: SimulatorProcess, folder: Path, workers: int) -> dict[str, Any]:
    common = {"api_key": "any", "cancel_grace": 3, "pool": {"idle_timeout": 3, "max_life": 30}}
    return {
        "workers": workers,
        "upstreams": {
            "openai": {
                "kind": "openai",
                "base_url": simulator.base_url,
                "running_usage": True,
                "responses": True,
                **common,
            },
            "anthropic": {"kind": "anthropic", "base_url": simulator.url, **common},
            "sim": {"kind": "sim", "base_url": simulator.base_url, **common},
        },
        "models": {
            **{f"{kind}/*": {"candidates": [{"upstream": kind, "model": "*"}]} for kind in KINDS},
            "alias/*": {"candidates": [{"upstream": "sim", "model": "sim:tokens=8,key=alias"}]},
        },
        "listener": {"header_timeout": 3, "body_timeout": 3, "idle_timeout": 20},
        "timeouts": {"first_token": 20, "between_tokens": 1, "total": 120},
        "retry": {"attempts": 3, "first_delay": 0.05, "max_delay": 0.2, "budget_floor": 100_000},
        # Few rows in memory, so that they have taken all the room that they will ever take before the second half.
        "ledger": {"path": str(folder / "ledger.sqlite"), "max_rows_in_memory": 1_000},
    }


async def _visited(
    gateway: GatewayProcess, simulator: SimulatorProcess, seconds: float, seed: int
) -> tuple[Load, list[dict[str, Any]]]:
    """The visitors have come and gone; with what was held in each second of that."""
    load = Load(gateway.url, seed)
    began = time.monotonic()
    samples = []
    running = asyncio.create_task(load.run(seconds))
    next_reload = began + RELOADS
    while not running.done():
        samples.append(await asyncio.to_thread(sample, gateway, simulator, began))
        if time.monotonic() > next_reload:
            next_reload += RELOADS
            os.kill(gateway.pid, signal.SIGHUP)
        if sys.stderr.isatty():
            now = samples[-1]
            total = sum(load.done.values())
            rss = " ".join(f"{worker['rss']:.1f}" for worker in now["workers"])
            print(f"\r{now['at']:5.0f} s  {total} wishes  {rss} MiB ", end="", file=sys.stderr, flush=True)
        await asyncio.wait([running], timeout=max(0.0, 1.0 - (time.monotonic() - began) % 1.0))
    running.result()
    return load, samples


def _settled(gateway: GatewayProcess, simulator: SimulatorProcess, before: dict[str, Any]) -> dict[str, Any]:
    """What is held when everything has come back to nothing, or has had its time for that."""
    deadline = time.monotonic() + SETTLING
    after = sample(gateway, simulator, time.monotonic())
    while left_over(after, before) and time.monotonic() < deadline:
        time.sleep(0.2)
        after = sample(gateway, simulator, time.monotonic())
    return after


def _unsettled(account: dict[str, Any], bill: dict[str, Any]) -> list[str]:
    counts = (
        (account["open"], "rows of the ledger are open"),
        (account["folded"], "rows of the ledger were given up"),
        (bill["in_flight"], "calls are still under way upstream"),
    )
    return account["wrong"] + [f"{count} {what}" for count, what in counts if count]


def _growing(memory: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"{process} grows by {each['mib_per_minute']:.3f} ± {each['confidence_95']:.3f} MiB a minute"
        for process, each in memory.items()
        if process != "simulator" and each["mib_per_minute"] - each["confidence_95"] > LEAK
    ]


def _complaints(log: str) -> dict[str, int]:
    """What the gateway warned of, and how often."""
    lines = map(json.loads, filter(None, log.splitlines()))
    counted = Counter(
        line["message"] if "message" in line else line.get("event", "?")
        for line in lines
        if line.get("level") in {"warning", "error"}
    )
    return dict(counted.most_common(20))
