import pytest

from penstock.errors import Overloaded
from penstock.generation.log import EVENT_OVERHEAD
from penstock.generation.registry import MAX_REMEMBERED, OVERHEAD, Registry
from penstock.generation.written import STORED
from penstock.messages import Call, Endpoint, Tenant
from penstock.testing import FakeClock


def a_registry(max_bytes=10_000, max_answer_bytes=1_000, clock=None, **more):
    return Registry(max_bytes, max_answer_bytes, (clock or FakeClock()).now, **more)


def a_call(name="gen_1", body=b"x" * 40, stream=True):
    return Call(
        id=name,
        endpoint=Endpoint.CHAT,
        model="m",
        stream=stream,
        fields={},
        body=body,
        headers={},
        received=1.0,
        tenant=Tenant(name="t"),
    )


def test_nothing_is_kept_where_nothing_is_to_be_kept():
    registry = a_registry()
    generation = registry.create(a_call())
    assert registry.get("gen_1") is generation
    assert (generation.tenant, generation.model, generation.stream) == ("t", "m", True)
    assert list(registry) == [generation]
    generation.finish()
    assert registry.get("gen_1") is None
    assert (len(registry), registry.account.held) == (0, 0)


def test_past_its_bytes_nothing_new_begins_until_something_ends():
    registry = a_registry(100)
    first = registry.create(a_call("gen_1"))
    registry.create(a_call("gen_2", b"x" * 60))
    with pytest.raises(Overloaded) as caught:
        registry.create(a_call("gen_3"))
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)
    first.finish()
    registry.create(a_call("gen_3"))
    assert "2 running" in repr(registry)


def test_one_log_may_hold_no_more_than_its_share():
    assert a_registry(10_000, 123).create(a_call()).max_bytes == 123


class Reader:
    read_bytes = 0

    def advance(self):
        pass


class Tap:
    abandoned = 0
    complete = False

    def abandon(self):
        self.abandoned += 1

    def drained(self):
        pass


def ended(registry, name, *, events=(b"x" * 100,), **more):
    generation = registry.create(a_call(name, **more))
    generation.append(list(events), 1.0)
    generation.finish()
    return generation


def test_an_ended_generation_is_found_until_its_time_is_over():
    clock = FakeClock()
    registry = a_registry(clock=clock, kept_for=60.0, kept_bytes=10_000)
    generation = ended(registry, "gen_1")
    assert registry.get("gen_1") is generation
    assert (len(registry), registry.ended, registry.account.held) == (0, 1, 0)
    clock.advance(59.0)
    registry.sweep(clock.now())
    assert registry.get("gen_1") is generation
    assert not registry.was_there("gen_1", "t")
    clock.advance(1.0)
    registry.sweep(clock.now())
    assert registry.get("gen_1") is None
    assert registry.was_there("gen_1", "t")
    assert not registry.was_there("gen_1", "other")
    assert registry.kept == 0


def test_what_ended_first_makes_room():
    weight = OVERHEAD + 100 + EVENT_OVERHEAD
    registry = a_registry(kept_for=60.0, kept_bytes=2 * weight)
    for name in ("gen_1", "gen_2", "gen_3"):
        ended(registry, name)
    assert [registry.get(f"gen_{number}") is not None for number in (1, 2, 3)] == [False, True, True]
    assert registry.kept == 2 * weight


def test_what_was_dropped_before_its_time_leaves_the_others_their_turn():
    clock = FakeClock()
    weight = OVERHEAD + 100 + EVENT_OVERHEAD
    registry = a_registry(clock=clock, kept_for=60.0, kept_bytes=3 * weight)
    for name in ("gen_1", "gen_2", "gen_3"):
        ended(registry, name)
        clock.advance(10.0)
    registry.drop("gen_1")
    registry.drop("gen_1")
    assert registry.kept == 2 * weight
    assert registry.was_there("gen_1", "t")
    ended(registry, "gen_4")
    assert registry.ended == 3
    clock.advance(50.0)
    registry.sweep(clock.now())
    assert [registry.get(f"gen_{number}") is not None for number in (2, 3, 4)] == [False, False, True]
    assert registry.kept == weight


def test_those_that_went_last_are_remembered_and_not_ever_more_of_them():
    weight = OVERHEAD + 100 + EVENT_OVERHEAD
    registry = a_registry(kept_for=60.0, kept_bytes=weight)
    number = 3 * MAX_REMEMBERED
    for index in range(number + 1):
        ended(registry, f"gen_{index}")
    remembered = [index for index in range(number) if registry.was_there(f"gen_{index}", "t")]
    assert MAX_REMEMBERED // 2 <= len(remembered) <= MAX_REMEMBERED
    assert remembered == list(range(number - len(remembered), number))


def test_one_name_of_several_is_forgotten_with_each_of_them():
    weight = OVERHEAD + 100 + EVENT_OVERHEAD + len(a_call("gen").body)  # a name keeps the body
    registry = a_registry(kept_for=60.0, kept_bytes=2 * weight)
    kept = []
    for index in range(3):
        generation = registry.create(a_call(f"gen_{index}"))
        registry.bind(generation, "question")
        generation.append([b"x" * 100], 1.0)
        generation.finish()
        kept.append(generation)
    assert list(registry.named("question")) == kept[1:]
    for generation in kept[1:]:
        registry.drop(generation.id)
    assert not registry.named("question")


def test_what_another_process_has_taken_over_is_not_kept_as_it_broke_off_here():
    """Who comes back for it here shall find it there, and not be sent away again and again."""
    registry = a_registry(kept_for=60, kept_bytes=10_000)
    generation = registry.create(a_call())
    generation.append([b"event"], 1.0)
    generation.lost()
    assert registry.get("gen_1") is None
    assert registry.ended == 0


def test_only_what_somebody_can_come_back_for_is_kept():
    registry = a_registry(kept_for=60.0, kept_bytes=100_000)
    ended(registry, "gen_1", stream=False)
    assert registry.get("gen_1") is None
    named = registry.create(a_call("gen_2", stream=False))
    registry.bind(named, "name")
    named.append([b"{}"], 1.0)
    named.finish()
    assert registry.get("gen_2") is named
    refused = registry.create(a_call("gen_3"))
    refused.fail(Overloaded("no"))
    assert registry.get("gen_3") is None


def test_a_name_leads_to_its_generations_for_as_long_as_they_are_known():
    clock = FakeClock()
    registry = a_registry(clock=clock, kept_for=60.0, kept_bytes=10_000)
    one, two = registry.create(a_call("gen_1")), registry.create(a_call("gen_2"))
    registry.bind(one, "name")
    registry.bind(two, "name")
    registry.bind(two, "name")
    assert list(registry.named("name")) == [one, two]
    assert not registry.named("another")
    registry.unbind(two, "name")
    registry.unbind(two, "name")
    assert list(registry.named("name")) == [one]
    one.finish()
    assert list(registry.named("name")) == [one]
    clock.advance(61.0)
    registry.sweep(clock.now())
    assert not registry.named("name")


def test_a_deserted_generation_waits_for_its_grace_time_and_is_then_given_up():
    clock = FakeClock()
    registry = a_registry(clock=clock)
    generation = registry.create(a_call())
    generation.producer = tap = Tap()
    generation.grace = 10.0
    reader = Reader()
    generation.join(reader)
    generation.leave(reader)
    clock.advance(9.0)
    registry.sweep(clock.now())
    generation.join(reader)  # somebody has come back
    clock.advance(9.0)
    registry.sweep(clock.now())
    assert tap.abandoned == 0
    generation.leave(reader)
    clock.advance(10.0)
    registry.sweep(clock.now())
    assert (tap.abandoned, generation.abandoned) == (1, True)


def test_without_grace_a_deserted_generation_is_given_up_at_once():
    registry = a_registry()
    generation = registry.create(a_call())
    generation.producer = tap = Tap()
    reader = Reader()
    generation.join(reader)
    generation.leave(reader)
    assert tap.abandoned == 1


def test_a_registry_without_patience_gives_up_whatever_is_deserted():
    registry = a_registry()
    here, gone = registry.create(a_call("gen_1")), registry.create(a_call("gen_2"))
    reader = Reader()
    for generation in (here, gone):
        generation.producer = Tap()
        generation.grace = 10.0
        generation.join(reader)
    gone.leave(reader)
    registry.hurry()
    assert (here.abandoned, gone.abandoned) == (False, True)
    here.leave(reader)
    assert here.abandoned


def test_what_outlives_the_process_has_its_grace_also_without_patience():
    """Its readers may come back to another one."""
    registry = a_registry()
    generation, reader = registry.create(a_call()), Reader()
    generation.producer, generation.journal, generation.grace = Tap(), STORED, 10.0
    generation.join(reader)
    generation.leave(reader)
    registry.hurry()
    generation.join(reader)
    generation.leave(reader)
    assert not generation.abandoned
    assert registry.waiting() == [generation]


def test_reading_an_ended_generation_once_more_changes_nothing():
    registry = a_registry(kept_for=60.0, kept_bytes=10_000)
    generation = ended(registry, "gen_1")
    kept = registry.kept
    reader = Reader()
    generation.join(reader)
    generation.leave(reader)
    assert (registry.get("gen_1"), registry.kept, registry.account.held) == (generation, kept, 0)
    registry.drop("gen_1")
    registry.drop("gen_1")
    assert (registry.get("gen_1"), registry.kept) == (None, 0)
