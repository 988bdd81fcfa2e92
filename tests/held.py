"""Steps in a thread that wait, so that who waits for them can be cancelled meanwhile."""

import asyncio
import threading

import pytest


async def cancelled(task, reached, go_on):
    """Cancel a task while a thread works for it, which then may go on."""
    while not reached.is_set():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


def held(monkeypatch, owner, step):
    """``(reached, go on)``: has a step in a thread wait."""
    reached, go_on = threading.Event(), threading.Event()
    do = getattr(owner, step)

    def waiting(*args, **kwargs):
        reached.set()
        assert go_on.wait(60)
        return do(*args, **kwargs)

    monkeypatch.setattr(owner, step, waiting)
    return reached, go_on
