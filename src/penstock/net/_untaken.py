"""Whether a client takes what was written for it: the deadline of an answer that has been made but not sent."""

from __future__ import annotations

import asyncio

from penstock.net._sockets import untaken


class Untaken:
    """What waits for one client, from the moment on at which its connection was paused or closed.

    :param now: seconds, of the same clock as those of :meth:`silence`
    """

    __slots__ = ("_taken", "_taken_at", "_transport", "_written")

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self._transport = transport
        self._written = untaken(transport)
        self._taken = 0  # of that
        self._taken_at = now

    def write(self, data: bytes) -> None:
        """In place of the transport's own: what is written meanwhile has not been taken."""
        self._written += len(data)
        self._transport.write(data)

    def silence(self, now: float) -> float:
        """Seconds since the client was last seen to have taken something."""
        taken = self._written - untaken(self._transport)
        if taken != self._taken:
            self._taken = taken
            self._taken_at = now
        return now - self._taken_at

    def __repr__(self) -> str:
        return f"<Untaken {self._written - self._taken} bytes>"
