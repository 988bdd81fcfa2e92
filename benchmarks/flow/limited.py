"""A provider with a rate limit of its own: how much of it is used, and how many calls it answers 429.

It has a bucket of requests that fills all the time, tells in OpenAI's headers what is left, and says 429 with
a ``Retry-After`` when the bucket is empty; or it tells nothing, or that its bucket is always full, or has ten times the
size.  Twice as many calls arrive as it allows.  The naive client sends
each at once, and again after the ``Retry-After``, twice at most, as the SDKs do.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from benchmarks.flow.simulate import SWEEP, Simulation

from penstock.config.model import ConcurrencyConfig, TierConfig
from penstock.errors import PenstockError
from penstock.flow.gate import Asked, Gate, Outcome, Ticket, Turn
from penstock.flow.gcra import Bucket
from penstock.messages import Dialect, Headers
from penstock.metrics import Counter
from penstock.wire import ratelimits

PER_MINUTE = 600
SECONDS = 1_200.0
WARM_UP = 120.0
PATIENCE = 30.0  # seconds that a caller waits


class Provider:
    """Answers after ``seconds``, or 429."""

    def __init__(self, simulation: Simulation, rand: random.Random, told: str) -> None:
        self._simulation = simulation
        self._rand = rand
        self._bucket, self._tenfold = Bucket(PER_MINUTE), Bucket(10 * PER_MINUTE)
        self._told = told
        self.answered = self.refused = 0

    def send(self, done: Callable[[float | None], None], on_head: Callable[[Headers], None]) -> None:
        """``done`` is told None, or the ``Retry-After``."""
        now = self._simulation.now
        counts = now >= WARM_UP
        wait = self._bucket.wait(1, now)
        if wait:
            self.refused += counts
            self._simulation.at(now + 0.05, lambda: done(math.ceil(wait)))
            return
        self._bucket.take(1, now)
        self.answered += counts
        self._tenfold.take(1, now)
        first = now + self._rand.lognormvariate(-0.5, 0.6)
        end = first + self._rand.lognormvariate(1.0, 0.6)
        headers = {
            "honest": lambda: dict(ratelimits.render(Dialect.OPENAI, _figures(self._bucket, now), None, now)),
            "silent": dict,
            "always full": lambda: dict(
                ratelimits.render(Dialect.OPENAI, (PER_MINUTE, PER_MINUTE, 0), None, now)
            ),
            "tenfold": lambda: dict(
                ratelimits.render(Dialect.OPENAI, _figures(self._tenfold, now), None, now)
            ),
        }[self._told]()
        self._simulation.at(first, lambda: on_head(headers))
        self._simulation.at(end, lambda: done(None))


def _figures(bucket: Bucket, now: float) -> tuple[float, float, float]:
    return bucket.limit, math.floor(bucket.left(now)), bucket.full_in(now)


def naive(simulation: Simulation, provider: Provider) -> Callable[[], None]:
    def send(tries: int) -> None:
        def done(retry_after: float | None) -> None:
            if retry_after is not None and tries < 3:
                simulation.at(simulation.now + retry_after, lambda: send(tries + 1))

        provider.send(done, lambda headers: None)

    return lambda: send(1)


def gated(simulation: Simulation, provider: Provider) -> Callable[[], None]:
    config = ConcurrencyConfig(limit=500, adaptive=False)
    door = Gate(
        "provider",
        config,
        None,
        {"standard": TierConfig()},
        lambda tier, outcome: Counter(),
        unix_time=lambda: simulation.now,
    )

    def go(turn: Turn) -> None:
        def done(retry_after: float | None) -> None:
            outcome = Outcome("") if retry_after is None else Outcome("rate", retry_after=retry_after)
            turn.settle(outcome, simulation.now)

        provider.send(done, lambda headers: turn.on_head(headers, simulation.now))

    def arrive() -> None:
        def called(answer: Turn | PenstockError) -> None:
            if isinstance(answer, Turn):
                go(answer)

        asked = Asked("m", "t", "standard", stream=True, deadline=simulation.now + PATIENCE)
        try:
            place: Any = door.ask(asked, simulation.now, called)
        except PenstockError:
            return
        if not isinstance(place, Ticket):
            go(place)

    def sweep() -> None:
        door.sweep(simulation.now)
        simulation.at(simulation.now + SWEEP, sweep)

    sweep()
    return arrive


def run(
    build: Callable[[Simulation, Provider], Callable[[], None]], told: str, seed: int
) -> tuple[float, float]:
    """Share of the rate that was used, and share of the calls sent that were answered 429."""
    simulation = Simulation()
    rand = random.Random(seed)
    provider = Provider(simulation, rand, told)
    arrive = build(simulation, provider)
    now = 0.0
    while now < SECONDS:
        now += rand.expovariate(2 * PER_MINUTE / 60)
        simulation.at(now, arrive)
    simulation.run(SECONDS)
    used = provider.answered / ((SECONDS - WARM_UP) * PER_MINUTE / 60)
    return used, provider.refused / (provider.answered + provider.refused)


def main(seed: int) -> None:
    print("| client | the provider's headers | of its rate used | answered 429 |")
    print("|---|---|--:|--:|")
    for name, build in (("naive", naive), ("gate", gated)):
        for told in ("honest",) if build is naive else ("honest", "silent", "always full", "tenfold"):
            used, refused = run(build, told, seed)
            print(f"| {name} | {told} | {100 * used:.1f} % | {100 * refused:.2f} % |", flush=True)
