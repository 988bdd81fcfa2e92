"""``python -m benchmarks.flow``: the tables of docs/flow-figures.md."""

from __future__ import annotations

import argparse

from benchmarks.flow import cost, limited
from benchmarks.flow.figures import HEAD, figures
from benchmarks.flow.simulate import SYSTEMS, run
from benchmarks.flow.workload import workload

LOADS = (0.5, 0.8, 1.0, 1.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow", description=__doc__)
    parser.add_argument("--trace", help="arrivals and lengths of this trace")
    parser.add_argument("--seconds", type=float, default=1_200.0, help="simulated; a sixth is warm-up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cost", action="store_true", help="only: CPU time of the decisions")
    given = parser.parse_args()
    if given.cost:
        cost.main()
        return
    print(*HEAD, sep="\n")
    for load in LOADS:
        for system in SYSTEMS:
            arrivals = workload(load, given.seconds, given.trace, given.seed)
            run(system, arrivals)
            got = figures(arrivals, given.seconds / 6)
            print(f"| {load:g} | {system} | {got.row()} |", flush=True)
    print()
    limited.main(given.seed)


main()
