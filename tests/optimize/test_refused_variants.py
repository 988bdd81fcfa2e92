"""A model that has lost more than it may is refused."""

from __future__ import annotations

import contextlib

import pytest

from penstock.optimize.accuracy import Accuracy
from penstock.optimize.faults import TooMuchLost
from penstock.optimize.figures import Figures
from penstock.optimize.gate import Gate


def figures(name, perplexity=10.0, right=None):
    accuracy = None if right is None else Accuracy("1" * right + "0" * (100 - right))
    return Figures(name, "transformers", 1, perplexity, 1, (), 1, 1, accuracy)


def refused(when, match):
    return pytest.raises(TooMuchLost, match=match) if when else contextlib.nullcontext()


@pytest.mark.parametrize(
    ("perplexity", "too_much"), [(10.9, False), (11.1, True), (float("nan"), True), (9.0, False)]
)
def test_of_perplexity_so_large_a_share_may_be_lost(perplexity, too_much):
    with refused(too_much, "small loses .* of large's perplexity, more than 10.0%"):
        Gate(max_loss=0.1).require(figures("small", perplexity), figures("large"))


@pytest.mark.parametrize(("right", "too_much"), [(78, False), (77, True), (100, False), (0, True)])
def test_of_right_answers_so_large_a_share_of_the_questions_may_be_lost(right, too_much):
    with refused(too_much, rf"small answers {right} of 100 questions rightly, large 80: .* more than 2\.0%"):
        Gate(max_drop=0.02).require(figures("small", right=right), figures("large", right=80))


def test_how_sure_a_drop_is_is_told():
    with pytest.raises(TooMuchLost, match=r"10\.0% fewer \(by 3\.4% to 16\.2% with a confidence of 95 %\)"):
        Gate(max_drop=0.0).require(figures("small", right=70), figures("large", right=80))


def test_each_bound_counts_by_itself():
    gate = Gate(max_loss=0.1, max_drop=0.02)
    large = figures("large", right=80)
    gate.require(figures("small", 10.5, 79), large)
    for small in (figures("small", 12.0, 90), figures("small", 5.0, 70)):
        with pytest.raises(TooMuchLost):
            gate.require(small, large)


def test_without_bounds_everything_may_be_lost():
    assert not Gate()
    Gate().require(figures("small", float("inf"), 0), figures("large", right=80))
    assert all((Gate(max_loss=0.0), Gate(max_drop=0.0)))


def test_bounds_that_make_no_sense_are_told():
    assert Gate(0.1, 0.1).mistakes(questions=True) == []
    assert Gate(-0.1, 1.1).mistakes(questions=True) == ["max_loss: not below 0", "max_drop: from 0 to 1"]
    (mistake,) = Gate(max_drop=0.1).mistakes(questions=False)
    assert mistake.startswith("max_drop: right answers are counted of questions")
