"""What the answers of an upstream that is asked how it is come to."""

from penstock.config.model import HealthConfig
from penstock.flow.health import LEAST_SHARE, UNWELL, Health

DRAWN = 0.5


def health(**more):
    return Health(
        HealthConfig(**{"unhealthy_after": 3, "healthy_after": 2, "slow_start": 30.0, **more}), lambda: DRAWN
    )


def answers(one, *what, now=100.0):
    """Whether each answer is to be told of."""
    return [one.answered(now, succeeds=each) for each in what]


def test_so_many_failures_in_a_row_make_it_unwell():
    one = health()
    answers(one, False, False, True, False, False)
    assert (one.well, one.behind(100.0)) == (True, 0.0)
    answers(one, False)
    assert (one.well, one.behind(100.0)) == (False, UNWELL)


def test_so_many_successes_in_a_row_make_it_well_again():
    one = health(slow_start=0.0)
    answers(one, False, False, False, True, False, True)
    assert not one.well
    answers(one, True)
    assert (one.well, one.behind(100.0)) == (True, 0.0)


def test_one_that_is_there_from_the_beginning_comes_back_from_nowhere():
    one = health()
    answers(one, True, True, True)
    assert one.behind(100.0) == 0.0


def test_one_that_comes_back_gets_its_share_little_by_little():
    one = health()
    one.heard(100.0, well=False)
    one.heard(200.0, well=True)
    assert 0.0 < one.behind(200.0) < 1.0
    assert 0.0 < one.behind(214.0) < 1.0
    assert one.behind(216.0) == 0.0
    assert one.behind(230.0) == 0.0
    assert one.behind(201.0) == 0.0  # it has come


def test_it_gets_some_calls_from_the_beginning():
    one = Health(HealthConfig(slow_start=30.0), lambda: LEAST_SHARE / 2)
    one.heard(100.0, well=False)
    one.heard(200.0, well=True)
    assert one.behind(200.0) == 0.0


def test_others_are_told_what_is_new_and_again_that_one_is_unwell():
    one = health()
    assert answers(one, True, True, True) == [False, True, False]
    assert answers(one, False, False, False, False) == [False, False, True, True]
    assert answers(one, True, True, True) == [False, True, False]


def test_what_others_have_found_out_counts_until_there_is_an_own_verdict():
    one = health()
    one.heard(100.0, well=False)
    assert one.verdict is None
    assert answers(one, True, True) == [False, True]
    assert one.well
