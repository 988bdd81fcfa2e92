"""What durability costs: CPU per streamed chunk, and the latency that it adds.

    python benchmarks/durability.py [--rounds 3] [--seconds 5] [--streams 200] [--rate 30] [--redis URL]

A relay with the gateway's own log and journal, and with real sockets on both sides: another process sends
chunks into 200 streams and takes them back, this one receives each chunk, appends it to its generation's log,
and passes it on once the log's durability allows it.  Paced: each stream sends ``--rate`` chunks a second,
at random moments.  Bursts: each sends 50 at once, all streams one after the other, as fast as they are taken.

Printed: user and system CPU of this process, all of its threads, per chunk in microseconds, and of it that of
the event loop's thread; and how long chunks were under way.  For ``shared`` the CPU of redis-server comes on top, on its machine.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import resource
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from penstock.admin.worker import SWITCH_INTERVAL
from penstock.generation.journal import Journal
from penstock.generation.log import Generation, State, new_id
from penstock.generation.store import Ending, Record, new_owner
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.messages import Endpoint
from penstock.net.clock import Clock

SIZE = 220  # bytes of a chunk: one token of a chat completion stream
BURST = 50
LIFE = 300  # chunks of one generation; then the next one begins on the same stream
STAMP = struct.Struct("<d")


# ---- the other process: sends and takes back -------------------------------------------------------------


class Taker(asyncio.Protocol):
    def __init__(self, latencies):
        self.latencies = latencies
        self.rest = b""

    def data_received(self, data):
        now = time.monotonic()
        data = self.rest + data
        whole = len(data) - len(data) % SIZE
        for at in range(0, whole, SIZE):
            self.latencies.append(now - STAMP.unpack_from(data, at)[0])
        self.rest = data[whole:]


async def peer(ups, downs, pipe, rate):
    loop = asyncio.get_running_loop()
    latencies = []
    senders = [(await loop.create_connection(asyncio.Protocol, sock=s))[0] for s in ups]
    for s in downs:
        await loop.create_connection(lambda: Taker(latencies), sock=s)
    padding = b"x" * (SIZE - STAMP.size)

    def send(sender, count=1):
        sender.write((STAMP.pack(time.monotonic()) + padding) * count)

    def tick(sender):
        send(sender)
        loop.call_later(random.uniform(0.5, 1.5) / rate, tick, sender)

    pipe.send("ready")
    kind, seconds = pipe.recv()
    started, sent = time.monotonic(), 0
    if kind == "paced":
        for sender in senders:
            loop.call_later(random.uniform(0, 1) / rate, tick, sender)
        await asyncio.sleep(seconds)
    else:
        while time.monotonic() < started + seconds:
            for sender in senders:
                send(sender, BURST)
                sent += BURST
                await asyncio.sleep(0)
            while len(latencies) < sent and time.monotonic() < started + seconds:  # noqa: ASYNC110
                await asyncio.sleep(0.0005)
    pipe.send(latencies)


def run_peer(ups, downs, pipe, rate):
    uvloop.run(peer(ups, downs, pipe, rate))


# ---- this process: the relay -----------------------------------------------------------------------------


class Answer:
    """One generation and its only reader."""

    def __init__(self, down, journal):
        self.down = down
        self.position = 0
        self.log = log = Generation(
            new_id(),
            endpoint=Endpoint.CHAT,
            tenant="t",
            model="m",
            stream=True,
            started=0.0,
            max_bytes=1 << 30,
        )
        self.entry = None
        if journal is None:
            log.join(self)
        else:
            self.entry = journal.begin(a_record(log, journal.owner), log.events, self)

    def append(self, events):
        self.log.append(events, 0.0)
        if self.entry is not None:
            self.entry.appended()

    def end(self):
        if self.entry is None:
            self.log.finish()
        else:
            self.entry.end(Ending(), time.time() + 3_600)

    def give(self, upto):
        if upto > self.position:
            self.down.write(b"".join(self.log.events[self.position : upto]))
            self.position = upto

    # The reader of a log in memory.

    read_bytes = 0

    def advance(self):
        self.give(len(self.log.events))
        if self.log.state is not State.RUNNING:
            self.log.leave(self)

    # The log in a journal.

    def on_stored(self, upto, *, ended):
        self.give(upto)

    def on_begin(self, record):
        """All is known from the beginning."""

    def on_fenced(self, *, deleted):
        raise AssertionError("nobody else is here")


class Relay(asyncio.Protocol):
    """One stream: what comes up goes into a log, what the log gives goes down."""

    def __init__(self, down, journal):
        self.down = down
        self.journal = journal
        self.rest = b""
        self.answer = None

    def data_received(self, data):
        data = self.rest + data
        whole = len(data) - len(data) % SIZE
        events = [data[at : at + SIZE] for at in range(0, whole, SIZE)]
        self.rest = data[whole:]
        if not events:
            return
        if self.answer is None:
            self.answer = Answer(self.down, self.journal)
        self.answer.append(events)
        if len(self.answer.log.events) >= LIFE:
            self.answer.end()
            self.answer = None


def a_record(log, owner):
    now = time.time()
    return Record(
        id=log.id, tenant="t", key_name="k", tier="standard", endpoint="/v1/chat/completions", model="m",
        stream=True, body=b"{" + b" " * 1_000 + b"}", created=now, owner=owner, expires_at=now + 3_600,
    )  # fmt: skip


async def measure(kind, make_store, args):
    context = multiprocessing.get_context("fork")
    ups, downs = ([socket.socketpair() for _ in range(args.streams)] for _ in range(2))
    ours, theirs = context.Pipe()
    process = context.Process(
        target=run_peer, args=([b for _, b in ups], [b for _, b in downs], theirs, args.rate), daemon=True
    )
    process.start()
    loop = asyncio.get_running_loop()
    clock = Clock()
    clock.start(loop)
    journal = store = None
    if make_store is not None:
        store = make_store()
        await store.start()
        journal = Journal(store, clock)
        journal.owner = new_owner()
        await store.renew(journal.owner, time.time() + 3_600)
        journal.start()
    for (up, _), (down, _) in zip(ups, downs, strict=True):
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=down)
        await loop.create_connection(lambda t=transport: Relay(t, journal), sock=up)
    await loop.run_in_executor(None, ours.recv)
    own = time.thread_time()
    before = resource.getrusage(resource.RUSAGE_SELF)
    ours.send((kind, args.seconds))
    latencies = await loop.run_in_executor(None, ours.recv)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    process.join()
    own = time.thread_time() - own
    result = {
        "chunks": len(latencies),
        "cpu_us": cpu / len(latencies) * 1e6,
        "loop_us": own / len(latencies) * 1e6,
    }
    latencies.sort()
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        result[name + "_ms"] = latencies[int(len(latencies) * share)] * 1e3
    if journal is not None:
        result["journal"] = repr(journal.statistics())
        await journal.close()
        await store.close()
    clock.stop()
    return result


def kinds_of(args, directory):
    path = Path(directory) / "generations.db"
    kinds = {
        "memory": None,
        "disk": lambda: SQLiteStore(path, 1 << 30),
        "disk, fsync": lambda: SQLiteStore(path, 1 << 30, fsync=True),
    }
    if args.redis:
        from penstock.generation.stores.redis import RedisStore

        kinds["shared"] = lambda: RedisStore(args.redis, 1 << 30)
    wanted = args.only.split(",") if args.only else list(kinds)
    return {name: make for name, make in kinds.items() if name in wanted}


def row(load, name, rounds):
    """A row of the manual's table: medians over the rounds."""
    middle = {key: sorted(r[key] for r in rounds)[len(rounds) // 2] for key in rounds[0] if key != "journal"}
    return (
        f"| {load} | {name} | {middle['cpu_us']:.1f} ({middle['loop_us']:.1f}) "
        f"| {middle['p50_ms']:.2f} | {middle['p99_ms']:.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="of each; the median is printed")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=30)
    parser.add_argument("--redis", default="")
    parser.add_argument("--only", default="", help="some of memory, disk and shared, with commas")
    parser.add_argument(
        "--verbose", action="store_true", help="print each round, with its journal's statistics"
    )
    args = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL)  # as in a worker
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(args.rounds):  # in turns, so that all meet the same neighbours
            for load in ("paced", "bursts"):
                for name, make in kinds_of(args, directory).items():
                    result = uvloop.run(measure(load, make, args))
                    found.setdefault((load, name), []).append(result)
                    for leftover in Path(directory).iterdir():
                        leftover.unlink()
                    if args.verbose:
                        print(load, name, result, flush=True)
    print(
        "| load | durability | µs CPU per chunk (event loop) | ms under way, median | p99 |\n|---|---|---|---|---|"
    )
    for load in ("paced", "bursts"):
        for (when, name), rounds in found.items():
            if when == load:
                print(row(load, name, rounds))
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
