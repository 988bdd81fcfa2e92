"""Waiting for what nobody tells: what other processes do, and threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until ``condition`` holds.

    :raises TimeoutError: not within a minute
    """
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)
