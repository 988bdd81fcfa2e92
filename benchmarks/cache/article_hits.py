"""The hits of two articles, on workloads on which what they build has just the figures that they report.

``python -m benchmarks.cache.article_hits``, in simulated time, seeded:

* *Three levels*: memory, disk and Redis, each least recently used, "68 % hits, 41 % fewer calls".  Both together are
  true where a memory for each worker alone had 45 %.  Two machines of two workers; 50 calls/s; Zipf 1.0 over 20,000
  questions, a tenth of them replaced every 10,000 calls; each worker's memory has room for 260 answers, each disk for
  1,040, Redis for 2,080; answers live for an hour.
* *Five minutes*: one Redis with room for all, keys hashed, answers live for five minutes, "40 % hits".  8 calls/s, Zipf
  1.0 over 20,000 questions, a quarter of the calls asked only once.

The gateway has the same room and the same lifetimes; in the second row also ``stale_while_revalidate``: for five minutes
more an answer is given at once and fetched anew behind, which is a call.  A call under way takes a second, and who asks
the same by then waits for it (``join``), which articles' caches do not do: that counts as no hit, and saves a call.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.cache.hit_ratio import drifting, zipf
from benchmarks.cache.savings import MACHINES, SEED, WORKERS, Expiring, Wall, entry

from penstock.cache.cache import USES_TOLD_EVERY
from penstock.cache.tiers.memory import MemoryTier

TAKES = 1.0  # seconds that a call of the upstream takes
PLACES = MACHINES * WORKERS


class Found(NamedTuple):
    hits: int  # answers given at once
    stale: int  # of these, from after the lifetime
    calls: int  # of the upstream


class Workload(NamedTuple):
    accesses: Sequence[int]
    rate: float  # calls per second
    ttl: float
    room: int  # of one worker's memory; a disk has four times as much, Redis eight times


def theirs(work: Workload, rand: random.Random, *, tiers: Sequence[str]) -> Found:
    """Least recently used in each tier; what is found below is brought up; nobody waits for another's call."""
    memories = [Expiring(work.room if "memory" in tiers else 0, by_use=True) for _ in range(PLACES)]
    disks = [Expiring(4 * work.room if "disk" in tiers else 0, by_use=True) for _ in range(MACHINES)]
    redis = Expiring(8 * work.room if "Redis" in tiers else 0, by_use=True)
    coming: list[tuple[float, int, int]] = []  # when, for which worker, what
    hits = 0
    for number, name in enumerate(work.accesses):
        now = number / work.rate
        while coming and coming[0][0] <= now:
            ended, place, what = coming.pop(0)
            for tier in (memories[place], disks[place // WORKERS], redis):
                tier.put(what, ended + work.ttl)
        place = rand.randrange(PLACES)
        ways = (memories[place], disks[place // WORKERS], redis)
        for depth, tier in enumerate(ways):
            until = tier.get(name, now)
            if until is not None:
                hits += 1
                for nearer in ways[:depth]:
                    nearer.put(name, until)
                break
        else:
            coming.append((now + TAKES, place, name))
    return Found(hits, 0, len(work.accesses) - hits)


def ours(work: Workload, rand: random.Random, *, stale: float) -> Found:
    """The gateway's tiers, by its own memory; calls under way are joined.

    :param stale: seconds after its lifetime for which an answer is given and fetched anew
    """
    wall = Wall()
    size = entry(0.0).size
    memories = [MemoryTier(work.room * size, wall) for _ in range(PLACES)]
    disks = [Expiring(4 * work.room, by_use=False) for _ in range(MACHINES)]
    redis = Expiring(8 * work.room, by_use=True)
    coming: dict[int, tuple[float, int]] = {}  # what: when, for which worker
    used: set[int] = set()
    told = 0.0
    hits = old = calls = 0

    def put(place: int, name: int, until: float) -> None:
        memories[place].put(name.to_bytes(8, "big"), entry(until))

    for number, name in enumerate(work.accesses):
        wall.time = now = number / work.rate
        while coming and (due := next(iter(coming.items())))[1][0] <= now:
            what, (ended, place) = due
            del coming[what]
            until = ended + work.ttl + stale
            put(place, what, until)
            disks[place // WORKERS].put(what, until)
            redis.put(what, until)
        if now >= told + USES_TOLD_EVERY:
            told = now
            for one in used:
                redis.get(one, now)
            used.clear()
        place = rand.randrange(PLACES)
        disk = disks[place // WORKERS]
        kept = memories[place].get(name.to_bytes(8, "big"))
        found = kept.kept_until if kept is not None else disk.get(name, now)
        if found is not None:
            used.add(name)
        else:
            found = redis.get(name, now)
            if found is not None:
                disk.put(name, found)
        if kept is None and found is not None:
            put(place, name, found)
        is_fresh = found is not None and found - stale > now
        hits += found is not None
        old += found is not None and not is_fresh
        if not is_fresh and name not in coming:
            calls += 1
            coming[name] = (now + TAKES, place)
    return Found(hits, old, calls)


def row(name: str, found: Found, count: int, before: int | None) -> str:
    fewer = "" if before is None else f"{100 * (1 - found.calls / before):.1f}"
    stale = f"{100 * found.stale / count:.1f}"
    return f"| {name} | {100 * found.hits / count:.1f} | {stale} | {found.calls:,} | {fewer} |"


def main() -> None:
    rand = random.Random(SEED)
    levels = Workload(drifting(1.0, 20_000, 100_000, rand, every=10_000), 50.0, 3_600.0, 260)
    minutes = Workload(zipf(1.0, 20_000, 100_000, rand, once=1 / 4), 8.0, 300.0, 20_000)
    print("| | hits, % | of these stale | calls of the upstream | fewer, % |")
    print("|---|--:|--:|--:|--:|")
    alone = theirs(levels, random.Random(SEED), tiers=["memory"])
    print(row("memory for each worker", alone, 100_000, None))
    three = theirs(levels, random.Random(SEED), tiers=["memory", "disk", "Redis"])
    print(row("the article's three levels (68 %, 41 % fewer)", three, 100_000, alone.calls))
    print(row("Penstock's three", ours(levels, random.Random(SEED), stale=0.0), 100_000, alone.calls))
    redis = theirs(minutes, random.Random(SEED), tiers=["Redis"])
    print(row("the article's Redis, five minutes (40 %)", redis, 100_000, None))
    print(row("Penstock, five minutes", ours(minutes, random.Random(SEED), stale=0.0), 100_000, redis.calls))
    name = "Penstock, five minutes, and five more while it is fetched anew"
    print(row(name, ours(minutes, random.Random(SEED), stale=300.0), 100_000, redis.calls))


if __name__ == "__main__":
    main()
