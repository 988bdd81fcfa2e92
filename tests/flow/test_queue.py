import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.model import TierConfig
from penstock.flow.queue import Entry, Full, Queue

TIERS = {
    "realtime": TierConfig(priority=10),
    "standard": TierConfig(priority=5, floor=0.1),
    "batch": TierConfig(priority=0, floor=0.0),
}


def filled(*entries, tiers=TIERS, max_waiting=1_000):
    queue = Queue(tiers, max_waiting)
    for tier, tenant, *deadline in entries:
        queue.push(Entry(tier, tenant, 0.0, *deadline))
    return queue


def drain(queue, turns=10_000):
    order = []
    while (entry := queue.pop()) is not None and len(order) < turns:
        order.append(entry)
    return order


def test_the_highest_tier_goes_first():
    queue = filled(("batch", "a"), ("standard", "a"), ("realtime", "a"))
    assert [entry.tier for entry in drain(queue)] == ["realtime", "standard", "batch"]


def test_a_batch_goes_behind_all_others_unless_the_configuration_says_otherwise():
    order = drain(filled(("batch", "a"), ("standard", "a"), ("another", "a"), tiers={}))
    assert order[-1].tier == "batch"
    equal = {"batch": TierConfig(priority=1)}
    assert drain(filled(("standard", "a"), ("batch", "a"), tiers=equal))[0].tier == "batch"


def test_a_lower_tier_has_its_floor_and_one_without_a_floor_waits():
    queue = filled(*[("realtime", "a")] * 100, *[("standard", "a")] * 100, *[("batch", "a")] * 100)
    first = Counter(entry.tier for entry in drain(queue, 100))
    assert first == {"realtime": 90, "standard": 10}


def test_tiers_of_one_priority_share_by_weight():
    tiers = {"gold": TierConfig(weight=3.0), "iron": TierConfig(weight=1.0)}
    queue = filled(*[("gold", "a")] * 100, *[("iron", "a")] * 100, tiers=tiers)
    assert Counter(entry.tier for entry in drain(queue, 40)) == {"gold": 30, "iron": 10}


def test_a_tier_that_comes_back_has_saved_up_nothing():
    tiers = {"gold": TierConfig(), "iron": TierConfig()}
    queue = filled(*[("gold", "a")] * 100, tiers=tiers)
    drain(queue, 50)
    for _ in range(50):
        queue.push(Entry("iron", "a", 0.0))
    assert Counter(entry.tier for entry in drain(queue, 20)) == {"gold": 10, "iron": 10}


def test_tenants_share_equally_however_much_each_of_them_asks():
    queue = filled(*[("standard", "greedy")] * 500, *[("standard", "modest")] * 20)
    first = Counter(entry.tenant for entry in drain(queue, 40))
    assert first == {"greedy": 20, "modest": 20}


def test_who_holds_the_upstream_longer_gets_fewer_turns():
    queue = filled(*[("standard", "long")] * 500, *[("standard", "short")] * 500)
    turns = Counter()
    for _ in range(200):
        entry = queue.pop(1.0)
        turns[entry.tenant] += 1
        queue.charge("standard", entry.tenant, 2.0 if entry.tenant == "long" else 0.0)
    assert turns["short"] == pytest.approx(3 * turns["long"], abs=4)


def test_a_tenant_that_comes_back_has_saved_up_nothing():
    queue = filled(*[("standard", "busy")] * 100)
    drain(queue, 80)
    for _ in range(50):
        queue.push(Entry("standard", "back", 0.0))
    assert Counter(entry.tenant for entry in drain(queue, 20)) == {"busy": 10, "back": 10}


def test_within_a_tenant_the_earliest_deadline_goes_first_then_who_came_first():
    queue = filled(("standard", "a", 9.0), ("standard", "a", 3.0), ("standard", "a"), ("standard", "a", 3.0))
    order = drain(queue)
    assert [entry.deadline for entry in order] == [3.0, 3.0, 9.0, float("inf")]


def test_when_it_is_full_the_lowest_tier_makes_room_and_there_who_can_wait_longest():
    queue = filled(
        ("standard", "a"), ("batch", "a", 5.0), ("batch", "b", 2.0), ("batch", "b", 7.0), max_waiting=4
    )
    evicted = queue.push(Entry("realtime", "c", 0.0))
    assert (evicted.tier, evicted.tenant, evicted.deadline) == ("batch", "b", 7.0)
    assert not evicted.waiting
    assert len(queue) == 4


def test_nobody_of_a_higher_tier_makes_room_nor_one_who_has_no_more_than_its_share():
    queue = filled(("standard", "a"), ("standard", "a"), max_waiting=2)
    for tier, tenant in (("standard", "a"), ("batch", "b")):
        with pytest.raises(Full):
            queue.push(Entry(tier, tenant, 0.0))
    assert len(queue) == 2


def test_a_tenant_that_has_filled_the_queue_makes_room_for_another():
    queue = filled(*[("standard", "greedy", float(number)) for number in range(6)], max_waiting=6)
    evicted = [queue.push(Entry("standard", "modest", 0.0)).deadline for _ in range(3)]
    assert evicted == [5.0, 4.0, 3.0]
    with pytest.raises(Full):
        queue.push(Entry("standard", "modest", 0.0))


def test_a_tier_takes_no_more_than_its_share_of_the_places():
    tiers = {"batch": TierConfig(queue_share=0.5)}
    queue = filled(*[("batch", "a")] * 5, tiers=tiers, max_waiting=10)
    with pytest.raises(Full):
        queue.push(Entry("batch", "a", 0.0))
    assert queue.push(Entry("batch", "b", 0.0)).tenant == "a"
    assert queue.push(Entry("standard", "a", 0.0)) is None


def test_a_queue_without_places_takes_nobody():
    with pytest.raises(Full):
        filled(("standard", "a"), max_waiting=0)


def test_a_tier_that_nobody_configured_waits_like_any_other():
    queue = filled(("no such tier", "a"), ("realtime", "a"))
    assert [entry.tier for entry in drain(queue)] == ["realtime", "no such tier"]


def test_those_whose_deadline_has_passed_are_sorted_out():
    queue = filled(("standard", "a", 1.0), ("standard", "a", 3.0), ("batch", "b", 2.0), ("batch", "c"))
    assert {entry.deadline for entry in queue.expired(2.5)} == {1.0, 2.0}
    assert len(queue) == 2


def test_nobody_overtakes_one_that_does_not_fit_yet():
    queue = filled(("realtime", "a"), ("standard", "a"))
    asked = []
    assert queue.pop(fits=lambda entry: asked.append(entry.tier)) is None
    assert asked == ["realtime"]
    assert len(queue) == 2


def test_a_new_configuration_holds_at_once():
    queue = filled(("realtime", "a"), ("batch", "a"))
    queue.use_tiers({"batch": TierConfig(priority=99)})
    assert queue.pop().tier == "batch"


def test_who_leaves_leaves_nothing_behind():
    queue = Queue(TIERS, 100_000)
    entries = [Entry("standard", f"t{number % 7}", 0.0, float(number)) for number in range(5_000)]
    for entry in entries:
        queue.push(entry)
    random.Random(1).shuffle(entries)
    for entry in entries[10:]:
        queue.remove(entry)
        queue.remove(entry)
    lines = queue._tiers["standard"].lines
    assert sum(len(line._heap) for line in lines.values()) < 1_000
    assert set(drain(queue)) == set(entries[:10])
    assert not queue._tiers["standard"].lines


def test_tenants_that_came_once_are_not_remembered_for_ever():
    queue = Queue(TIERS, 10)
    for number in range(20_000):
        queue.push(Entry("standard", f"t{number}", 0.0))
        queue.pop()
    assert len(queue._tiers["standard"].counters) <= 4_096


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "pop", "remove", "expire"]),
        st.sampled_from([*TIERS, "other"]),
        st.sampled_from("abc"),
        st.floats(0, 10),
    ),
    max_size=200,
)


@given(STEPS)
def test_its_counts_are_right_whatever_happens(steps):
    queue = Queue(TIERS, 12)
    waiting = set()
    for step, tier, tenant, number in steps:
        if step == "push":
            entry = Entry(tier, tenant, 0.0, number)
            try:
                evicted = queue.push(entry)
            except Full:
                assert len(waiting) == 12  # and nobody had to make room
            else:
                waiting.add(entry)
                waiting.discard(evicted)
        elif step == "pop":
            entry = queue.pop(number)
            assert (entry is None) == (not waiting)
            waiting.discard(entry)
        elif step == "remove" and waiting:
            entry = min(waiting, key=lambda each: (each.deadline, each.tenant))
            queue.remove(entry)
            waiting.remove(entry)
        elif step == "expire":
            gone = set(queue.expired(number))
            assert gone == {entry for entry in waiting if entry.deadline < number}
            waiting -= gone
        assert len(queue) == len(waiting) == sum(queue.lengths().values())
        assert all(entry.waiting for entry in waiting)
    assert set(drain(queue)) == waiting
