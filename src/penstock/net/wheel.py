"""One timer for a thousand paced streams.

Those who wait stand in slots of :data:`RESOLUTION` seconds; one timer of the event loop is armed for the
earliest slot that is taken.  A stream is woken no earlier than it asked, and at most a slot later (if the
event loop is free); whoever is late sends what has become due meanwhile, so rates hold on average.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

RESOLUTION = 0.004


class Sleeper(Protocol):
    def wake(self, now: float) -> None:
        """The time has come (monotonic seconds)."""


class Wheel:
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._slots: dict[int, list[Sleeper]] = {}
        self._armed: asyncio.TimerHandle | None = None
        self._armed_for = 0
        self._turning = False  # who falls asleep again while others are woken leaves the timer alone

    def at(self, when: float, sleeper: Sleeper) -> None:
        """Wake ``sleeper`` once, when ``when`` has passed.  Who must not be woken any more ignores it."""
        slot = int(when / RESOLUTION) + 1
        slots = self._slots
        waiting = slots.get(slot)
        if waiting is not None:
            waiting.append(sleeper)
            return
        slots[slot] = [sleeper]
        if not self._turning and (self._armed is None or slot < self._armed_for):
            self._arm(slot)

    def turn(self) -> None:
        """Wake everybody whose time has come."""
        now = self.now()
        current = int(now / RESOLUTION)
        slots = self._slots
        self._turning = True
        for slot in sorted([slot for slot in slots if slot <= current]):
            for sleeper in slots.pop(slot):
                try:
                    sleeper.wake(now)
                except Exception as error:  # noqa: BLE001 - one stream's defect must not still the others
                    asyncio.get_running_loop().call_exception_handler(
                        {"message": f"{sleeper!r} failed when it was woken", "exception": error}
                    )
        self._turning = False
        if slots:
            self._arm(min(slots))

    def close(self) -> None:
        self._slots.clear()
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None

    def _arm(self, slot: int) -> None:
        if self._armed is not None:
            self._armed.cancel()
        self._armed_for = slot
        # Loops count in milliseconds: a touch later than the slot's begin is in the slot, a touch earlier not.
        delay = max(0.0, slot * RESOLUTION - self.now()) + 0.0005
        self._armed = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._armed = None
        self.turn()

    def __repr__(self) -> str:
        return f"<Wheel {sum(map(len, self._slots.values()))} asleep>"
