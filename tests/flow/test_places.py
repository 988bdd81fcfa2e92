"""Calls at once, of several processes: never more than the limit, and never idle where they are wanted."""

import random

import pytest

from penstock.flow.leased import LeasedPlaces
from penstock.flow.places import RECOVERY, Holding, Places, granted, told
from penstock.flow.sharing import LIFE, Pool, Report


class Member:
    """A process's side, as ``AccountLease`` has it, with an exchange whose answer may come late or never."""

    def __init__(self, name, limit):
        self.name = name
        self.places = LeasedPlaces(limit, 0.25)
        self.in_progress = 0
        self.waiting = 0
        self.sent = None
        self.answer = None
        self.calls = 0

    def begin(self, now):
        self.calls += 1
        if self.places.has_room(self.in_progress, now, alone=False):
            self.in_progress += 1
        else:
            self.waiting = 1

    def end(self):
        if self.in_progress:
            self.in_progress -= 1
            self.places.give_back(self.in_progress)

    def tell(self, pool, now):
        report = Report(
            "key:x",
            False,
            self.calls,
            0.0,
            self.in_progress,
            None,
            None,
            self.places.told(self.in_progress, self.waiting),
        )
        self.calls = self.waiting = 0
        self.answer = pool.exchange(self.name, [report], now, rejoins=self.sent is not None).leases[0]
        self.sent = now

    def hear(self, now):
        if self.answer is not None:
            self.places.lease(self.answer.places, self.answer.others, self.in_progress, self.sent, now)
            self.answer = None

    def exchange(self, pool, now):
        self.tell(pool, now)
        self.hear(now)


def group(limit, count=4):
    return Pool(), [Member(f"p{number}", limit) for number in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 6, 50])
@pytest.mark.parametrize("seed", range(5))
def test_no_more_are_under_way_than_the_limit_whatever_is_lost_or_late(limit, seed):
    pool, members = group(limit)
    rng = random.Random(seed)
    now = 0.0
    most = 0
    for _ in range(4_000):
        now += rng.choice([0.001, 0.01, 0.1])
        member = rng.choice(members)
        match rng.randrange(5):
            case 0 | 1:
                member.begin(now)
            case 2:
                member.end()
            case 3 if member.answer is None:
                member.tell(pool, now)
                if rng.random() < 0.1:
                    member.answer = None  # lost
            case _:
                member.hear(now)
        for each in members:  # a sign of life, before others may think that it is dead
            if each.sent is not None and now - each.sent > LIFE / 2:
                each.answer = None
                each.tell(pool, now)
        under_way = sum(each.in_progress for each in members)
        assert under_way <= sum(each.places.held for each in members) <= limit
        most = max(most, under_way)
    assert most >= 0.9 * limit


def test_all_places_are_for_who_alone_has_callers():
    pool, members = group(6)
    now = 0.0
    for member in members:
        member.exchange(pool, now)
    busy = members[2]
    for _ in range(20):
        now += 0.1
        for _ in range(3):
            busy.begin(now)
        for member in members:
            member.exchange(pool, now)
    assert busy.in_progress == 6


def test_places_follow_the_callers():
    pool, members = group(6)
    now = 0.0
    first, second = members[:2]
    for step in range(40):
        now += 0.1
        user = first if step < 20 else second
        if step == 20:
            first.in_progress = 0
            first.places.give_back(0)
        user.begin(now)
        for member in members:
            member.exchange(pool, now)
    assert (first.in_progress, second.in_progress) == (0, 6)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_where_there_are_fewer_places_than_processes_each_has_its_turn(limit):
    pool, members = group(limit)
    rng = random.Random(limit)
    served = dict.fromkeys(members, 0)
    now = 0.0
    for _ in range(3_000):
        now += 0.02
        for member in members:
            if rng.random() < 0.5:
                member.end()
            before = member.in_progress
            member.begin(now)
            served[member] += member.in_progress - before
        member = rng.choice(members)
        member.exchange(pool, now)
    assert min(served.values()) > 0.5 * sum(served.values()) / len(members)


def test_what_a_dead_process_held_is_free_when_its_life_has_passed():
    pool, (dead, alive, *_) = group(4)
    now = 0.0
    for _ in range(10):
        now += 0.1
        dead.begin(now)
        dead.exchange(pool, now)
    died = now
    assert dead.in_progress == 4
    while now < died + LIFE - 0.2:
        now += 0.1
        alive.begin(now)
        alive.exchange(pool, now)
        assert alive.places.held == 0
    for _ in range(10):
        now += 0.1
        alive.begin(now)
        alive.exchange(pool, now)
    assert alive.in_progress == 4


def test_a_process_that_slept_past_its_lease_begins_nothing_before_it_has_asked():
    pool, (sleeper, other, *_) = group(4)
    sleeper.exchange(pool, 0.0)
    assert sleeper.places.held
    now = LIFE + 1.0
    for _ in range(10):
        now += 0.4
        other.begin(now)
        other.exchange(pool, now)
    assert other.in_progress == 4
    sleeper.begin(now)
    assert sleeper.in_progress == 0


def test_a_pool_that_lost_its_memory_leases_nothing_until_all_could_say_what_they_hold():
    pool, members = group(4)
    first, second = members[:2]
    now = 0.0
    for _ in range(10):
        now += 0.1
        first.begin(now)
        for member in (first, second):
            member.exchange(pool, now)
    assert (first.in_progress, second.places.held) == (4, 0)
    pool = Pool()
    second.begin(now)
    second.exchange(pool, now)
    assert second.places.held == 0
    first.exchange(pool, now + RECOVERY / 2)
    second.begin(now)
    second.exchange(pool, now + RECOVERY + 0.1)
    assert second.places.held == 0


def test_a_report_that_was_overtaken_changes_nothing():
    known = told(Places(6, 3, 2, 2), Holding(), 1.0)
    assert told(Places(6, 2, 5, 5), known, 2.0) is known


def test_some_places_are_leased_ahead_and_some_stay_for_who_comes_next():
    own = told(Places(100, 1, 0, 10), Holding(), 0.0)
    assert granted(100, own, 1.0, [], recovers=False) == 10 + 45


def test_without_word_from_the_others_who_never_had_a_place_takes_an_even_part():
    places = LeasedPlaces(10, 0.25)
    assert not places.has_room(0, 0.0, alone=False)
    assert places.has_room(1, 0.0, alone=True)
    assert not places.has_room(2, 0.0, alone=True)


def test_a_limit_of_zero_is_none_also_without_word_from_the_others():
    places = LeasedPlaces(0, 0.25)
    assert not places.has_room(0, 0.0, alone=True)
    assert not places.may_come(0, 0.0)


def test_it_is_not_waited_for_a_place_where_all_are_in_use():
    pool, (one, other, *_) = group(2)
    for now in (0.0, 0.1, 0.2, 0.3):
        one.begin(now)
        one.exchange(pool, now)
    other.exchange(pool, 0.4)
    assert one.in_progress == 2
    assert not other.places.may_come(0, 0.5)
    assert other.places.may_come(0, 10.0)
