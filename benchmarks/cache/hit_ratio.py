"""Which eviction policy keeps the right answers?

``python -m benchmarks.cache.hit_ratio --mooncake TRACE`` replays a trace of prefix blocks (each block an object of
one size) and workloads of its own against each policy and against the offline optimum (Belady).
The trace is Mooncake's ``conversation_trace.jsonl`` (Qin et al., FAST 2025), plain or gzipped.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cache.policies import POLICIES, belady, hits

SHARES = (0.01, 0.05, 0.1, 0.25)


def mooncake(path: Path) -> list[int]:
    """The blocks that calls asked for, in order."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [block for line in lines for block in json.loads(line)["hash_ids"]]


def zipf(alpha: float, objects: int, count: int, rand: random.Random, *, once: float = 0.0) -> list[int]:
    """Independent draws, the n-th most popular with a share of n^-alpha.

    :param once: share of questions that are asked once and never again
    """
    bounds = list(itertools.accumulate((n + 1) ** -alpha for n in range(objects)))
    fresh = itertools.count(objects)
    return [
        next(fresh) if rand.random() < once else bisect_left(bounds, rand.random() * bounds[-1])
        for _ in range(count)
    ]


def drifting(alpha: float, objects: int, count: int, rand: random.Random, *, every: int) -> list[int]:
    """Zipf whose popular questions are others after each ``every`` calls, a tenth of them each time."""
    names = list(range(objects))
    fresh = itertools.count(objects)
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += [names[rank] for rank in zipf(alpha, objects, min(every, count - len(drawn)), rand)]
        for rank in rand.sample(range(objects), objects // 10):
            names[rank] = next(fresh)
    return drawn


def table(title: str, accesses: Sequence[int]) -> str:
    distinct = len(set(accesses))
    most = f"{100 * (1 - distinct / len(accesses)):.1f} % could hit with room for all"
    lines = [
        f"**{title}**: {len(accesses):,} accesses, {distinct:,} objects, {most}",
        "",
        "| room for | " + " | ".join(POLICIES) + " | Belady |",
        "|---|" + "---|" * (len(POLICIES) + 1),
    ]
    for share in SHARES:
        capacity = max(int(distinct * share), 1)
        found = [hits(policy, capacity, accesses) for policy in POLICIES.values()]
        found.append(belady(capacity, accesses))
        cells = " | ".join(f"{100 * count / len(accesses):.1f}" for count in found)
        lines.append(f"| {share:.0%} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mooncake", type=Path, help="the trace; left out without")
    parser.add_argument("--calls", type=int, default=300_000, help="of the workloads made here")
    given = parser.parse_args()
    rand = random.Random(20_250_101)
    if given.mooncake is not None:
        print(table("Mooncake, conversation", mooncake(given.mooncake)), "\n")
    count = given.calls
    print(table("Zipf 0.8 over 100,000", zipf(0.8, 100_000, count, rand)), "\n")
    print(table("Zipf 1.0 over 100,000", zipf(1.0, 100_000, count, rand)), "\n")
    title = "Zipf 0.9 over 20,000, half of the calls asked only once"
    print(table(title, zipf(0.9, 20_000, count, rand, once=0.5)), "\n")
    title = "Zipf 1.0 over 20,000, a tenth replaced every 10,000 calls"
    print(table(title, drifting(1.0, 20_000, count, rand, every=10_000)))


if __name__ == "__main__":
    main()
