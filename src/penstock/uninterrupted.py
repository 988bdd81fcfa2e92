"""Work that may not stop half-way because the one who waits for it is cancelled.

A thread cannot be cancelled: when the task that waits for it is, the thread goes on beside whatever comes next.
Steps on a disk that belong together (write, sync, enter) are therefore waited for to their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def uninterrupted(work: Coroutine[Any, Any, _T] | asyncio.Future[_T]) -> _T:
    """Await work to its end, and only then be cancelled if that was asked for meanwhile.

    :param work: steps; or what a thread will have done, which is no task that a loop could cancel as it ends
    :raises asyncio.CancelledError: it was; what the work returned or raised is lost
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()  # looked at, or the loop would tell of it
        raise asyncio.CancelledError
    return task.result()
