"""What the three tiers save: hits by tier, calls and money, on Mooncake's trace and on workloads of the articles.

``python -m benchmarks.cache.savings --mooncake TRACE``.  Two machines with two workers each, between which callers
are spread at random; each worker has its memory (the gateway's own ``MemoryTier``), each machine its disk (the
oldest make room, as ``DiskTier`` has it), all of them one Redis (``allkeys-lru``).  A look-up goes down until it
hits, what is found is brought up, and Redis is told every five seconds what was found above it, as in ``cache.Cache``.
Times are simulated, answers expire after their TTL.  The columns after the three tiers leave some of them out.
"Redis alone" is what the articles build: one Redis of the same size, least recently used, the same TTL.
"Optimum" is Belady's, for one cache of all tiers' room together, whose entries never expire.

Money is at the package's price of ``gpt-4o-mini``; of Mooncake's blocks (512 tokens of prompt) the input alone.
Workloads of its own: questions are drawn with a share of rank^-alpha, calls come at a fixed rate.
"""

from __future__ import annotations

import argparse
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from benchmarks.cache.hit_ratio import drifting, mooncake, zipf
from benchmarks.cache.policies import belady

from penstock.cache.cache import USES_TOLD_EVERY
from penstock.cache.entry import Entry
from penstock.cache.tiers.memory import MemoryTier
from penstock.ledger.prices import PriceTable
from penstock.messages import Usage

MACHINES, WORKERS = 2, 2
SEED = 20_250_101
MODEL = "gpt-4o-mini"
TIERS = ("memory", "disk", "Redis")
FEWER = (("memory",), ("memory", "disk"), ("memory", "Redis"), ("Redis",))


class Workload(msgspec.Struct, frozen=True):
    """``room`` is that of one worker's memory, in objects; disk and Redis have 4 and 8 times as much."""

    title: str
    accesses: Sequence[int]
    rate: float  # calls per second, over all workers
    ttl: float
    room: int
    usage: Usage  # of one call


class Expiring:
    """Names with their ends, bounded; the oldest goes first, or the one that was used longest ago."""

    def __init__(self, room: int, *, by_use: bool) -> None:
        self.room = room
        self.by_use = by_use
        self.kept: OrderedDict[int, float] = OrderedDict()

    def get(self, name: int, now: float) -> float | None:
        until = self.kept.get(name)
        if until is None or until <= now:
            return None
        if self.by_use:
            self.kept.move_to_end(name)
        return until

    def put(self, name: int, until: float) -> None:
        self.kept[name] = until
        if len(self.kept) > self.room:
            self.kept.popitem(last=False)


class Wall:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def entry(until: float) -> Entry:
    return Entry(
        "chat",
        "m",
        "u",
        "m",
        False,
        False,
        False,
        (),
        (b"x" * 1_000,),
        Usage(),
        0,
        0.0,
        0.0,
        until,
        until,
        (),
    )


def hits(
    workload: Workload,
    rand: random.Random,
    tiers: Sequence[str] = TIERS,
    *,
    told_every: float = USES_TOLD_EVERY,
) -> dict[str, int]:
    """How often each tier answered, of those that there are.

    :param told_every: seconds between two times that Redis is told what was found above it; ``math.inf``: never
    """
    wall = Wall()
    size = entry(0.0).size
    places = MACHINES * WORKERS
    memories = [MemoryTier(workload.room * size if "memory" in tiers else 0, wall) for _ in range(places)]
    disks = [Expiring(4 * workload.room if "disk" in tiers else 0, by_use=False) for _ in range(MACHINES)]
    redis = Expiring(8 * workload.room if "Redis" in tiers else 0, by_use=True)
    used: set[int] = set()
    told = 0.0
    found = dict.fromkeys(TIERS, 0)
    for number, name in enumerate(workload.accesses):
        wall.time = now = number / workload.rate
        if now >= told + told_every:
            told = now
            for one in used:
                redis.get(one, now)
            used.clear()
        place = rand.randrange(places)
        memory, disk = memories[place], disks[place // WORKERS]
        key = name.to_bytes(8, "big")
        if memory.get(key) is not None:
            found["memory"] += 1
            used.add(name)
            continue
        until = disk.get(name, now)
        if until is not None:
            found["disk"] += 1
            used.add(name)
        else:
            until = redis.get(name, now)
            if until is not None:
                found["Redis"] += 1
            else:
                until = now + workload.ttl
                redis.put(name, until)
            disk.put(name, until)
        memory.put(key, entry(until))
    return found


def workloads(trace: Path | None, rand: random.Random) -> Iterator[Workload]:
    chat = Usage(800, 200)
    if trace is not None:
        blocks = mooncake(trace)
        room = len(set(blocks)) // 100
        yield Workload("Mooncake, blocks as questions", blocks, 80.0, 3_600.0, room, Usage(512, 0))
    yield Workload(
        "three levels (article A: 68 % hits, 41 % fewer calls): Zipf 1.0 over 20,000, a tenth replaced every 10,000",
        drifting(1.0, 20_000, 200_000, rand, every=10_000),
        50.0,
        3_600.0,
        400,
        chat,
    )
    yield Workload(
        "TTL of 5 minutes (article C: 40 % hits): Zipf 1.0 over 20,000, a quarter asked only once",
        zipf(1.0, 20_000, 200_000, rand, once=1 / 4),
        50.0,
        300.0,
        400,
        chat,
    )


def row(workload: Workload) -> str:
    found = hits(workload, random.Random(SEED))
    count = len(workload.accesses)
    total = sum(found.values())
    room = workload.room * (MACHINES * WORKERS + 4 * MACHINES + 8)
    best = belady(room, workload.accesses)
    some = " | ".join(
        f"{100 * sum(hits(workload, random.Random(SEED), tiers).values()) / count:.1f}" for tiers in FEWER
    )
    price = PriceTable.load().cost("openai", MODEL, workload.usage)
    shares = " | ".join(f"{100 * number / count:.1f}" for number in found.values())
    return (
        f"| {workload.title} | {count:,} | {shares} | {100 * total / count:.1f} "
        f"| {some} | {100 * best / count:.1f} "
        f"| {total:,} | {total * price * 1e-12:,.2f} of {count * price * 1e-12:,.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mooncake", type=Path, help="the trace; left out without")
    given = parser.parse_args()
    rand = random.Random(SEED)
    names = [
        "workload",
        "calls",
        *TIERS,
        "together",
        *map(" + ".join, FEWER),
        "optimum",
        "calls saved",
        "US$ saved",
    ]
    print(f"| {' | '.join(names)} |")
    print("|---|" + "--:|" * (len(names) - 1))
    for workload in workloads(given.mooncake, rand):
        print(row(workload), flush=True)


if __name__ == "__main__":
    main()
