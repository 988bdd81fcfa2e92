import collections
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.flow import prefix
from penstock.flow.choose import FADE, FAILED, Standing
from penstock.flow.prefix import EACH, RATE, Place, Replica, Sent, by_prefix
from penstock.flow.prefix_blocks import BLOCK_BYTES, BLOCK_TOKENS, MANY, cut


class Pool:
    """What one gateway knows of some replicas."""

    def __init__(self, *names, weights=None):
        self.now = 0.0
        self.places = [
            Place(f"{name}/m", weights[i] if weights else 1.0, Standing(), Replica(lambda: self.now))
            for i, name in enumerate(names)
        ]

    def order(self, prompt):
        """Names, first who is asked first."""
        return [self.places[i].name[:-2] for i in by_prefix(self.places, prompt, self.now)]

    def send(self, prompt, to=None):
        """To whom it is to go, if nobody is named; the call, and who got it."""
        to = to or self.order(prompt)[0]
        place = next(each for each in self.places if each.name == f"{to}/m")
        return Sent(place.standing, place.replica, prompt), to

    def answer(self, prompt, to=None, seconds=None):
        """One call, from beginning to end, which takes as long as a replica that nobody else asks."""
        sent, to = self.send(prompt, to)
        seconds = sent._new / RATE if seconds is None else seconds
        self.now += seconds
        sent.answered(seconds, 10, None, self.now)
        sent.end()
        return to


FOUR = ("a", "b", "c", "d")
SYSTEM = b"You are a helpful assistant. ".ljust(20 * BLOCK_BYTES, b".")


def talk(number, turns=1, before=b""):
    """A conversation: two blocks for each turn."""
    said = (b"%d in %d " % (turn, number) for turn in range(turns))
    return cut([before, *(each.ljust(2 * BLOCK_BYTES, b".") for each in said), b"end"], b"")


# ---- who has it ----


def test_a_conversation_stays_where_it_is():
    pool = Pool(*FOUR)
    homes = {number: pool.answer(talk(number)) for number in range(50)}
    assert set(homes.values()) == set(FOUR)
    for turns in (2, 3, 9):
        for number, home in homes.items():
            assert pool.answer(talk(number, turns)) == home


def test_the_longest_known_beginning_wins():
    pool = Pool(*FOUR)
    pool.answer(talk(1, 3), to="b")
    pool.answer(talk(1, 7), to="c")
    assert pool.order(talk(1, 8))[:2] == ["c", "b"]


def test_what_has_not_been_asked_for_in_a_long_time_does_not_count():
    pool = Pool(*FOUR)
    home = pool.order(talk(1))[0]
    other = next(name for name in FOUR if name != home)
    pool.answer(talk(1, 5), to=other)
    assert pool.order(talk(1, 5))[0] == other
    pool.now += 3_600.0
    assert pool.order(talk(1, 5))[0] == home


def test_prompts_that_nobody_has_seen_are_shared_out_by_weight():
    pool = Pool("a", "b", weights=[1.0, 3.0])
    first = collections.Counter(pool.order(talk(number))[0] for number in range(2_000))
    assert 0.72 < first["b"] / 2_000 < 0.78


def test_short_prompts_are_shared_out_too():
    pool = Pool(*FOUR)
    first = collections.Counter(pool.order(cut([b"question %d" % number], b""))[0] for number in range(400))
    assert min(first[name] for name in FOUR) > 60


def test_replicas_whose_long_names_begin_alike_are_shared_out_too():
    long = "replica-in-a-pool-with-a-name-that-is-longer-than-64-bytes-by-far-and-"
    pool = Pool(*(long + end for end in FOUR))
    first = collections.Counter(pool.order(talk(number))[0] for number in range(400))
    assert min(first[long + name] for name in FOUR) > 60


@pytest.mark.parametrize("digest", [bytes(8), b"\xff" * 8])
def test_every_digest_makes_a_score(monkeypatch, digest):
    monkeypatch.setattr(prefix, "blake2b", lambda *_, **__: SimpleNamespace(digest=lambda: digest))
    pool = Pool(*FOUR)
    assert sorted(pool.order(talk(1))) == list(FOUR)


# ---- several gateways ----


def test_gateways_that_do_not_talk_choose_the_same_order():
    one, other = Pool(*FOUR), Pool(*reversed(FOUR))
    for number in range(100):
        assert one.order(talk(number)) == other.order(talk(number))


def test_a_conversation_goes_on_where_another_gateway_began_it():
    gateways = [Pool(*FOUR) for _ in range(3)]
    rand = random.Random(1)
    homes = {number: rand.choice(gateways).answer(talk(number)) for number in range(60)}
    for turns in range(2, 6):
        for number, home in homes.items():
            assert rand.choice(gateways).answer(talk(number, turns)) == home


def test_gateways_agree_on_conversations_below_a_system_prompt_that_all_have():
    gateways = [Pool(*FOUR) for _ in range(2)]
    for gateway in gateways:
        for number in range(20):  # and all replicas have it, as when much has been going on
            for name in FOUR:
                gateway.answer(talk(1_000 + number, before=SYSTEM), to=name)
    homes = {}
    for number in range(200):
        first, second = (gateway.order(talk(number, before=SYSTEM)) for gateway in gateways)
        assert first == second
        homes[number] = first[0]
    shares = collections.Counter(homes.values())
    assert min(shares[name] for name in FOUR) > 25
    for number, home in homes.items():  # the next turn, at the gateway that has not seen the first
        gateways[0].answer(talk(number, before=SYSTEM))
        assert gateways[1].order(talk(number, 2, before=SYSTEM))[0] == home


def test_gateways_leave_a_busy_replica_for_the_same_other_one():
    rand = random.Random(2)
    for number in range(40):
        one, other = Pool(*FOUR), Pool(*FOUR)
        prompt = talk(number, 20)
        first, second, *_ = one.order(prompt)
        for gateway in (one, other):
            for place in gateway.places:  # some do a little, and each gateway sees another part of that
                place.standing.begin()
                tokens = prompt.tokens if place.name == f"{first}/m" else prompt.tokens * rand.random() / 5
                place.replica.lengthen(tokens, 1, 0.0)
            assert gateway.order(prompt)[0] == second


# ---- the line ----


def test_a_line_is_left_for_another_replica_only_when_it_takes_longer_than_what_it_saves():
    prompt = talk(1, 20)
    saved = (len(prompt.chain) * BLOCK_TOKENS) / RATE
    for waiting, stays in ((0.5 * saved - EACH, True), (1.6 * saved, False)):
        pool = Pool("a", "b")
        home = pool.answer(prompt)
        busy = next(place for place in pool.places if place.name == f"{home}/m")
        busy.standing.begin()
        busy.replica.lengthen(waiting * RATE, 1, pool.now)
        assert (pool.order(prompt)[0] == home) is stays


def test_a_hot_prefix_spills_and_then_several_have_it():
    pool = Pool(*FOUR)
    prompt = cut([SYSTEM, b"question"], b"")
    home = pool.answer(prompt)
    calls = [pool.send(prompt) for _ in range(80)]
    went = collections.Counter(to for _, to in calls)
    assert [to for _, to in calls[:10]] == [home] * 10
    assert set(went) == set(FOUR)
    assert max(went.values()) < 50
    for sent, _ in calls:
        sent.answered(0.5, 10, None, pool.now)
        sent.end()
    assert {place.replica.record.known(prompt, pool.now) for place in pool.places} == {20}


def test_where_a_prefix_is_everywhere_nobody_has_many_more_calls_than_the_others():
    pool = Pool(*FOUR)
    for name in FOUR:
        pool.answer(cut([SYSTEM, b"question"], b""), to=name)
    went = collections.Counter(pool.send(cut([SYSTEM, b"%d?" % i], b""))[1] for i in range(100))
    assert max(went.values()) < 35


def test_what_was_sent_flows_off():
    pool = Pool("a", "b")
    sent, home = pool.send(talk(1, 20))
    replica = next(place.replica for place in pool.places if place.name == f"{home}/m")
    tokens = talk(1, 20).tokens
    assert replica.ahead(1, 0.0) == tokens
    assert replica.ahead(1, 0.25 * tokens / RATE) == pytest.approx(0.75 * tokens)
    assert replica.ahead(1, 10.0) == 0.0
    sent.end()
    assert replica.ahead(0, 0.0) == 0.0  # whatever it was taken for


def test_a_call_that_waits_for_its_turn_counts_as_waiting():
    pool = Pool("a", "b")
    home = pool.answer(talk(1, 5))
    pool.places = [
        Place(each.name, 1.0, each.standing, each.replica, 3.0 if each.name == f"{home}/m" else 0.0)
        for each in pool.places
    ]
    assert pool.order(talk(1, 5))[0] != home


# ---- what is learnt ----


@pytest.mark.parametrize("rate", [500.0, 40_000.0])
def test_how_fast_replicas_compute_is_learnt_from_first_tokens_whatever_else_they_wait_for(rate):
    pool, rand = Pool("a", "b"), random.Random(1)
    for number in range(200):
        prompt = talk(number, rand.randrange(1, 40))
        sent, _ = pool.send(prompt)
        seconds = 2.0 + rand.random() + prompt.tokens / rate
        pool.now += seconds
        sent.answered(seconds, 10, None, pool.now)
        sent.end()
    pool.order(talk(0))
    assert pool.places[0].replica.rate == pytest.approx(rate, rel=0.35)


def test_a_replica_of_twice_the_weight_is_taken_to_be_twice_as_fast():
    pool = Pool("a", "b", weights=[1.0, 2.0])
    for number in range(100):
        prompt = talk(number, 1 + number % 30)
        sent, to = pool.send(prompt)
        pool.now += 9.0
        sent.answered(prompt.tokens / (3_000.0 if to == "a" else 6_000.0), 10, None, pool.now)
        sent.end()
    pool.order(talk(0))
    slow, fast = (place.replica for place in pool.places)
    assert slow.rate == pytest.approx(3_000.0, rel=0.1)
    assert fast.rate == pytest.approx(6_000.0, rel=0.1)


def test_calls_that_wait_for_a_place_show_what_each_call_costs():
    pool = Pool("a", "b")
    for _ in range(30):
        calls = [pool.send(talk(1), to="a")[0] for _ in range(8)]
        pool.now += 20.0
        for others, sent in enumerate(calls):
            sent.answered(0.3 * others, 10, None, pool.now)
            sent.end()
    pool.order(talk(0))
    assert pool.places[0].replica.each == pytest.approx(0.3, rel=0.2)


def test_calls_that_seem_to_cost_nothing_cost_a_little():
    pool = Pool("a", "b")
    for _ in range(30):
        calls = [pool.send(talk(1), to="a")[0] for _ in range(8)]
        pool.now += 20.0
        for others, sent in enumerate(calls):
            sent.answered(1.0 - 0.1 * others, 10, None, pool.now)
            sent.end()
    pool.order(talk(0))
    assert pool.places[0].replica.each == EACH


def test_no_figures_make_a_rate_that_is_nonsense():
    pool = Pool("a", "b")
    for seconds in (0.0, 1e9, -5.0):
        for turns in (1, 40):
            for _ in range(50):
                pool.answer(talk(1, turns), to="a", seconds=seconds)
        pool.order(talk(0))
        assert 50.0 <= pool.places[0].replica.rate <= 100_000.0
        assert pool.places[0].replica.each >= EACH


# ---- replicas that come and go ----


def test_one_that_goes_moves_only_its_own_conversations():
    four, three = Pool(*FOUR), Pool(*FOUR[:3])
    moved = 0
    for number in range(200):
        order = four.order(talk(number))
        assert three.order(talk(number)) == [name for name in order if name != "d"]
        moved += order[0] == "d"
    assert 25 < moved < 80


def test_one_that_comes_back_gets_its_share_of_what_is_new_and_the_others_keep_what_they_got_meanwhile():
    pool = Pool(*FOUR)
    everybody = pool.places
    for number in range(100):
        pool.answer(talk(number))
    pool.places = everybody[:3]
    meanwhile = {number: pool.answer(talk(number, 4)) for number in range(100)}
    lost = everybody[3]
    pool.places = [*everybody[:3], Place(lost.name, 1.0, Standing(), Replica(lambda: pool.now))]
    assert {number: pool.answer(talk(number, 5)) for number in range(100)} == meanwhile
    new = collections.Counter(pool.answer(talk(number)) for number in range(1_000, 1_200))
    assert 25 < new["d"] < 80


def test_one_that_fails_is_not_taken_to_have_the_prompt_and_is_left_until_that_is_some_time_ago():
    pool = Pool("a", "b")
    home = pool.order(talk(1, 10))[0]
    for _ in range(3):
        sent, _ = pool.send(talk(1, 10), to=home)
        sent.failed(0.01, pool.now)
        sent.end()
    failing = next(place.replica for place in pool.places if place.name == f"{home}/m")
    assert failing.record.known(talk(1, 10), pool.now) == 0
    assert failing.wait(0, pool.now) > FAILED / 5
    assert pool.order(talk(1, 10))[0] != home
    pool.now += FADE
    assert pool.order(talk(1, 10))[0] == home


@pytest.mark.parametrize("end", ["withdrawn", "failed"])
def test_what_was_never_computed_is_neither_had_nor_waited_for(end):
    pool = Pool("a")
    replica, standing = pool.places[0].replica, pool.places[0].standing
    pool.send(talk(1, 10))
    sent, _ = pool.send(talk(2, 10))
    pool.now += 0.01
    sent.end()
    sent.withdrawn(pool.now) if end == "withdrawn" else sent.failed(0.01, pool.now)
    assert replica.record.known(talk(2, 10), pool.now) == 0
    assert replica.record.known(talk(1, 10), pool.now) == len(talk(1, 10).chain)
    assert replica.ahead(standing.in_progress, pool.now) == pytest.approx(talk(1, 10).tokens - 0.01 * RATE)
    assert bool(replica.wait(0, pool.now)) is (end == "failed")


def test_what_was_worked_off_of_a_prompt_that_came_to_nothing_is_not_taken_off_the_line_again():
    pool = Pool("a")
    replica = pool.places[0].replica
    sent, _ = pool.send(talk(1, 10))
    pool.send(talk(2, 10))
    pool.now += 1.5 * talk(1, 10).tokens / RATE
    sent.withdrawn(pool.now)
    assert replica.ahead(1, pool.now) == pytest.approx(0.5 * talk(2, 10).tokens)


def test_failures_are_forgotten_with_answers():
    pool = Pool("a")
    sent, _ = pool.send(talk(1))
    sent.failed(0.1, 0.0)
    for _ in range(60):
        pool.answer(talk(1), seconds=0.0)
    assert pool.places[0].replica.wait(0, pool.now) < 0.1


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 2)), max_size=30),
    st.integers(0, 9),
)
def test_every_order_has_every_replica_once(calls, number):
    pool = Pool(*FOUR)
    for which, turns, kind in calls:
        sent, _ = pool.send(talk(which, turns))
        pool.now += 0.01
        if kind == 0:
            sent.answered(0.2, 5, None, pool.now)
        elif kind == 1:
            sent.failed(0.2, pool.now)
        if kind < 2:
            sent.end()
    assert sorted(pool.order(talk(number))) == list(FOUR)


def test_a_system_prompt_becomes_common_with_the_conversations_that_have_it():
    pool = Pool("a")
    for number in range(MANY + 1):
        pool.answer(talk(number, before=SYSTEM))
    record = pool.places[0].replica.record
    prompt = talk(99, before=SYSTEM)
    assert record.common(prompt, record.known(prompt, pool.now)) == 20
