"""The pool of shared limits in Lua: in a real Redis it comes to the same as in Python."""

import datetime as dt
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_pool import TIMED, asking, assert_alike, exchanged

from needing import needs_redis
from penstock.flow import redis_board
from penstock.flow._sharing_script import EXCHANGE
from penstock.flow.budget import Calendar
from penstock.flow.credit import Use
from penstock.flow.funds import Funds
from penstock.flow.guessing import Guess
from penstock.flow.learning import Seen
from penstock.flow.places import Places
from penstock.flow.sharing import LIFE, Pool, Report

NUMBERS = st.floats(0, 500).map(lambda number: round(number, 3))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.floats(0, 8), st.sampled_from([-100.0, 90.0, 1000.0])),
        st.lists(
            st.tuples(
                st.sampled_from(["key:x", "tenant:y"]),
                st.booleans(),
                NUMBERS,
                NUMBERS,
                st.integers(0, 9),
                st.one_of(st.none(), st.tuples(st.sampled_from([0.0, 60.0, 600.0]), NUMBERS)),
                st.one_of(st.none(), st.tuples(st.sampled_from([1e3, 1e6]), NUMBERS)),
                st.one_of(st.none(), NUMBERS),
                st.one_of(
                    st.none(),
                    st.tuples(
                        st.sampled_from([1, 6, 40]), st.integers(0, 9), st.integers(0, 6), st.integers(0, 9)
                    ),
                ),
                st.one_of(
                    st.none(),
                    st.tuples(
                        st.sampled_from([1.0, 8.0, 40.5]),
                        st.sampled_from([1, 3]),
                        st.sampled_from([6, 40]),
                        st.sampled_from([0.0, 0.1, 0.33]),
                        st.integers(0, 200),
                        st.integers(0, 200),
                        st.integers(0, 200),
                        st.integers(0, 2),
                    ),
                ),
                st.one_of(st.none(), st.tuples(*4 * [st.sampled_from([0.0, 0.5, 8.0, 8.25, 20.0])])),
                st.one_of(
                    st.none(),
                    st.tuples(
                        st.sampled_from([5, 100, 10**6]),
                        st.integers(3, 5),
                        st.integers(0, 9),
                        *5 * [st.sampled_from([0, 1, 7, 60, 10**5])],
                        st.sampled_from(["", "one", "two"]),
                    ),
                ),
                st.tuples(st.integers(0, 9), *3 * [st.sampled_from([0.0, 1.0, 3.0, 60.0, 450.0])]),
            ),
            max_size=2,
            unique_by=lambda told: told[0],
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def money(day, month, spent=0):
    funds = [Funds(100, period, spent + 1, spent, 0, 10, 0, 0, "book") for period in (day, month)]
    return Report("key:alice", False, 0.0, 0.0, 0, None, None, day=funds[0], month=funds[1])


@needs_redis
@pytest.mark.parametrize(
    "date",
    ["1970-01-01", "1999-12-31", "2000-02-29", "2024-02-29", "2026-03-01", "2026-12-31", "2100-03-01"],
)
def test_no_day_and_no_month_begins_before_it_does_by_the_clock_of_redis(date):
    now = dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC).timestamp()
    today = Calendar(now)
    with asking() as ask:

        def exchange(member, now, day, month, spent=0):
            (lease,) = exchanged(ask, member, [money(day, month, spent)], now).leases
            return (lease.day, lease.day_free), (lease.month, lease.month_free)

        nothing = 0, 0
        for at in (now, now + 86_399.0):
            assert exchange("right", at, today.day, today.month, 7)[0][1] > 0
            assert exchange("wrong", at, today.day + 1, today.month + 1) == (nothing, nothing)
            right = exchange("right", at, today.day, today.month, 7)
            assert right[0][1] > 0
            assert right[1][1] > 0
        assert exchange("right", now + 86_400.0, today.day + 1, today.month)[0][1] > 0


@needs_redis
@pytest.mark.parametrize("years", [1, 20])
def test_a_day_that_a_wrong_clock_of_redis_began_is_today_once_it_is_right(years):
    """What was spent by then counts today, and tomorrow begins anew; the pool in Python comes to the same."""
    now = dt.datetime(2026, 3, 1, 0, 30, tzinfo=dt.UTC).timestamp()
    wall, held = [now], {}
    pool = Pool(lambda: wall[0])
    with asking() as ask:

        def left(member, at, calendar, spent=0):
            wall[0] = at
            reports = [money(calendar.day, calendar.month, spent)]
            there = exchanged(ask, member, reports, at)
            assert_alike(there, pool.exchange(member, reports, at))
            (lease,) = there.leases
            held[member] = lease.day
            return lease.day_free + sum(held.values()) if lease.day else 0

        ahead = now + years * 366 * 86_400.0
        then, yesterday, today, tomorrow = map(Calendar, (ahead, now - 86_400.0, now, now + 86_400.0))
        assert left("a", ahead, then, 40) == 60
        assert left("a", now, today, 40) == 60
        assert left("b", now, today, 5) == 55
        assert left("c", now, yesterday) == 0, "that day is over"
        assert left("c", now - 1_801.0, yesterday) == 0, (
            "and no clock that is corrected a little brings it back"
        )
        held.clear()
        assert left("a", now + 86_400.0, tomorrow) == 100


@needs_redis
def test_redis_comes_to_the_same():
    assert TIMED != EXCHANGE

    def run(ask, steps):
        ask(b"FLUSHALL")
        pool, now = Pool(), 1_000_000.0
        pool._clean = lambda now: None  # Redis forgets by its own clock
        for member, passed, told, rejoins in steps:
            now += passed
            reports = [
                Report(
                    name,
                    anew,
                    calls,
                    wanted,
                    in_progress,
                    Use(*requests, wanted, level, *credit) if requests else None,
                    Use(*tokens, wanted, level, *credit) if tokens else None,
                    Places(*places) if places else None,
                    Seen(*seen) if seen else None,
                    Guess(*guess) if guess else None,
                    Funds(*funds) if funds and name == "key:x" else None,
                    Funds(*funds) if funds else None,
                )
                for (
                    name,
                    anew,
                    calls,
                    wanted,
                    in_progress,
                    requests,
                    tokens,
                    level,
                    places,
                    seen,
                    guess,
                    funds,
                    credit,
                ) in told
            ]
            here = pool.exchange(member, reports, now, rejoins=rejoins)
            assert_alike(exchanged(ask, member, reports, now, rejoins=rejoins), here)

    with asking() as ask:

        @settings(max_examples=150, deadline=None)
        @given(STEPS)
        def same(steps):
            run(ask, steps)

        same()


def owing(limit, taken):
    return Report("key:alice", False, 1.0, 0.0, 0, Use(limit, taken, taken, None), None)


@needs_redis
@pytest.mark.parametrize(("taken", "least"), [(0.0, 60), (600.0, 60), (3_000.0, 300), (1e9, 900_000)])
def test_redis_remembers_an_account_until_its_debts_are_paid_and_not_for_ever(taken, least):
    with asking() as ask:
        exchanged(ask, "a", [owing(600.0, taken)], 1e6)
        seconds = ask(b"TTL", b"{t}:of:key:alice")
        assert least <= seconds <= 1_000_100


@needs_redis
def test_redis_remembers_what_was_spent_for_longer_than_a_month_and_members_for_longer_than_they_are_counted():
    with asking() as ask:
        exchanged(ask, "a", [money(10, 20, 7)], 1e6, rejoins=True)
        for key in (b"{t}:day:key:alice", b"{t}:month:key:alice"):
            assert 32 * 86_400 < ask(b"TTL", key) < 366 * 86_400
        for key in (b"{t}:members", b"{t}:recovers"):
            assert LIFE < ask(b"TTL", key) < 3_600


@needs_redis
def test_the_time_is_that_of_the_server():
    with asking() as ask:

        def clock():
            seconds, microseconds = ask(b"TIME")
            return int(seconds) + int(microseconds) / 1e6

        before = clock()
        words = redis_board.command(b"a", b"{t}", [], rejoins=False)
        told = redis_board.read(ask(b"EVAL", EXCHANGE, *words)).now
        assert before <= told <= clock()


class Member:
    """One that goes on from report to report, as a process does: what it holds is what it was leased."""

    def __init__(self, name, rng):
        self.name = name
        self.rng = rng
        self.number = 0
        self.accounts = {account: _Held() for account in ("upstream:found-out", "key:small")}

    def reports(self, now):
        self.number += 1
        return [self._report(account, held, now) for account, held in self.accounts.items()]

    def _report(self, account, held, now):
        rng = self.rng
        found_out = account == "upstream:found-out"
        held.in_progress = min(held.places, held.needs)
        held.needs = max(held.in_progress, rng.choice([0, 1, 1, 2, 3, 12]))
        taken, tokens = rng.choice([0.0, 0.0, 1.0, 4.0]), rng.choice([0.0, 250.0])
        held.taken, held.tokens = held.taken + taken, held.tokens + tokens
        for place, most in enumerate((14, 14, 14, 1)):
            likely = 0.1 if place == 3 else held.luck[place]
            held.counts[place] += rng.randrange(most + 1) if rng.random() < likely else 0
        if rng.random() < 0.02:
            held.luck = [0.8, rng.choice([0.0, 0.7]), rng.choice([0.0, 0.8])]
        spent = rng.choice([0, 0, 3])
        held.spent += min(spent, held.money)
        held.money -= min(spent, held.money)
        funds = Funds(
            400, 2, self.number, held.spent, held.money, rng.choice([0, 4]), rng.choice([0, 9]), 0, ""
        )
        return Report(
            account,
            False,
            rng.choice([0.0, 1.0, 5.0]),
            tokens,
            held.in_progress,
            Use(8.0, held.taken, taken, 3.0, self.number, held.credit, rng.choice([0.0, 1.0, 2.0]), 1.0),
            Use(9e3, held.tokens, tokens, 3e3, self.number, 0.0, rng.choice([0.0, 700.0]), 300.0),
            Places(40 if found_out else 3, self.number, held.places, held.needs),
            Seen(8.0, 2, 40, rng.choice([0.0, 0.2, 0.3]), *held.counts) if found_out else None,
            held.guess(rng) if found_out else None,
            funds,
        )

    def leased(self, answer):
        for held, lease in zip(self.accounts.values(), answer.leases, strict=True):
            held.places = max(lease.places, held.in_progress)
            held.money = lease.day
            held.credit = max(0.0, lease.requests_held)
            held.guessed = [lease.guessed_requests, lease.guessed_tokens]


class _Held:
    def __init__(self):
        self.places = self.needs = self.in_progress = self.money = self.spent = 0
        self.taken = self.tokens = self.credit = 0.0
        self.counts = [0, 0, 0, 0]
        self.luck = [0.8, 0.0, 0.8]
        self.guessed = [0.0, 0.0]

    def guess(self, rng):
        """How fast it seems, of requests and of tokens, each with how fast it was told to be."""
        seems = [(told or 5.0) * rng.choice([1.0, 1.0, 1.05, 0.9]) for told in self.guessed]
        return Guess(seems[0], self.guessed[0], seems[1], self.guessed[1])


@needs_redis
@pytest.mark.parametrize("seed", range(4))
def test_of_members_that_go_on_redis_leases_the_same(seed):
    """Queues for places, windows of first tokens and pauses of guesses come about only with the time."""
    rng, pool, now = random.Random(seed), Pool(), 2.5 * 86_400.0
    members = [Member(name, rng) for name in "abcd"]
    with asking() as ask:
        for _ in range(400):
            now += rng.choice([0.0, 0.02, 0.1, 0.1, 0.4, 1.1])
            if rng.random() < 0.01:
                now += 6.0
            member = rng.choice(members)
            if rng.random() < 0.03:
                member.number -= 1  # it was overtaken
            reports, rejoins = member.reports(now), rng.random() < 0.02
            here = pool.exchange(member.name, reports, now, rejoins=rejoins)
            assert_alike(exchanged(ask, member.name, reports, now, rejoins=rejoins), here)
            member.leased(here)
