import datetime as dt

import pytest
from flow_calls import a_call
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import LimitConfig, LimitsConfig
from penstock.errors import RateLimited
from penstock.flow.account import DOLLAR
from penstock.flow.lessee import Lessee
from penstock.flow.limits import Limiter
from penstock.messages import Endpoint, Spent, Tenant, Usage
from penstock.testing import FakeClock

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC).timestamp()
ALICE = Tenant(name="research", key_name="alice", tier="standard")
BOB = Tenant(name="research", key_name="bob", tier="batch")


class World:
    """A limiter, its clock, and what it refused."""

    def __init__(self, *, workers=1, price=0, **tables):
        self.clock = FakeClock()
        self.wall = NOON
        self.refusals = []
        self.limiter = Limiter(
            LimitsConfig(**tables),
            self.clock.now,
            lambda call, usage: price,
            lambda *what: self.refusals.append(what),
            lessee=Lessee(workers, self.clock.now, lambda result: None) if workers > 1 else None,
            unix_time=lambda: self.wall,
        )

    def call(self, tenant=ALICE, **more):
        call = a_call(tenant, **more)
        call.reservation = self.limiter.reserve(call)
        return call.reservation

    def assert_refused(self, tenant=ALICE, **more):
        with pytest.raises(RateLimited) as caught:
            self.call(tenant, **more)
        return caught.value


def test_who_has_no_limit_gets_no_reservation():
    assert World(keys={"bob": LimitConfig(requests_per_minute=1)}).call() is None


def test_requests_are_limited_and_the_refusal_says_when_to_come_back():
    world = World(keys={"alice": LimitConfig(requests_per_minute=2)})
    world.call(), world.call()
    error = world.assert_refused()
    assert (error.status, error.code, error.retry_after) == (429, "rate_limit_exceeded", pytest.approx(30.0))
    assert error.requests == (2, 0, pytest.approx(60.0))
    assert world.refusals == [("key", "requests")]
    world.clock.advance(error.retry_after)
    world.call()
    world.assert_refused()


def test_an_estimate_of_the_tokens_is_reserved_and_the_truth_takes_its_place():
    world = World(keys={"alice": LimitConfig(tokens_per_minute=1_000)})
    first = world.call(max_tokens=900)
    assert world.assert_refused(max_tokens=900).code == "rate_limit_exceeded"
    first.hold()
    first.settle(Usage(20, 30), 0)
    first.release(), first.release()
    assert first.windows()[1][1] == 950
    world.call(max_tokens=900)


def test_what_was_used_beyond_the_estimate_is_owed():
    world = World(keys={"alice": LimitConfig(tokens_per_minute=1_000)})
    first = world.call(max_tokens=10)
    first.settle(Usage(0, 3_000), 0)
    assert world.assert_refused(max_tokens=1).retry_after > 120


def test_a_reservation_is_settled_once():
    world = World(keys={"alice": LimitConfig(tokens_per_minute=1_000, usd_per_day=1)})
    first = world.call(max_tokens=10)
    for _ in range(3):
        first.settle(Usage(0, 100), DOLLAR // 2)
    first.release()
    assert first.windows()[1][1] == 900
    assert world.limiter._accounts["key", "alice"].day.left == DOLLAR // 2


def test_an_answer_that_no_upstream_was_asked_for_costs_its_request_only():
    world = World(keys={"alice": LimitConfig(requests_per_minute=10, tokens_per_minute=5_000)})
    first = world.call()
    first.release()
    assert [window[1] for window in first.windows()] == [9, 5_000]


def test_calls_in_progress_are_limited_until_both_halves_have_let_go():
    world = World(tenants={"research": LimitConfig(concurrent=1)})
    first = world.call()
    first.hold()
    error = world.assert_refused(BOB)
    assert (error.code, error.retry_after) == ("concurrency_exceeded", 1.0)
    first.release()  # the caller has left, the upstream goes on
    world.assert_refused(BOB)
    first.release()
    world.call(BOB)


def test_a_call_that_one_limit_refuses_takes_nothing_from_the_others():
    world = World(
        keys={"alice": LimitConfig(requests_per_minute=10)}, models={"*": LimitConfig(concurrent=1)}
    )
    first = world.call()
    for _ in range(5):
        world.assert_refused()
    assert first.windows()[0][1] == 9
    assert set(world.refusals) == {("model", "concurrent")}


def test_of_several_limits_the_one_that_takes_longest_says_when_to_come_back():
    world = World(
        keys={"alice": LimitConfig(requests_per_minute=60)}, tiers={"*": LimitConfig(requests_per_minute=1)}
    )
    world.call()
    assert world.assert_refused().retry_after == pytest.approx(60.0)


def test_a_star_is_for_each_by_itself_but_one_pattern_of_models_is_for_all_of_them():
    world = World(keys={"*": LimitConfig(concurrent=1)})
    world.call(ALICE), world.call(BOB)
    world.assert_refused(ALICE)
    world = World(models={"gpt-*": LimitConfig(concurrent=1)})
    world.call(model="gpt-1")
    world.assert_refused(model="gpt-2")
    world.call(model="claude")


def test_names_that_callers_invent_make_no_accounts():
    world = World(models={"*": LimitConfig(requests_per_minute=100_000)})
    for number in range(5_000):
        world.call(model=f"m{number}")
    assert len(world.limiter._accounts) == 1
    assert len(world.limiter._of_call) <= 4_096


@pytest.mark.parametrize(
    "limit", ["requests_per_minute", "tokens_per_minute", "concurrent", "usd_per_day", "usd_per_month"]
)
def test_a_limit_of_zero_refuses_and_promises_nothing(limit):
    world = World(keys={"alice": LimitConfig(**{limit: 0})})
    error = world.assert_refused()
    assert error.retry_after is None
    assert "limit is 0" in error.message


def test_a_worker_that_nobody_leases_to_has_an_even_part_and_names_the_whole():
    world = World(workers=4, keys={"alice": LimitConfig(requests_per_minute=40, concurrent=10)})
    reservations = [world.call() for _ in range(2)]
    assert world.assert_refused().code == "concurrency_exceeded"
    for reservation in reservations:
        reservation.release()
    for _ in range(8):
        world.call().release()
    error = world.assert_refused()
    assert (error.code, error.requests[0]) == ("rate_limit_exceeded", 40)
    assert "may use 40 requests a minute" in error.message


# ---- money ----


def test_a_budget_counts_what_is_reserved_and_then_what_it_was():
    world = World(price=DOLLAR * 6 // 10, tenants={"research": LimitConfig(usd_per_day=1)})
    first = world.call()
    error = world.assert_refused()
    assert (error.code, error.retry_after) == ("budget_exceeded", 1.0)  # it may all come back yet
    first.settle(Usage(), DOLLAR // 10)
    second = world.call()
    second.settle(Usage(), DOLLAR)
    error = world.assert_refused()
    assert error.retry_after == 12 * 3600  # until midnight
    world.wall += 12 * 3600
    world.limiter.look()
    world.call()


def test_a_refusal_for_money_tells_what_is_left_and_what_the_call_may_cost():
    world = World(price=DOLLAR * 6 // 10, tenants={"research": LimitConfig(usd_per_day=1)})
    world.call().settle(Usage(), DOLLAR // 2)
    assert world.assert_refused().message == (
        "the tenant 'research' has $0.5 left of its budget of $1 for this day, in UTC, and this call may cost $0.6: "
        "ask for fewer tokens"
    )
    world.limiter._price = lambda call, usage: DOLLAR // 2
    held = world.call()
    assert world.assert_refused().message.endswith("for this day, in UTC, or reserved it for calls under way")
    held.settle(Usage(), DOLLAR // 2)
    assert (
        world.assert_refused().message
        == "the tenant 'research' has spent its budget of $1 for this day, in UTC"
    )


def test_a_refusal_writes_amounts_out_however_small_or_large():
    world = World(price=DOLLAR // 80_000, keys={"alice": LimitConfig(usd_per_day=0.00002)})
    world.call().settle(Usage(), DOLLAR // 80_000)
    assert "$0.0000075 left of its budget of $0.00002 for" in world.assert_refused().message
    assert "may cost $0.0000125:" in world.assert_refused().message
    world = World(keys={"alice": LimitConfig(tokens_per_minute=2_500_000)})
    world.call().settle(Usage(0, 3_000_000), 0)
    assert "may use 2500000 tokens a minute" in world.assert_refused().message


def test_what_cost_exactly_as_much_as_was_reserved_is_spent():
    world = World(price=DOLLAR // 2, keys={"alice": LimitConfig(usd_per_day=1)})
    world.call().settle(Usage(), DOLLAR // 2)
    day = world.limiter._accounts["key", "alice"].day
    assert (day.own, day.left, day.reserved) == (DOLLAR // 2, DOLLAR // 2, 0)


def test_a_month_is_longer_than_a_day():
    world = World(price=1, keys={"alice": LimitConfig(usd_per_day=5, usd_per_month=7)})
    world.call().settle(Usage(), 5 * DOLLAR)
    assert world.assert_refused().retry_after == 12 * 3600
    world.wall += 86_400
    world.limiter.look()
    world.call().settle(Usage(), 2 * DOLLAR)
    assert world.assert_refused().retry_after == 8.5 * 86_400


def test_a_refusal_names_the_period_whose_money_is_spent():
    for period, limit in (("day", {"usd_per_day": 2}), ("month", {"usd_per_month": 2})):
        world = World(price=1, keys={"alice": LimitConfig(**limit)})
        world.call().settle(Usage(), 2 * DOLLAR)
        assert f"its budget of $2 for this {period}" in str(world.assert_refused())


def test_what_other_processes_spent_counts_and_is_not_added_twice():
    world = World(
        price=1, keys={"*": LimitConfig(usd_per_day=3)}, models={"m*": LimitConfig(usd_per_month=9)}
    )
    told = [
        Spent("alice", "research", "standard", "m1", "up", "m1", DOLLAR, 2 * DOLLAR),
        Spent("alice", "research", "standard", "other", "up", "other", DOLLAR, 5 * DOLLAR),
        Spent("bob", "research", "batch", "m2", "up", "m2", 3 * DOLLAR, 4 * DOLLAR),
    ]
    world.limiter.credit(told)
    world.call().settle(Usage(), DOLLAR // 2)
    world.limiter.credit(told)
    accounts = world.limiter._accounts
    assert accounts["key", "alice"].day.left == DOLLAR // 2
    assert accounts["model", "m*"].month.left == 9 * DOLLAR - 6 * DOLLAR - DOLLAR // 2
    assert world.assert_refused(BOB).code == "budget_exceeded"


def test_an_absurd_limit_of_tokens_reserves_no_absurd_sum():
    asked = []
    world = World(keys={"alice": LimitConfig(usd_per_day=1)})
    world.limiter._price = lambda call, usage: asked.append(usage) or 0
    world.call(max_tokens=2_000_000_000, n=999_999)
    world.call(max_tokens=0, n="x")
    world.call(endpoint=Endpoint.EMBEDDINGS)
    assert [usage.output_tokens for usage in asked] == [131_072 * 128, 0, 0]


@pytest.mark.parametrize(("n", "times"), [(3, 3), (3.0, 3), ("3", 3), (0.5, 1), ([3], 1), (None, 1)])
def test_every_way_of_asking_for_several_answers_reserves_them(n, times):
    asked = []
    world = World(keys={"alice": LimitConfig(usd_per_day=1)})
    world.limiter._price = lambda call, usage: asked.append(usage.output_tokens) or 0
    world.call(max_tokens=10, n=n)
    world.call(endpoint=Endpoint.COMPLETIONS, max_tokens=10, n=2, best_of=n)
    assert asked == [10 * times, max(10 * times, 20)]


@pytest.mark.parametrize(
    ("prompt", "times"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1)]
)
def test_each_prompt_of_several_reserves_an_answer(prompt, times):
    asked = []
    world = World(keys={"alice": LimitConfig(usd_per_day=1)})
    world.limiter._price = lambda call, usage: asked.append(usage.output_tokens) or 0
    world.call(endpoint=Endpoint.COMPLETIONS, max_tokens=10, n=3, prompt=prompt)
    assert asked == [30 * times]


def test_what_is_made_behind_an_answer_has_what_was_reserved_for_it_but_no_place():
    world = World(
        keys={"alice": LimitConfig(tokens_per_minute=5_000, concurrent=1, usd_per_day=1)}, price=DOLLAR
    )
    first = world.call(max_tokens=900)
    behind = first.hand_on()
    behind.hold()
    first.release()
    assert world.assert_refused().code == "budget_exceeded"  # there is a place, but no money
    behind.settle(Usage(20, 30), DOLLAR // 4)
    behind.release()
    assert world.limiter._accounts["key", "alice"].day.left == DOLLAR * 3 // 4
    assert first.windows()[1][1] == 4_950


def test_what_is_not_counted_in_tokens_is_reserved_as_well():
    asked = []
    world = World(keys={"alice": LimitConfig(usd_per_day=1)})
    world.limiter._price = lambda call, usage: asked.append((usage.units, usage.output_tokens)) or 0
    world.call(endpoint=Endpoint.IMAGES_GENERATIONS, n=4)
    world.call(endpoint=Endpoint.IMAGES_GENERATIONS, n=10**9)
    world.call(endpoint=Endpoint.SPEECH, input="twelve signs")
    world.call(endpoint=Endpoint.RERANK)
    assert asked == [(4, 4_000), (128, 128_000), (12, 0), (1, 0)]


def test_what_is_not_made_behind_an_answer_after_all_gives_back_what_was_handed_on_to_it():
    limits = LimitConfig(tokens_per_minute=10_000, usd_per_day=1)
    world = World(keys={"alice": limits}, price=DOLLAR // 2)
    first = world.call(max_tokens=4_000)
    behind = first.hand_on()
    behind.hold()
    first.release()
    day = world.limiter._accounts["key", "alice"].day
    assert (first.windows()[1][1] <= 6_000, day.left) == (True, DOLLAR // 2)
    behind.release()
    assert (first.windows()[1][1], day.left) == (10_000, DOLLAR)


# ---- a new configuration ----


def test_calls_in_progress_are_known_to_limits_that_come_back():
    limited = LimitsConfig(keys={"alice": LimitConfig(concurrent=3)})
    world = World(workers=2, keys=limited.keys)
    reservation = world.call()
    account = world.limiter._accounts["key", "alice"]
    world.limiter.configure(LimitsConfig(keys={"alice": LimitConfig()}))
    assert account.lease is None
    world.limiter.configure(limited)
    assert (account.lease.in_progress, account.in_progress) == (1, 1)
    reservation.release()
    assert (account.lease.in_progress, account.in_progress) == (0, 0)


@pytest.mark.parametrize("period", ["day", "month"])
def test_what_was_spent_before_it_was_known_which_day_it_is_stays_spent(period):
    world = World(price=1, keys={"alice": LimitConfig(**{f"usd_per_{period}": 2})})
    world.call().settle(Usage(), DOLLAR)
    world.wall += 40 * 86_400
    world.limiter.date()
    account, calendar = world.limiter._accounts["key", "alice"], world.limiter.calendar
    account.turn(calendar.day, calendar.month)
    assert getattr(account, period).left == DOLLAR


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("period", ["day", "month"])
def test_a_clock_that_was_far_ahead_at_the_start_does_not_keep_its_budget_until_then(period, workers):
    world = World(workers=workers, price=1, keys={"alice": LimitConfig(**{f"usd_per_{period}": 2})})
    today = world.wall
    world.wall += 400 * 86_400
    world.limiter.date()
    world.call().settle(Usage(), DOLLAR)
    world.wall = today
    world.limiter.look()
    account = world.limiter._accounts["key", "alice"]
    assert getattr(account, period).left == DOLLAR, "what was spent was spent today"
    world.wall += 40 * 86_400
    world.limiter.look()
    assert getattr(account, period).left == 2 * DOLLAR


def test_a_limit_that_is_taken_away_is_shared_no_more():
    world = World(workers=2, keys={"alice": LimitConfig(requests_per_minute=40, concurrent=4)})
    reservation = world.call()
    account, lessee = world.limiter._accounts["key", "alice"], world.limiter.lessee
    lease = account.lease
    assert lease in {*lessee._dirty, *lessee._warm}
    world.limiter.configure(LimitsConfig())
    assert account.lease is None
    assert lease not in {*lessee._dirty, *lessee._warm}
    reservation.release()
    assert world.call() is None


def test_a_new_configuration_forgets_nothing_that_was_used():
    world = World(keys={"alice": LimitConfig(requests_per_minute=4, usd_per_day=1)}, price=1)
    for _ in range(3):
        world.call().settle(Usage(), DOLLAR // 4)
    world.limiter.configure(LimitsConfig(keys={"*": LimitConfig(requests_per_minute=40, usd_per_day=2)}))
    window = world.call().windows()[0]
    assert window[:2] == (40, 9)  # a quarter of the bucket was left
    assert world.limiter._accounts["key", "alice"].day.own == 3 * (DOLLAR // 4)
    world.limiter.configure(LimitsConfig())
    assert world.call() is None


def test_a_budget_that_comes_while_a_call_is_under_way_counts_from_the_next_one_on():
    world = World(price=DOLLAR, keys={"alice": LimitConfig(requests_per_minute=10)})
    before = world.call()
    world.limiter.configure(LimitsConfig(keys={"alice": LimitConfig(usd_per_day=2)}))
    world.call()
    before.settle(Usage(), DOLLAR)
    before.release()
    assert world.limiter._accounts["key", "alice"].day.left == DOLLAR


@given(
    st.lists(
        st.tuples(st.sampled_from([ALICE, BOB]), st.integers(1, 500), st.integers(0, 600), st.booleans()),
        max_size=40,
    )
)
def test_whatever_happens_nothing_stays_taken(calls):
    """Budgets: reserved goes back to nothing, spent is the sum of the costs; nobody is in progress."""
    limits = LimitConfig(tokens_per_minute=2_000, concurrent=3, usd_per_day=0.000_001)
    world = World(price=100_000, tenants={"*": limits}, tiers={"*": limits})
    spent = 0
    running = []
    for tenant, wanted, true, ends in calls:
        try:
            reservation = world.call(tenant, max_tokens=wanted)
        except RateLimited:
            world.clock.advance(3.0)
        else:
            reservation.hold()
            running.append((reservation, true))
        if ends and running:
            reservation, used = running.pop(0)
            reservation.settle(Usage(0, used), used)
            spent += used
            reservation.release(), reservation.release()
    for reservation, _ in running:
        reservation.release(), reservation.release()
    account = world.limiter._accounts.get(("tenant", "research"))
    if account is not None:
        assert (account.in_progress, account.day.reserved, account.day.own) == (0, 0, spent)


# ---- what goes on for hours ----

NAMES = ("alice", "research", "standard", "m")
SERVED_BY = ("openai", "gpt")


def test_money_is_set_aside_and_comes_back_with_what_was_really_spent():
    world = World(price=DOLLAR * 3 // 10, tenants={"research": LimitConfig(usd_per_day=1)})
    aside = world.limiter.set_aside(NAMES, SERVED_BY, DOLLAR * 8 // 10, is_spent=False)
    world.assert_refused()
    world.limiter.correct(NAMES, DOLLAR // 10, SERVED_BY)  # some of it is known to have cost so much
    aside.release()
    aside.release()
    first = world.call()
    world.call()
    world.call()
    first.release()
    assert world.limiter.set_aside(NAMES, SERVED_BY, DOLLAR, is_spent=False) is None


def test_what_is_under_way_already_is_set_aside_whatever_is_left():
    world = World(price=DOLLAR // 10, tenants={"research": LimitConfig(usd_per_day=1)})
    world.call().settle(Usage(), DOLLAR)
    assert world.limiter.set_aside(NAMES, SERVED_BY, DOLLAR // 2, is_spent=False) is None
    aside = world.limiter.set_aside(NAMES, SERVED_BY, DOLLAR // 2, is_spent=True)
    world.wall += 12 * 3600
    world.limiter.look()
    for _ in range(5):
        world.call()
    world.assert_refused()
    aside.release()
    world.call()


def test_nothing_is_set_aside_where_there_is_no_budget():
    world = World(keys={"alice": LimitConfig(requests_per_minute=1)})
    world.limiter.set_aside(NAMES, SERVED_BY, DOLLAR, is_spent=False).release()
    world.call()  # of which none was taken
