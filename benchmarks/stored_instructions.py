"""Processor instructions of what `durability: disk` adds to a call, and to a chunk of a stream.

    python -m benchmarks.stored_instructions [--python PATH] [--calls 960] [KIND ...]

The gateway of ``benchmarks.flow.instructions``, in one process over transports without sockets, with its ledger's file.
Kinds: ``plain``, calls of 1 KB of which sixteen are stored together; ``burst``, streams of a hundred chunks in pieces of
five, of which 32 are under way at a time and a batch has three pieces of each; ``paced``, streams of sixty chunks that
come one by one, of which 192 are under way and a batch has chunks of 32.  So it is in a gateway that is saturated, and
where 200 streams have 40 chunks a second.  All threads are counted, that of the store's writer too, and the copying of
its log; what the kernel does is not.  The difference of two counts of ``valgrind --tool=cachegrind``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop
from benchmarks import cachegrind
from benchmarks.flow import instructions
from benchmarks.flow.instructions import Bench, Wire
from benchmarks.gateway.load import Requests, Target
from benchmarks.gateway.upstream import _PLAIN, ANSWER, Upstream

from penstock.generation.journal import Journal
from penstock.generation.pace import Pace
from penstock.ledger import sqlite
from penstock.net.dial import Direct
from penstock.net.listener import Listener

BOOKED_AT_ONCE = 96  # calls whose rows the ledger's writer writes together
NEVER = 3_600.0  # seconds: nothing happens by a timer
DURABILITIES = ("memory", "disk")


@dataclass(frozen=True)
class Kind:
    """What is asked for, and how much of it is stored together.

    :param ask: as ``benchmarks.gateway.upstream`` reads it
    :param streams: calls under way at a time
    :param fed: of these, in one batch
    :param pieces: of each of these
    """

    ask: str
    chunks: int
    streams: int
    fed: int
    pieces: int

    def answer(self) -> list[bytes]:
        if not self.chunks:
            return [_PLAIN]
        together = int(self.ask.rpartition(":")[2])
        return list(Upstream().burst(self.chunks, together, include_usage=True))

    @property
    def begun(self) -> int:
        """Calls that begin in one batch, so that all batches are alike."""
        return max(1, self.fed * self.pieces // len(self.answer()))


KINDS = {
    "plain": Kind("plain", 0, 16, 16, 1),
    "burst": Kind("burst:100:5", 100, 32, 32, 3),
    "paced": Kind("burst:60:1", 60, 192, 32, 1),
}


def configuration(durability: str, folder: str) -> dict[str, Any]:
    config = instructions.configuration("none")
    config["ledger"] = {"path": f"{folder}/ledger.sqlite"}
    config["generations"] = {"durability": durability, "path": f"{folder}/generations.sqlite"}
    return config


class Stored(Bench):
    """The gateway, whose journal stores when it is told to."""

    def __init__(self, described: dict[str, Any], kind: Kind) -> None:
        super().__init__(described)
        self.kind = kind
        config = self.gateway.pipeline.snapshot.config
        listener = Listener(self.gateway.reception, config.listener, self.clock, repeats=self.gateway.repeats)
        self.ends = b"0\r\n\r\n" if kind.chunks else ANSWER
        self.callers = [listener.protocol_factory() for _ in range(kind.streams)]
        self.free = deque(self.callers)
        for caller in self.callers:
            caller.connection_made(Wire(partial(self._told, caller)))
        self.journals: list[Journal] = []
        self.booked = 0

    def _told(self, caller: asyncio.Protocol, data: bytes) -> None:
        if data.endswith(self.ends):
            self.answered += 1
            self.free.append(caller)

    async def start(self) -> None:
        """Open the store, and let nobody but the calls use it."""
        for keeper in self.gateway._durable.keepers.values():  # noqa: SLF001
            await keeper.start(self.gateway._durable, self.gateway._books)  # noqa: SLF001
            for task in keeper._tasks:  # noqa: SLF001
                task.cancel()
            journal = keeper.journal
            journal._pace = Pace(0.0, 0.0)  # noqa: SLF001
            journal._budget = journal._begin_within = NEVER  # noqa: SLF001
            self.journals.append(journal)

    async def stored(self) -> None:
        """Wait for one batch."""
        for journal in self.journals:
            if journal._dirty or journal._writing_since is not None:  # noqa: SLF001
                idle = asyncio.get_running_loop().create_future()
                journal._idle.append(idle)  # noqa: SLF001
                await idle

    async def run(self, calls: int) -> None:
        kind = self.kind
        requests = Requests(Target(1), kind.ask, 1_000)
        answer = kind.answer()
        under_way: deque[tuple[asyncio.Protocol, deque[bytes]]] = deque()
        begun = 0
        while self.answered < calls:
            new = min(kind.begun, len(self.free), calls - begun)
            begun += new
            for _ in range(new):
                self.free.popleft().data_received(requests.make())  # type: ignore[attr-defined]
            while len(self.asked) < new:  # noqa: ASYNC110 - the first of them connect
                await asyncio.sleep(0)
            under_way += [(connection, deque(answer)) for connection in self.asked]
            self.asked.clear()
            for _ in range(min(kind.fed, len(under_way))):
                connection, pieces = under_way.popleft()
                for _ in range(min(kind.pieces, len(pieces))):
                    connection.data_received(pieces.popleft())  # type: ignore[attr-defined]
                if pieces:
                    under_way.append((connection, pieces))
            await asyncio.sleep(0)
            await self.stored()
            self.book()

    def book(self) -> None:
        """Write what waits for the ledger, now and then."""
        store = self.gateway.recorder.ledger.store
        if store is not None and self.answered >= self.booked + BOOKED_AT_ONCE:
            self.booked = self.answered
            assert store.flush(60)


async def serve(kind: Kind, durability: str, folder: str, calls: int) -> None:
    sqlite.SHORT_INTERVAL = sqlite.INTERVAL = NEVER
    bench = Stored(configuration(durability, folder), kind)
    Direct.connect = lambda _, *what: bench.connect(*what)  # type: ignore[method-assign]
    await bench.start()
    await bench.run(calls)
    sys.stdout.flush()
    os._exit(0)  # what is written at the end is nobody's


def count(python: str, kind: str, durability: str, calls: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return cachegrind.instructions(
            *(python, "-m", "benchmarks.stored_instructions", "--serve", str(calls), "--folder", folder),
            *("--durability", durability, kind),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=list(KINDS))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--calls", type=int, default=960)
    parser.add_argument("--durability", default=",".join(DURABILITIES), help="some of them, with commas")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    how = parser.parse_args()
    if how.serve is not None:
        uvloop.run(serve(KINDS[how.kinds[0]], how.durability, how.folder, how.serve))
        return
    print("| | durability | a call | a chunk |")
    print("|---|---|--:|--:|")
    for kind in how.kinds:
        for durability in how.durability.split(","):
            each = (
                count(how.python, kind, durability, 2 * how.calls)
                - count(how.python, kind, durability, how.calls)
            ) / how.calls
            chunks = KINDS[kind].chunks
            print(
                f"| {kind} | {durability} | {each:,.0f} | {each / chunks if chunks else 0:,.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
