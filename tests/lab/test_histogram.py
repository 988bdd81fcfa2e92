from __future__ import annotations

import random
import statistics

import pytest

from penstock.lab.histogram import Histogram


def test_quantiles_are_right_within_two_percent():
    chance = random.Random(3)
    values = [chance.lognormvariate(-3, 2) for _ in range(20_000)]
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    for percent in (1, 10, 50, 90, 99):
        assert histogram.quantile(percent / 100) == pytest.approx(cuts[percent - 1], rel=0.02)
    assert histogram.summary()["mean"] == pytest.approx(statistics.fmean(values))
    assert histogram.summary()["max"] == max(values)


def test_many_at_once_count_as_many():
    histogram = Histogram()
    histogram.add(0.0, 98)
    histogram.add(0.5)
    histogram.add(2.0)
    assert histogram.count == 100
    assert histogram.quantile(0.5) == 0.0
    assert histogram.quantile(0.98) == 0.0
    assert histogram.quantile(0.99) == pytest.approx(0.5, rel=0.02)
    assert histogram.quantile(1.0) == 2.0


def test_nothing_has_no_quantile():
    assert Histogram().summary() == {
        "count": 0,
        "mean": None,
        "p50": None,
        "p90": None,
        "p99": None,
        "max": None,
    }
