"""When the next batch is due: what comes within an interval is stored together, which costs little more than one event.

Who has the beginning of his answer waits for the next piece of it without noticing a few milliseconds; who has
nothing yet does notice them.  So an answer's first event waits for less company than others, and all that waits goes
with it.
"""

from __future__ import annotations

import asyncio

_TICK = 0.001  # seconds; in such steps go the timers of uvloop, whose shortest would not wait at all


class Pace:
    """Tells one task when to store, by the clock of the event loop.

    :param interval: seconds from the beginning of a batch to that of the next, at least
    :param first_interval: the same if an answer's first event waits
    """

    __slots__ = ("_first_interval", "_first_waits", "_gathering", "_interval", "_last")

    def __init__(self, interval: float, first_interval: float) -> None:
        self._interval = interval
        self._first_interval = min(first_interval, interval)
        self._first_waits = False
        self._last = float("-inf")  # when the last batch began
        self._gathering: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Pace, {'a first event waits' if self._first_waits else 'no first event waits'}>"

    def hurry(self) -> None:
        """An answer's first event waits."""
        if not self._first_waits:
            self._first_waits = True
            if self._gathering is not None:
                _settle(self._gathering)

    async def gather(self) -> None:
        """Wait until the next batch is due; it begins then."""
        loop = asyncio.get_running_loop()
        while True:
            interval = self._first_interval if self._first_waits else self._interval
            now = loop.time()
            pause = self._last + interval - now
            if pause < _TICK / 2:
                self._last = now
                self._first_waits = False
                return
            self._gathering = loop.create_future()
            alarm = loop.call_later(pause, _settle, self._gathering)
            try:
                await self._gathering
            finally:
                alarm.cancel()
                self._gathering = None


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
