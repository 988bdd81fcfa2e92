"""A streamed answer as the plain one, for those of the gateway's own tasks that need it whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock.messages import Endpoint, Event
from penstock.wire.fold import folding


async def whole_answer(endpoint: Endpoint, events: Sequence[Event], *, stream: bool) -> bytes:
    """The body of a complete answer; a long stream is folded in steps, and callers have their turn between two.

    :param events: of its log: SSE frames if ``stream``, else the body
    :raises PenstockError: as :func:`penstock.wire.fold.fold` does
    """
    if not stream:
        return b"".join(events)
    steps = folding(endpoint, events)
    while True:
        try:
            next(steps)
        except StopIteration as whole:
            answer: bytes = whole.value
            return answer
        await asyncio.sleep(0)
