"""Where connections belong, and work at once: those of an event loop are of no use to another, nor once it has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import anyio


class _Anywhere:
    """What has no loop: threads share connections, and other libraries than asyncio have one loop for each program."""


_ANYWHERE = _Anywhere()


def of_tasks() -> object:
    """The loop that runs: of ``asyncio.run``, a notebook's cell, a test, or a thread of its own."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return _ANYWHERE


def is_over(home: object) -> bool:
    """Whether connections that belong there are of no use to anybody any more."""
    return isinstance(home, asyncio.AbstractEventLoop) and home.is_closed()


def of_threads() -> object:
    """The same for all."""
    return _ANYWHERE


class Tasks:
    """Work at once, in tasks of this loop; who leaves waits for its end."""

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._group.start_soon(work, *args)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._group.__aexit__(exc_type, exc_value, traceback)


class Threads:
    """The same in threads, which end by themselves where nobody waits any more."""

    def __init__(self) -> None:
        self._begun: list[threading.Thread] = []

    def start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._begun.append(thread)
        thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_value is None:
            for thread in self._begun:  # it may grow meanwhile
                thread.join()
