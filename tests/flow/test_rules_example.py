"""The rules of ``examples/rules.yaml``, each shown to hold, to trip and to recover; by invented time."""

from pathlib import Path

import pytest
from flow_calls import a_call

from penstock.config.load import load
from penstock.errors import Overloaded, RateLimited
from penstock.flow.gate import Asked, Gate, Outcome
from penstock.flow.limits import Limiter
from penstock.metrics import Counter

RULES = load(Path(__file__).parents[2] / "examples" / "rules.yaml")
FINE = Outcome("", first_token=0.2)


class World:
    def __init__(self):
        self.now = 0.0
        self.limiter = Limiter(RULES.limits, lambda: self.now, lambda *_: 0, lambda *_: None)
        upstream = RULES.upstreams["model"]
        self.gate = Gate("model", upstream.concurrency, upstream.breaker, RULES.tiers, lambda *_: Counter())

    def admit(self, wanted):
        """How many of so many calls are let in now."""
        admitted = 0
        for _ in range(wanted):
            try:
                self.limiter.reserve(a_call())
            except RateLimited as refused:
                assert 0 < refused.retry_after < 0.0501
            else:
                admitted += 1
        return admitted

    def ask(self):
        return self.gate.ask(Asked("assistant", "t", "default", stream=True), self.now)

    def answer(self, *outcomes):
        for outcome in outcomes:
            self.now += 0.05
            self.ask().settle(outcome, self.now)

    @property
    def is_shut(self):
        return self.gate.open_for("assistant", self.now) > 0


def test_twenty_calls_a_second_are_let_in_and_no_more():
    world = World()
    assert world.admit(1_300) == 1_200  # what a minute of rest has saved up
    for _ in range(30):
        world.now += 1.0
        assert world.admit(50) == 20
    world.now += 60.0
    assert world.admit(1_300) == 1_200


@pytest.mark.parametrize(
    ("bearable", "too_many"),
    [
        ([Outcome("upstream")] * 10 + [FINE] * 10, Outcome("upstream")),  # half is not more than half
        ([Outcome("", first_token=1.2)] * 17 + [FINE] * 2, Outcome("", first_token=1.2)),  # 18 of 20 are 90 %
    ],
    ids=["errors", "slowness"],
)
def test_too_many_of_twenty_calls_open_it_for_five_seconds_and_three_that_succeed_close_it(
    bearable, too_many
):
    world = World()
    world.answer(*bearable)
    assert not world.is_shut
    world.answer(too_many)
    assert world.is_shut
    with pytest.raises(Overloaded) as refused:
        world.ask()
    assert refused.value.code == "breaker_open"
    assert refused.value.retry_after == 5.0
    world.now += 5.0
    probes = [world.ask() for _ in range(3)]
    with pytest.raises(Overloaded):  # half open: no fourth one beside them
        world.ask()
    for probe in probes:
        probe.settle(FINE, world.now)
    assert not world.is_shut
    world.answer(*[FINE] * 5)


def test_a_probe_that_fails_opens_it_for_ten_seconds():
    world = World()
    world.answer(*[Outcome("upstream")] * 20)
    world.now += 5.0
    world.ask().settle(Outcome("upstream"), world.now)
    assert world.gate.open_for("assistant", world.now) == 10.0
