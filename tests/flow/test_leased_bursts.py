"""How much several processes let in that are flooded before they have heard of each other: the bound of docs/sharing.md."""

from __future__ import annotations

import pytest

from penstock.flow.leased_bucket import SMALL, LeasedBucket
from penstock.flow.sharing import Pool, Report

FLOOD = 50.0  # calls that are refused to each between two exchanges


class Process:
    """Takes whatever it may, at once."""

    def __init__(self, pool, name, limit, processes):
        self.pool, self.name, self.even = pool, name, 1 / processes
        self.bucket = LeasedBucket(limit, self.even, lambda: False)
        self.taken = 0
        self.known = False
        pool.exchange(name, [], 0.0)

    def flood(self, now):
        while not self.bucket.wait(1.0, now):
            self.bucket.take(1.0, now)
            self.taken += 1

    def exchange(self, now):
        waiting = [1.0] * round(FLOOD) if self.bucket.may_come(1.0, now) else []
        use = self.bucket.use(now, waiting, known=self.known, anew=False)
        report = Report("key:a", False, FLOOD, 0.0, 0, use, None)
        lease = self.pool.exchange(self.name, [report], now).leases[0]
        self.bucket.lease(lease.requests, lease.calls_share, lease.requests_held, self.even, now, now)
        self.known = True
        self.flood(now)


def flooded(limit, count, seconds):
    """All are flooded from the same moment on, and exchange one after the other, ten times a second; who took how many."""
    pool = Pool()
    processes = [Process(pool, str(number), limit, count) for number in range(count)]
    for tenth in range(round(seconds * 10)):
        now = tenth / 10
        for each in processes:
            each.flood(now)
        for each in processes:
            each.exchange(now)
    return sum(each.taken for each in processes)


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 20, 60])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 64])
def test_a_flood_from_nowhere_lets_in_what_a_small_limit_allows_and_no_more(limit, count):
    assert flooded(limit, count, 1.0) == limit


@pytest.mark.parametrize("limit", [2 * SMALL, 1_200])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_flood_from_nowhere_lets_in_no_more_than_the_harmonic_bound(limit, count):
    """Even parts at first; then the k-th that is heard of knows of k only, and gets a k-th of what those left."""
    harmonic = sum(1 / heard for heard in range(1, count + 1))
    assert flooded(limit, count, 1.0) <= limit * harmonic + 2 * count + limit / 60


@pytest.mark.parametrize("limit", [6, 60, 1_200])
def test_what_a_flood_let_in_too_much_is_made_good(limit):
    """After four minutes of it: five buckets, one full at the start, and a call for each process."""
    assert flooded(limit, 4, 240.0) == pytest.approx(limit * 5, abs=1 if limit <= SMALL else 4 + limit / 100)
