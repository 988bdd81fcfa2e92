"""Two processes with a part of a model each."""

from __future__ import annotations

import pytest

from penstock.optimize import parallel
from penstock.optimize.faults import StepFailed, UnusableModel
from penstock.optimize.model_directory import open_model


@pytest.mark.slow  # two processes that import PyTorch
@pytest.mark.parametrize("division", parallel.Division)
def test_a_divided_model_says_what_the_whole_says(model, division):
    told = parallel.divide(open_model(model), division, 2)
    assert told.logits_differ_by < 1e-5
    assert told.parameters / 2 <= told.held < 0.8 * told.parameters


@pytest.mark.slow  # likewise
@pytest.mark.parametrize(("division", "ranks"), [("tensor", 3), ("pipeline", 5)])
def test_a_model_that_does_not_divide_so_is_refused(model, division, ranks):
    """Four heads among three, four layers among five."""
    with pytest.raises(StepFailed, match=f"cannot be divided into {ranks}"):
        parallel.divide(open_model(model), parallel.Division(division), ranks)


def test_what_says_something_else_is_refused(model, monkeypatch):
    told = parallel.Divided(parallel.Division.TENSOR, 2, 4, 2, 0.01)
    monkeypatch.setattr(parallel, "_run", lambda *_: told)
    with pytest.raises(StepFailed, match="something else"):
        parallel.divide(open_model(model), parallel.Division.TENSOR, 2)


def test_what_is_whole_in_each_process_is_not_divided(model, monkeypatch):
    told = parallel.Divided(parallel.Division.TENSOR, 2, 4, 4, 0.0)
    monkeypatch.setattr(parallel, "_run", lambda *_: told)
    with pytest.raises(StepFailed, match="has not been divided"):
        parallel.divide(open_model(model), parallel.Division.TENSOR, 2)


def test_a_model_that_would_not_fit_is_refused_before_it_is_loaded(model):
    with pytest.raises(UnusableModel, match="100000000 processes"):
        parallel.divide(open_model(model), parallel.Division.TENSOR, 100_000_000)
