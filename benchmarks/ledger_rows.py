"""Processor instructions of a row of the ledger: of calls, and of hits in memory, with their rows in a file or not.

    python -m benchmarks.ledger_rows [--python PATH] [--calls 2000] [KIND ...]

The gateway of ``benchmarks.flow.instructions``, in one process over transports without sockets: eight calls of 1 KB at
a time, ``plain`` ones that are asked of an upstream, or ``hit`` ones, which come again byte for byte and are answered
from memory.  Each without and with the ledger's file; every hundred calls the writer writes what waits, which is
counted, too.  The difference of two counts of ``valgrind --tool=cachegrind``; what the kernel does is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from typing import Any

from benchmarks import cachegrind
from benchmarks.flow import instructions
from benchmarks.flow.instructions import AT_ONCE, Bench
from benchmarks.gateway.load import Requests, Target
from benchmarks.gateway.upstream import _PLAIN, MODEL

from penstock.ledger import sqlite
from penstock.net.dial import Direct

KINDS = ("plain", "hit")
BATCH = 104  # calls; a multiple of those at once
NEVER = 3_600.0  # seconds between two batches, but for those that are asked for


def configuration(kind: str, folder: str) -> dict[str, Any]:
    config = instructions.configuration("none")
    if kind == "hit":
        config["models"][MODEL]["cache"] = {"calls": "all", "ttl": 86_400}
    if folder:
        config["ledger"] = {"path": f"{folder}/ledger.sqlite"}
    return config


class Rows(Bench):
    """The gateway, asked the same or something else each time."""

    kind = "plain"

    async def run(self, calls: int) -> None:
        store = self.gateway.recorder.ledger.store
        requests = Requests(Target(1), "plain", 1_000)
        same = requests.make() if self.kind == "hit" else b""
        for number in range(calls // AT_ONCE):
            before = self.answered
            for caller in self.callers:
                caller.data_received(same or requests.make())
            while self.answered < before + AT_ONCE:
                asked, self.asked = self.asked, []
                for connection in asked:
                    connection.data_received(_PLAIN)
                await asyncio.sleep(0)
            if store is not None and number % (BATCH // AT_ONCE) == 0:
                assert store.flush(60)


async def serve(kind: str, folder: str, calls: int) -> None:
    sqlite.SHORT_INTERVAL = sqlite.INTERVAL = NEVER
    bench = Rows(configuration(kind, folder))
    bench.kind = kind
    Direct.connect = lambda _, *what: bench.connect(*what)  # type: ignore[method-assign]
    await bench.run(calls)
    sys.stdout.flush()
    os._exit(0)  # what is written at the end is nobody's


def count(python: str, kind: str, calls: int, *, file: bool) -> int:
    with tempfile.TemporaryDirectory() as folder:
        ledger = folder if file else ""
        return cachegrind.instructions(
            *(python, "-m", "benchmarks.ledger_rows", "--serve", str(calls), "--folder", ledger, kind)
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=KINDS)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--calls", type=int, default=2_080)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    how = parser.parse_args()
    if how.serve is not None:
        asyncio.run(serve(how.kinds[0], how.folder, how.serve))
        return
    print("| | without a file | with it |")
    print("|---|--:|--:|")
    for kind in how.kinds:
        each = [
            (
                count(how.python, kind, 2 * how.calls, file=file)
                - count(how.python, kind, how.calls, file=file)
            )
            / how.calls
            for file in (False, True)
        ]
        print(f"| {kind} | {each[0]:,.0f} | {each[1]:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
