import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import BreakerConfig, ConcurrencyConfig, TierConfig
from penstock.errors import Evicted, Overloaded, PenstockError
from penstock.flow.gate import Asked, Gate, Outcome, Ticket, Turn
from penstock.metrics import Counter
from penstock.wire.ratelimits import Told

TIERS = {"realtime": TierConfig(priority=10), "standard": TierConfig(), "batch": TierConfig(priority=-10)}
FINE = Outcome("", first_token=0.1, tokens_per_second=50.0, output_tokens=100)


class Noting(Counter):
    """Of each call that it counts it tells what became of it."""

    def __init__(self, what, counts):
        self._value = 0
        self._what = what
        self._counts = counts

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, value):
        self._value = value
        self._counts.append(self._what)


class World:
    """A gate, the time, and what became of each call that waited."""

    def __init__(self, *, concurrency=None, breaker=None, **config):
        self.now = 1_000.0
        if config:
            concurrency = ConcurrencyConfig(**{"adaptive": False, **config})
        self.counts = []
        self.gate = Gate(
            "up",
            concurrency,
            breaker,
            TIERS,
            lambda *what: Noting(what, self.counts),
            unix_time=lambda: 1.7e9 + self.now,
        )
        self.told = {}

    def ask(self, name="x", *, last=False, within=inf, **asked):
        members = {"model": "m", "tenant": "t", "tier": "standard", "stream": True, **asked}
        call = Asked(**members, deadline=self.now + within)
        return self.gate.ask(
            call, self.now, lambda answer: self.told.setdefault(name, []).append(answer), last=last
        )

    def assert_refused(self, **asked):
        with pytest.raises(Overloaded) as caught:
            self.ask(**asked)
        return caught.value

    def settle(self, turn, outcome=FINE, after=0.0):
        self.now += after
        turn.settle(outcome, self.now)

    def sweep(self, seconds):
        self.now += seconds
        self.gate.sweep(self.now)


def test_so_many_go_at_once_and_the_next_when_one_has_ended():
    world = World(limit=2)
    first, second = world.ask(), world.ask()
    assert isinstance(first, Turn)
    third = world.ask("third")
    assert isinstance(third, Ticket)
    world.settle(second, after=1.0)
    (turn,) = world.told["third"]
    assert turn.waited == 1.0
    assert world.gate.in_progress == 2
    assert world.counts == [("standard", what) for what in ("passed", "passed", "waited")]


def test_a_turn_is_settled_once():
    world = World(limit=5)
    turn = world.ask()
    for _ in range(3):
        world.settle(turn)
    assert world.gate.in_progress == 0


def test_nobody_overtakes_one_who_waits():
    world = World(limit=1)
    first = world.ask()
    world.ask("second"), world.ask("third")
    world.settle(first)
    assert list(world.told) == ["second"]


def test_who_leaves_is_not_called():
    world = World(limit=1)
    first, second = world.ask(), world.ask("second")
    world.gate.leave(second)
    world.gate.leave(second)
    world.settle(first)
    assert world.told == {}
    assert world.counts[-1] == ("standard", "left")


def test_a_full_queue_refuses_and_evicts_lower_tiers_two_outcomes_with_two_names():
    world = World(limit=1, max_waiting=1)
    world.ask()
    world.ask("batch", tier="batch")
    error = world.assert_refused(tier="batch")
    assert (error.status, error.code, error.retry_after) == (503, "overloaded", 1.0)
    world.ask("urgent", tier="realtime")
    (evicted,) = world.told["batch"]
    assert isinstance(evicted, Evicted)
    assert (evicted.code, evicted.retry_after) == ("evicted", 1.0)
    assert world.counts[-2:] == [("batch", "full"), ("batch", "evicted")]


# ---- deadlines ----


@pytest.mark.parametrize("within", [-1.0, -inf, -1e-6])
def test_a_deadline_in_the_past_is_refused_though_there_is_room(within):
    error = World(limit=2).assert_refused(within=within)
    assert error.code == "deadline_unreachable"


def busy(world, calls=20, held=2.0):
    """Let the gate learn how long calls take."""
    for _ in range(calls):
        world.settle(world.ask(), after=held)


def test_what_cannot_make_its_deadline_is_refused_at_once_and_told_when():
    world = World(limit=1)
    busy(world)
    world.ask(), world.ask("second"), world.ask("third")
    error = world.assert_refused(within=3.0)  # two wait before it, and each call takes two seconds
    assert error.code == "deadline_unreachable"
    assert error.retry_after == pytest.approx(6.0, rel=0.3)
    assert isinstance(world.ask("patient", within=20.0), Ticket)


def test_a_plain_answer_needs_the_time_of_all_its_tokens():
    world = World(limit=9)
    busy(world)  # 0.1 s to the first token, then 100 tokens at 50 a second
    world.assert_refused(stream=False, within=1.5)
    world.ask(stream=False, within=2.5)
    world.ask(stream=False, within=1.5, max_output_tokens=10)
    world.ask(stream=True, within=0.5)


def test_one_whose_deadline_passes_while_it_waits_is_told():
    world = World(limit=1)
    world.ask()
    world.ask("second", within=5.0)
    world.sweep(4.9)
    assert world.told == {}
    world.sweep(0.2)
    (error,) = world.told["second"]
    assert error.code == "deadline_unreachable"
    assert world.counts[-1] == ("standard", "expired")


def test_a_high_tier_is_not_told_to_wait_for_lower_ones():
    world = World(limit=1)
    busy(world)
    world.ask()
    for number in range(50):
        world.ask(number, tier="batch")
    assert isinstance(world.ask("urgent", tier="realtime", within=3.0), Ticket)
    world.assert_refused(tier="batch", within=3.0)


# ---- the breaker ----

BREAKER = BreakerConfig(least_calls=4, probes=1)
BROKEN = Outcome("upstream")


def test_failures_open_it_for_this_model_only():
    world = World(breaker=BREAKER)
    for _ in range(4):
        world.settle(world.ask(), BROKEN)
    error = world.assert_refused()
    assert (error.code, error.retry_after) == ("breaker_open", 5.0)
    world.ask(model="other")
    assert world.gate.open_for("m", world.now) == 5.0
    assert world.gate.breakers_open == 1
    world.now += 5.0
    world.settle(world.ask())
    assert world.gate.breakers_open == 0


def test_the_log_says_when_and_why_it_opened_and_that_it_closed(caplog):
    caplog.set_level("INFO", "penstock.upstream")
    world = World(breaker=BREAKER)
    for _ in range(4):
        world.settle(world.ask(), BROKEN)
    world.now += 5.0
    world.settle(world.ask(), BROKEN)  # a probe that fails: it has been told already
    world.now += 10.0
    world.settle(world.ask())
    world.settle(world.ask(), Outcome("key"))
    name = world.gate.name
    assert caplog.messages == [
        f"{name} is left in peace as 'm': too many calls failed",
        f"{name} is asked again as 'm'",
        f"{name} is left in peace by any name: it does not accept our key",
    ]


def test_calls_of_a_higher_tier_that_come_and_pass_make_the_wait_of_a_lower_one_longer():
    world = World(limit=10)
    low = Asked("m", "t", "batch", stream=False)
    waits = []
    for calls in (0, 50, 0):
        for _ in range(calls):
            turn = world.ask(tier="realtime")
            world.sweep(0.1)
            world.settle(turn, after=0.1)
        if not calls:
            world.settle(world.ask(tier="batch"), after=1.0)
            for _ in range(600):
                world.sweep(0.1)
        world.gate.pace.holding = 1.0
        waits.append(world.gate.predicted_wait(low, world.now))
    before, meanwhile, after = waits
    assert 1.3 < meanwhile / before < 1.7  # five a second, in a window that is as long as they have come
    assert after == pytest.approx(before, rel=0.01)


@pytest.mark.parametrize("blames", ["rate", "nobody"])
def test_what_is_not_the_upstreams_fault_does_not_open_it(blames):
    world = World(breaker=BREAKER)
    for _ in range(50):
        world.settle(world.ask(), Outcome(blames))
    world.ask()


def test_one_wrong_key_shuts_all_models_and_one_probe_finds_out():
    world = World(breaker=BREAKER)
    world.settle(world.ask(), Outcome("key"))
    world.assert_refused(model="other")
    world.now += 5.0
    probe = world.ask(model="other")
    world.assert_refused()
    world.settle(probe)
    world.ask(), world.ask()


def test_the_last_candidate_standing_is_probed():
    world = World(breaker=BREAKER)
    for _ in range(4):
        world.settle(world.ask(), BROKEN)
    world.assert_refused()
    world.settle(world.ask(last=True))
    world.ask()


def test_it_opens_while_calls_wait():
    world = World(limit=4, breaker=BREAKER)
    turns = [world.ask() for _ in range(4)]
    world.ask("waits"), world.ask("standing", last=True)
    for turn in turns:
        world.settle(turn, BROKEN)
    assert isinstance(world.told["waits"][0], Turn)  # the first failure let it go
    assert isinstance(world.told["standing"][0], Turn)
    world.ask("late", last=True)
    assert world.gate.in_progress <= 3


def test_invented_models_make_no_end_of_breakers():
    world = World(breaker=BREAKER)
    for number in range(1_000):
        world.settle(world.ask(model=f"m{number}"))
    assert len(world.gate._breakers) <= 256


# ---- the provider's own limits ----


def headers(left, limit=60):
    return {
        b"x-ratelimit-limit-requests": b"%d" % limit,
        b"x-ratelimit-remaining-requests": b"%d" % left,
    }


def test_what_went_out_before_the_providers_first_word_is_taken_off_what_it_tells():
    world = World(limit=50)
    silent, speaks, _ = world.ask(), world.ask(), world.ask()
    silent.on_head({b"server": b"x"}, world.now)
    speaks.on_head(headers(5), world.now)  # of which one is the third call's, and one stays in reserve
    passed = [isinstance(world.ask(), Turn) for _ in range(5)]
    assert passed == [True, True, True, False, False]


def test_nothing_is_remembered_of_the_calls_of_a_provider_that_tells_nothing():
    world = World(limit=50)
    headed, headless = world.ask(), world.ask()
    assert len(world.gate.provider.unanswered) == 2
    headed.on_head({b"server": b"x"}, world.now)
    world.settle(headed), world.settle(headless)
    assert not world.gate.provider.unanswered


def test_calls_wait_here_while_the_providers_bucket_is_empty():
    world = World(limit=50)
    first = world.ask()
    first.on_head(headers(1), world.now)
    assert isinstance(world.ask("second"), Ticket)
    world.sweep(0.5)
    assert world.told == {}
    world.sweep(1.0)
    assert isinstance(world.told["second"][0], Turn)


def test_a_rate_429_stops_the_others_until_the_provider_wants_them():
    world = World(limit=50)
    world.settle(world.ask(), Outcome("rate", retry_after=3.0))
    world.ask("second")
    world.sweep(2.9)
    assert world.told == {}
    world.sweep(0.2)
    assert isinstance(world.told["second"][0], Turn)


def test_an_overload_lowers_the_concurrency_and_stops_nobody():
    world = World(limit=8, start=8, adaptive=True)
    world.settle(world.ask(), Outcome("overload"))
    assert int(world.gate.limit.value) == 5
    assert isinstance(world.ask(), Turn)


def test_a_retry_after_of_a_day_keeps_nobody_waiting_for_a_day():
    world = World(limit=50)
    world.settle(world.ask(), Outcome("rate", retry_after=86_400.0))
    error = world.assert_refused(within=30.0)
    assert error.retry_after == 60.0
    world.ask("patient")
    world.sweep(60.1)
    assert isinstance(world.told["patient"][0], Turn)


def test_nobody_without_a_deadline_waits_for_a_provider_that_takes_nothing():
    world = World(limit=1)
    world.settle(world.ask(), Outcome("rate", retry_after=60.0))
    for name in ("first", "second", "endless"):
        world.ask(name)
    world.sweep(60.1)
    world.settle(world.told["first"][0], Outcome("rate", retry_after=60.0))
    world.sweep(60.1)
    world.ask("patient", within=1_000.0)
    world.settle(world.told["second"][0], Outcome("rate", retry_after=60.0))
    assert isinstance(world.told["endless"][0], Overloaded)
    assert world.told["endless"][0].retry_after == 60.0
    assert "patient" not in world.told
    world.sweep(60.1)
    world.settle(world.told["patient"][0])
    world.settle(world.ask(), Outcome("rate", retry_after=60.0))  # it took one: that counts anew
    world.ask("later")
    assert "later" not in world.told
    assert [what for _, what in world.counts].count("in_vain") == 1


def test_headers_are_left_alone_where_that_is_asked_for():
    world = World(limit=50, follow_headers=False)
    turn = world.ask()
    turn.on_head(headers(0), world.now)
    world.settle(turn, Outcome("rate", retry_after=9.0))
    assert isinstance(world.ask(), Turn)


def test_a_call_with_many_tokens_waits_for_them_and_nobody_overtakes_it():
    world = World(limit=50)
    turn = world.ask(tokens=10)
    world.gate.provider.answered(1, None, Told(6_000, 1_000, None), world.now)
    world.settle(turn)
    assert isinstance(world.ask("big", tokens=3_000), Ticket)
    world.ask("small", tokens=10)
    world.sweep(10.0)
    assert world.told == {}
    world.sweep(12.0)
    assert list(world.told) == ["big", "small"]


# ---- all together ----


@given(st.integers(0, 2**32))
def test_every_call_gets_exactly_one_answer_and_every_place_comes_back(seed):
    rand = random.Random(seed)
    world = World(
        concurrency=ConcurrencyConfig(limit=rand.randint(1, 5), start=2, max_waiting=rand.randint(0, 6)),
        breaker=BreakerConfig(least_calls=3, window=5.0),
    )
    turns, waiting = [], {}

    def told():
        for each in [each for each in waiting if each in world.told]:
            del waiting[each]
            turns.extend(answer for answer in world.told[each] if isinstance(answer, Turn))

    for number in range(120):
        step = rand.random()
        if step < 0.5:
            try:
                place = world.ask(
                    number,
                    tier=rand.choice([*TIERS, "unknown"]),
                    tenant=rand.choice("abc"),
                    model=rand.choice("mn"),
                    within=rand.choice([inf, 0.0, 2.0, 20.0]),
                    last=rand.random() < 0.3,
                )
            except PenstockError:
                continue
            if isinstance(place, Turn):
                turns.append(place)
            else:
                waiting[number] = place
        elif step < 0.85 and turns:
            turn = turns.pop(rand.randrange(len(turns)))
            if rand.random() < 0.5:
                turn.on_head(headers(rand.randint(0, 60)), world.now)
            blames = rand.choice(["", "", "", "upstream", "overload", "rate", "key", "nobody"])
            world.settle(
                turn, Outcome(blames, rand.choice([None, 0.1, 3.0]), 9.0, 5, rand.choice([None, 1e5]))
            )
        elif step < 0.9 and waiting:
            leaving, ticket = waiting.popitem()
            if ticket.waiting:
                world.gate.leave(ticket)
                world.told[leaving] = ["left"]
        else:
            world.sweep(rand.random() * 5)
        told()
        assert world.gate.in_progress == len(turns)
        assert len(world.gate.queue) == len(waiting)
    for _ in range(400):
        while turns:
            world.settle(turns.pop())
            told()
        world.sweep(1.0)
        told()
    assert not waiting
    assert world.gate.in_progress == len(world.gate.queue) == 0
    assert all(len(answers) == 1 for answers in world.told.values())


def test_those_who_wait_can_be_sent_away():
    world = World(limit=1)
    turn = world.ask()
    for name in ("first", "second"):
        world.ask(name, tenant=name)
    why = Overloaded("up goes")
    world.gate.send_away(why)
    assert world.told == {"first": [why], "second": [why]}
    assert len(world.gate.queue) == 0
    world.settle(turn)
    assert world.gate.in_progress == 0
