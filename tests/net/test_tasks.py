"""Coroutines that need no task, until they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from penstock.net import tasks

Steps = list[str]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_runs_up_to_its_answer_at_once_and_goes_on_within_the_call_that_gives_it() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        steps: Steps = []
        waited_for = tasks.answer(loop)

        async def work() -> None:
            steps.append("begun")
            await waited_for
            steps.append("answered")

        made = tasks.run(work())
        assert steps == ["begun"]
        waited_for.succeed()
        assert steps == ["begun", "answered"]
        assert made.task is None
        assert len(asyncio.all_tasks()) == 1

    run(test)


def test_an_answer_that_fails_is_raised_at_the_next_turn() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        steps: Steps = []
        waited_for = tasks.answer(loop)

        async def work() -> None:
            try:
                await waited_for
            except ConnectionError as error:
                steps.append(str(error))

        tasks.run(work())
        waited_for.fail(ConnectionError("broken"))
        assert steps == []
        await asyncio.sleep(0)
        assert steps == ["broken"]

    run(test)


def test_an_answer_that_is_there_already_is_not_waited_for() -> None:
    async def test() -> None:
        steps: Steps = []
        given = tasks.answer(asyncio.get_running_loop())
        given.succeed()

        async def work() -> None:
            await given
            steps.append("answered")

        tasks.run(work())
        assert steps == ["answered"]

    run(test)


def test_several_answers_in_turn() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        answers = [tasks.answer(loop) for _ in range(3)]
        steps: list[int] = []

        async def work() -> None:
            for number, each in enumerate(answers):
                await each
                steps.append(number)

        tasks.run(work())
        for each in answers:
            each.succeed()
        assert steps == [0, 1, 2]

    run(test)


def test_a_wait_for_anything_else_makes_it_a_task_that_may_wait_for_answers_too() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        first, second, other = tasks.answer(loop), tasks.answer(loop), loop.create_future()
        steps: Steps = []

        async def work() -> None:
            await first
            steps.append(str(await other))
            await second
            await asyncio.sleep(0)
            steps.append("done")

        made = tasks.run(work())
        first.succeed()
        assert made.task is not None
        other.set_result("other")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert steps == ["other"]
        second.succeed()
        await made.task
        assert steps == ["other", "done"]

    run(test)


def test_a_failure_of_what_it_waits_for_as_a_task_is_raised_in_it() -> None:
    async def test() -> None:
        other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        caught: list[BaseException] = []

        async def work() -> None:
            try:
                await other
            except ValueError as error:
                caught.append(error)

        made = tasks.run(work())
        other.set_exception(ValueError("no"))
        assert made.task is not None
        await made.task
        assert [str(error) for error in caught] == ["no"]

    run(test)


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_cancelled_as_a_task_it_ends_in_its_own_way_however_early(turns: int) -> None:
    async def test() -> None:
        steps: Steps = []

        async def work() -> None:
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                steps.append("cancelled")
            finally:
                steps.append("cleared away")

        made = tasks.run(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        made.cancel()
        assert made.task is not None
        await made.task
        assert steps == ["cancelled", "cleared away"]

    run(test)


def test_cancelling_does_not_reach_what_waits_for_an_answer() -> None:
    async def test() -> None:
        steps: Steps = []
        waited_for = tasks.answer(asyncio.get_running_loop())

        async def work() -> None:
            await waited_for
            steps.append("answered")

        made = tasks.run(work())
        made.cancel()
        assert steps == []
        waited_for.succeed()
        assert steps == ["answered"]

    run(test)


def test_what_needs_a_task_gets_its_own_and_not_the_one_that_called() -> None:
    async def test() -> None:
        seen: list[asyncio.Task[Any] | None] = []

        async def work() -> None:
            seen.append(asyncio.current_task())
            await tasks.own_task()
            seen.append(asyncio.current_task())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.0):
                    await asyncio.sleep(1_000)
            seen.append(asyncio.current_task())

        made = tasks.run(work())
        assert made.task is not None
        await made.task
        ours = asyncio.current_task()
        assert seen == [ours, made.task, made.task]
        assert ours is not made.task

    run(test)


def test_a_run_tells_whether_it_is_a_task() -> None:
    async def test() -> None:
        waited_for = tasks.answer(asyncio.get_running_loop())

        async def work() -> None:
            await waited_for
            await asyncio.sleep(0)

        made = tasks.run(work())
        assert "without a task" in repr(made)
        waited_for.succeed()
        assert "without a task" not in repr(made)
        assert made.task is not None
        await made.task

    run(test)
