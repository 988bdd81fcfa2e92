"""The pool of limits in the supervisor, as a worker sees it: over their channel."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from penstock.admin.channel_messages import Leased, Report

if TYPE_CHECKING:
    from penstock.admin.channel import Channel
    from penstock.flow import sharing


class ChannelBoard:
    """A :class:`~penstock.flow.lessee.Board` at the other end of the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[sharing.Leases]] = {}

    name = "the supervisor"

    def exchange(self, reports: list[sharing.Report], *, rejoins: bool) -> asyncio.Future[sharing.Leases]:
        found: asyncio.Future[sharing.Leases] = asyncio.get_running_loop().create_future()
        if self._channel.lost.is_set():
            found.set_exception(ConnectionError("the supervisor is gone"))
            return found
        number = next(self._numbers)
        self._waiting[number] = found
        self._channel.send(Report(number, reports, rejoins))
        return found

    def leased(self, message: Leased) -> None:
        """The supervisor's answer."""
        found = self._waiting.pop(message.id, None)
        if found is not None and not found.done():
            found.set_result(message.leases)

    def reset(self) -> None:
        self._waiting.clear()

    async def open(self) -> None:
        """The channel is there."""

    async def close(self) -> None:
        self._waiting.clear()

    def __repr__(self) -> str:
        return f"<ChannelBoard, {len(self._waiting)} waiting>"
