"""In which of the gateway's packages a call's processor time is spent: what the log takes of it, and what is wire or net.

    pip install py-spy; python -m benchmarks.rooms [--calls N] [--stream CHUNKS] [--functions PACKAGE]

The gateway of :mod:`benchmarks.flow.instructions`, in one process and without sockets, is looked at 500 times a second
by py-spy; each look counts for the package whose function is running.  Shares of the interpreter's time, not of the
kernel's: those are the same on a busy machine.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

_PLACE = re.compile(r"^(?P<function>\S+) \((?P<file>.*?)(?::\d+)?\)$")
_PACKAGE = re.compile(r"penstock/(\w+)")
OTHER = "other libraries"


def looked_at(raw: str) -> Counter[tuple[str, str]]:
    """How often each function was running, by package and name.

    :param raw: what py-spy writes: a line for each stack, its frames parted by semicolons, then how often it was seen
    """
    seen: Counter[tuple[str, str]] = Counter()
    for line in raw.splitlines():
        stack, _, times = line.rpartition(" ")
        frame = _PLACE.match(stack.rpartition(";")[2])
        # Neither what imports and builds the gateway nor what makes up its calls.
        if frame is None or "Bench.run (" not in stack or "/benchmarks/" in frame["file"]:
            continue
        package = _PACKAGE.search(frame["file"])
        seen[package[1] if package else OTHER, frame["function"]] += int(times)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--stream", type=int, default=0, help="chunks that come in one piece; 0: plain calls")
    parser.add_argument("--functions", metavar="PACKAGE", help="the functions of this package too")
    arguments = parser.parse_args()
    load = ["-m", "benchmarks.flow.instructions", "--serve", str(arguments.calls)]
    load += ["--stream", str(arguments.stream), "none"]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "stacks")
        look = [
            "py-spy",
            "record",
            "--full-filenames",
            "--rate",
            "500",
            "--format",
            "raw",
            "--output",
            str(raw),
            "--",
        ]
        subprocess.run([*look, sys.executable, *load], check=True, stdout=subprocess.DEVNULL)
        seen = looked_at(raw.read_text())
    packages: Counter[str] = Counter()
    for (package, _), times in seen.items():
        packages[package] += times
    print("| package | share |\n|---|--:|")
    for package, times in packages.most_common():
        print(f"| {package} | {times / seen.total():.1%} |")
    if arguments.functions:
        of_it = Counter(
            {name: times for (package, name), times in seen.items() if package == arguments.functions}
        )
        for name, times in of_it.most_common(20):
            print(f"{times / seen.total():6.1%} {name}")


if __name__ == "__main__":
    main()
