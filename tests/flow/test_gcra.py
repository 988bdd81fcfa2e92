from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.flow.gcra import Bucket, correct, correct_by, fit, take, take_for_good, take_of_full


def test_a_full_bucket_gives_all_of_it_at_once_and_then_at_its_rate():
    bucket = Bucket(60)
    for _ in range(60):
        assert bucket.wait(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait(1, 0.5) == pytest.approx(0.5)
    assert bucket.wait(1, 1.0) == 0


def test_what_is_left_and_when_it_is_full_again():
    bucket = Bucket(60)
    assert (bucket.left(5.0), bucket.full_in(5.0)) == (60, 0)
    bucket.take(30, 5.0)
    assert (bucket.left(5.0), bucket.full_in(5.0)) == (30, 30)
    assert (bucket.left(15.0), bucket.full_in(15.0)) == (pytest.approx(40), 20)


def test_who_wants_more_than_it_holds_waits_until_it_is_full_and_leaves_a_debt():
    bucket = Bucket(60)
    bucket.take(1, 0.0)
    assert bucket.wait(600, 0.0) == pytest.approx(1.0)
    bucket.take(600, 1.0)
    assert bucket.left(1.0) == 0
    assert bucket.wait(1, 1.0) == pytest.approx(541.0)


def test_a_limit_of_zero_lets_nothing_in_ever():
    bucket = Bucket(0)
    assert bucket.wait(1, 0.0) == bucket.wait(1, 1e9) == inf
    bucket.take(1, 0.0)
    bucket.correct(1, 0.0)
    assert bucket.left(1e9) == 0


def test_what_was_taken_too_much_comes_back():
    bucket = Bucket(60)
    bucket.take(40, 0.0)
    bucket.correct(-30, 0.0)
    assert bucket.left(0.0) == 50


def test_what_has_filled_up_by_itself_does_not_come_back_a_second_time():
    bucket = Bucket(60)
    bucket.take(40, 0.0)
    bucket.take(60, 100.0)  # it was full long before
    bucket.correct(-30, 0.0)
    assert bucket.left(100.0) == 0


def test_a_clock_that_is_set_back_does_not_fill_it():
    bucket = Bucket(60)
    bucket.take(60, 1_000.0)
    assert bucket.left(10.0) == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(1, 200), st.floats(0, 2), st.floats(0, 300)), max_size=40
    )
)
def test_in_no_stretch_of_time_is_more_used_than_the_bucket_and_its_rate_allow(calls):
    """Estimates that are at least what is used, settled at any time later: never more than limit + rate·t."""
    bucket = Bucket(100.0)
    now = 0.0
    used = []
    open_calls = []
    for pause, wanted, share, duration in calls:
        now += pause
        for ends, taken_at, over in sorted(open_calls):
            if ends <= now:
                bucket.correct(-over, taken_at)
        open_calls = [each for each in open_calls if each[0] > now]
        estimate = min(wanted, 100)
        if bucket.wait(estimate, now) == 0:
            bucket.take(estimate, now)
            true = estimate * min(share, 1.0)
            used.append((now, true))
            open_calls.append((now + duration, now, estimate - true))
    for first in range(len(used)):
        for last in range(first, len(used)):
            allowed = 100 + (used[last][0] - used[first][0]) * 100 / 60
            assert sum(true for _, true in used[first : last + 1]) <= allowed + 1e-6


_TIMES = st.lists(st.tuples(st.floats(0, 90), st.integers(1, 150), st.integers(0, 300)), max_size=25)


@given(_TIMES)
def test_several_buckets_are_taken_from_and_corrected_as_each_would_be_by_itself(calls):
    now = 0.0
    together, alone = [[(Bucket(100), Bucket(40)), (Bucket(100), Bucket(40))] for _ in range(2)]
    for passed, units, used in calls:
        now += passed
        full = all(bucket.full_at <= now for kind in together for bucket in kind)
        assert fit(together[1], units, now) is not any(bucket.wait(units, now) for bucket in alone[1])
        quick = units <= 40 and take_of_full(*together, units, now)
        assert quick is (units <= 40 and full)
        if not quick:
            take_for_good(together[0], now)
            take(together[1], units, now)
        for bucket in alone[0]:
            bucket.take(1, now)
        for bucket in alone[1]:
            bucket.take(min(units, bucket.limit), now)
        if units <= 40:
            correct_by(together[1], used - units, now - 1.0)
        else:
            correct(together[1], units, used, now - 1.0)
        for bucket in alone[1]:
            bucket.correct(used - min(units, bucket.limit), now - 1.0)
        for kind, same in zip(together, alone, strict=True):
            assert [bucket.full_at for bucket in kind] == pytest.approx([bucket.full_at for bucket in same])
