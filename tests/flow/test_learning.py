"""A limit that several processes find out together."""

import random

import pytest

from penstock.config.model import ConcurrencyConfig
from penstock.flow.concurrency import LEAST_WINDOW, PAUSE
from penstock.flow.learning import OWN_WINDOW, Learnt, Seen, SharedLimit, learn
from penstock.flow.places import Places
from penstock.flow.sharing import Pool, Report


class Processes:
    """So many, over one pool, and one upstream that works on ``capacity`` calls of a second each."""

    def __init__(self, count, config=None):
        self.config = config or ConcurrencyConfig(limit=400, start=3)
        self.limits = [SharedLimit(self.config) for _ in range(count)]
        self.pool = Pool()
        self.now = 0.0
        self.numbers = 0

    def exchange(self):
        self.numbers += 1
        for name, limit in enumerate(self.limits):
            places = Places(400, self.numbers, 0, 1)
            report = Report("upstream:up", False, 1.0, 0.0, 0, None, None, places, limit.told())
            lease = self.pool.exchange(str(name), [report], self.now).leases[0]
            limit.learnt(lease.learnt, lease.usual, 0)

    @property
    def value(self):
        return self.limits[0].value

    def serve(self, capacity, seconds, weights=None, base=0.2):
        """First tokens, of which those of a call that had to wait inside come later."""
        rand, seen, told = random.Random(7), [], self.now
        until = self.now + seconds
        while self.now < until:
            under_way = max(1, int(self.value))
            self.now += 1.0 / min(capacity, under_way)
            first = base * rand.uniform(0.8, 1.2) + max(0, under_way - capacity) / capacity
            (limit,) = rand.choices(self.limits, weights)
            limit.others = under_way  # the limit is used up, by all together
            limit.observe(first, 0, self.now)
            seen.append(under_way)
            if self.now - told > 0.1:
                told = self.now
                self.exchange()
        return seen


@pytest.mark.parametrize("capacity", [4, 20, 100])
@pytest.mark.parametrize("count", [1, 4])
def test_all_together_they_find_what_the_upstream_can_take(capacity, count):
    processes = Processes(count)
    processes.serve(capacity, 300.0)
    late = processes.serve(capacity, 150.0)
    mean = sum(late) / len(late)
    assert 0.9 * capacity <= mean <= 1.6 * capacity + 2


def test_one_that_has_nearly_all_calls_finds_it_too():
    processes = Processes(4)
    processes.serve(20, 300.0, weights=[97, 1, 1, 1])
    late = processes.serve(20, 150.0, weights=[97, 1, 1, 1])
    assert 18 <= sum(late) / len(late) <= 34


def test_they_follow_an_upstream_that_loses_most_of_its_capacity():
    processes = Processes(4)
    processes.serve(80, 300.0)
    late = processes.serve(20, 300.0)[-2_000:]
    assert sum(late) / len(late) <= 36


def seen(first_tokens=0, late=0, used=0, overloads=0, *, usual=0.0, value=8.0, most=100):
    return Seen(value, 1, most, usual, first_tokens, late, used, overloads)


def test_nothing_is_concluded_before_anything_is_known_of_what_is_usual():
    learnt = learn(None, seen(), None, 0.0)
    learnt = learn(learnt, seen(100, 0, 100), (0, 0, 0, 0), 1.0)
    assert learnt.value == 8.0
    assert learn(learnt, seen(100, 0, 100, usual=0.1), (100, 0, 100, 0), 1.1).value == 12.0


def test_a_report_that_arrives_twice_counts_once_and_one_of_a_stranger_begins():
    learnt = learn(Learnt(8.0, usual=0.1), seen(LEAST_WINDOW - 1, 0, 31), None, 0.0)
    assert learnt.first_tokens == 0
    for _ in range(3):
        learnt = learn(learnt, seen(31, 0, 31), (31, 0, 31, 0), 0.0)
    assert learnt.first_tokens == 0
    assert learn(learnt, seen(5, 0, 5), (31, 0, 31, 0), 0.0).first_tokens == 0  # began anew
    assert learn(learnt, seen(37, 1, 36), (31, 0, 31, 0), 0.0).first_tokens == 6


def test_an_upstream_that_says_that_it_is_overloaded_to_all_of_them_has_said_it_once():
    learnt = Learnt(100.0, usual=0.1)
    for _ in range(4):
        learnt = learn(learnt, seen(overloads=1), (0, 0, 0, 0), 10.0)
    assert learnt.value == pytest.approx(70.0)
    assert learn(learnt, seen(overloads=1), (0, 0, 0, 0), 10.1 + PAUSE).value == pytest.approx(49.0)


def test_a_clock_that_jumps_stops_nothing():
    learnt = learn(
        Learnt(100.0, usual=0.1, since=1e9, quiet_until=1e9), seen(overloads=1), (0, 0, 0, 0), 10.0
    )
    assert learnt.value == pytest.approx(70.0)
    assert learn(learnt, seen(usual=0.2), (0, 0, 0, 0), 9e9).usual == 0.2


def test_a_limit_that_was_lowered_by_hand_holds_at_once():
    assert learn(Learnt(100.0), seen(most=10), None, 0.0).value == 10.0


def test_a_pool_that_has_forgotten_begins_with_what_they_remember():
    pool, limit = Pool(), SharedLimit(ConcurrencyConfig(limit=400))
    limit.learnt(33.0, 0.1, 0)
    places = Places(400, 1, 0, 1)
    report = Report("upstream:up", False, 1.0, 0.0, 0, None, None, places, limit.told())
    assert pool.exchange("a", [report], 0.0).leases[0].learnt == 33.0


def test_no_more_places_are_leased_than_was_found_out():
    pool, held = Pool(), {}
    for number in range(1, 30):
        for name in "abcd":
            limit = SharedLimit(ConcurrencyConfig(limit=400, start=9))
            places = Places(400, number, held.get(name, 0), 50)
            report = Report("upstream:up", False, 5.0, 0.0, 0, None, None, places, limit.told())
            held[name] = pool.exchange(name, [report], number / 10).leases[0].places
            assert sum(held.values()) <= 9
    assert min(held.values()) >= 1


def test_what_is_usual_is_told_until_it_has_been_heard():
    limit = SharedLimit(ConcurrencyConfig())
    for _ in range(OWN_WINDOW):
        limit.observe(0.3, 1, 0.0)
    assert limit.told().usual == limit.told().usual == 0.3
    for _ in range(OWN_WINDOW):
        limit.observe(0.2, 1, 0.0)
    limit.learnt(8.0, 0.3, 0)
    assert limit.told().usual == 0.2
    limit.learnt(8.0, 0.2, 0)
    assert limit.told().usual == 0.0
