import datetime as dt

from penstock.flow.budget import Budget, Calendar


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


def test_what_is_reserved_and_what_others_spent_is_not_left():
    budget = Budget(100)
    budget.turn(1)
    budget.own, budget.others, budget.reserved = 20, 30, 40
    assert budget.left == 10
    assert budget.fits(10)
    assert not budget.fits(11)
    assert budget.would_fit(50)
    assert not budget.would_fit(51)


def test_a_later_period_begins_with_nothing_spent_an_earlier_one_never_comes_again():
    budget = Budget(100)
    budget.turn(7)
    budget.own = 60
    budget.turn(7)
    budget.turn(6)
    assert budget.own == 60
    budget.turn(8)
    assert budget.own == 0


def test_an_untouched_budget_takes_a_call_that_may_cost_more_than_all_of_it():
    budget = Budget(100)
    assert budget.fits(1_000)
    budget.own = 1
    assert not budget.fits(1_000)


def test_a_budget_of_nothing_takes_not_even_a_call_that_costs_nothing():
    assert not Budget(0).fits(0)
