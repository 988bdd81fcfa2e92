"""``python -m benchmarks.soak``: the run, and its result on the disk and on the screen."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import benchmarks.soak
from benchmarks.soak.report import told
from benchmarks.soak.run import soak

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=benchmarks.soak.__doc__.splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="decides who wishes what")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for soak.json and soak.txt")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    result = soak(arguments.minutes, arguments.workers, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "soak.json").write_text(json.dumps(result) + "\n")
    text = told(result)
    (arguments.out / "soak.txt").write_text(text + "\n")
    print(text)
    return 1 if result["leaks"] else 0


if __name__ == "__main__":
    sys.exit(main())
