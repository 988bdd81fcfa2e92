"""What the gateway keeps for its callers, by path: files, batches, and uploads that are not whole yet.

Whether a path is one of these is known from its head (:meth:`Kept.opening`); what it asks for takes the disk, so
that it is answered in a task of its own (:class:`Work`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from penstock.errors import NotFound, UnsupportedMedia
from penstock.messages import Tenant
from penstock.net.exchange import Exchange

Do = Callable[[Exchange], Coroutine[Any, Any, None]]
"""Answers an exchange."""


class Work(msgspec.Struct, frozen=True, eq=False):
    """What is to be done for a request once its body is there.

    ``body``: how many bytes of it are buffered before that; None: the work reads it piece by piece.
    """

    label: str  # in metrics and logs
    tenant: Tenant
    body: int | None
    do: Do


class Room(Protocol):
    """Serves the paths below one prefix; ``decodes``: bodies may have a ``Content-Encoding``."""

    label: str
    decodes: bool

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, Do] | None:
        """Body limit and work for what ``steps`` (the path below the prefix) lead to; None: nothing is there.

        :raises penstock.errors.MethodNotAllowed: something is there that takes another method
        """


class Kept:
    """The rooms, by prefix such as ``/v1/files`` or ``/v1/messages/batches``; empty: nothing is kept here."""

    def __init__(self, rooms: dict[str, Room]) -> None:
        self._rooms = rooms

    def __repr__(self) -> str:
        return f"<Kept {', '.join(self._rooms) or 'nothing'}>"

    def add(self, prefix: str, room: Room) -> None:
        self._rooms[prefix] = room

    def opening(self, exchange: Exchange, tenant: Tenant) -> Work | None:
        """The work that a request asks for; None: its path is somebody else's.

        :raises penstock.errors.CallerError: there is nothing at its path, nothing that takes its method, or its body
            is coded
        """
        room, steps = self._room(exchange.path)
        if room is None:
            return None
        found = room.work(exchange, steps, tenant)
        if found is None:
            raise NotFound(f"there is no {exchange.path[:100]} here")
        coding = exchange.headers.get(b"content-encoding", b"identity")
        if not room.decodes and coding.strip().lower() != b"identity":
            raise UnsupportedMedia(f"{exchange.path[:100]} takes bodies in no Content-Encoding")
        return Work(room.label, tenant, *found)

    def label_of(self, path: str) -> str:
        """What a path is called in metrics and logs; empty: it is somebody else's."""
        room, _ = self._room(path)
        return "" if room is None else room.label

    def _room(self, path: str) -> tuple[Room | None, list[str]]:
        """Of ``/v1/files/a/b`` the room of ``/v1/files``, and the steps below it; None: there is none."""
        steps = path.split("/")
        for depth in (3, 4):
            room = self._rooms.get("/".join(steps[:depth]))
            if room is not None:
                return room, steps[depth:]
        return None, []


async def end_work(working: set[asyncio.Task[Any]], seconds: float) -> None:
    """What the disk is doing for requests whose callers are gone ends before the stores are closed."""
    if working:
        _, late = await asyncio.wait(working, timeout=seconds)
        for task in late:  # of a caller who is still there
            task.cancel()
        if late:
            await asyncio.wait(late)
