"""What fetching ahead gains: hits and latency with and without it, by the gateway's own stage.

``python -m benchmarks.cache.prefetch``: people work through sequences of questions (a document's pages, the steps of a
form) at random times; popular sequences more often; after each question a tenth of them leave.  Answers expire after five
minutes, so that without fetching ahead the first one to come by again waits for each question anew.  Latencies
are those of the article that proposes this: 280 ms for a miss, 10 ms for a hit; time is simulated.  "Random": the same,
but nobody follows any sequence, so nothing can be foreseen.  "New sequences": each is worked through once, so nothing can
be learnt from others; "neighbours" are ``neighbours: [numbers]``.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random

from penstock.cache.cache import Cache
from penstock.cache.entry import Entry, Sealer
from penstock.cache.tiers.memory import MemoryTier
from penstock.config.model import PrefetchConfig
from penstock.gateway.stages.prefetch import Prefetch
from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.metrics import Registry

MISS, HIT, TTL = 0.28, 0.01, 300.0


class Wall:
    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def __call__(self) -> float:
        return self.time


def body_of(question: int) -> bytes:
    return b'{"model":"m","prompt":"Summarise section %d of document %d."}' % (question % 12, question // 12)


def arrivals(
    count: int, sequences: int, length: int, rand: random.Random, *, ordered: bool, once: bool = False
) -> list[tuple[float, int, str]]:
    """Times, questions and who asks."""
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(sequences)))
    waiting: list[tuple[float, int, int, int]] = []  # when, person, sequence, step
    found = []
    started, person = 0.0, 0
    while len(found) < count:
        while not waiting or waiting[0][0] > started:
            sequence = person if once else rand.choices(range(sequences), cum_weights=weights)[0]
            heapq.heappush(waiting, (started, person, sequence, 0))
            person += 1
            started += rand.expovariate(2.5)
        when, who, sequence, step = heapq.heappop(waiting)
        asked = sequence * length + (step if ordered else rand.randrange(length))
        found.append((when, asked, f"person {who}"))
        if step + 1 < length and rand.random() < 0.9:
            heapq.heappush(waiting, (when + rand.uniform(3, 20), who, sequence, step + 1))
    return found


def run(asked: list[tuple[float, int, str]], policy: PrefetchConfig | None) -> tuple[int, int, float]:
    """Hits, calls of upstreams, and seconds of waiting."""
    wall = Wall()
    began = wall.time
    cache = Cache(
        MemoryTier(1 << 28, wall), (), Sealer(bytes(32), 1 << 20), max_entry_bytes=1 << 20, now=wall
    )
    prefetch = Prefetch(cache, Registry(), wall)
    coming: list[tuple[float, bytes, Call]] = []  # what is being fetched
    asked_for: set[bytes] = set()  # the same
    hits = calls = 0
    waited = 0.0

    def keep(key: bytes) -> None:
        until = wall.time + TTL
        cache.put(
            key,
            Entry(
                "chat", "m", "u", "m", False, False, False, (), (b"x",), Usage(), 0, 0, 0, until, until, ()
            ),
        )

    for when, question, who in asked:
        while coming and coming[0][0] <= began + when:
            wall.time, key, asker = heapq.heappop(coming)
            keep(key)
            asked_for.discard(key)
            prefetch.fetched(asker, key, "m", policy, 0, MISS, wall.time + TTL)
        wall.time = began + when
        key = body_of(question)
        if cache.get_nowait(key) is not None:
            hits += 1
            waited += HIT
        else:
            calls += 1
            waited += MISS
            keep(key)
        if policy is not None:
            call = Call("gen_x", Endpoint.CHAT, "m", False, {}, key, {}, 0.0, Tenant(key_name=who))
            found = [wanted.body for wanted in prefetch.asked(call, key, "t", policy, "m")]
            near = prefetch.beside(call, "t", policy)
            found += [
                each for each in near if each not in asked_for and prefetch.is_wanted(each, policy, "m")
            ]
            for wanted in found:
                calls += 1
                asked_for.add(wanted)
                heapq.heappush(coming, (wall.time + MISS, wanted, call))
    return hits, calls, waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=60_000)
    given = parser.parse_args()
    rand = random.Random(5)
    policy = PrefetchConfig(calls_per_minute=600, usd_per_day=1e9)
    near = PrefetchConfig(calls_per_minute=600, usd_per_day=1e9, neighbours=["numbers"])
    print("| workload | | hits, % | calls of the upstream | mean latency, ms |")
    print("|---|---|--:|--:|--:|")
    for title, ordered, once in (
        ("sequences", True, False),
        ("random", False, False),
        ("new sequences", True, True),
    ):
        asked = arrivals(given.calls, 300, 12, rand, ordered=ordered, once=once)
        for name, chosen in (
            ("without", None),
            ("fetching ahead", policy),
            ("fetching ahead, with neighbours", near),
        ):
            hits, calls, waited = run(asked, chosen)
            print(
                f"| {title} | {name} | {100 * hits / len(asked):.1f} | {calls:,} | {1e3 * waited / len(asked):.0f} |"
            )


if __name__ == "__main__":
    main()
