"""The simulation of docs/flow-figures.md still comes to what it says there: it is deterministic, and has its own clock."""

import itertools
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.flow import limited, prefixes, windows  # noqa: E402
from benchmarks.flow.figures import figures, max_min  # noqa: E402
from benchmarks.flow.simulate import run  # noqa: E402
from benchmarks.flow.workload import workload  # noqa: E402

from penstock.lab.trace import TraceCall  # noqa: E402

SECONDS = 200.0
TRACE = ROOT / "tests" / "lab" / "data" / "azure_small.csv"


def served(load, system, trace=None):
    arrivals = workload(load, SECONDS, trace)
    run(system, arrivals)
    return arrivals


def at(load, system, trace=None):
    return figures(served(load, system, trace), SECONDS / 4)


def test_twice_too_many_calls_waste_nothing_and_the_top_tier_does_not_notice():
    arrivals = served(2.0, "gate")
    heavy = figures(arrivals, SECONDS / 4)
    assert heavy.goodput >= 0.95
    alone = sorted(call.prefill for call in arrivals if call.tier == "realtime" and call.at >= SECONDS / 4)
    assert heavy.p99["realtime"] <= 1.3 * alone[int(0.99 * (len(alone) - 1))]
    assert heavy.in_time["realtime"] > 0.99  # the last ones are cut off by the end
    assert heavy.jain >= 0.98


def test_no_tenant_gets_less_than_nine_tenths_of_its_fair_share():
    arrivals = workload(2.0, 2 * SECONDS, None)  # in less time, chance makes up for more than a tenth
    run("gate", arrivals)
    assert figures(arrivals, SECONDS / 2).least_share >= 0.9


def test_first_come_first_served_would_fail_the_top_tier_altogether():
    assert at(2.0, "fcfs").in_time["realtime"] < 0.2


def test_traces_can_be_replayed():
    assert at(0.5, "gate", str(TRACE)).in_time["realtime"] > 0.99


def test_a_providers_rate_is_used_and_it_has_nothing_to_refuse():
    used, refused = limited.run(limited.gated, "honest", 1)
    assert used >= 0.95
    assert refused < 0.005


@pytest.mark.parametrize("told", ["silent", "always full", "tenfold"])
def test_a_rate_that_is_not_told_or_not_in_truth_is_found_out_and_used(told):
    used, refused = limited.run(limited.gated, told, 1)
    assert used >= 0.95
    assert refused < 0.005


@pytest.mark.parametrize(
    ("asked", "there_is", "fair"),
    [
        ({"a": 9.0, "b": 1.0}, 6.0, {"a": 5.0, "b": 1.0}),
        ({"a": 9.0, "b": 8.0}, 6.0, {"a": 3.0, "b": 3.0}),
        ({"a": 1.0, "b": 1.0}, 6.0, {"a": 1.0, "b": 1.0}),
    ],
)
def test_fair_is_that_nobody_gets_more_by_asking_more(asked, there_is, fair):
    assert max_min(asked, there_is) == fair


def test_requests_that_go_when_a_place_is_free_are_as_large_as_the_upstream_is_slow_and_ten_calls_cost_ten_ms():
    """What docs/flow-figures.md says of batches of calls that come at random."""
    calls = windows.arrivals()
    for time, places, in_one in ((0.01, 1, 5.0), (0.02, 1, 10.0), (0.02, 2, 5.0), (0.04, 2, 10.0)):
        requests = windows.as_free(calls, time, places)
        assert len(calls) / len(requests) == pytest.approx(in_one, rel=0.02)
        assert windows.added(requests, time, places) == pytest.approx(in_one / windows.RATE / 2, rel=0.05)
    assert windows.added(windows.evenly(calls, 0.0, 1_000), 0.0, 1_000) == pytest.approx(0.01, rel=0.05)


def test_the_adaptive_window_alone_does_not_keep_up_with_an_upstream_of_few_places():
    calls = windows.arrivals()
    requests = windows.adaptively(calls, 0.02, 2)
    assert sum(len(taken) for _, taken in requests) >= len(calls) - 5  # those of the last window are not sent
    assert windows.added(requests, 0.02, 2) is None
    assert windows.added(requests, 0.02, 4) < 0.005


def test_with_places_said_it_keeps_up_and_requests_are_as_large_as_they_must_be():
    calls = windows.arrivals()
    for time, places, in_one in ((0.02, 1, 10.0), (0.02, 2, 5.0), (0.04, 2, 10.0), (0.02, 4, 3.4)):
        requests = windows.gated(calls, time, places)
        assert sorted(call for _, taken in requests for call in taken) == calls
        assert len(calls) / len(requests) == pytest.approx(in_one, rel=0.02)
        assert windows.added(requests, time, places) <= max(in_one / windows.RATE / 2 * 1.05, 0.0035)


@pytest.mark.parametrize("gateways", [1, 3])
def test_prompts_that_go_where_their_beginning_is_have_their_first_tokens_sooner(gateways):
    rand, trace, blocks = random.Random(1), [], itertools.count(1)
    talks = [[0] for _ in range(60)]  # all begin alike
    for number in range(900):
        talk = rand.choice(talks)
        talk += [next(blocks) for _ in range(rand.randrange(2, 8))]
        trace.append(TraceCall(number * 0.18, 512 * len(talk), 100, tuple(talk)))
    asked = prefixes.calls(trace)
    means = {}
    for way in prefixes.WAYS:
        prefixes.run(way, asked, 4, gateways, prefixes.CACHE)
        means[way] = sum(call.first_token for call in asked) / len(asked)
    assert means["prefix"] < 0.7 * means["4 KiB, bounded"]
    assert means["prefix"] < 0.1 * min(means["round robin"], means["least_busy"])
    # Conversations all alike are what a ring is best for, above all where several gateways know nothing of each other.
    assert means["prefix"] < (1.5 if gateways == 1 else 2.5) * means["session on a ring"]
