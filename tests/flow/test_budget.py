import datetime as dt

import pytest

from penstock.flow.budget import Budget, Calendar
from penstock.flow.leased_budget import LeasedBudget


def at(*moment):
    return dt.datetime(*moment, tzinfo=dt.UTC).timestamp()


def test_the_calendar_knows_when_day_and_month_began_and_end():
    calendar = Calendar(at(2026, 12, 31, 13))
    assert calendar.day_began == at(2026, 12, 31)
    assert calendar.day_ends == calendar.month_ends == at(2027, 1, 1)
    assert calendar.month_began == at(2026, 12, 1)


def test_a_clock_that_is_set_back_brings_back_no_day():
    calendar = Calendar(at(2026, 3, 2))
    day, month = calendar.day, calendar.month
    calendar.look(at(2026, 2, 27))
    assert (calendar.day, calendar.month) == (day, month)
    calendar.look(at(2026, 3, 3))
    assert calendar.day == day + 1


def test_a_clock_that_is_set_back_by_far_never_was_on_that_day():
    calendar = Calendar(at(2026, 3, 2, 0, 10))
    assert not calendar.was_ahead(at(2026, 3, 1, 23, 1))
    assert calendar.was_ahead(at(2026, 3, 1, 22, 59))


@pytest.mark.parametrize("kind", [Budget, lambda limit: LeasedBudget(limit, bool, bool, lambda: 1.0, "")])
def test_a_day_that_was_taken_for_over_goes_on_with_what_was_spent_on_it(kind):
    budget = kind(100)
    budget.turn(7)
    budget.spend(30)
    budget.turn(9)  # the clock leaps
    budget.spend(20)
    budget.date(7)  # and is put right
    assert (budget.own, budget.left, budget.reserved) == (50, 50, 0)
    budget.turn(9)
    budget.date(8)
    assert (budget.own, budget.left) == (0, 100), "that day had not been before"
    budget.turn(10)
    budget.date(10)
    assert (budget.own, budget.left) == (0, 100)


def test_what_is_reserved_and_what_others_spent_is_not_left():
    budget = Budget(100)
    budget.turn(1)
    budget.spend(20)
    budget.credit(30)
    budget.left -= 40  # reserved
    assert budget.left == 10
    assert budget.reserved == 40
    assert budget.fits(10)
    assert not budget.fits(11)
    assert budget.would_fit(50)
    assert not budget.would_fit(51)


def test_a_later_period_begins_with_nothing_spent_an_earlier_one_never_comes_again():
    budget = Budget(100)
    budget.turn(7)
    budget.spend(60)
    budget.turn(7)
    budget.turn(6)
    assert budget.own == 60
    budget.turn(8)
    assert budget.own == 0
    assert budget.left == 100


def test_what_the_others_spent_takes_the_place_of_what_was_told_before_and_a_new_limit_keeps_it():
    budget = Budget(100)
    budget.turn(1)
    budget.left -= 10  # reserved
    budget.credit(30)
    budget.credit(50)
    assert budget.left == 40
    budget.resize(60)
    assert budget.left == 0
    assert not budget.fits(1)
    assert budget.would_fit(1)
    budget.turn(2)
    assert budget.left == 50
    assert budget.reserved == 10


def test_an_untouched_budget_takes_a_call_that_may_cost_more_than_all_of_it():
    budget = Budget(100)
    assert budget.fits(1_000)
    budget.spend(1)
    assert not budget.fits(1_000)


def test_a_budget_of_nothing_takes_not_even_a_call_that_costs_nothing():
    assert not Budget(0).fits(0)
