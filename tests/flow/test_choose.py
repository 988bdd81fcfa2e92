import collections
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.flow import choose
from penstock.flow.choose import FAILED, MAX_MODELS, Option, Standing, Standings


def never():
    return 0.0


def standing(seconds=None, *, pace=None, in_progress=0, now=0.0):
    made = Standing()
    if seconds is not None:
        made.begin()
        made.answered(seconds, 100, pace, now)
        made.end()
    for _ in range(in_progress):
        made.begin()
    return made


def options(*standings):
    return [Option(1.0, each) for each in standings]


# ---- drawn, cheapest ----


def test_everybody_is_drawn_as_often_as_the_weight_says():
    rand = random.Random(1).random
    first = collections.Counter(choose.drawn([1.0, 3.0], rand)[0] for _ in range(4_000))
    assert 0.72 < first[1] / 4_000 < 0.78


def test_the_cheapest_goes_first_and_one_without_a_known_price_last():
    assert choose.cheapest([1.0] * 4, [30, 10, None, 20], never) == [1, 3, 0, 2]


def test_equal_prices_are_drawn():
    rand = random.Random(1).random
    first = {choose.cheapest([1.0] * 3, [5, 5, 9], rand)[0] for _ in range(100)}
    assert first == {0, 1}


# ---- fastest ----


def test_the_fastest_to_answer_goes_first():
    assert choose.fastest(options(standing(0.5), standing(0.1)), never, 0.0, None) == [1, 0]


def test_a_long_answer_is_fastest_where_tokens_come_fast_and_a_short_one_where_the_first_does():
    both = options(standing(0.1, pace=20.0), standing(1.0, pace=200.0))
    assert choose.fastest(both, never, 0.0, 5)[0] == 0
    assert choose.fastest(both, never, 0.0, None)[0] == 1


def test_of_whom_nothing_is_known_one_call_finds_out():
    known, unknown = standing(0.5), standing()
    assert choose.fastest(options(known, unknown), never, 0.0, None)[0] == 1
    unknown.begin()
    assert choose.fastest(options(known, unknown), never, 0.0, None)[0] == 0


def test_one_that_was_slow_is_tried_again_by_one_call():
    slow, quick = standing(2.0), standing(0.5)
    for now in range(200):
        quick.begin()
        quick.answered(0.5, 0, None, float(now))
        quick.end()
        if choose.fastest(options(slow, quick), never, float(now), None)[0] == 0:
            slow.begin()
            assert choose.fastest(options(slow, quick), never, float(now), None)[0] == 1
            break
    else:
        pytest.fail("it was never tried again")
    assert now > 30


def test_who_fails_fast_does_not_look_quick():
    failing = standing()
    failing.begin()
    failing.failed(0.001, 0.0)
    failing.end()
    assert choose.fastest(options(failing, standing(1.0)), never, 0.0, None)[0] == 1
    assert failing.load(0.0) >= FAILED


def test_a_plain_answer_counts_without_what_its_tokens_take():
    made = standing(0.5, pace=100.0)
    for _ in range(100):
        made.answered_whole(10.5, 1_000, 0.0)
    assert made.takes(0.0, 0) == pytest.approx(0.5)


def test_who_was_given_up_because_it_was_late_counts_as_late():
    made = standing(0.5)
    made.outlived(0.1, 0.0)
    assert made.takes(0.0, 0) == pytest.approx(0.5)
    made.outlived(5.0, 0.0)
    assert made.takes(0.0, 0) > 0.9


# ---- least busy ----


def test_the_less_busy_of_two_goes_first():
    both = options(standing(0.5, in_progress=5), standing(0.5, in_progress=2))
    assert choose.least_busy(both, never, 0.0) == [1, 0]


def test_slow_ones_are_busy_sooner():
    both = options(standing(2.0, in_progress=1), standing(0.5, in_progress=5))
    assert choose.least_busy(both, never, 0.0) == [1, 0]


def test_a_rise_counts_at_once_and_a_fall_slowly():
    made = standing(0.1)
    made.answered(5.0, 0, None, 0.0)
    assert made.load(0.0) == 5.0
    made.answered(0.1, 0, None, 0.0)
    assert made.load(0.0) > 4.0


def simulate(choice, seconds, calls=4_000, gap=0.02, seed=1):
    """Calls under way per option, where one call at ``i`` takes ``seconds[i]``: the most, and how many went where."""
    rand = random.Random(seed)
    each = options(*[Standing() for _ in seconds])
    running, went, most = [], collections.Counter(), [0] * len(seconds)
    for number in range(calls):
        now = number * gap
        for done in [one for one in running if one[0] <= now]:
            running.remove(done)
            each[done[1]].standing.answered(seconds[done[1]], 0, None, done[0])
            each[done[1]].standing.end()
        chosen = choice(each, rand.random, now)[0]
        each[chosen].standing.begin()
        went[chosen] += 1
        most[chosen] = max(most[chosen], each[chosen].standing.in_progress)
        running.append((now + seconds[chosen], chosen))
    return most, went


def test_among_equals_nobody_has_many_more_calls_than_the_others():
    most, went = simulate(choose.least_busy, [0.5] * 4)
    assert max(most) <= 12  # 25 are under way at a time
    assert min(went.values()) > 800


def test_slower_ones_get_fewer_calls():
    _, went = simulate(choose.least_busy, [0.2, 0.2, 1.6])
    assert went[2] < min(went[0], went[1]) / 3
    assert went[2] > 10


def test_nearly_all_calls_go_to_the_fastest():
    _, went = simulate(lambda each, rand, now: choose.fastest(each, rand, now, None), [0.2, 0.4, 0.8])
    assert went[0] > 3_900


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.floats(0.0, 0.999))
def test_every_order_has_everybody_once(in_progress, chance):
    each = options(*[standing(0.1 * i, in_progress=busy) for i, busy in enumerate(in_progress)])
    everybody = set(range(len(each)))
    weights = [1.0] * len(each)
    for order in (
        choose.drawn(weights, lambda: chance),
        choose.cheapest(weights, [None, *in_progress[1:]], lambda: chance),
        choose.fastest(each, lambda: chance, 1.0, None),
        choose.least_busy(each, lambda: chance, 1.0),
    ):
        assert len(order) == len(each)
        assert set(order) == everybody


def test_invented_models_do_not_add_up():
    standings = Standings()
    for i in itertools.repeat(0, 3):
        assert standings.of(f"m{i}") is standings.of("m0")
    for i in range(MAX_MODELS * 2):
        standings.of(f"m{i}")
    assert repr(standings) == f"<Standings of {MAX_MODELS} models>"
