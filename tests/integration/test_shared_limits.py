"""One limit, several processes, real ones: what they admit together."""

import sys
from pathlib import Path

import pytest

from needing import needs_redis
from penstock.testing.redis import RedisServer

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.flow import budgets, bursts, places  # noqa: E402
from benchmarks.flow.leases import UNEVEN, measure  # noqa: E402

SECONDS = 10.0  # of real time: what is measured is a rate


@pytest.mark.slow  # starts four gateways, uses up a full bucket, and counts for ten seconds
@needs_redis
def test_four_gateways_keep_to_one_limit_while_their_redis_is_killed_and_nothing_fails():
    figures = measure("requests", UNEVEN, SECONDS, per_minute=1_200, kill=True)
    assert figures.failed == []
    assert figures.refused
    assert -0.2 < figures.off < 0.15  # of ten seconds; the benchmark counts a minute


@pytest.mark.slow  # several processes, and bursts at limits that are new to them
@pytest.mark.parametrize(
    ("processes", "redis", "kind"), [(2, True, "requests"), (4, True, "tokens"), (4, False, "requests")]
)
def test_a_small_limit_is_exact_from_the_first_instant(processes, redis, kind):
    if redis and not RedisServer.available():
        pytest.skip("needs redis-server")
    found = bursts.measure(processes, redis=redis, kind=kind, rounds=3, seconds=1.0)
    assert [figures.other for figures in found] == [[]] * len(found)
    exact = [
        figures
        for figures in found
        if sorted(figures.began)[1] == figures.limit
        and (kind == "tokens" or figures.beyond < 0.5)  # of tokens, what was reserved and not used comes back
    ]
    assert len(exact) >= 3  # where the machine is so busy that an exchange takes too long, shares count


@pytest.mark.slow  # four gateways whose Redis ends, or hangs, while calls ask for their part
@needs_redis
@pytest.mark.parametrize("stops", ["kill", "freeze"])
def test_a_small_limit_is_kept_to_by_shares_when_there_is_no_redis_any_more(stops):
    (figures,) = bursts.measure(4, redis=True, limits=(20,), rounds=1, seconds=5.0, stops=stops)
    assert figures.other == []
    assert figures.went_on >= figures.limit
    assert figures.beyond <= figures.limit  # an even part for each that had not heard of it yet


@pytest.mark.slow  # the same with the workers of one gateway
def test_four_workers_keep_to_one_limit_without_a_redis():
    figures = measure("requests", (1.0,), SECONDS, per_minute=1_200, redis=False)
    assert figures.failed == []
    assert figures.refused
    assert -0.15 < figures.off < 0.1


@pytest.mark.slow  # starts four processes, and counts for some seconds while one of them is killed
def test_no_more_calls_are_under_way_than_the_limit_also_when_a_worker_is_killed():
    figures = places.measure(5.0, redis=False, kill=True)
    assert figures.other == []
    assert figures.refused
    assert figures.answered > places.LIMIT
    assert 1 < figures.most <= places.LIMIT


@pytest.mark.slow  # four processes, and three seconds of a flood
@pytest.mark.parametrize(("redis", "scope"), [(False, "keys"), (True, "keys"), (True, "upstreams")])
def test_four_processes_in_a_flood_spend_no_more_than_their_budget(redis, scope):
    if redis and not RedisServer.available():
        pytest.skip("needs redis-server")
    figures = budgets.measure(20, 3.0, redis=redis, scope=scope)
    assert figures.other == []
    assert figures.refused
    assert -2 <= figures.beyond <= 0
