"""Where connections belong: those of an event loop are of no use to another, nor once it has ended."""

from __future__ import annotations

import asyncio


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
