"""What a gateway costs, side by side with others; the docstring of ``benchmarks.gateway`` says how."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import signal
import sys
import time

from benchmarks.gateway import report, systems
from benchmarks.gateway.measure import FULL, QUICK, Bench


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three systems, under 50 s, one JSON object")
    parser.add_argument(
        "--only", nargs="+", choices=[kind.name for kind in systems.ALL], help="these systems"
    )
    parser.add_argument("--rounds", type=int, help="how many at most")
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds:
        plan = dataclasses.replace(plan, rounds=arguments.rounds)
    kinds = systems.QUICK if arguments.quick else systems.ALL
    if arguments.only:
        kinds = tuple(kind for kind in systems.ALL if kind.name in arguments.only)

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(what: str) -> None:
        if not arguments.quick or sys.stderr.isatty():
            print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)

    where = report.machine()
    with Bench(kinds, plan, say) as bench:
        bench.run()
    where["load_average_after"] = [round(value, 2) for value in os.getloadavg()]
    if arguments.quick:
        print(json.dumps(report.quick(bench.results, where), indent=2))
    elif arguments.print:
        print(report.tables(bench.results, plan, where))
    else:
        print(f"written: {report.write(bench.results, plan, where)}, {report.PAGE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
