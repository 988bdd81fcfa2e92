"""What Redis is asked so that identical calls of several machines are one call.

    python -m benchmarks.joining [--calls 200]

A gateway with ``durability: shared`` before the simulator; one caller, one call after the other.  Every command that
the server is sent is counted (``MONITOR``), without those that a gateway sends anyway while nobody calls.  Streams as
an SDK asks for them, whose answers are stored in any case, and plain calls of nobody's SDK, which are stored only
because somebody may join them.  Counts of commands are the same whatever else the machine does.
"""

from __future__ import annotations

import argparse
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess

IDLE = 5.0  # seconds
SDK = {"x-stainless-retry-count": "0"}
# By the clock, whoever calls: signs of life, and looks after what the dead have left.
_ANYWAY = re.compile(rb'"(ZRANGEBYSCORE|SMEMBERS|PING|INFO)"|"ZADD" "[^"]*:owners"', re.IGNORECASE)


class Monitor:
    """Counts commands; those of scripts are the script's own."""

    def __init__(self, redis: RedisServer) -> None:
        self.counted = 0
        self._connection = socket.create_connection(("127.0.0.1", redis.port))
        self._connection.sendall(b"MONITOR\r\n")
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        with self._connection.makefile("rb") as lines:
            for line in lines:
                if b" lua]" not in line and not _ANYWAY.search(line):
                    self.counted += 1

    def during(self, do: Callable[[], None]) -> tuple[int, float]:
        """How many come while something is done and shortly after, and how many seconds that is."""
        before, began = self.counted, time.monotonic()
        do()
        time.sleep(0.5)  # what is written behind the last answer
        return self.counted - before, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    with RedisServer() as redis, SimulatorProcess() as simulator, tempfile.TemporaryDirectory() as folder:
        config = {
            "workers": 1,
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
            "generations": {"durability": "shared", "redis": redis.url},
        }
        with GatewayProcess(config, Path(folder)) as gateway, httpx2.Client(trust_env=False) as http:
            number = 0

            def ask(*, stream: bool, same: bool, temperature: float) -> None:
                nonlocal number
                for _ in range(calls):
                    number += 1
                    body = {
                        "model": "sim:tokens=4",
                        "stream": stream,
                        "temperature": temperature,
                        "messages": [{"role": "user", "content": "same" if same else f"question {number}"}],
                    }
                    headers = SDK if stream else {}
                    url = gateway.base_url + "/chat/completions"
                    http.post(url, json=body, headers=headers).raise_for_status()

            monitor = Monitor(redis)
            idle, seconds = monitor.during(lambda: time.sleep(IDLE))
            print("| calls | streams of an SDK | plain, of none |\n|---|--:|--:|")
            for told, same, temperature in (
                ("not joined", False, 1.0),
                ("a question that is new", False, 0.0),
                ("one that was asked and answered before", True, 0.0),
            ):
                found = []
                for stream in (True, False):
                    counted, took = monitor.during(
                        lambda stream=stream, same=same, temperature=temperature: ask(  # type: ignore[misc]
                            stream=stream, same=same, temperature=temperature
                        )
                    )
                    found.append(round((counted - idle * took / seconds) / calls, 1) + 0.0)
                print(f"| {told} | {found[0]:.1f} | {found[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
