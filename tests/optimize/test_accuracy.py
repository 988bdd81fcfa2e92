"""How many questions a model answers rightly, and how sure that is."""

from __future__ import annotations

import random

import pytest

from penstock.optimize.accuracy import Accuracy, drop


def of(right, asked):
    return Accuracy("1" * right + "0" * (asked - right))


@pytest.mark.parametrize(
    ("right", "asked", "least", "most"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilsons(right, asked, least, most):
    accuracy = of(right, asked)
    assert accuracy.share == right / asked
    assert accuracy.interval == pytest.approx((least, most), abs=1e-4)


def test_all_right_is_not_certainly_all():
    least, most = of(10, 10).interval
    assert (least, most) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert most <= 1


def test_a_drop_is_counted_question_by_question():
    before, after = Accuracy("1111100000"), Accuracy("1110010000")
    assert drop(after, before).share == pytest.approx(0.1)
    assert drop(before, after).share == pytest.approx(-0.1)
    assert drop(before, before).share == 0
    with pytest.raises(ValueError):
        drop(Accuracy("1"), before)


def test_what_both_answer_alike_makes_a_drop_more_certain():
    """Two models that answer at random, and two of which one has forgotten a tenth, drop alike."""
    half = "10" * 100
    forgotten = Accuracy("00" * 10 + half[20:])
    other = Accuracy("0" * 90 + "1" * 90 + "0" * 20)
    widths = []
    for after in (forgotten, other):
        fewer = drop(after, Accuracy(half))
        assert fewer.share == pytest.approx(0.05)
        widths.append(fewer.interval[1] - fewer.interval[0])
    assert widths[0] < 0.5 * widths[1]


@pytest.mark.parametrize("asked", [20, 50, 200])
@pytest.mark.parametrize("shares", [(0.7, 0.05, 0.05), (0.5, 0.2, 0.1), (0.9, 0.08, 0.0), (0.98, 0.01, 0.01)])
def test_its_interval_has_the_true_drop_in_nineteen_of_twenty(asked, shares):
    """``shares``: of questions that both, only the one, and only the other answer rightly."""
    draws = random.Random(1)
    both, lost, won = shares
    kinds = [("1", "1"), ("1", "0"), ("0", "1"), ("0", "0")]
    weights = [both, lost, won, max(0.0, 1 - both - lost - won)]
    held = 0
    for _ in range(1_000):
        pairs = draws.choices(kinds, weights, k=asked)
        before, after = (Accuracy("".join(pair[place] for pair in pairs)) for place in (0, 1))
        least, most = drop(after, before).interval
        held += least <= lost - won <= most
    assert held >= 930
