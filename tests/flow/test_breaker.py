import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import BreakerConfig
from penstock.flow.breaker import Breaker, Ended, State

FINE = Ended(failed=False, first_token=0.1)
FAILED = Ended(failed=True)
SLOW = Ended(failed=False, first_token=1.5)


def feed(breaker, *calls, now=0.0):
    for ended in calls:
        breaker.end(ended, now, probe=breaker.begin())


def opened(now=0.0, **config):
    breaker = Breaker(BreakerConfig(slow_first_token=1.0, **config))
    feed(breaker, *[FAILED] * 20, now=now)
    assert breaker.state(now) is State.OPEN
    return breaker


def test_more_than_half_of_the_calls_failing_opens_it():
    breaker = Breaker(BreakerConfig())
    feed(breaker, *[FAILED] * 10, *[FINE] * 10)
    assert breaker.permits(0.0)
    feed(breaker, FAILED)
    assert not breaker.permits(0.0)
    assert (breaker.reason, breaker.wait(0.0)) == ("errors", 5.0)


def test_what_is_slow_is_not_known_before_it_is_said():
    breaker = Breaker(BreakerConfig())
    feed(breaker, *[Ended(failed=False, first_token=60.0, tokens_per_second=0.5)] * 100)
    assert breaker.permits(0.0)


def test_nine_of_ten_calls_slower_than_a_second_open_it():
    breaker = Breaker(BreakerConfig(slow_first_token=1.0))
    feed(breaker, *[FINE] * 2, *[SLOW] * 17)
    assert breaker.permits(0.0)
    feed(breaker, SLOW)
    assert (breaker.reason, breaker.state(0.0)) == ("slow", State.OPEN)


def test_too_slow_tokens_open_it_where_that_is_asked_for():
    slow = Ended(failed=False, first_token=0.1, tokens_per_second=3.0)
    breaker = Breaker(BreakerConfig())
    feed(breaker, *[slow] * 100)
    assert breaker.permits(0.0)
    breaker = Breaker(BreakerConfig(slow_tokens_per_second=5.0))
    feed(breaker, *[slow] * 20)
    assert breaker.reason == "slow_tokens"


def test_answers_whose_first_token_nobody_saw_are_not_slow():
    breaker = Breaker(BreakerConfig())
    feed(breaker, *[Ended(failed=False)] * 100)
    assert breaker.permits(0.0)


def test_nothing_is_concluded_from_a_few_calls():
    breaker = Breaker(BreakerConfig(least_calls=20))
    feed(breaker, *[FAILED] * 19)
    assert breaker.permits(0.0)


def test_what_is_out_of_the_window_does_not_count():
    breaker = Breaker(BreakerConfig(window=30.0))
    feed(breaker, *[FAILED] * 19, now=0.0)
    feed(breaker, FAILED, now=31.0)
    assert breaker.permits(31.0)


def test_after_its_time_probes_find_out_and_as_many_successes_close_it():
    breaker = opened(probes=2)
    assert not breaker.permits(4.99)
    assert breaker.permits(5.0)
    first, second = breaker.begin(), breaker.begin()
    assert (first, second) == (True, True)
    assert not breaker.permits(5.0)  # enough are under way
    breaker.end(FINE, 5.1, probe=True)
    assert breaker.state(5.1) is State.HALF_OPEN
    breaker.end(FINE, 5.2, probe=True)
    assert breaker.state(5.2) is State.CLOSED


@pytest.mark.parametrize("bad", [FAILED, SLOW])
def test_a_probe_that_fails_or_is_slow_opens_it_for_twice_as_long_but_not_for_ever(bad):
    breaker = opened(max_open_for=15.0)
    feed(breaker, bad, now=5.0)
    assert breaker.wait(5.0) == 10.0
    feed(breaker, bad, now=15.0)
    assert breaker.wait(15.0) == 15.0
    feed(breaker, FINE, FINE, FINE, now=30.0)
    feed(breaker, *[FAILED] * 20, now=30.0)
    assert breaker.wait(30.0) == 5.0  # having been well, it begins anew


def test_a_probe_whose_caller_leaves_gives_back_its_place():
    breaker = opened(probes=1)
    breaker.begin()
    assert not breaker.permits(5.0)
    breaker.end(None, 5.5, probe=True)
    assert breaker.permits(5.5)


def test_calls_that_began_before_it_opened_change_nothing():
    breaker = opened()
    breaker.end(FINE, 1.0, probe=False)
    breaker.end(FAILED, 6.0, probe=False)
    assert breaker.state(6.0) is State.HALF_OPEN


def test_the_last_one_standing_is_probed_and_never_shut_out():
    breaker = opened(probes=2)
    assert not breaker.permits(1.0)
    assert breaker.permits(1.0, last=True)
    feed(breaker, FAILED, FAILED, FAILED, now=1.0)
    assert breaker.wait(1.0) == 4.0  # its failures do not add up
    breaker.begin(), breaker.begin()
    assert not breaker.permits(1.0, last=True)  # but only so many at once
    breaker.end(FINE, 2.0, probe=True), breaker.end(FINE, 2.0, probe=True)
    assert breaker.state(2.0) is State.CLOSED


def test_a_clock_that_is_set_back_shuts_nobody_out_for_long():
    breaker = opened(now=1_000.0)
    assert breaker.wait(1_000.0) == 5.0
    feed(Breaker(BreakerConfig()), *[FAILED] * 5, now=-1_000.0)


@given(st.lists(st.tuples(st.sampled_from([FINE, FAILED, SLOW, None]), st.floats(0, 20)), max_size=200))
def test_it_always_comes_back(steps):
    """Whatever happened: a minute later a call is permitted, and well ones close it."""
    breaker = Breaker(BreakerConfig(least_calls=2))
    now = 0.0
    for ended, pause in steps:
        now += pause
        if breaker.permits(now):
            breaker.end(ended, now, probe=breaker.begin())
    now += 60.0
    assert breaker.permits(now)
    feed(breaker, *[FINE] * 3, now=now)
    assert breaker.state(now) is State.CLOSED
