"""What is read from a store while a caller waits for it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from penstock.generation.store import Record, Store
from penstock.generation.trouble import within
from penstock.messages import Event

READ_BUDGET = 2.0  # seconds that a caller waits who asks for what is only in the store
_PIECE = 1 << 20  # bytes of events read at once

_T = TypeVar("_T")


async def in_time(doing: Coroutine[Any, Any, _T]) -> _T:
    """What a store answers.

    :raises StoreUnavailable: it does not, or not within :data:`READ_BUDGET`
    """
    return await within(READ_BUDGET, doing)


async def load(store: Store, generation_id: str) -> Record | None:
    """What it knows of a generation.

    :raises StoreUnavailable: it does not answer in time
    """
    return await in_time(store.load(generation_id))


async def events(store: Store, generation_id: str, count: int) -> list[Event]:
    """The first events of a generation; fewer, if there are no more.

    :raises StoreUnavailable: it does not answer in time
    """
    found: list[Event] = []
    while len(found) < count:
        piece = await in_time(store.events(generation_id, len(found), _PIECE))
        if not piece:
            break
        found += piece
    return found
