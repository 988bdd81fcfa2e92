"""How many calls of a tier come, lately."""

from __future__ import annotations

import pytest

from penstock.flow.arrivals import RATE_WINDOW, Arrivals
from penstock.metrics import Counter


def test_what_has_come_before_it_is_looked_at_does_not_count():
    passed = Counter()
    passed.add(100)
    assert Arrivals(5.0, passed).rate(6.0) == 0.0


def test_a_steady_stream_is_told_as_it_is():
    passed = Counter()
    arrivals = Arrivals(0.0, passed)
    for tenth in range(1, 1_001):
        passed.add()
        arrivals.others += 1
        rate = arrivals.rate(tenth / 10)
    assert rate == pytest.approx(20.0, rel=0.01)


def test_what_came_once_is_forgotten():
    arrivals = Arrivals(0.0, Counter())
    arrivals.others += 10
    first = arrivals.rate(1.0)
    assert first == 10 / RATE_WINDOW
    assert arrivals.rate(1.0 + RATE_WINDOW) < first / 2
    assert "per second" in repr(arrivals)
