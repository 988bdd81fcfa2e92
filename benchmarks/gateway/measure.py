"""The measurements, and the rounds in which they are taken."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import uvloop
from benchmarks.gateway import load
from benchmarks.gateway.install import NotInstalled
from benchmarks.gateway.load import LoadFailed, Tally, Target
from benchmarks.gateway.processes import DidNotStart, Tree, free_port
from benchmarks.gateway.results import Results
from benchmarks.gateway.systems import ROOT, System

_SHORT = "burst:5:5"  # the streams whose first token is waited for


@dataclass(frozen=True)
class Plan:
    """How much load, and how often."""

    rounds: int
    seconds: float  # of each closed load
    connections: int = 32
    size: int = 1_000
    large_size: int = 100_000
    burst_chunks: int = 100
    burst_piece: int = 5  # chunks that come at once: 1.4 KB, what fits into one segment on the internet
    paced_streams: int = 200
    paced_chunks: int = 100
    paced_interval: int = 25  # ms between two chunks of one stream
    large: bool = True
    at_once: bool = True  # also all chunks of a burst in one piece
    same_rate: float = (
        0.0  # requests per second at which all are measured that can do so many; 0: not measured
    )
    ttft_seconds: float = 0.0  # 0: not measured
    ttft_rate_limit: float = 5_000.0  # requests per second: what the load generator can do with a light heart
    open_streams: int = 0  # 0: not measured
    patience: float = 20.0  # seconds for the last answers; then they count as lost
    settle: float = 0.3  # seconds after a load in which deferred work (ledger, log) is still counted
    hold: float = 3.0  # seconds that the open streams stay open before memory is measured
    deadline: float = 3_600.0  # seconds from the start; a round that would end later is not begun


QUICK = Plan(rounds=7, seconds=0.6, paced_chunks=30, large=False, at_once=False, patience=4.0, deadline=42.0)
FULL = Plan(
    rounds=5,
    seconds=1.5,
    paced_chunks=60,
    same_rate=1_000.0,
    ttft_seconds=3.0,
    open_streams=1_000,
    patience=30.0,
    deadline=1_200.0,
)


class Bench:
    """One run: starts everything, goes through the rounds, ends everything.

    ``with Bench(...) as bench: bench.run()``; afterwards ``bench.results``.

    :param say: told what is being done
    """

    def __init__(
        self, kinds: Iterable[type[System]], plan: Plan, say: Callable[[str], None] = lambda what: None
    ) -> None:
        self.plan = plan
        self._say = say
        self.results: dict[str, Results] = {}
        self.systems: dict[str, System] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-bench-", ignore_cleanup_errors=True)
        cores = sorted(os.sched_getaffinity(0))
        self.gateway_core, self.load_core = cores[0], cores[min(1, len(cores) - 1)]
        self._before = set(cores)
        self._upstream_port = free_port()
        self._upstream: Tree | None = None
        self._kinds = list(kinds)
        self._began = time.monotonic()

    # ---- life --------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        folder = Path(self._folder.name)
        self._upstream = Tree(
            [sys.executable, "-m", "benchmarks.gateway.upstream", str(self._upstream_port)],
            core=self.load_core,
            log=folder / "upstream.log",
            cwd=ROOT,
        )
        self._upstream.wait_port(self._upstream_port, 20.0)
        for kind in self._kinds:
            system = kind(folder / kind.name, self._upstream_port, free_port())
            self.results[kind.name] = results = Results(kind.name, does=kind.does)
            try:
                system.install()
                results.version = system.version()
                system.start(self.gateway_core)
            except Exception as error:
                self._fail(system, error)
            else:
                self.systems[kind.name] = system
        os.sched_setaffinity(0, {self.load_core})
        for system in list(self.systems.values()):
            try:
                self._try(system, system.wait_ready())
            except Exception as error:
                self._fail(system, error)

    def __exit__(self, *_: object) -> None:
        for system in self.systems.values():
            system.end()
        if self._upstream is not None:
            self._upstream.end()
        self._folder.cleanup()
        os.sched_setaffinity(0, self._before)

    def _fail(self, system: System, error: Exception) -> None:
        why = str(error) if isinstance(error, NotInstalled | DidNotStart) else repr(error)
        self._say(f"{system.name}: {why}")
        self.results[system.name].failure = why
        self.systems.pop(system.name, None)
        system.end()

    def _try(self, system: System, tree: Tree) -> None:
        """One right answer of each kind, so that a system which cannot do it is known by its reason."""
        deadline = time.monotonic() + system.start_timeout
        while True:
            try:
                tally = self._closed(system.target(), "plain", self.plan.size, 1, 0.0)
            except LoadFailed as error:
                tally = Tally(failed=1, errors=[str(error)])
            if not tally.failed:
                break
            if time.monotonic() > deadline or not tree.alive:
                raise DidNotStart(f"gives no right answer: {tally.errors[0]}; {tree.tail()}")
            time.sleep(0.5)
        tally = self._closed(system.target(), "burst:20:5", self.plan.size, 1, 0.0)
        if tally.failed:
            self.results[system.name].notes.append(f"streams are wrong: {tally.errors[0]}")

    # ---- rounds ------------------------------------------------------------------------------------------

    def run(self) -> None:
        plan = self.plan
        gc.collect()
        gc.freeze()
        self._each("memory", self._idle)
        if plan.open_streams:
            self._each("open streams", self._open_streams)
        self._each("warm-up", self._warm_up)
        measures = [self._plain, self._burst, self._paced]
        measures += [self._large] * plan.large + [self._at_once] * plan.at_once
        measures += [self._same_rate] * bool(plan.same_rate)
        longest = 0.0
        for number in range(1, plan.rounds + 1):
            began = time.monotonic()
            if began - self._began + longest > plan.deadline:
                self._say(f"no time for round {number}")
                break
            for measure in measures:
                self._each(f"round {number} {measure.__name__.strip('_')}", measure)
            longest = max(longest, time.monotonic() - began)
        if plan.ttft_seconds:
            for number in range(min(plan.rounds, 3)):
                self._each(f"first token {number + 1}", partial(self._first_token, number))

    def _each(self, what: str, measure: Callable[[System], None]) -> None:
        """Measure the systems in their order; one that fails is told, and the others go on."""
        for system in list(self.systems.values()):
            self._say(f"{what}: {system.name}")
            notes = self.results[system.name].notes
            try:
                measure(system)
            except Exception as error:
                notes.append(f"{what}: {error!r}")
            if system.tree is None or not system.tree.alive:
                tail = system.tree.tail() if system.tree is not None else ""
                notes.append(f"died in {what}: {tail[-300:]}")
                self.systems.pop(system.name).end()

    # ---- one measurement each ----------------------------------------------------------------------------

    def _warm_up(self, system: System) -> None:
        self._closed(system.target(), "plain", self.plan.size, self.plan.connections, self.plan.seconds / 2)

    def _idle(self, system: System) -> None:
        assert system.tree is not None
        results = self.results[system.name]
        results.add("rss_mib", system.tree.worker_rss())
        results.add("rss_tree_mib", sum(system.tree.rss().values()))

    def _open_streams(self, system: System) -> None:
        assert system.tree is not None
        tree = system.tree
        results = self.results[system.name]
        before = sum(tree.rss().values())
        after = 0.0

        async def hold() -> Tally:
            nonlocal after
            number = self.plan.open_streams
            async with load.held(
                system.target(), "paced:60:1000", self.plan.size, number=number, patience=30.0
            ) as tally:
                await asyncio.sleep(self.plan.hold)  # a few chunks of each
                after = sum(tree.rss().values())
            return tally

        tally = self._run("open_streams_mib", results, hold)
        if tally is not None and tally.good:
            results.add("open_streams_mib", after - before)
            if tally.failed:
                results.fault("open_streams_mib", f"only {tally.good} streams stood")
        self._wait_upstream_idle()

    def _plain(self, system: System) -> None:
        self._measure_closed(system, "plain", self.plan.size, "cpu_us_per_request", per_chunk=False)

    def _same_rate(self, system: System) -> None:
        """No figure for a system that cannot keep up: what it takes then is another one."""
        tree = system.tree
        assert tree is not None
        results, rate = self.results[system.name], self.plan.same_rate
        measure = "cpu_us_per_request_at_rate"
        before = tree.cpu()
        seed = len(results.rounds.get(measure, ()))
        tally = self._ticked("plain", system.target(), rate, 2 * self.plan.seconds, seed, measure, results)
        if tally is None or not tally.good or tally.left > 0.1 * tally.sent:
            return
        time.sleep(self.plan.settle)
        results.add(measure, (tree.cpu() - before) * 1e6 / tally.good)

    def _large(self, system: System) -> None:
        self._measure_closed(
            system, "plain", self.plan.large_size, "cpu_us_per_large_request", per_chunk=False
        )

    def _burst(self, system: System) -> None:
        ask = f"burst:{self.plan.burst_chunks}:{self.plan.burst_piece}"
        self._measure_closed(system, ask, self.plan.size, "cpu_us_per_chunk", per_chunk=True)

    def _at_once(self, system: System) -> None:
        ask = f"burst:{self.plan.burst_chunks}:{self.plan.burst_chunks}"
        self._measure_closed(system, ask, self.plan.size, "cpu_us_per_chunk_at_once", per_chunk=True)

    def _measure_closed(self, system: System, ask: str, size: int, measure: str, *, per_chunk: bool) -> None:
        tree = system.tree
        assert tree is not None
        connections = self.plan.connections
        results = self.results[system.name]
        before = 0.0

        def begin() -> None:
            nonlocal before
            before = tree.cpu()

        async def go() -> Tally:
            return await load.closed(
                system.target(),
                ask,
                size,
                connections=connections,
                seconds=self.plan.seconds,
                begin=begin,
                patience=self.plan.patience,
            )

        reached = self._calls()
        tally = self._run(measure, results, go)
        if tally is None or not tally.good:
            return
        time.sleep(self.plan.settle)
        used = tree.cpu() - before
        results.add(measure, used * 1e6 / (tally.chunks if per_chunk else tally.good))
        results.add(measure.replace("cpu_us", "rate"), tally.good / tally.seconds)
        reached = self._calls() - reached
        if reached < tally.good:
            results.fault(measure, f"{tally.good} answers, but only {reached} calls reached the upstream")

    def _paced(self, system: System) -> None:
        tree = system.tree
        assert tree is not None
        plan = self.plan
        results = self.results[system.name]
        measure = "cpu_us_per_paced_chunk"
        ask = f"paced:{plan.paced_chunks}:{plan.paced_interval}"
        before = 0.0

        def begin() -> None:
            nonlocal before
            before = tree.cpu()

        async def go() -> Tally:
            return await load.streams(
                system.target(),
                ask,
                plan.size,
                number=plan.paced_streams,
                begin=begin,
                patience=2 * self.plan.patience,
            )

        tally = self._run(measure, results, go)
        if tally is None or not tally.chunks:
            return
        time.sleep(plan.settle)
        results.add(measure, (tree.cpu() - before) * 1e6 / tally.chunks)
        results.add("paced_slowness", tally.seconds / (plan.paced_chunks * plan.paced_interval / 1000))

    def _first_token(self, number: int, system: System) -> None:
        """At half of what the system can do, against the upstream alone at the same rate."""
        results = self.results[system.name]
        plan = self.plan
        full = self._short_streams(system)
        if not full:
            return
        rate = min(plan.ttft_rate_limit, full / 2)
        direct = self._first_bytes(Target(self._upstream_port), rate, number, results)
        through = self._first_bytes(system.target(), rate, number, results)
        if direct and through:
            results.add("ttft_rate", rate)
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                added = load.percentile(through, share) - load.percentile(direct, share)
                results.add(f"added_ttft_ms_{name}", added * 1e3)

    def _short_streams(self, system: System) -> float:
        """How many of them per second the system can do."""

        async def go() -> Tally:
            return await load.closed(
                system.target(),
                _SHORT,
                self.plan.size,
                connections=self.plan.connections,
                seconds=self.plan.ttft_seconds / 2,
                begin=lambda: None,
                patience=self.plan.patience,
            )

        tally = self._run("added_ttft_ms", self.results[system.name], go)
        return tally.good / tally.seconds if tally is not None else 0.0

    def _first_bytes(self, target: Target, rate: float, number: int, results: Results) -> list[float]:
        tally = self._ticked(_SHORT, target, rate, self.plan.ttft_seconds, number, "added_ttft_ms", results)
        return tally.first_bytes if tally is not None else []

    # ---- under it ----------------------------------------------------------------------------------------

    def _run(
        self, measure: str, results: Results, go: Callable[[], Coroutine[None, None, Tally]]
    ) -> Tally | None:
        """Run a load; what goes wrong is noted, and is the end of this figure only."""
        try:
            tally = uvloop.run(go())
        except Exception as error:
            results.fault(measure, f"{type(error).__name__}: {error}")
            return None
        if tally.failed:
            results.fault(measure, f"{tally.failed} of {tally.sent} answers wrong: {tally.errors}")
        return tally

    def _ticked(
        self, ask: str, target: Target, rate: float, seconds: float, seed: int, measure: str, results: Results
    ) -> Tally | None:
        async def go() -> Tally:
            return await load.ticked(
                target,
                ask,
                self.plan.size,
                rate=rate,
                seconds=seconds,
                seed=seed,
                patience=self.plan.patience,
            )

        return self._run(measure, results, go)

    def _closed(self, target: Target, ask: str, size: int, connections: int, seconds: float) -> Tally:
        return uvloop.run(
            load.closed(
                target,
                ask,
                size,
                connections=connections,
                seconds=seconds,
                begin=lambda: None,
                patience=self.plan.patience,
            )
        )

    def _statistics(self) -> Mapping[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=10)
        try:
            connection.request("GET", "/statistics")
            told: Mapping[str, int] = json.loads(connection.getresponse().read())
            return told
        finally:
            connection.close()

    def _calls(self) -> int:
        return self._statistics()["calls"]

    def _wait_upstream_idle(self) -> None:
        """Until cut streams are gone there too; some gateways go on reading them to their end."""
        deadline = time.monotonic() + 70.0
        while self._statistics()["open"] and time.monotonic() < deadline:
            time.sleep(0.2)
