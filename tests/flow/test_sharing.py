"""The pool of shared limits, in Python."""

import pytest

from penstock.flow.credit import Use
from penstock.flow.sharing import FADING, FLOOR, LIFE, Pool, Report


def report(
    taken=0.0, *, total=None, calls=None, limit=600.0, level=None, anew=False, in_progress=0, tokens=None
):
    return Report(
        "key:alice",
        anew,
        taken if calls is None else calls,
        0.0,
        in_progress,
        Use(limit, taken if total is None else total, taken, level) if limit is not None else None,
        tokens,
    )


def exchange(pool, member, now, *reports):
    return pool.exchange(member, list(reports), now).leases[0]


def test_what_one_takes_is_gone_for_all():
    pool = Pool()
    assert exchange(pool, "a", 0.0, report(100)).requests == 500
    assert exchange(pool, "b", 0.0, report(50)).requests == 450
    assert exchange(pool, "b", 6.0, report(total=50)).requests == pytest.approx(510)


def test_a_report_that_arrives_twice_counts_once():
    pool = Pool()
    for _ in range(3):
        exchange(pool, "a", 0.0, report(100))
    assert exchange(pool, "a", 0.0, report(150)).requests == 450


def test_what_was_taken_beyond_the_limit_is_owed_by_all():
    pool = Pool()
    exchange(pool, "a", 0.0, report(900))
    assert exchange(pool, "b", 0.0, report()).requests == -300
    assert exchange(pool, "b", 30.0, report()).requests == 0


def test_a_share_follows_what_is_asked_for_and_nobody_is_left_without():
    pool = Pool()
    exchange(pool, "a", 0.0, report(calls=30))
    even = exchange(pool, "b", 0.0, report(calls=30))
    assert even.calls_share == pytest.approx(0.5)
    busy = exchange(pool, "a", 0.0, report(calls=940))
    assert busy.calls_share == pytest.approx(FLOOR / 2 + (1 - FLOOR) * 0.97)
    quiet = exchange(pool, "b", 0.0, report())
    assert busy.calls_share + quiet.calls_share == pytest.approx(1.0)


def test_what_was_asked_long_ago_counts_no_more():
    pool = Pool()
    now = 0.0
    exchange(pool, "a", now, report(calls=100))
    while now < 3 * FADING:
        now += 1.0
        exchange(pool, "a", now, report())
        lease = exchange(pool, "b", now, report(calls=1))
    assert lease.calls_share > 0.5


def test_who_dies_gives_its_part_and_its_calls_back():
    pool = Pool()
    exchange(pool, "a", 0.0, report(calls=100, in_progress=7))
    assert exchange(pool, "b", 1.0, report(calls=1)).others == 7
    late = exchange(pool, "b", LIFE + 1, report(calls=1))
    assert (late.others, late.calls_share) == (0, pytest.approx(1.0))
    assert pool.exchange("b", [], LIFE + 1).members == 1


def test_what_is_given_back_fills_no_bucket_beyond_its_brim():
    pool = Pool()
    exchange(pool, "a", 0.0, report(100))
    assert exchange(pool, "a", 60.0, report(-100)).requests == 600


def test_a_pool_that_has_forgotten_believes_who_remembers():
    assert exchange(Pool(), "a", 0.0, report(5, level=20.0)).requests == 20
    assert exchange(Pool(), "a", 0.0, report(5)).requests == 595


def test_after_an_outage_the_lower_of_two_opinions_counts_and_no_old_report():
    pool = Pool()
    exchange(pool, "a", 0.0, report(600))
    assert exchange(pool, "a", 60.0, report(5_000, level=10.0, anew=True)).requests == 10
    assert exchange(pool, "b", 60.0, report(5_000, level=400.0, anew=True)).requests == 10


def test_a_clock_that_jumps_back_gives_nothing_and_one_that_jumps_forward_one_bucket():
    pool = Pool()
    exchange(pool, "a", 10_000.0, report(600, in_progress=3))
    assert exchange(pool, "b", 100.0, report()).requests == 0
    assert exchange(pool, "b", 106.0, report()).requests == pytest.approx(60)
    assert exchange(pool, "b", 9e9, report()).requests == 600
    assert exchange(pool, "b", 106.0, report()).others == 0


def test_accounts_that_nobody_uses_are_forgotten():
    pool = Pool()
    for number in range(100):
        pool.exchange("a", [Report(f"key:{number}", False, 1, 0, 0, Use(60, 1, 1, None), None)], 0.0)
    pool.exchange("a", [report(2_000)], 0.0)
    pool.exchange("b", [], 130.0)
    assert len(pool._accounts) == 1  # the one that is still in debt
