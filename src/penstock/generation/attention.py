"""For whom a generation goes on that another process produces, as the store tells it.

A generation that runs here may be read there: by a caller whose new connection came to another process, or who has
asked the same there.  Whoever reads says so in the store now and then (:meth:`Attention.say`), and the process that
produces asks before it gives a deserted generation up (:meth:`Attention.is_paid`).  All readers of a generation say so
by one claim, which each word prolongs whoever had it last, and which only silence ends.  A caller who tells another
process that it will not come back is not waited for (:meth:`Attention.dismiss`), once the readers' claim has run out:
who says so knows only that he was the last reader of his process.

What was promised to a caller (:meth:`Attention.promise`) goes on whether anybody reads it or not.

What was cancelled or deleted in another process is nobody's: who does that says so to the process that produces it
(:meth:`Attention.tell_ended`), which would hear of it only when it stores the next event, and a model may think for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from penstock.generation.store import Claim, Store, StoreUnavailable
from penstock.generation.trouble import within

ATTENDED = 5.0  # seconds for which one look counts as attention
_HEEDED = 2.0  # seconds for which it is known beyond that who left: in them the producing process looks
_ANYBODY = "anybody"  # whose claims these are
_BUDGET = 0.5  # seconds that is waited for to learn whether somebody reads elsewhere
_PROMISED = 86_400.0  # seconds for which it is known that an answer was promised


class Attention:
    """What one process says to others of its readers, and hears of theirs.

    :param now: the store's time
    """

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    def __repr__(self) -> str:
        return f"<Attention in {self._store!r}>"

    async def say(self, generation_ids: Iterable[str]) -> None:
        """These are read here; that holds for :data:`ATTENDED`.

        :raises StoreUnavailable: the store cannot be written
        """
        for generation_id in generation_ids:
            await self._say(_readers_of(generation_id), ATTENDED)

    async def is_paid(self, generation_id: str) -> bool:
        """Whether a process that follows this generation had a reader lately; not, where the store is late."""
        return await self._is_said(_readers_of(generation_id))

    async def dismiss(self, generation_id: str) -> None:
        """A caller will not come back for what another process produces, and nobody reads it here.

        That is known for longer than the last word of a reader holds, which may have been this process's own.

        :raises StoreUnavailable: the store cannot be written
        """
        await self._say(_left(generation_id), ATTENDED + _HEEDED)

    async def is_dismissed(self, generation_id: str) -> bool:
        """Whether that was said lately; not, where the store does not answer in time."""
        return await self._is_said(_left(generation_id))

    async def promise(self, generation_id: str) -> None:
        """A caller was told that this goes on, whether anybody reads it or not; every process is to know.

        :raises StoreUnavailable: the store cannot be written
        """
        now = self._now()
        name = _promised(generation_id)
        await self._store.claim("", name, b"", generation_id, now=now, until=now + _PROMISED)

    async def is_promised(self, generation_id: str) -> bool:
        """Whether a caller of any process was told so.

        :raises StoreUnavailable: the store does not answer in time
        """
        claim = await self._ask(_promised(generation_id), "")
        return claim.generation == generation_id

    async def tell_ended(self, owner: str) -> None:
        """Something of what a process produces was ended in the store.

        :raises StoreUnavailable: the store cannot be written
        """
        await self._say(_ended_of(owner), ATTENDED)

    async def is_any_ended(self, owner: str) -> bool:
        """Whether that was said since this was asked last; not, where the store does not answer in time.

        Who is told so then asks the store of each: nothing is missed that was ended before he was told.
        """
        name = _ended_of(owner)
        if not await self._is_said(name):
            return False
        await self._say(name, 0.0)
        return True

    async def _say(self, name: str, seconds: float) -> None:
        now = self._now()
        await self._store.claim("", name, b"", _ANYBODY, now=now, until=now + seconds, instead_of=_ANYBODY)

    async def _is_said(self, name: str) -> bool:
        try:
            claim = await self._ask(name, _ANYBODY)
        except StoreUnavailable:
            return False
        return not claim.won

    async def _ask(self, name: str, whose: str) -> Claim:
        now = self._now()
        return await within(_BUDGET, self._store.claim("", name, b"", whose, now=now, until=now))


def _readers_of(generation_id: str) -> str:
    return "readers of " + generation_id


def _left(generation_id: str) -> str:
    return "left " + generation_id


def _ended_of(owner: str) -> str:
    return "ended of " + owner


def _promised(generation_id: str) -> str:
    return "promised " + generation_id
