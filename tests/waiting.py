"""Waiting for what nobody tells: what other processes do, and threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until ``condition`` holds.

    :raises TimeoutError: not within a minute
    """
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], T]) -> T:
    """The first value of ``condition`` that is true, where no loop runs.

    :raises TimeoutError: not within a minute
    """
    deadline = time.monotonic() + 60
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(condition)
        time.sleep(0.01)
    return value
