"""What callers feel of a Redis that is frozen (SIGSTOP), killed and started anew, under load.

``python -m benchmarks.cache.redis_trouble``: memory keeps nothing, so that each of the calls, which arrive at random,
asks Redis first; where that does not answer in its budget (5 ms, the default), the upstream is asked, which answers
at once.  Every answer is checked; one that is wrong ends the benchmark with an error.  The p99 of each phase stands
beside that of a healthy Redis; ends with 1 where it is more than :data:`MOST_ADDED` later.  Needs ``redis-server``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cache import arrivals
from benchmarks.cache.asking import QUESTIONS, load, quantile, request, run
from benchmarks.cache.hit_cost import ARRIVING, CONNECTIONS
from benchmarks.cache.systems import process, wait_for
from benchmarks.gateway.processes import free_port

from penstock.testing import GatewayProcess, RedisServer

MOST_ADDED = 10.0  # ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="calls per second")
    parser.add_argument("--calls", type=int, default=3_000, help="of each phase")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = free_port()
        stack.enter_context(process(sys.executable, "-m", "benchmarks.gateway.upstream", upstream))
        wait_for(upstream)
        redis = stack.enter_context(RedisServer())
        settings = {
            "upstreams": {
                "mock": {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "k"}
            },
            "models": {"*": {"candidates": [{"upstream": "mock"}], "cache": {}}},
            "cache": {"memory_bytes": 1, "redis": redis.url, "seal_key": "bench"},
            "log": {"requests": False},
        }
        gateway = stack.enter_context(GatewayProcess(settings, folder))
        port = int(gateway.url.rpartition(":")[2])
        requests = [request(number, port, stream=False) for number in range(QUESTIONS)]
        phases: dict[str, Callable[[], object]] = {
            "healthy": lambda: None,
            "frozen": redis.freeze,
            "thawed": redis.thaw,
            "killed": redis.kill,
            "started anew": redis.start,
        }
        latencies: dict[str, list[float]] = {phase: [] for phase in phases}
        run(load(port, QUESTIONS, b"", questions=requests, connections=CONNECTIONS))
        time.sleep(1)
        for _ in range(given.rounds):
            for phase, begin in phases.items():
                begin()
                latencies[phase] += arrivals.latencies(
                    port, requests, rate=given.rate, count=given.calls, wanted=b"", connections=ARRIVING
                )
    print(
        f"load {os.getloadavg()[0]:.1f}; {given.rounds} rounds of {given.calls:,} calls, {given.rate:.0f}/s\n"
    )
    print("| Redis is | calls | median, ms | p99, ms | p99 added, ms | slowest, ms |")
    print("|---|--:|--:|--:|--:|--:|")
    worst = 0.0
    usual = quantile(latencies["healthy"], 0.99) * 1e3
    for phase, found in latencies.items():
        late = quantile(found, 0.99) * 1e3
        worst = max(worst, late - usual)
        print(
            f"| {phase} | {len(found):,} | {quantile(found, 0.5) * 1e3:.2f} | {late:.2f} "
            f"| {late - usual:+.2f} | {max(found) * 1e3:.1f} |"
        )
    if worst > MOST_ADDED:
        sys.exit(f"a Redis in trouble adds {worst:.2f} ms to the p99, more than {MOST_ADDED:.0f}")


if __name__ == "__main__":
    main()
