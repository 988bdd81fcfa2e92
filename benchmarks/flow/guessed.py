"""``python -m benchmarks.flow.guessed``: what several processes make of a provider that tells nothing of its rate.

A simulation with a clock of its own; gates, leases and pool are the product's code.  The provider allows so many
requests a minute, from an empty bucket, answers in 1.5 s, and says 429 with a ``Retry-After`` when there are more.
Twice as many calls arrive, and wait ten seconds at most.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.flow.simulate import SWEEP, Simulation

from penstock.config.model import ConcurrencyConfig, TierConfig
from penstock.errors import PenstockError
from penstock.flow.gate import Asked, Gate, Outcome, Ticket, Turn
from penstock.flow.gcra import Bucket
from penstock.flow.leased import AccountLease
from penstock.flow.sharing import Pool
from penstock.metrics import Counter

PER_MINUTE = 1_200
REPLY = 1.5
REFUSAL = 0.003
PATIENCE = 10.0
EXCHANGE = 0.1
SECONDS = 300.0
WINDOWS = ((20.0, 45.0), (45.0, 150.0), (150.0, SECONDS))
SEEDS = range(5)


@dataclass
class _Provider:
    simulation: Simulation
    bucket: Bucket = field(default_factory=lambda: Bucket(PER_MINUTE))
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def send(self, done: Callable[[float | None], None]) -> None:
        """``done`` is told None, or the ``Retry-After``."""
        now = self.simulation.now
        if wait := self.bucket.wait(1, now):
            self.refused.append(now)
            self.simulation.at(now + REFUSAL, lambda: done(float(max(1, math.ceil(wait)))))
            return
        self.bucket.take(1, now)
        self.answered.append(now)
        self.simulation.at(now + REPLY, lambda: done(None))


class _Process:
    """A gate, and its lease where it has one."""

    def __init__(
        self, simulation: Simulation, provider: _Provider, name: str, pool: Pool | None, even: float
    ) -> None:
        self._simulation = simulation
        self._provider = provider
        self.asked = self.served = 0
        self._lease = None if pool is None else AccountLease("upstream:up", lambda *_: None, lambda: False)
        if self._lease is not None:
            self._lease.share = even
        self._gate = Gate(
            "up",
            ConcurrencyConfig(limit=200, adaptive=False),
            None,
            {"standard": TierConfig()},
            lambda *_: Counter(),
            lease=self._lease,
            share=even,
            unix_time=lambda: simulation.now,
        )
        self._sweep()
        if self._lease is not None and pool is not None:
            self._exchange(name, pool, self._lease, even)

    def _exchange(self, name: str, pool: Pool, lease: AccountLease, even: float) -> None:
        now = self._simulation.now
        lease.leased(pool.exchange(name, [lease.report(now)], now).leases[0], even, now, now)
        self._simulation.at(now + EXCHANGE, lambda: self._exchange(name, pool, lease, even))

    def _sweep(self) -> None:
        self._gate.sweep(self._simulation.now)
        self._simulation.at(self._simulation.now + SWEEP, self._sweep)

    def arrive(self) -> None:
        now = self._simulation.now
        self.asked += now >= WINDOWS[-1][0]
        try:
            place: Any = self._gate.ask(
                Asked("m", "t", "standard", stream=False, deadline=now + PATIENCE), now, self._called
            )
        except PenstockError:
            return
        if not isinstance(place, Ticket):
            self._go(place)

    def _called(self, answer: Turn | PenstockError) -> None:
        if isinstance(answer, Turn):
            self._go(answer)

    def _go(self, turn: Turn) -> None:
        simulation = self._simulation

        def done(retry_after: float | None) -> None:
            if retry_after is None:
                self.served += simulation.now >= WINDOWS[-1][0]
                turn.on_head({}, simulation.now)
                turn.settle(Outcome(""), simulation.now)
            else:
                turn.settle(Outcome("rate", retry_after=retry_after), simulation.now)

        self._provider.send(done)


def run(shares: Sequence[int], *, together: bool, seed: int) -> tuple[list[tuple[float, float]], float]:
    """For each window the share of the rate that was used, and of the calls that were answered 429; and of the process
    that was worst off in the last one, the share of its callers that was answered.
    """
    simulation, rand = Simulation(), random.Random(seed)
    provider = _Provider(simulation)
    provider.bucket.take(PER_MINUTE, 0.0)
    pool = Pool() if together else None
    processes = [
        _Process(simulation, provider, str(number), pool, 1 / len(shares)) for number in range(len(shares))
    ]
    now = 0.0
    while now < SECONDS:
        now += 60 / (2 * PER_MINUTE)
        simulation.at(now, rand.choices(processes, shares)[0].arrive)
    simulation.run(SECONDS)
    figures = []
    for begins, ends in WINDOWS:
        answered = sum(begins <= at < ends for at in provider.answered)
        refused = sum(begins <= at < ends for at in provider.refused)
        figures.append((answered / ((ends - begins) * PER_MINUTE / 60), refused / max(1, answered + refused)))
    return figures, min(process.served / max(1, process.asked) for process in processes)


def main() -> None:
    spans = " | ".join(f"{begins:g} to {ends:g} s" for begins, ends in WINDOWS)
    print(f"| processes | they guess | calls | {spans} | worst off, answered |")
    print("|--:|---|---|" + "--:|" * (len(WINDOWS) + 1))
    for shares, called, ways in (
        ((1,), "", (False,)),
        ((1, 1, 1, 1), "even", (False, True)),
        ((85, 5, 5, 5), "85 / 5 / 5 / 5 %", (False, True)),
    ):
        for together in ways:
            runs = [run(shares, together=together, seed=seed) for seed in SEEDS]
            cells = " | ".join(
                f"{100 * sum(used for used, _ in each) / len(each):.0f} %, {100 * sum(no for _, no in each) / len(each):.2f} %"
                for each in zip(*(figures for figures, _ in runs), strict=True)
            )
            worst = min(least for _, least in runs)
            way = "together" if together else "each alone"
            print(f"| {len(shares)} | {way} | {called} | {cells} | {100 * worst:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
