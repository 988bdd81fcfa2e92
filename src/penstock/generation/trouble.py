"""A store in trouble: nobody waits for it for long, its process says so once, and minds it for a while."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

from penstock.generation.store import Store, StoreUnavailable, trouble_at
from penstock.net.clock import Clock

QUIET = 5.0  # seconds without trouble after which it is over: what comes and goes is one, and said once
SETTLING = 1.0  # seconds in which a store that is well is given what it was not yet
SETTLING_AFTER_TROUBLE = 7.0  # the same after trouble: others pause for up to 5 s before they try again
RECOVERY = 10.0  # seconds for which trouble is remembered

_T = TypeVar("_T")

log = logging.getLogger("penstock.gateway")


class Trouble:
    """What this process has met of it with one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._met = -math.inf  # when, last
        self._since: float | None = None  # that the log has told of

    def __repr__(self) -> str:
        return f"<Trouble of {self._store!r}, {'told' if self.is_told else 'none'}>"

    @property
    def is_told(self) -> bool:
        """Whether the log has said that there is some, and not that it is over."""
        return self._since is not None

    @property
    def settling(self) -> float:
        """Seconds in which what the store does not know may be written anew by who has it."""
        return SETTLING_AFTER_TROUBLE if self._was_within(RECOVERY) else SETTLING

    def excuses(self, lease: float) -> bool:
        """Whether those who live may not have been able to say so, whose leases last for so many seconds."""
        return self._was_within(max(lease, SETTLING_AFTER_TROUBLE))

    def _was_within(self, seconds: float) -> bool:
        return self._clock.now() - self._met < seconds

    def note(self) -> None:
        """There is some, of which a caller is told."""
        self._met = self._clock.now()

    def tell(self, error: StoreUnavailable) -> None:
        """There is some, which the log is to tell of."""
        self.note()
        if self._since is None:
            self._since = self._met
            log.error(
                "stored answers cannot be read now (%s): calls are answered, but who comes back for an answer of another "
                "process is told to try again, and nobody takes over what a process leaves that dies",
                trouble_at(self._store.place, str(error)),
            )

    def none_now(self) -> None:
        """The store does what it is asked."""
        now = self._clock.now()
        if self._since is not None and now - self._met >= QUIET:
            log.warning(
                "stored answers can be read again: %s was in trouble for %.0f s",
                *(self._store.place, self._met - self._since),
            )
            self._since = None

    async def told_of(self, doing: Coroutine[Any, Any, Any]) -> bool:
        """Whether the store did it; one that did not is told of."""
        try:
            await doing
        except StoreUnavailable as error:
            self.tell(error)
            return False
        return True


async def within(seconds: float, doing: Coroutine[Any, Any, _T]) -> _T:
    """What a store answers.

    :raises StoreUnavailable: it does not, or not within so many seconds
    """
    try:
        async with asyncio.timeout(seconds):
            return await doing
    except TimeoutError:
        raise StoreUnavailable(f"no answer within {seconds:g} s") from None
