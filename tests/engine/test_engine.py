"""Who gets on next, and what becomes of those who are under way."""

from __future__ import annotations

import asyncio
from math import inf

import pytest
from engine_doubles import LetterBackend, Reader, greedy, job, running, until_added

from penstock.engine.engine import Engine
from penstock.errors import BadRequest, InternalError, ModelUnusable, Overloaded

PROMPT = [5, 6, 7]


def play(test):
    asyncio.run(asyncio.wait_for(test, 30))


def prompt(number, length=4):
    return [3 + (number * 11 + place) % 90 for place in range(length)]


async def submitted(engine, *jobs):
    readers = [Reader() for _ in jobs]
    return readers, [engine.submit(one, reader) for one, reader in zip(jobs, readers, strict=True)]


def test_many_at_once_say_what_each_says_alone():
    async def test():
        backend = LetterBackend()
        async with running(backend, slots=8) as engine:
            jobs = [job(prompt(number), 3 + number % 9) for number in range(32)]
            readers, _ = await submitted(engine, *jobs)
            for one, reader in zip(jobs, readers, strict=True):
                await reader.ended.wait()
                assert reader.ids == greedy(one.prompt, one.sampling.max_tokens)
                assert reader.finish == "length"
            assert engine.statistics().generated == sum(one.sampling.max_tokens for one in jobs)
            assert engine.statistics().read == sum(len(one.prompt) for one in jobs)

    play(test())


def test_the_backend_rests_when_nothing_is_under_way_and_only_then():
    """The double fails where it does otherwise."""

    async def test():
        backend = LetterBackend()
        async with running(backend, slots=2) as engine:
            for round_ in range(1, 4):
                readers, _ = await submitted(engine, *(job(prompt(number), 3) for number in range(5)))
                for reader in readers:
                    await reader.ended.wait()
                while backend.rests < round_:  # the thread goes on by itself
                    await asyncio.sleep(0)
        assert backend.steps >= 9

    play(test())


def test_no_more_than_the_slots_are_under_way():
    async def test():
        backend = LetterBackend()
        async with running(backend, slots=4) as engine:
            readers, _ = await submitted(engine, *(job(prompt(number)) for number in range(20)))
            for reader in readers:
                await reader.ended.wait()
            assert backend.most == 4

    play(test())


def test_higher_priorities_go_first_then_deadlines_then_who_came_first():
    async def test():
        backend = LetterBackend(held=True)
        async with running(backend, slots=1, now=lambda: 0.0) as engine:
            (first,), (number,) = await submitted(engine, job(PROMPT, 2))
            await until_added(backend, 1)
            jobs = [
                job(PROMPT, 1),
                job(PROMPT, 1, deadline=20.0),
                job(PROMPT, 1, deadline=10.0),
                job(PROMPT, 1, priority=-1, deadline=1.0),
                job(PROMPT, 1),
            ]
            readers, numbers = await submitted(engine, *jobs)
            backend.release()
            for reader in [first, *readers]:
                await reader.ended.wait()
            order = [numbers[place] for place in (2, 1, 0, 4, 3)]
            assert backend.added == [number, *order]

    play(test())


def test_a_call_of_a_higher_priority_gets_a_place_where_the_others_have_all():
    async def test():
        backend = LetterBackend(held=True)
        async with running(backend, slots=4) as engine:
            _, numbers = await submitted(engine, *(job(prompt(number), 50) for number in range(6)))
            await until_added(backend, 4)
            (urgent, second), (number, _) = await submitted(
                engine, job(PROMPT, 1, priority=1), job(PROMPT, 1, priority=1)
            )
            backend.allow(2)
            await urgent.ended.wait()
            assert backend.added[:5] == [*numbers[:4], number]
            backend.allow(2)
            await second.ended.wait()

    play(test())


def test_a_long_prompt_is_not_joined_by_others_until_most_of_it_is_read():
    """What is added is read in its order, so whoever is added behind it could not be overtaken."""

    async def test():
        backend = LetterBackend(held=True, step_tokens=10, context=100)
        async with running(backend, slots=8) as engine:
            (long, later), _ = await submitted(engine, job(prompt(1, 25), 9), job(prompt(2), 9))
            await until_added(backend, 1)
            (urgent,), (number,) = await submitted(engine, job(PROMPT, 1, priority=5))
            backend.allow()
            await long.wait_ids(1)
            backend.allow(2)
            await urgent.ended.wait()
            assert backend.added.index(number) == 1
            assert not later.finish

    play(test())


def test_a_cancelled_call_leaves_its_place_before_the_next_step():
    async def test():
        backend = LetterBackend(held=True)
        async with running(backend, slots=1) as engine:
            (first, second), (number, _) = await submitted(engine, job(PROMPT, 50), job(prompt(1), 3))
            backend.allow()
            await first.wait_ids(1)
            engine.cancel(number)
            backend.allow(2)
            await second.wait_ids(1)
            assert backend.cancelled == [number]
            steps = backend.steps
            assert steps <= 3  # the one that was under way, perhaps, and no other
            backend.release()
            await second.ended.wait()
            assert second.ids == greedy(prompt(1), 3)
            assert len(first.ids) <= 2
            assert not first.ended.is_set()

    play(test())


def test_a_call_that_is_cancelled_while_it_waits_is_never_computed():
    async def test():
        backend = LetterBackend(held=True)
        async with running(backend, slots=1) as engine:
            (first, second, third), numbers = await submitted(
                engine, job(PROMPT, 2), job(prompt(1)), job(prompt(2), 1)
            )
            await until_added(backend, 1)
            engine.cancel(numbers[1])
            backend.release()
            await third.ended.wait()
            assert backend.added == [numbers[0], numbers[2]]
            assert (first.finish, second.finish) == ("length", "")
            assert engine.statistics().waiting == 0

    play(test())


def test_when_all_are_cancelled_the_next_one_is_still_served():
    """A long prompt that nobody waits for any more must not keep others out."""

    async def test():
        backend = LetterBackend(held=True, step_tokens=8)
        async with running(backend, slots=2) as engine:
            _, (number,) = await submitted(engine, job(prompt(1, 40), 5))
            await until_added(backend, 1)
            engine.cancel(number)
            (reader,), _ = await submitted(engine, job(PROMPT, 2))
            backend.release()
            await reader.ended.wait()
            assert reader.ids == greedy(PROMPT, 2)

    play(test())


def test_a_deadline_that_passes_in_the_line_is_told():
    async def test():
        moment = 0.0
        backend = LetterBackend(held=True)
        async with running(backend, slots=1, now=lambda: moment) as engine:
            (first,), _ = await submitted(engine, job(PROMPT, 2))
            await until_added(backend, 1)
            (late,), _ = await submitted(engine, job(PROMPT, 2, deadline=5.0))
            moment = 6.0
            backend.release()
            await asyncio.gather(first.ended.wait(), late.ended.wait())
            assert isinstance(late.error, Overloaded)
            assert not late.ids

    play(test())


def test_too_many_waiting_are_refused_at_once():
    async def test():
        backend = LetterBackend(held=True)
        async with running(backend, slots=1, max_waiting=2) as engine:
            await submitted(engine, *(job(PROMPT) for _ in range(3)))
            with pytest.raises(Overloaded):
                engine.submit(job(PROMPT), Reader())
            assert engine.statistics().refused == 1

    play(test())


def test_what_the_library_refuses_is_the_callers_to_know():
    async def test():
        backend = LetterBackend()
        backend.refuse = True
        async with running(backend) as engine:
            (reader,), _ = await submitted(engine, job(PROMPT))
            await reader.ended.wait()
            assert isinstance(reader.error, BadRequest)
            backend.refuse = False
            (other,), _ = await submitted(engine, job(PROMPT))
            await other.ended.wait()
            assert other.finish == "length"

    play(test())


def test_a_step_that_fails_is_told_to_all_and_is_the_end():
    async def test():
        broken = asyncio.Event()
        backend = LetterBackend(held=True)
        async with running(backend, on_broken=broken.set) as engine:
            readers, _ = await submitted(engine, job(PROMPT), job(prompt(1)))
            await until_added(backend, 2)
            backend.fail = MemoryError("in the middle")
            backend.allow()
            for reader in readers:
                await reader.ended.wait()
                assert isinstance(reader.error, InternalError)
            await broken.wait()
            with pytest.raises(InternalError):
                engine.submit(job(PROMPT), Reader())
            assert engine.was_loaded

    play(test())


def test_a_model_that_cannot_be_loaded_is_told_to_all():
    async def test():
        broken = asyncio.Event()

        def load():
            raise ModelUnusable("weights.bin is cut off")

        engine = Engine(load, on_broken=broken.set)
        with pytest.raises(ModelUnusable):
            await engine.loaded()
        await broken.wait()
        with pytest.raises(ModelUnusable):
            engine.submit(job(PROMPT), Reader())
        assert not engine.was_loaded
        await engine.close()

    play(test())


def test_at_the_end_who_is_under_way_is_told():
    async def test():
        backend = LetterBackend(held=True)
        async with running(backend) as engine:
            (reader,), _ = await submitted(engine, job(PROMPT, 100))
            await until_added(backend, 1)
            backend.allow()
            await reader.wait_ids(1)
            closing = asyncio.ensure_future(engine.close())
            backend.release()
            await closing
            assert reader.error is not None or reader.finish

    play(test())


def test_a_deadline_of_never_is_no_deadline():
    assert job(PROMPT).deadline == inf
