"""The comparisons, against published examples and against chance."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from penstock.config.model import CanaryConfig
from penstock.flow.verdict import Figures, _z_longer, compare, difference, median

CONFIG = CanaryConfig(version="new")
Z95 = 1.959963984540054


def figures(calls, failed=0, **times):
    """So many calls, with these figures of those that were answered, again and again."""
    made = Figures()
    for number in range(calls):
        if number < failed:
            made.fail()
        else:
            shown = {name: values[number % len(values)] for name, values in times.items()}
            made.answer(*(shown.get(name) for name in ("first_token", "whole", "pace", "cost")))
    return made


def verdicts(new, old, config=CONFIG, worse_look=1, no_worse_look=1):
    found = compare(new, old, config, worse_look=worse_look, no_worse_look=no_worse_look)
    return {each.criterion: each.verdict for each in found}


@pytest.mark.parametrize(
    ("shares", "bounds"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ],
)
def test_differences_of_shares_are_newcombes(shares, bounds):
    """R. G. Newcombe (1998), table II, method 10."""
    assert difference(*shares, Z95) == pytest.approx(bounds, abs=5e-5)


def test_ranks_are_compared_as_brunner_and_munzel_do():
    """The pain scores of their paper; the statistic is that of R's lawstat and of scipy."""
    one = Counter([3, 3, 4, 3, 1, 2, 3, 1, 1, 5, 4])
    other = Counter([1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 1])
    assert _z_longer(one, other, 1.0) == pytest.approx(3.1374674823029505)
    assert _z_longer(other, one, 1.0) == pytest.approx(-3.1374674823029505)


def test_what_is_the_same_is_neither():
    assert _z_longer({3: 40}, {3: 40}, 1.0) == 0.0


def test_what_never_overlaps_is_certain():
    assert _z_longer({30: 40}, {3: 40}, 1.0) == float("inf")


def test_few_values_are_not_compared():
    slow, quick = figures(29, first_token=[9.0]), figures(100, first_token=[0.1])
    assert verdicts(slow, quick)["first_token"] == "not compared"


def test_a_margin_is_taken_off_before():
    slow = figures(200, first_token=[1.2])
    assert verdicts(slow, figures(200, first_token=[1.0]))["first_token"] == "no worse"
    assert (
        verdicts(figures(200, first_token=[1.4]), figures(200, first_token=[1.0]))["first_token"] == "worse"
    )


def test_fewer_tokens_per_second_are_worse():
    found = verdicts(figures(100, pace=[30.0, 31.0]), figures(100, pace=[60.0, 61.0]))
    assert found["pace"] == "worse"
    assert verdicts(figures(100, pace=[60.0]), figures(100, pace=[30.0]))["pace"] == "no worse"


def test_ten_failures_of_ten_are_worse_and_none_of_ten_says_nothing():
    others = figures(90)
    assert verdicts(figures(10, failed=10), others)["errors"] == "worse"
    assert verdicts(figures(10), others)["errors"] == "open"
    assert verdicts(figures(1_000), figures(1_000))["errors"] == "no worse"


def test_failures_of_both_are_no_difference():
    assert verdicts(figures(40, failed=40), figures(40, failed=40))["errors"] == "open"


def test_prices_that_are_not_known_are_not_compared():
    assert verdicts(figures(100), figures(100, cost=[0.01]))["price"] == "not compared"


def test_what_costs_nothing_is_no_dearer_than_what_costs_nothing():
    assert verdicts(figures(100, cost=[0.0]), figures(100, cost=[0.0]))["price"] == "no worse"
    assert verdicts(figures(100, cost=[0.1]), figures(100, cost=[0.0]))["price"] == "worse"


def test_a_call_that_costs_twice_as_much_is_dearer():
    costs = [0.01, 0.02, 0.04]
    found = verdicts(figures(200, cost=[2 * cost for cost in costs]), figures(200, cost=costs))
    assert found["price"] == "worse"
    assert verdicts(figures(2_000, cost=costs), figures(2_000, cost=costs))["price"] == "no worse"


def test_criteria_that_are_not_wanted_are_left_out():
    config = CanaryConfig(version="new", more_errors=None, slower=None)
    assert list(verdicts(figures(100), figures(100), config)) == ["price"]


def test_later_looks_need_more():
    new, old = figures(40, failed=5), figures(400, failed=4)
    assert verdicts(new, old)["errors"] == "worse"
    assert verdicts(new, old, worse_look=50)["errors"] == "open"


def test_figures_of_two_processes_are_those_of_one():
    whole, one, other = Figures(), Figures(), Figures()
    for number in range(50):
        figure = (0.1 + number / 100, None, 20.0, 0.001)
        whole.answer(*figure)
        (one if number % 3 else other).answer(*figure)
    one.fail()
    whole.fail()
    one.add(other)
    assert one.cost == pytest.approx(whole.cost)
    assert one.cost_squares == pytest.approx(whole.cost_squares)
    one.cost, one.cost_squares = whole.cost, whole.cost_squares  # sums of floats depend on their order
    assert one == whole


def test_the_median_is_found_to_a_step():
    made = figures(99, first_token=[0.1, 0.2, 0.9])
    assert median(made.first_token) == pytest.approx(0.2, rel=0.05)
    assert median({}) is None


def test_versions_that_are_alike_are_seldom_called_worse():
    """At most as often as ``confidence`` says, over all looks and criteria; seeded, so it is the same each time."""
    rand = random.Random(25)

    def a_call(made):
        if rand.random() < 0.03:
            made.fail()
        else:
            tokens = rand.lognormvariate(4, 1)
            made.answer(rand.lognormvariate(-1, 0.5), None, rand.lognormvariate(4, 0.2), tokens * 1e-5)

    exact = CanaryConfig(version="new", more_errors=0.0, slower=1.0, dearer=1.0)  # no margin helps
    rejected = 0
    for _ in range(200):
        new, old, look = Figures(), Figures(), 0
        for calls in range(1, 161):
            a_call(new)
            for _ in range(3):
                a_call(old)
            if calls in (10, 20, 40, 80, 160):
                look += 1
                if "worse" in verdicts(new, old, exact, worse_look=look).values():
                    rejected += 1
                    break
    assert rejected <= 20  # 5 % of 200 are 10
