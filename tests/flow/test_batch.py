import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import BatchingConfig
from penstock.flow.batch import MAX_KEYS, Batching


def play(arrivals, config=None, inputs=1, size=100):
    """``(waits, groups)`` of calls that come at these moments, each group sent when it is due."""
    batching = Batching(config or BatchingConfig())
    due, sent = [], []

    def close(group, now):
        batching.close(group)
        due.remove(group)
        sent.append((now, group))

    for number, now in enumerate(arrivals):
        for group in due:
            if group.closes_at <= now:
                close(group, group.closes_at)
        group, passed = batching.put("k", (number, now), inputs, size, now)
        if passed is not None:
            close(passed, now)
        if group not in due:
            due.append(group)
        if group.closed:
            close(group, now)
    for group in due:
        close(group, group.closes_at)
    waits = [at - came for at, group in sent for _, came in group.members]
    return waits, [group for _, group in sent]


def poisson(rate, calls, seed=1):
    rand, now = random.Random(seed), 100.0
    for _ in range(calls):
        now += rand.expovariate(rate)
        yield now


def median(values):
    return sorted(values)[len(values) // 2]


def test_a_call_that_is_alone_waits_for_nobody():
    waits, groups = play([100.0 + i for i in range(50)])
    assert max(waits) == 0.0
    assert len(groups) == 50


@pytest.mark.parametrize("rate", [1, 10, 50])
def test_where_waiting_cannot_pay_most_calls_do_not_wait(rate):
    waits, _ = play(list(poisson(rate, 2_000)))
    assert median(waits) == 0.0
    assert sum(wait > 0 for wait in waits) < len(waits) / 10


def test_a_fixed_window_makes_them_wait_all_the_same():
    config = BatchingConfig(window="fixed", max_queue_delay=0.1)
    waits, groups = play([100.0 + i for i in range(50)], config)
    assert min(waits) == pytest.approx(0.1)
    assert len(groups) == 50


def test_bursts_share_a_request_and_wait_no_longer_than_they_last():
    rand, arrivals, now = random.Random(1), [], 100.0
    for _ in range(60):
        now += 0.06
        arrivals += sorted(now + rand.random() * 0.002 for _ in range(30))
    waits, groups = play(arrivals)
    assert len(arrivals) / len(groups) > 20
    assert median(waits) < 0.003


def test_what_comes_all_the_time_is_put_together_up_to_the_longest_wait():
    config = BatchingConfig(max_queue_delay=0.02)
    waits, groups = play(list(poisson(2_000, 10_000)), config)
    assert 10_000 / len(groups) > 10
    assert max(waits) <= 0.02 + 1e-9


def test_a_full_group_goes_at_once():
    waits, groups = play([100.0] * 64, BatchingConfig(window="fixed", max_batch_size=16))
    assert [group.inputs for group in groups] == [16] * 4
    assert max(waits) == 0.0


def test_a_call_that_does_not_fit_closes_the_group_and_opens_the_next():
    config = BatchingConfig(window="fixed", max_batch_size=10)
    _, groups = play([100.0] * 5, config, inputs=4)
    assert [group.inputs for group in groups] == [8, 8, 4]
    _, groups = play([100.0] * 5, BatchingConfig(window="fixed", max_batch_bytes=1_000), size=400)
    assert [group.bytes for group in groups] == [800, 800, 400]


def test_what_fills_a_request_by_itself_is_not_admitted():
    batching = Batching(BatchingConfig(max_batch_size=10, max_batch_bytes=1_000))
    assert batching.admits(9, 999)
    assert not batching.admits(10, 10)
    assert not batching.admits(1, 1_000)


def test_who_leaves_is_not_sent_and_an_empty_group_is_closed():
    batching = Batching(BatchingConfig(window="fixed"))
    group, _ = batching.put("k", "a", 1, 1, 100.0)
    batching.put("k", "b", 1, 1, 100.0)
    batching.leave(group, "a", 1, 1)
    assert (group.members, group.inputs, group.bytes) == (["b"], 1, 1)
    batching.leave(group, "b", 1, 1)
    assert group.closed
    assert batching.put("k", "c", 1, 1, 100.0)[0] is not group


@pytest.mark.parametrize("window", ["fixed", "adaptive"])
def test_whose_time_has_come_while_there_is_no_place_is_joined_until_it_goes_or_is_full(window):
    batching = Batching(BatchingConfig(window=window, max_queue_delay=0.01, max_batch_size=3))
    group, _ = batching.put("k", "a", 1, 1, 100.0, room=False)
    if not group.held:
        batching.due(group, room=False)
    assert (group.closed, group.closes_at) == (False, inf)
    assert batching.put("k", "b", 1, 1, 200.0, room=False)[0] is group
    assert not group.closed
    assert batching.put("k", "c", 1, 1, 300.0, room=False)[0] is group
    assert group.closed
    following, _ = batching.put("k", "d", 1, 1, 300.0, room=False)
    assert following is not group
    batching.due(following, room=True)
    assert following.closed


def test_keys_do_not_mix_and_do_not_add_up():
    batching = Batching(BatchingConfig())
    for i in range(MAX_KEYS * 2):
        group, _ = batching.put(i, i, 1, 1, 100.0 + i)
        assert group.members == [i]
    assert len(batching._gaps) <= MAX_KEYS
    assert repr(batching) == "<Batching, 0 groups open>"


@given(st.lists(st.floats(0.0, 0.02), max_size=200), st.sampled_from(["adaptive", "fixed"]))
def test_every_call_goes_exactly_once_and_nobody_waits_too_long(gaps, window):
    now, arrivals = 100.0, []
    for gap in gaps:
        now += gap
        arrivals.append(now)
    config = BatchingConfig(window=window, max_batch_size=8)
    waits, groups = play(arrivals, config)
    assert sorted(number for group in groups for number, _ in group.members) == list(range(len(gaps)))
    assert all(0.0 <= wait <= config.max_queue_delay + 1e-9 for wait in waits)
    assert all(group.inputs <= 8 for group in groups)
