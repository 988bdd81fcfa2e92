"""What another process produces and is read here: what is new is fetched from the store, for all readers at once."""

from __future__ import annotations

import asyncio
import logging

from penstock.errors import Gone, UpstreamBroken
from penstock.generation import reading
from penstock.generation.attention import ATTENDED, Attention
from penstock.generation.log import Generation, State
from penstock.generation.store import Record, Store, StoreUnavailable, Tail
from penstock.generation.trouble import Trouble
from penstock.generation.written import end
from penstock.net.clock import Clock

POLL = 0.02  # seconds between two looks at generations that are followed
_AFTER_TROUBLE = 0.2  # the same, where the store was in trouble

log = logging.getLogger("penstock.gateway")


class Following:
    """The generations of one store that are read here and produced elsewhere."""

    def __init__(self, store: Store, clock: Clock, trouble: Trouble, attention: Attention) -> None:
        self._store = store
        self._clock = clock
        self._trouble = trouble
        self._attention = attention
        self._followed: dict[Generation, int] = {}  # how many of its events we have
        self._vanished: dict[Generation, float] = {}  # of these, since when the store has not known them
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Following {len(self._followed)} of {self._store!r}>"

    def __len__(self) -> int:
        return len(self._followed)

    async def restore(self, record: Record, generation: Generation) -> None:
        """Fill a generation with what is stored; one that runs elsewhere is followed from there on.

        :raises StoreUnavailable: the store does not answer in time
        """
        now = self._clock.now()
        events = await reading.events(self._store, record.id, record.events)
        if generation.producer is not None:  # this process has taken it over meanwhile
            return
        generation.append(events, now)
        generation.restored = True
        if record.ending is not None:
            end(generation, record.ending)
        else:
            generation.producer = _Elsewhere(self, generation)
            self._followed[generation] = len(events)
            self._wake.set()
            await self._trouble.told_of(self._attention.say([generation.id]))

    async def catch_up(self, generation: Generation) -> None:
        """Have at least as much of a generation that is followed as anybody has been shown until now.

        :raises StoreUnavailable: the store does not answer in time
        """
        until = self._clock.now() + reading.READ_BUDGET
        while generation not in self._followed:  # it is being restored just now
            if generation.ending is not None:
                return
            if self._clock.now() >= until:
                raise StoreUnavailable(f"no answer within {reading.READ_BUDGET:g} s")
            await asyncio.sleep(POLL)
        at = self._followed[generation]
        tails = await reading.in_time(self._store.tail({generation.id: at}))
        tail = tails.get(generation.id)
        if tail is not None and self._followed.get(generation) == at:
            await self._grown(generation, at, tail)

    def leave(self, generation: Generation) -> None:
        """Follow it no longer."""
        self._followed.pop(generation, None)
        self._vanished.pop(generation, None)

    async def run(self) -> None:
        """Fetch what is new, and say what is read here, for as long as there is any."""
        attended = 0.0
        while True:
            if not self._followed:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(POLL)
            asked = dict(self._followed)  # whoever comes back meanwhile brings it further by :meth:`catch_up`
            try:
                tails = await self._store.tail({one.id: at for one, at in asked.items()})
                if self._clock.now() - attended > ATTENDED / 3:
                    attended = self._clock.now()
                    await self._attention.say([one.id for one in self._followed])
            except StoreUnavailable as error:
                self._trouble.tell(error)
                await asyncio.sleep(_AFTER_TROUBLE)
                continue
            except Exception:
                log.exception("defect while following in %r", self._store)
                await asyncio.sleep(_AFTER_TROUBLE)
                continue
            for generation, at in asked.items():
                tail = tails.get(generation.id)
                if tail is not None and self._followed.get(generation) == at:
                    await self._grown(generation, at, tail)

    async def _grown(self, generation: Generation, at: int, tail: Tail) -> None:
        if tail.events:
            self._followed[generation] = at + len(tail.events)
            try:
                generation.append(tail.events, self._clock.now())
            except UpstreamBroken as too_large:
                self.leave(generation)
                generation.fail(too_large)
                return
        if tail.state is State.RUNNING:
            self._vanished.pop(generation, None)
            return
        try:
            record = await self._store.load(generation.id)
        except StoreUnavailable:
            return  # the next look will tell
        if record is not None and record.ending is None:
            return
        if record is not None and record.events > len(generation.events):
            return  # it has grown since: the next look brings the rest
        if record is None:
            now = self._clock.now()
            if now - self._vanished.setdefault(generation, now) < self._trouble.settling:
                return  # its store has lost it, and its process may be writing it anew
        self.leave(generation)
        if record is None or record.ending is None:
            generation.fail(Gone("this answer is not kept any more"))
        else:
            end(generation, record.ending)


class _Elsewhere:
    """Stands for the producer of a generation that is produced in another process."""

    __slots__ = ("_following", "_generation")

    def __init__(self, following: Following, generation: Generation) -> None:
        self._following = following
        self._generation = generation

    @property
    def complete(self) -> bool:
        return False  # its own process knows

    def abandon(self) -> None:
        """Nobody reads it here any more; whether it goes on is its own process's affair."""
        self._following.leave(self._generation)
        self._generation.fail(Gone("nobody reads this here any more"))

    def drained(self) -> None:
        pass


def is_followed(generation: Generation) -> bool:
    """Whether a running generation is produced by another process, and only read here."""
    return generation.producer is None or isinstance(generation.producer, _Elsewhere)
