"""What docs/caching.md says of wrong answers to similar questions stays true, of fewer questions."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from penstock.cache.semantic.encoder import NoEncoder, packaged  # noqa: E402

try:
    packaged()
except NoEncoder as missing:
    pytest.skip(str(missing), allow_module_level=True)

from benchmarks.cache.paraphrases import questions  # noqa: E402
from benchmarks.cache.semantic import DELTAS, Remembering, fixed, fresh, learned  # noqa: E402

CALLS = 500


@pytest.fixture(scope="module")
def vectors():
    return Remembering()


@pytest.mark.parametrize("delta", DELTAS)
def test_no_more_is_wrong_than_is_allowed_and_a_fixed_threshold_is_wrong_more_often(delta, vectors):
    asked = list(fresh(list(questions(CALLS, random.Random(1), near=0.2))))
    outcome = asyncio.run(learned(asked, vectors, delta, 1))
    given = sum(hit for hit, _ in outcome)
    assert given > 20
    assert sum(wrong for _, wrong in outcome) <= delta * given
    usual = asyncio.run(fixed(asked, vectors, 0.9))
    assert sum(wrong for _, wrong in usual) > 0.05 * sum(hit for hit, _ in usual)
