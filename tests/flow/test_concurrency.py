import random

import pytest

from penstock.config.model import ConcurrencyConfig
from penstock.flow.concurrency import AdaptiveLimit
from penstock.flow.pace import Pace


def test_a_limit_that_is_not_adaptive_stays():
    limit = AdaptiveLimit(ConcurrencyConfig(limit=40, adaptive=False), 40)
    for number in range(500):
        limit.observe(float(number), 40, float(number))
    limit.overloaded(0.0)
    assert limit.value == 40


def simulate(capacity, limit, seconds=300.0, base=0.2, rand=None):
    """First tokens of an upstream that works on ``capacity`` calls of a second each, and lets others wait."""
    rand = rand or random.Random(7)
    now, seen = 0.0, []
    while now < seconds:
        under_way = int(limit.value)
        now += 1.0 / min(capacity, under_way)
        queued = max(0, under_way - capacity)
        first = base * rand.uniform(0.8, 1.2) + queued / capacity
        limit.observe(first, under_way, now)
        seen.append((now, under_way))
    return seen


@pytest.mark.parametrize("capacity", [4, 20, 100])
def test_it_finds_what_the_upstream_can_take(capacity):
    limit = AdaptiveLimit(ConcurrencyConfig(limit=500, start=3), 500)
    late = [under_way for now, under_way in simulate(capacity, limit) if now > 150]
    mean = sum(late) / len(late)
    assert 0.9 * capacity <= mean <= 1.6 * capacity + 2


def test_it_follows_an_upstream_that_loses_half_of_its_capacity():
    limit = AdaptiveLimit(ConcurrencyConfig(limit=500), 500)
    simulate(100, limit)
    late = [under_way for now, under_way in simulate(50, limit) if now > 150]
    assert sum(late) / len(late) < 85


def test_it_does_not_grow_while_it_is_not_used_up():
    limit = AdaptiveLimit(ConcurrencyConfig(limit=500), 500)
    for number in range(1_000):
        limit.observe(0.1, 2, number / 10)
    assert limit.value == 8


def test_an_upstream_that_says_it_is_overloaded_gets_less_but_once_a_second_and_never_nothing():
    limit = AdaptiveLimit(ConcurrencyConfig(limit=8, least=2), 8)
    for _ in range(50):
        limit.overloaded(10.0)
    assert limit.value == pytest.approx(8 * 0.7)
    for second in range(100):
        limit.overloaded(11.0 + second)
    assert limit.value == 2


def test_an_upstream_that_is_slower_for_good_is_not_strangled_for_ever():
    limit = AdaptiveLimit(ConcurrencyConfig(limit=50), 50)
    for number in range(2_000):
        limit.observe(0.1, 50, number / 10)
    for number in range(40_000):
        limit.observe(0.5, int(limit.value), 200 + number / 2)
    assert limit.value > 40


def test_long_prompts_take_longer_and_that_is_no_congestion():
    rand = random.Random(3)
    limit, pace = AdaptiveLimit(ConcurrencyConfig(limit=64), 64), Pace()
    for number in range(6_000):
        prompt = int(rand.lognormvariate(6.3, 1.2)) + 2
        seconds = (0.02 + prompt / 8_000) * rand.lognormvariate(0, 0.2)
        limit.observe(pace.observe_first_token(seconds, prompt), 64, number / 20)
    assert limit.value > 60


def test_that_all_have_become_slower_is_seen_whatever_the_prompts():
    rand = random.Random(4)
    limit, pace = AdaptiveLimit(ConcurrencyConfig(limit=64), 64), Pace()
    for number in range(8_000):
        prompt = int(rand.lognormvariate(6.3, 1.2)) + 2
        slower = 4.0 if number > 4_000 else 1.0
        seconds = (0.02 + prompt / 8_000) * slower
        limit.observe(pace.observe_first_token(seconds, prompt), 64, number / 20)
    assert limit.value < 10


def test_a_machine_that_has_run_for_months_begins_like_any_other():
    limit = AdaptiveLimit(ConcurrencyConfig(limit=40, start=4), 40)
    now = 90 * 86_400.0  # the clock's zero is when the machine was started
    for number in range(100):
        limit.observe(0.1, 4, now + number)
    for number in range(100):  # and goes on after as long without a call
        limit.observe(0.1, int(limit.value), 2 * now + number)
    assert limit.value > 4
