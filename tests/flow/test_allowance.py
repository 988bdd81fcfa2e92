"""What may be spent on calls that nobody asked for."""

from __future__ import annotations

import pytest

from penstock.flow.allowance import Allowance


class Wall:
    """Seconds since 1970."""

    def __init__(self, time=1_000_000.0):
        self.time = time

    def __call__(self):
        return self.time


def taken(allowance, most=1_000, *, rate=60.0, usd=1.0):
    return sum(allowance.take(rate, usd) for _ in range(most))


def test_so_many_calls_a_minute_and_no_more():
    wall = Wall()
    allowance = Allowance(wall)
    assert taken(allowance) == 1
    wall.time += 10
    assert taken(allowance) == 10
    wall.time += 3_600
    assert taken(allowance) == 60


def test_what_was_spent_today_counts_until_midnight():
    wall = Wall(86_400.0 * 20 - 100)
    allowance = Allowance(wall)
    allowance.spend(10**12)
    wall.time += 60
    assert taken(allowance) == 0
    wall.time += 60
    assert taken(allowance) > 0


@pytest.mark.parametrize("jump", [-3_600.0, -86_400.0 * 3])
def test_a_clock_that_is_set_back_gives_nothing(jump):
    wall = Wall()
    allowance = Allowance(wall)
    allowance.spend(10**12)
    taken(allowance)
    wall.time += jump
    assert taken(allowance) == 0


def test_a_day_that_a_wrong_clock_began_does_not_last_until_it_comes():
    wall = Wall(86_400.0 * 400)
    allowance = Allowance(wall)
    allowance.spend(10**12)
    wall.time = 86_400.0 * 20
    assert taken(allowance) == 0, "no money is spent twice"
    wall.time += 86_400.0
    assert taken(allowance) > 0
