"""Work that may not stop half-way."""

import asyncio

import pytest

from penstock.uninterrupted import uninterrupted


async def steps(done, gate):
    await gate.wait()
    done.append("first")
    await asyncio.sleep(0)
    done.append("second")
    return "result"


def test_it_returns_what_the_work_returns_and_raises_what_it_raises():
    async def fails():
        raise ValueError("so it is")

    async def main():
        gate = asyncio.Event()
        gate.set()
        assert await uninterrupted(steps([], gate)) == "result"
        with pytest.raises(ValueError, match="so it is"):
            await uninterrupted(fails())

    asyncio.run(main())


def test_a_cancellation_comes_when_the_work_is_done_however_often_it_is_asked_for():
    async def main():
        done, gate = [], asyncio.Event()
        task = asyncio.create_task(uninterrupted(steps(done, gate)))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        assert done == []
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == ["first", "second"]

    asyncio.run(main())


def test_an_error_of_work_whose_waiter_was_cancelled_is_not_told_twice(caplog):
    async def fails(gate):
        await gate.wait()
        raise ValueError("nobody waits")

    async def main():
        gate = asyncio.Event()
        task = asyncio.create_task(uninterrupted(fails(gate)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert caplog.records == []
