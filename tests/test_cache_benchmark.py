"""What docs/caching.md says of the tiers together stays true: the simulation is deterministic, and has its own clock."""

import math
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.cache.hit_ratio import drifting  # noqa: E402
from benchmarks.cache.savings import FEWER, TIERS, Workload, hits  # noqa: E402

from penstock.messages import Usage  # noqa: E402


def found(tiers=TIERS, **more):
    rand = random.Random(1)
    accesses = drifting(1.0, 5_000, 40_000, rand, every=5_000)
    work = Workload("", accesses, 50.0, 3_600.0, 80, Usage())
    return sum(hits(work, rand, tiers, **more).values())


def test_no_tier_that_is_added_takes_hits_away():
    together = found()
    assert together >= max(map(found, FEWER))
    assert found(told_every=math.inf) < found(["Redis"])  # that is what Redis is told of uses for
