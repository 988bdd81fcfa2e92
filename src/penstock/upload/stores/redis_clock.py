"""What time it is on a Redis server, by which all go who keep uploads and files there (decision 49)."""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.net.redis_client import Client

_HEARD_FOR = 10.0  # seconds, after which another server may be in its place, or its clock have been set


class RedisClock:
    """The server's time, heard now and then and counted on in between by the process's own monotonic clock.

    :param own: Unix time of this machine, until the server has been heard
    :param monotonic: seconds
    """

    def __init__(
        self, own: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._own = own
        self._monotonic = monotonic
        self._ahead: float | None = None  # of the monotonic clock
        self._hear_at = 0.0

    def __repr__(self) -> str:
        return f"<RedisClock, {'not heard' if self._ahead is None else f'{self.now():.3f}'}>"

    def now(self) -> float:
        """Unix time, not later than it is on the server."""
        return self._own() if self._ahead is None else self._monotonic() + self._ahead

    async def hear(self, client: Client) -> None:
        """Ask the server, if that was not done just now.

        :raises Exception: as ``client`` does: no answer in time, or an error
        """
        if self._ahead is not None and self._monotonic() < self._hear_at:
            return
        seconds, micros = await client.ask(b"TIME")
        now = self._monotonic()
        self._ahead = int(seconds) + int(micros) / 1e6 - now
        self._hear_at = now + _HEARD_FOR
