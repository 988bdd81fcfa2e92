"""Time, as an argument: one sweep per worker instead of a timer per wait.

``loop.call_later`` costs 1.2 µs and ``asyncio.timeout`` 4.4 µs; a request has half a dozen deadlines and
a stream one more per chunk.  So whoever waits keeps a deadline as a plain number, and a single
periodic sweep asks everybody whether theirs has passed.  Resolution: :data:`SWEEP_INTERVAL`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

SWEEP_INTERVAL = 0.1  # seconds
_NEXT_TURN = 0.001  # seconds; the shortest that is not taken for "at once"


class Sweepable(Protocol):
    def sweep(self, now: float) -> None:
        """Act on every deadline that lies before ``now`` (monotonic seconds); must not raise."""


class Clock:
    """The monotonic clock of one worker, and those who are swept by it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._sweepables: dict[Sweepable, None] = {}
        self._handle: asyncio.TimerHandle | None = None
        self.lag = 0.0  # how late the last sweep was, seconds: the event loop's lag
        self._due = 0.0

    def add(self, sweepable: Sweepable) -> None:
        self._sweepables[sweepable] = None

    def remove(self, sweepable: Sweepable) -> None:
        self._sweepables.pop(sweepable, None)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sweep every :data:`SWEEP_INTERVAL` seconds until :meth:`stop`."""
        if self._handle is None:
            self._arm(loop)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def sweep(self) -> None:
        """One sweep, now.  Tests with a fake ``now`` call this themselves."""
        now = self.now()
        for sweepable in list(self._sweepables):
            sweepable.sweep(now)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = time.monotonic() + SWEEP_INTERVAL
        self._handle = loop.call_later(SWEEP_INTERVAL, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lag = max(0.0, time.monotonic() - self._due)
        if self.lag < SWEEP_INTERVAL:
            self._turn(loop)
        else:
            # This process stood still, and uvloop runs timers before it reads what has come meanwhile:
            # whoever has sent in time must not be found silent.
            self._handle = loop.call_later(_NEXT_TURN, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._arm(loop)
        self.sweep()

    def __repr__(self) -> str:
        return f"<Clock sweeping {len(self._sweepables)}, lag {self.lag:.3f} s>"
