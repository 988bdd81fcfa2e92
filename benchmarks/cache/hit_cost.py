"""What a hit costs: CPU time of the gateway for each answer, by tier, beside nginx, LiteLLM and a call not kept.

``python -m benchmarks.cache.hit_cost`` asks 200 questions of 1 KB again and again, on 8 connections.  Memory: the
usual case, in the same bytes each time, and with other spaces and another order of the members each time: what it
costs that the request has to be read.  Disk and Redis: memory is made too small to keep anything, so that each look-up goes below.
nginx proxies the same calls to the same upstream and does nothing else; it is the measure of what is cheap.
LiteLLM's proxy keeps answers in its memory, or in the same Redis (``--without-litellm``: it is left out).
Each cost is that of all processes of the system, but not of Redis.

The systems take turns, ``--rounds`` times; the median of the rounds is shown.  Each has one core, which it shares
with those that are idle meanwhile; the load generator, the upstream and Redis have another one.  At half load, calls
arrive at random, half as many in a second as were answered when all of 64 connections were busy; latencies are from
a call's moment, whether or not it could be sent then.  nginx also answers by itself, which shows what of them is the
machine's and the load generator's.  Beside the p99 of all calls stands that of the median tenth of a second: a machine
that stops for some milliseconds a few times a second spoils only those tenths in which it does.
Needs ``nginx`` and ``redis-server``; on a machine that others use as well, differences under 20 % mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.cache import arrivals
from benchmarks.cache.asking import QUESTIONS, Questions, load, quantile, run
from benchmarks.cache.systems import cpu, hits_of, litellm, nginx, penstock, process, wait_for
from benchmarks.gateway import install
from benchmarks.gateway.processes import free_port, on_core

from penstock.testing import RedisServer

CONNECTIONS, ARRIVING = 8, 64
HALF_LOAD = 2.0  # seconds of each round


class System:
    """What is measured.

    :param pids: of its processes, without those that it starts itself
    :param wanted: what the head of each answer must hold, in lower case
    :param anew: each question is written differently each time
    :param share: of the calls that the others get, for one that takes longer
    :param hits: how many answers the tier has given by now that is meant to give all of them
    """

    def __init__(
        self,
        name: str,
        port: int,
        pids: Sequence[int],
        wanted: bytes,
        *,
        stream: bool = False,
        anew: bool = False,
        share: float = 1.0,
        hits: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.pids = pids
        self.wanted = wanted
        self.stream = stream
        self.questions = Questions(port, stream=stream, anew=anew)
        self.share = share
        self.hits = hits
        self.costs: list[float] = []
        self.latencies: list[float] = []
        self.half: list[list[float]] = []  # of each tenth of a second at half load
        self.rates: list[float] = []

    def fill(self) -> None:
        """Ask everything: to have it kept, then to have the requests remembered."""
        for stream in (False, self.stream, self.stream):
            asked = Questions(self.port, stream=stream)
            run(load(self.port, QUESTIONS, b"", questions=asked, connections=CONNECTIONS))
            time.sleep(0.5)

    def measure(self, count: int) -> None:
        count = int(count * self.share)
        hits = self.hits() if self.hits is not None else 0
        before = cpu(self.pids)
        run(load(self.port, count, self.wanted, questions=self.questions, connections=CONNECTIONS))
        self.costs.append((cpu(self.pids) - before) / count * 1e6)
        self.latencies += run(
            load(self.port, count // 10, self.wanted, questions=self.questions, connections=1)
        )
        began = time.perf_counter()
        self._arriving(math.inf, count)
        self.rates.append(0.5 * count / (time.perf_counter() - began))
        half = self._at_half_load(statistics.median(self.rates))
        if self.hits is not None and (found := self.hits() - hits) != 2 * count + count // 10 + half:
            raise RuntimeError(f"{self.name}: the tier has given {found} answers, and not every one")

    def _at_half_load(self, rate: float) -> int:
        """How many calls there were in ``HALF_LOAD`` seconds."""
        began, count = time.perf_counter(), int(rate * HALF_LOAD)
        tenths = defaultdict(list)
        for moment, end in self._arriving(rate, count):
            tenths[int((moment - began) * 10)].append(end - moment)
        self.half += tenths.values()
        return count

    def _arriving(self, rate: float, count: int) -> list[tuple[float, float]]:
        return arrivals.calls(
            self.port, self.questions, rate=rate, count=count, wanted=self.wanted, connections=ARRIVING
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-litellm", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cores = sorted(os.sched_getaffinity(0))
        upstream = free_port()
        with on_core(cores[-1]):
            stack.enter_context(process(sys.executable, "-m", "benchmarks.gateway.upstream", upstream))
            redis = stack.enter_context(RedisServer())
        wait_for(upstream)
        os.sched_setaffinity(0, cores[:1])
        systems = [*nginxes(stack, folder, upstream), *gateways(stack, folder, upstream, redis)]
        if not given.without_litellm:
            systems += litellms(stack, folder, upstream, redis)
        os.sched_setaffinity(0, cores[-1:])
        for system in systems:
            system.fill()
        for _ in range(given.rounds):
            for system in systems:
                system.measure(given.calls)
    versions(with_litellm=not given.without_litellm)
    print(f"load {os.getloadavg()[0]:.1f}; {given.rounds} rounds of {given.calls:,} calls\n")
    table(systems)


def nginxes(stack: contextlib.ExitStack, folder: Path, upstream: int) -> list[System]:
    port, itself, pid = stack.enter_context(nginx(folder, upstream))
    return [
        System("nginx, proxying", port, [pid], b""),
        System("nginx, answering by itself", itself, [pid], b""),
    ]


def gateways(
    stack: contextlib.ExitStack, folder: Path, upstream: int, redis: RedisServer
) -> Iterator[System]:
    def gateway(name: str, tier: str, *, stream: bool = False, anew: bool = False, **cache: object) -> System:
        place = folder / name.replace(" ", "-").replace(",", "")
        model: Mapping[str, object] = {"cache": {"ttl": 3_600}} if tier else {"join": "never"}
        started = stack.enter_context(penstock(place, upstream, model, cache))
        pids = [pid for pid in started.worker_pids() if pid is not None]
        port = int(started.url.rpartition(":")[2])
        wanted = b"penstock-status: " + (b"cached" if tier else b"created")
        hits = partial(hits_of, started, tier) if tier else None
        return System(name, port, pids, wanted, stream=stream, anew=anew, hits=hits)

    yield gateway("not kept", "")
    yield gateway("memory", "memory")
    yield gateway("memory, as a stream", "memory", stream=True)
    yield gateway("memory, written differently each time", "memory", anew=True)
    # Memory has room for nothing, so each answer comes from below, and is not brought up.
    yield gateway("disk", "disk", memory_bytes=1, disk=str(folder / "answers.sqlite"))
    yield gateway("redis", "redis", memory_bytes=1, redis=redis.url, seal_key="bench")


def litellms(
    stack: contextlib.ExitStack, folder: Path, upstream: int, redis: RedisServer
) -> Iterator[System]:
    kinds = {
        "memory": {"type": "local", "ttl": 3_600},
        "redis": {"type": "redis", "host": "127.0.0.1", "port": redis.port, "ttl": 3_600},
    }
    for kind, cache in kinds.items():
        port, pid = stack.enter_context(litellm(folder / f"litellm-{kind}", upstream, cache))
        yield System(f"LiteLLM, {kind}", port, [pid], b"x-litellm-cache-key", share=0.05)


def versions(*, with_litellm: bool) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Penstock {importlib.metadata.version('penstock')}"
    )
    if with_litellm:
        print(f"LiteLLM {install.installed_version(install.CACHE / 'litellm', 'litellm')}")


def table(systems: Sequence[System]) -> None:
    floor = statistics.median(systems[0].costs)
    (memory,) = [system for system in systems if system.name == "memory"]
    print(
        "| | µs CPU | × nginx | µs more than memory | one at a time, ms: median | p99 "
        "| half load, calls/s | median | p99 | of the median tenth of a second |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for system in systems:
        cost = statistics.median(system.costs)
        # of each round, so that what else the machine does is in both
        more = statistics.median(mine - its for mine, its in zip(system.costs, memory.costs, strict=True))
        alone, late = (quantile(system.latencies, share) * 1e3 for share in (0.5, 0.99))
        calls = [latency for tenth in system.half for latency in tenth]
        half, half_late = (quantile(calls, share) * 1e3 for share in (0.5, 0.99))
        tenth = statistics.median(quantile(each, 0.99) for each in system.half) * 1e3
        print(
            f"| {system.name} | {cost:.0f} | {cost / floor:.1f} | {more:.0f} | {alone:.2f} | {late:.2f} "
            f"| {statistics.median(system.rates):,.0f} | {half:.2f} | {half_late:.2f} | {tenth:.2f} |"
        )


if __name__ == "__main__":
    main()
