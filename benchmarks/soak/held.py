"""What every process holds, from second to second, and what of it is left over at the end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from penstock.testing import GatewayProcess, SimulatorProcess

HELD = (
    *("connections", "in_progress", "calls", "readings", "productions"),
    *("generations", "log_bytes", "open_attempts"),
)
MIB = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / MIB


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def sample(gateway: GatewayProcess, simulator: SimulatorProcess, began: float) -> dict[str, Any]:
    workers = gateway.workers()
    return {
        "at": time.monotonic() - began,
        "supervisor": {"rss": memory(gateway.pid), "fds": descriptors(gateway.pid)},
        "simulator": {"rss": memory(simulator.pid), "fds": descriptors(simulator.pid)},
        "workers": [
            {
                "rss": worker["process"]["resident_bytes"] / MIB,
                "fds": worker["process"]["open_fds"],
                "cpu": worker["process"]["cpu_seconds"],
                "connections": worker["listener"]["open"],
                "requests": worker["listener"]["requests"],
                "in_progress": worker["listener"]["in_progress"],
                "upstream": {
                    key: sum(pool[key] for pool in worker["pools"].values())
                    for key in ("open", "idle", "busy", "waiting")
                },
                **worker["held"],
            }
            for worker in workers
        ],
    }


def left_over(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What has not come back to what it was before the first visitor."""
    found = []
    for index, (worker, fresh) in enumerate(zip(now["workers"], before["workers"], strict=True)):
        found += [f"worker {index}: {worker[name]} {name}" for name in HELD if worker[name]]
        found += [
            f"worker {index}: {count} {name} upstream connections"
            for name, count in worker["upstream"].items()
            if count
        ]
        if worker["tasks"] > fresh["tasks"]:
            found.append(f"worker {index}: {worker['tasks']} tasks, {fresh['tasks']} at first")
        if worker["fds"] > fresh["fds"] + 4:  # the ledger's file, log, index and lock may be opened late
            found.append(f"worker {index}: {worker['fds']} descriptors, {fresh['fds']} at first")
    if now["supervisor"]["fds"] > before["supervisor"]["fds"] + 1:
        found.append(f"supervisor: {now['supervisor']['fds']} descriptors")
    return found
