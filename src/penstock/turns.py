"""Work of a thread behind the event loop, in short turns between which the loop gets the core.

A thread that computes now and then does not matter on a machine with cores to spare.  Where it shares one with the
event loop, the kernel lets it go on for a millisecond or two, however many calls arrive meanwhile: it has slept, so
it is owed the time.  A low priority is no remedy: on a busy core the work would not be done at all
(``docs/decisions/0044-writers-in-turns.md``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

TURN = 0.000_1  # seconds of work between two pauses, at the least
PAUSE = 0.000_05  # seconds, of the shortest; the kernel's timers add about as much
LONG_PAUSE = 0.000_8  # of the longest: in between, a busy loop gets over what has come in a turn
STEP = 32  # items between two looks at the clock

_Item = TypeVar("_Item")


class Turns:
    """When to pause; one thread's own.

    :param clock: seconds, from any moment
    :param sleep: lets others have the core for so many seconds
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._began = clock()
        self.pause = PAUSE

    def give_way(self) -> None:
        """Pause, if this turn has lasted long enough."""
        if self._clock() - self._began >= TURN:
            self._sleep(self.pause)
            self._began = self._clock()

    def pace(self, took: float, passed: float) -> None:
        """Pauses as long as the work allows: what came in ``passed`` seconds shall be done in less than half of them.

        :param took: seconds, pauses and all
        """
        if took > 0.5 * passed:
            self.pause = max(0.5 * self.pause, PAUSE)
        elif took < 0.25 * passed:
            self.pause = min(1.25 * self.pause, LONG_PAUSE)

    def hurry(self) -> None:
        """Somebody waits for it."""
        self.pause = PAUSE

    def over(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, with a pause between them whenever a turn is over."""
        for number, item in enumerate(items):
            if number % STEP == 0:
                self.give_way()
            yield item

    def __repr__(self) -> str:
        return f"<Turns, this one for {self._clock() - self._began:.6f} s>"
