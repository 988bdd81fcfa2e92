"""The rate of a provider that tells nothing, guessed by several processes together; by invented time."""

import random

import pytest

from penstock.flow.gcra import Bucket
from penstock.flow.guessing import NOTHING, QUIET, Guess, heard
from penstock.flow.leased import AccountLease
from penstock.flow.provider import Provider
from penstock.flow.sharing import Pool
from penstock.wire.ratelimits import Told

STEP = 0.05
REPLY = 1.5  # seconds that an answer takes
PER_SECOND = 20


def test_the_first_opinion_counts_as_it_is_and_a_second_first_one_does_not_add_to_it():
    known = heard(NOTHING, 8.0, 0.0, 0.0)
    assert known.rate == 8.0
    assert heard(known, 5.0, 0.0, 0.0) == known
    assert heard(known, 0.0, 0.0, 0.0) == known


def test_growth_adds_up():
    known = heard(NOTHING, 8.0, 0.0, 0.0)
    known = heard(known, 8.5, 8.0, 1.0)
    assert heard(known, 8.25, 8.0, 1.0).rate == 8.75


def test_a_429_lessens_the_whole_and_those_of_the_same_moment_are_one():
    known = heard(NOTHING, 10.0, 0.0, 0.0)
    known = heard(known, 9.0, 10.0, 1.0)
    assert known.rate == pytest.approx(9.0)
    assert heard(known, 9.0, 10.0, 1.0 + QUIET / 2) == known
    assert heard(known, 8.1, 9.0, 1.1 + QUIET).rate == pytest.approx(8.1)


def test_a_clock_that_is_set_back_makes_nobody_deaf():
    known = heard(heard(NOTHING, 10.0, 0.0, 1e6), 9.0, 10.0, 1e6)
    assert heard(known, 8.0, 9.0, 5.0).rate == pytest.approx(8.0)


def test_what_the_provider_tells_counts_more_than_what_others_guess():
    provider = Provider()
    provider.sent(1, 1.0, 0.0)
    provider.answered(1, Told(600, 600, None), None, 0.0)
    provider.use_guess(0.5, 0.0, 0.25, 0.0)
    assert provider.wait(1.0, 0.0) == 0.0
    assert provider.guess() is None


def test_who_has_not_been_refused_yet_spends_its_share_of_what_the_others_guess():
    provider = Provider()
    provider.use_guess(8.0, 0.0, 0.25, 0.0)
    assert provider.wait(1.0, 0.0) == pytest.approx(0.5)
    assert provider.guess() == Guess(8.0, 8.0)


def test_a_share_that_is_too_small_for_a_call_a_minute_sends_one_and_is_no_opinion():
    provider = Provider()
    provider.use_guess(0.1, 0.0, 0.01, 0.0)
    assert provider.wait(1.0, 0.0) == 60.0
    assert provider.wait(1.0, 60.0) == 0.0
    guess = provider.guess()
    assert guess is not None
    assert guess.requests == pytest.approx(0.1, rel=0.3)


class World:
    """A provider that allows so much and says nothing, and processes whose callers want twice as much."""

    def __init__(self, shares, seed):
        self.now = 0.0
        self.rand = random.Random(seed)
        self.bucket = Bucket(60 * PER_SECOND)
        self.bucket.take(60 * PER_SECOND, 0.0)  # full, it would hide for a minute what its rate is
        self.shares = shares
        self.pool = Pool()
        self.providers = [Provider() for _ in shares]
        self.leases = [AccountLease("upstream:up", lambda *_: None, lambda: False) for _ in shares]
        for lease, provider in zip(self.leases, self.providers, strict=True):
            lease.share = 1 / len(shares)
            lease.guessing = provider
        self.waiting = [0.0 for _ in shares]
        self.under_way = []
        self.numbers = self.refused = 0
        self.answered = [0 for _ in shares]

    def run(self, seconds):
        self.refused, self.answered = 0, [0 for _ in self.shares]
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            self._end()
            for _ in range(round(2 * PER_SECOND * STEP)):
                chosen = self.rand.choices(range(len(self.shares)), self.shares)[0]
                self.waiting[chosen] = min(self.waiting[chosen] + 1, 100)
                self.leases[chosen].asked_in_line()
            for process in range(len(self.shares)):
                self._send(process)
                if self.rand.random() < STEP / 0.1:
                    self._exchange(process)

    def _end(self):
        while self.under_way and self.under_way[0][0] <= self.now:
            _, provider, number = self.under_way.pop(0)
            provider.answered(number, None, None, self.now)
            provider.accepted(1.0, self.now)

    def _send(self, process):
        provider = self.providers[process]
        while self.waiting[process] and not provider.wait(1.0, self.now):
            self.waiting[process] -= 1
            self.numbers += 1
            provider.sent(self.numbers, 1.0, self.now)
            if wait := self.bucket.wait(1, self.now):
                self.refused += 1
                provider.answered(self.numbers, None, None, self.now)
                provider.refused(max(1.0, wait), self.now, self.leases[process].share)
            else:
                self.bucket.take(1, self.now)
                self.answered[process] += 1
                self.under_way.append((self.now + REPLY, provider, self.numbers))

    def _exchange(self, process):
        lease = self.leases[process]
        answer = self.pool.exchange(str(process), [lease.report(self.now)], self.now)
        lease.leased(answer.leases[0], 1 / len(self.shares), self.now, self.now)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shares", [(1, 1, 1, 1), (85, 5, 5, 5)], ids=str)
def test_together_they_use_nearly_all_of_it_are_seldom_refused_and_each_has_its_part(shares, seed):
    world = World(shares, seed)
    world.run(100.0)  # to find out
    world.run(100.0)
    assert sum(world.answered) > 0.97 * 100 * PER_SECOND
    assert world.refused < 0.005 * sum(world.answered)
    for answered, share in zip(world.answered, shares, strict=True):
        assert answered > 0.8 * sum(world.answered) * share / sum(shares)


def test_callers_who_move_to_another_process_find_the_rate_there():
    world = World((85, 5, 5, 5), 1)
    world.run(150.0)
    world.shares = (5, 85, 5, 5)
    world.run(60.0)
    assert sum(world.answered) > 0.9 * 60 * PER_SECOND
    assert world.refused < 0.02 * sum(world.answered)
