"""What processes count together: no counter goes back, and no gauge tells of what has passed."""

from penstock.admin.totals import Totals
from penstock.metrics import Registry


def told(calls, open_=0):
    registry = Registry()
    registry.counter("calls_total", "Calls.").labels().add(calls)
    registry.gauge("open", "Open.").labels().set(open_)
    return registry.collect()


def figures(families):
    return {
        family.name: family.samples[0].value for family in families if family.name in {"calls_total", "open"}
    }


def test_all_that_answer_are_added_up():
    totals = Totals()
    assert figures(totals.together(told(1), [(0, told(2, 3)), (1, told(4, 5))])) == {
        "calls_total": 7,
        "open": 8,
    }
    assert "2 processes" in repr(totals)


def test_who_does_not_answer_counts_with_what_it_told_last_and_has_nothing_open():
    totals = Totals()
    totals.together([], [(0, told(2, 3)), (1, told(4, 5))])
    assert figures(totals.together([], [(0, None), (1, told(6, 7))])) == {"calls_total": 8, "open": 7}
    assert figures(totals.together([], [(0, told(9, 1)), (1, None)])) == {"calls_total": 15, "open": 1}


def test_who_never_answered_counts_nothing():
    assert figures(Totals().together([], [(0, None)])) == {}


def test_what_the_dead_had_counted_stays_and_who_follows_them_begins_at_nought():
    totals = Totals()
    totals.together([], [(0, told(2, 3))])
    totals.died(0)
    assert figures(totals.together([], [(0, None)])) == {"calls_total": 2}
    assert figures(totals.together([], [(0, told(1, 1))])) == {"calls_total": 3, "open": 1}
    totals.died(0)
    totals.died(0)
    assert figures(totals.together([], [])) == {"calls_total": 3}
