"""Calls that arrive: when, how long, whose, and until when they are of use."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from penstock.config.model import TierConfig
from penstock.lab.trace import TraceCall, read_trace

PREFILL = 8_000.0  # tokens of the prompt per second
DECODE = 60.0  # tokens of the answer per second
PLACES = 128  # calls that the upstream works on at a time

TIERS = {
    "realtime": TierConfig(priority=10, deadline=5.0),
    "standard": TierConfig(priority=5, deadline=20.0, floor=0.1),
    "batch": TierConfig(priority=0, deadline=120.0, floor=0.05),
}
# Tier, tenant, share of the calls.  At twice the capacity realtime asks for 40 % of it, standard for 100 %.
TENANTS = (
    ("realtime", "r1", 0.10),
    ("realtime", "r2", 0.07),
    ("realtime", "r3", 0.03),
    ("standard", "greedy", 0.30),
    ("standard", "s2", 0.10),
    ("standard", "s3", 0.06),
    ("standard", "s4", 0.04),
    ("batch", "b1", 0.20),
    ("batch", "b2", 0.07),
    ("batch", "b3", 0.03),
)


@dataclass(eq=False)
class Arrival:
    """One call."""

    at: float
    tier: str
    tenant: str
    prompt: int  # tokens
    answer: int
    deadline: float  # of the first token
    first_token: float | None = None
    refused: bool = False

    @property
    def prefill(self) -> float:
        return self.prompt / PREFILL

    @property
    def work(self) -> float:
        """Seconds that it holds a place of the upstream."""
        return self.prefill + self.answer / DECODE

    @property
    def in_time(self) -> bool:
        return self.first_token is not None and self.first_token <= self.deadline


def shapes(trace: str | None, rand: random.Random) -> tuple[list[tuple[int, int]], list[float]]:
    """Lengths of prompt and answer, and the gaps between arrivals, the mean of which is 1."""
    if trace is None:
        lengths = [
            (
                min(14_000, int(rand.lognormvariate(6.3, 1.1)) + 2),
                min(1_000, int(rand.lognormvariate(4.8, 0.8)) + 1),
            )
            for _ in range(5_000)
        ]
        gaps, busy = [], 1.0
        for number in range(5_000):
            if number % 40 == 0:  # bursts and lulls
                busy = rand.choice([0.6, 1.0, 1.0, 1.8])
            gaps.append(rand.expovariate(busy))
    else:
        calls: list[TraceCall] = read_trace(trace)
        lengths = [(max(1, call.input_tokens), max(1, call.output_tokens)) for call in calls]
        gaps = [later.at - earlier.at for earlier, later in pairwise(calls)]
    mean = sum(gaps) / len(gaps)
    return lengths, [gap / mean for gap in gaps]


def workload(load: float, seconds: float, trace: str | None, seed: int = 1) -> list[Arrival]:
    """Arrivals that ask for ``load`` times what the upstream can do."""
    rand = random.Random(seed)
    lengths, gaps = shapes(trace, rand)
    mean_work = sum(prompt / PREFILL + answer / DECODE for prompt, answer in lengths) / len(lengths)
    interval = mean_work / PLACES / load
    weights = [share for _, _, share in TENANTS]
    arrivals, now, number = [], 0.0, rand.randrange(len(gaps))
    while now < seconds:
        now += gaps[number % len(gaps)] * interval
        prompt, answer = lengths[number % len(lengths)]
        number += 1
        tier, tenant, _ = rand.choices(TENANTS, weights)[0]
        arrivals.append(Arrival(now, tier, tenant, prompt, answer, now + TIERS[tier].deadline))
    return arrivals
