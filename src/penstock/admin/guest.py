"""uvicorn as a guest in a loop that is not its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    import socket


class GuestServer(uvicorn.Server):
    """Leaves signals alone, and tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its comings and goings are ours to tell
        self._accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._accepting.set()

    async def start(self, sock: socket.socket) -> asyncio.Task[None]:
        """Serve on this socket; the task ends when ``should_exit`` has been set and obeyed.

        :raises Exception: whatever kept it from starting
        """
        task = asyncio.create_task(self.serve(sockets=[sock]))
        accepting = asyncio.create_task(self._accepting.wait())
        waiting: list[asyncio.Task[object]] = [task, accepting]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel()
        if task.done():
            task.result()
        return task
