"""``python -m benchmarks.flow.windows``: how many calls share a request, and what they wait for that, without a clock.

Single inputs come at random moments (Poisson), 500 a second, to an upstream that takes the same time for each request,
whatever is in it, and works on so many requests at once; the others wait inside, first come, first served.  A minute of
simulated time, seed 1.  *Added* is the median of what a call takes longer than the upstream's time.

- ``alone``: every call is a request.
- ``adaptive``: the product's own windows (``penstock.flow.batch``), 32 inputs, 5 ms.
- ``adaptive, concurrency``: the same where ``concurrency`` says on how many the upstream works: the others wait in the
  gateway, and may be joined.
- ``as places come free``: a request goes as soon as the upstream has a place, with all that wait then, 32 at most.
- ``every 20 ms``: ten calls a request, as regularly as can be.

It is deterministic, and takes a few seconds.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import TypeAlias

from penstock.config.model import BatchingConfig
from penstock.flow.batch import Batching, Group

RATE = 500.0  # calls a second
SECONDS = 60.0
TIMES = (0.005, 0.01, 0.02, 0.04)  # of the upstream, for a request
PLACES = (1, 2, 4, 1_000)
MOST = 32  # inputs of one request
EVEN = 10 / RATE  # seconds between requests of ten calls

Request: TypeAlias = tuple[float, list[float]]
"""When it was sent, and when its calls had come."""


def arrivals(rate: float = RATE, seconds: float = SECONDS, seed: int = 1) -> list[float]:
    rand, now, made = random.Random(seed), 0.0, []
    while (now := now + rand.expovariate(rate)) < seconds:
        made.append(now)
    return made


def alone(calls: Sequence[float], _: float, __: int) -> list[Request]:
    return [(at, [at]) for at in calls]


def evenly(calls: Sequence[float], _: float, __: int) -> list[Request]:
    made: list[Request] = []
    for at in calls:
        end = (at // EVEN + 1) * EVEN
        if not made or made[-1][0] != end:
            made.append((end, []))
        made[-1][1].append(at)
    return made


def adaptively(calls: Sequence[float], _: float, __: int) -> list[Request]:
    batching: Batching[float] = Batching(BatchingConfig(max_batch_size=MOST))
    made: list[Request] = []
    group: Group[float] | None = None
    for at in calls:
        if group is not None and not group.closed and group.closes_at <= at:
            made.append((group.closes_at, group.members))
            batching.close(group)
        group, _passed = batching.put("all", at, 1, 1, at)
        if group.closed:
            made.append((at, group.members))
    return made


def gated(calls: Sequence[float], time: float, places: int) -> list[Request]:
    batching: Batching[float] = Batching(BatchingConfig(max_batch_size=MOST))
    free = [0.0] * places
    waiting: deque[Group[float]] = deque()
    made: list[Request] = []
    group: Group[float] | None = None

    def room(now: float) -> bool:
        return not waiting and free[0] <= now

    def send(group: Group[float], now: float) -> None:
        batching.close(group)
        heapq.heapreplace(free, now + time)
        made.append((now, group.members))

    def advance(until: float) -> None:
        while True:
            due = inf if group is None or group.closed else group.closes_at
            freed = max(free[0], 0.0) if waiting else inf
            now = min(due, freed)
            if now > until or now == inf:
                return
            if freed <= due:
                send(waiting.popleft(), now)
            elif group is not None:
                batching.due(group, room=room(now))
                send(group, now) if group.closed else waiting.append(group)

    for at in calls:
        advance(at)
        free_now = room(at)
        group, _passed = batching.put("all", at, 1, 1, at, room=free_now)
        if (group.closed or group.held) and group not in waiting:
            send(group, at) if free_now else waiting.append(group)
    advance(inf)
    return made


def as_free(calls: Sequence[float], time: float, places: int) -> list[Request]:
    free = [0.0] * places
    made: list[Request] = []
    at = 0
    while at < len(calls):
        start = max(heapq.heappop(free), calls[at])
        taken = [call for call in calls[at : at + MOST] if call <= start]
        at += len(taken)
        made.append((start, taken))
        heapq.heappush(free, start + time)
    return made


POLICIES: dict[str, Callable[[Sequence[float], float, int], list[Request]]] = {
    "alone": alone,
    "adaptive": adaptively,
    "adaptive, concurrency": gated,
    "as places come free": as_free,
    "every 20 ms": evenly,
}


def added(requests: Sequence[Request], time: float, places: int) -> float | None:
    """The median of what calls wait, seconds; None: more and more of them wait."""
    free = [0.0] * places
    waits: list[float] = []
    for sent, calls in requests:
        start = max(heapq.heappop(free), sent)
        heapq.heappush(free, start + time)
        waits += [start - call for call in calls]
    if max(waits[-100:]) > 1.0:
        return None
    return sorted(waits)[len(waits) // 2]


def main() -> None:
    calls = arrivals()
    print(f"| upstream, ms | at once | {' | '.join(POLICIES)} |")
    print("|--:|--:|" + "--:|" * len(POLICIES))
    for time in TIMES:
        for places in PLACES:
            cells = []
            for policy in POLICIES.values():
                requests = policy(calls, time, places)
                wait = added(requests, time, places)
                told = "more than it can do" if wait is None else f"+{1_000 * wait:.1f} ms"
                cells.append(f"÷ {sum(len(taken) for _, taken in requests) / len(requests):.1f}, {told}")
            count = "any" if places == PLACES[-1] else str(places)
            print(f"| {1_000 * time:.0f} | {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
