"""When first tokens are late, and for how long: calls at random to a gateway with one core, by durability.

    python -m benchmarks.first_tokens [--rate 1500] [--calls 3000] [--rounds 8] [--over 8]
        [--system plain= --system disk= --system before=OLD/src]

Each system is a gateway on the first core; the load generator and the upstream have the second.  They take turns,
``--rounds`` times.  ``NAME=SOURCE`` takes Penstock from another folder, such as that of an earlier version; a NAME
that begins with ``plain`` stores nothing, all others have ``durability: disk``.  Answers are streams of five events
that come at once, so that the end of an answer is as good as its first token.

Printed: medians over the rounds of the latencies' percentiles, from each call's moment, in milliseconds, and the
**episodes**: stretches in which calls took longer than ``--over`` milliseconds.  On a machine that others use as well,
count episodes over many rounds: a percentile of one round says nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cache import arrivals
from benchmarks.gateway.load import Requests, percentile
from benchmarks.gateway.processes import Tree, free_port
from benchmarks.gateway.systems import ROOT, Penstock, PenstockDisk, System

ASK = "burst:5:5"
CONNECTIONS = 128
SHARES = (0.5, 0.9, 0.99, 0.999)


def episodes(found: Sequence[tuple[float, float]], over: float) -> list[tuple[float, float, int]]:
    """Stretches in which calls are late: beginning, end, calls.

    :param found: each call's moment and its end
    :param over: seconds that a call may take
    """
    stretches: list[tuple[float, float, int]] = []
    for moment, end in sorted(found):
        if end - moment <= over:
            continue
        if stretches and moment <= stretches[-1][1]:
            began, until, calls = stretches.pop()
            stretches.append((began, max(until, end), calls + 1))
        else:
            stretches.append((moment, end, 1))
    return stretches


def system_of(spec: str, folder: Path, upstream: int) -> System:
    name, _, source = spec.partition("=")
    stores = Penstock if name.startswith("plain") else PenstockDisk

    class Chosen(stores):  # type: ignore[misc,valid-type]
        def environ(self) -> Mapping[str, str]:
            return {"PYTHONPATH": source} if source else {}

    system = Chosen(folder / name, upstream, free_port())
    system.name = name
    return system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=1_500, help="calls in a second")
    parser.add_argument("--calls", type=int, default=3_000, help="of a round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--over", type=float, default=8.0, help="milliseconds from which a call is late")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=SOURCE")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        folder, port = Path(directory), free_port()
        trees: list[Tree] = []
        try:
            command = [sys.executable, "-m", "benchmarks.gateway.upstream", str(port)]
            trees.append(Tree(command, core=cores[-1], log=folder / "upstream.log", cwd=ROOT))
            trees[0].wait_port(port, 20.0)
            systems = [system_of(spec, folder, port) for spec in args.system or ("plain=", "disk=")]
            for system in systems:
                system.start(cores[0])
                trees.append(system.wait_ready())
            os.sched_setaffinity(0, {cores[-1]})
            measure(systems, args)
        finally:
            for tree in trees:
                tree.end()


def measure(systems: Sequence[System], args: argparse.Namespace) -> None:
    rounds: dict[str, list[list[float]]] = {system.name: [] for system in systems}
    late: dict[str, list[tuple[float, float, int]]] = {system.name: [] for system in systems}
    for number in range(-1, args.rounds):  # the first one is to get warm
        for system in systems if number % 2 else reversed(systems):
            made = Requests(system.target(), ASK, 1_000)
            found = arrivals.calls(
                system.target().port,
                [made.make() for _ in range(args.calls)],
                rate=args.rate,
                count=args.calls,
                wanted=b"",
                connections=CONNECTIONS,
            )
            if number >= 0:
                took = [end - moment for moment, end in found]
                rounds[system.name].append([percentile(took, share) * 1e3 for share in SHARES])
                late[system.name] += episodes(found, args.over / 1e3)
            time.sleep(0.3)
    print(
        "| system | p50 | p90 | p99 | p99.9 | episodes | calls in them | longest |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name, found in rounds.items():
        middle = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*found, strict=True))
        longest = max((end - began for began, end, _ in late[name]), default=0.0) * 1e3
        calls = sum(calls for _, _, calls in late[name])
        print(f"| {name} | {middle} | {len(late[name])} | {calls} | {longest:.0f} |")
    print(
        f"\n{args.rate:.0f} calls in a second, {args.calls * args.rounds} of each; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
