"""Processor instructions of one row of the ledger where it is written: in the queue, and in the file.

    python -m benchmarks.ledger_writer [--python PATH] [KIND ...]

By one thread, without a gateway: ``queue`` is a plain call's row put down as it is opened and as it is settled, ``plain``
the same row entered in the file, ``prompt`` one of whose prompt the provider's cache has kept something; 104 are written
at a time.  The difference of two counts of ``valgrind --tool=cachegrind``; what the kernel does is not in it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from benchmarks import cachegrind

from penstock.ledger._file import LedgerFile
from penstock.ledger._queue import RowQueue
from penstock.messages import Attempt, Outcome, Usage
from penstock.turns import Turns

KINDS = ("queue", "plain", "prompt")
TOKEN = "0123456789abcdef"
BATCH = 104
BATCHES = 10


def row(number: int, kind: str) -> Attempt:
    generation = f"gen_{number:032x}"
    made = Attempt(
        *(f"{generation}/1", generation, 1, "acme", "prod", "standard", "chat", "fast", "up", "model"),
        *(1_750_000_000.0, Usage(100, 500, estimated=True)),
    )
    made.row = number
    made.outcome, made.usage, made.cost, made.status = Outcome.COMPLETED, Usage(100, 10), 120_000_000, 200
    made.first_token, made.duration = 0.25, 1.5
    if kind == "prompt":
        made.usage = Usage(100, 10, cached_input_tokens=50)
        made.cache_saved = 45_000_000
    return made


def serve(kind: str, batches: int) -> None:
    numbers = itertools.count(1)
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        queue = RowQueue(Path(folder) / "queue", TOKEN)
        file = LedgerFile(Path(folder) / "ledger.sqlite", TOKEN, turns, busy_timeout=1.0)
        for _ in range(batches):
            rows = [row(next(numbers), kind) for _ in range(BATCH)]
            if kind == "queue":
                for each in rows + rows:
                    queue.head = queue.append(each)
                queue.mark(queue.head)
            else:
                turns.hurry()
                file.write([], rows)
        file.close(ended=True)
        queue.close(remove=True)


def count(python: str, kind: str, batches: int) -> int:
    return cachegrind.instructions(python, "-m", "benchmarks.ledger_writer", "--serve", str(batches), kind)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=KINDS)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    how = parser.parse_args()
    if how.serve is not None:
        serve(how.kinds[0], how.serve)
        return
    print("| | instructions |")
    print("|---|--:|")
    for kind in how.kinds:
        most = count(how.python, kind, 2 * BATCHES) - count(how.python, kind, BATCHES)
        print(f"| {kind} | {most / (BATCHES * BATCH):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
