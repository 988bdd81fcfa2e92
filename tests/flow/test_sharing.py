"""The pool of shared limits: in Python, and the same in Lua in a real Redis."""

import contextlib
import datetime as dt
import math
import socket

import hiredis
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from needing import needs_redis
from penstock.flow import redis_board
from penstock.flow._sharing_script import EXCHANGE
from penstock.flow.budget import Calendar
from penstock.flow.credit import Use
from penstock.flow.funds import Funds
from penstock.flow.guessing import Guess
from penstock.flow.learning import Seen
from penstock.flow.places import Places
from penstock.flow.sharing import FADING, FLOOR, LIFE, Lease, Pool, Report
from penstock.testing.redis import RedisServer


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


EXACT = {"others", "places", "day", "day_free", "month", "month_free"}
FIGURES = [field for field in Lease.__struct_fields__ if field not in EXACT]


TIMED = EXCHANGE.replace(b"redis.call('TIME')", b"{ARGV[#ARGV], '0'}")
"""The script that is used, but for where it takes the time from."""


@contextlib.contextmanager
def asking():
    """A Redis server, and what asks it."""
    with RedisServer() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        reader = hiredis.Reader()

        def ask(*command):
            sock.sendall(hiredis.pack_command(command))
            while (answer := reader.gets()) is False:
                reader.feed(sock.recv(65_536))
            assert not isinstance(answer, Exception), answer
            return answer

        yield ask


def money(day, month, spent=0):
    funds = [Funds(100, period, spent + 1, spent, 0, 10, 0, 0, "book") for period in (day, month)]
    return msgspec.structs.replace(report(limit=None), day=funds[0], month=funds[1])


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
            command = redis_board.command(member, b"{t}", [money(day, month, spent)], rejoins=False)
            (lease,) = redis_board.read(ask(b"EVAL", TIMED, *command, repr(now).encode())).leases
            return (lease.day, lease.day_free), (lease.month, lease.month_free)

        nothing = 0, 0
        for at in (now, now + 86_399.0):
            assert exchange(b"right", at, today.day, today.month, 7)[0][1] > 0
            assert exchange(b"wrong", at, today.day + 1, today.month + 1) == (nothing, nothing)
            right = exchange(b"right", at, today.day, today.month, 7)
            assert right[0][1] > 0
            assert right[1][1] > 0
        assert exchange(b"right", now + 86_400.0, today.day + 1, today.month)[0][1] > 0


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
            command = redis_board.command(member.encode(), b"{t}", reports, rejoins=rejoins)
            there = redis_board.read(ask(b"EVAL", TIMED, *command, repr(now).encode()))
            assert there.members == here.members
            for one, other in zip(there.leases, here.leases, strict=True):
                for figure in EXACT:
                    assert getattr(one, figure) == getattr(other, figure), (figure, one, other)
                for figure in FIGURES:
                    assert math.isclose(
                        getattr(one, figure), getattr(other, figure), rel_tol=1e-6, abs_tol=1e-3
                    ), (figure, one, other)

    with asking() as ask:

        @settings(max_examples=150, deadline=None)
        @given(STEPS)
        def same(steps):
            run(ask, steps)

        same()
