"""The sign of life of a process in a store, and the time by which it goes: the store's own.

A lease belongs to a process, whatever it runs.  Once it has run out others may take over what it has left.
"""

from __future__ import annotations

import logging
import math
import time

from penstock.generation.store import Store, new_owner
from penstock.net.clock import Clock

BEAT = 0.5  # seconds between two signs of life, at most

log = logging.getLogger("penstock.gateway")


class Lease:
    """That of this process.

    :param seconds: without a sign of life after which it may be taken for dead
    """

    def __init__(self, store: Store, clock: Clock, seconds: float) -> None:
        self.owner = new_owner()
        self.seconds = seconds
        self._store = store
        self._clock = clock
        # Of our clock, the store's; until that is heard, this machine's.
        self._ahead = time.time() - clock.now()
        self._before: float | None = None  # the same, at the last renewal
        self._leapt = -math.inf  # when the time of day was set forward last

    def __repr__(self) -> str:
        return f"<Lease of {self.owner} for {self.seconds:g} s>"

    @property
    def beat(self) -> float:
        """Seconds from one renewal to the next."""
        return min(self.seconds / 4, BEAT)

    @property
    def is_of_steady_time(self) -> bool:
        """Whether the others have had the time to renew theirs since the time of day was set forward."""
        return self._clock.now() - self._leapt >= self.seconds

    def now(self) -> float:
        """Unix time as the store has it, which need not be what this machine takes it for."""
        return self._clock.now() + self._ahead

    async def begin(self) -> None:
        """Say for the first time that this process lives.

        :raises StoreUnavailable: the store does not hear it
        """
        await self._store.renew(self.owner, await self._look_at_the_time() + self.seconds)

    async def renew(self) -> float:
        """Say it once more.

        :returns: the store's time
        :raises StoreUnavailable: the store does not hear it
        """
        now = await self._look_at_the_time()
        # It was set forward, or the machine slept: the others are alive, and will say so by the new time.
        leap, self._before = 0.0 if self._before is None else self._ahead - self._before, self._ahead
        if leap > self.seconds / 2:
            self._leapt = self._clock.now()
            log.warning(
                "the clock of stored answers went forward by %.1f s; nobody is taken for dead by that",
                leap,
            )
        await self._store.renew(self.owner, now + self.seconds)
        return now

    async def _look_at_the_time(self) -> float:
        now = await self._store.time()
        self._ahead = now - self._clock.now()
        return now
