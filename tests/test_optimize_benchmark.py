"""The benchmark of smaller models asks for what can be made, and judges it by its goals."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.optimize import GOALS, INT4, variants  # noqa: E402

from penstock.optimize.figures import Figures, Speed  # noqa: E402
from penstock.optimize.model_directory import Runtime  # noqa: E402


def figures(name, perplexity, decode, size):
    return Figures(name, "onnx", size, perplexity, 40, (Speed(1, 5.0, decode, 0.1),), 7, 9)


def test_each_variant_can_be_asked_for_and_each_goal_has_one():
    named = set()
    for runtime in Runtime:
        for name, step in variants(runtime, Path("texts.txt")).items():
            assert step.mistakes() == []
            assert step.runtime_after == runtime
            named.add(name)
    assert set(GOALS) <= named


@pytest.mark.parametrize(
    ("after", "word"),
    [
        ((100.9, 31.0, 16), "met"),
        ((101.1, 31.0, 16), "SHORT"),
        ((100.9, 29.0, 16), "SHORT"),
        ((100.9, 31.0, 17), "SHORT"),
    ],
)
def test_a_goal_is_met_in_all_of_its_parts_or_not(after, word):
    told = INT4.verdict(figures("int4", *after), figures("fp32", 100.0, 10.0, 100))
    assert told.split()[:3] == [word, "onnx", "int4:"]
    assert "at most 1.0 %" in told
