"""For whom another process is to go on with what it produces: what each says, and what that one hears."""

import asyncio
from types import SimpleNamespace

import pytest
from memory_store import MemoryStore

from penstock.generation.attention import ATTENDED, Attention
from penstock.generation.store import StoreUnavailable


def processes(count):
    """So many that share a store and its time, and the time."""
    store, time = MemoryStore(1 << 20), SimpleNamespace(now=1_000.0)
    return [Attention(store, lambda: time.now) for _ in range(count)], time


def test_what_several_processes_read_is_read_until_the_last_of_them_is_silent():
    async def test():
        (produces, *readers), time = processes(3)
        assert not await produces.is_paid("gen_x")
        for one in (*readers, readers[1]):
            await one.say(["gen_x"])
            time.now += 0.9 * ATTENDED
            assert await produces.is_paid("gen_x")
        time.now += 0.2 * ATTENDED
        assert not await produces.is_paid("gen_x")

    asyncio.run(test())


def test_the_last_reader_of_one_process_does_not_speak_for_those_of_another():
    async def test():
        (produces, one, other), time = processes(3)
        await one.say(["gen_x"])
        await other.say(["gen_x"])
        await one.dismiss("gen_x")
        assert await produces.is_dismissed("gen_x")
        assert await produces.is_paid("gen_x"), "the other's reader has said nothing of leaving"
        time.now += 0.9 * ATTENDED
        await other.say(["gen_x"])
        time.now += 0.9 * ATTENDED
        assert await produces.is_paid("gen_x")

    asyncio.run(test())


@pytest.mark.parametrize("leavers", [1, 2])
def test_that_a_reader_has_left_is_known_when_nothing_is_heard_of_others_any_more_and_not_for_ever(leavers):
    async def test():
        (produces, *readers), time = processes(1 + leavers)
        for one in readers:
            await one.say(["gen_x"])
        for one in readers:
            await one.dismiss("gen_x")
        time.now += ATTENDED + 0.5
        assert not await produces.is_paid("gen_x")
        assert await produces.is_dismissed("gen_x")
        time.now += ATTENDED
        assert not await produces.is_dismissed("gen_x")

    asyncio.run(test())


def test_a_process_whose_time_is_a_little_behind_is_heard_too():
    async def test():
        (produces, one), time = processes(2)
        assert not await produces.is_paid("gen_x")
        time.now -= 0.01
        await one.say(["gen_x"])
        time.now += 0.02
        assert await produces.is_paid("gen_x")

    asyncio.run(test())


def test_what_was_promised_to_a_caller_of_one_process_is_known_in_all_for_a_day():
    async def test():
        (promises, produces), time = processes(2)
        assert not await produces.is_promised("gen_x")
        await promises.promise("gen_x")
        assert not await produces.is_promised("gen_y")
        time.now += 86_399.0
        assert await produces.is_promised("gen_x")
        time.now += 2.0
        assert not await produces.is_promised("gen_x")

    asyncio.run(test())


def test_what_the_store_does_not_tell_is_not_taken_for_promised_nor_for_not_promised(monkeypatch):
    async def test():
        (produces,), _ = processes(1)

        async def away(*_what, **_more):
            raise StoreUnavailable("away")

        monkeypatch.setattr(MemoryStore, "claim", away)
        with pytest.raises(StoreUnavailable):
            await produces.is_promised("gen_x")

    asyncio.run(test())


def test_who_produces_is_told_once_that_something_of_his_was_ended_and_nobody_else_is():
    async def test():
        (produces, one, other), time = processes(3)
        assert not await produces.is_any_ended("producer")
        await one.tell_ended("producer")
        await other.tell_ended("producer")
        assert not await produces.is_any_ended("another")
        assert await produces.is_any_ended("producer")
        assert not await produces.is_any_ended("producer"), "he has heard"
        await one.tell_ended("producer")
        assert await produces.is_any_ended("producer")
        await one.tell_ended("producer")
        time.now += 2 * ATTENDED
        assert not await produces.is_any_ended("producer"), (
            "by now he has heard it from the store, or never will"
        )

    asyncio.run(test())
