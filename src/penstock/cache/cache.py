"""The tiers as one cache: nearest first, what is found below is brought up, and nothing below can hurt.

:meth:`Cache.get_nowait` asks memory and answers at once; :meth:`Cache.get` and :meth:`Cache.look` ask the tiers below,
each behind its guard.  An entry counts only if its seal is right and nothing that it is tagged with has been purged since its
question was asked: so a purge of any size is one note, whose cost does not depend on how much it covers.

What is found in one tier is not asked of those below, which would take it for forgotten and let it go: so they are told
now and then what was used.  Without that, three tiers had found less than the lowest one alone.

Where machines share a tier, all go by one clock (``cache.shared_clock``).  What is dated later than it is now is of a machine
that did not, and no answer, because nobody can tell whether it was purged since.

A tier may be away when it is told of a purge, or may forget it.  So what it has noted is read again and again, and
what is missing there is told once more: every process that knows of a purge sees to it that all tiers do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import msgspec

from penstock.cache.entry import Entry, Reason, Sealer, Unusable
from penstock.cache.guard import Guard
from penstock.cache.keys import PUBLIC_SECRET
from penstock.cache.shared_clock import SharedClock
from penstock.cache.tiers.memory import MemoryTier
from penstock.cache.tiers.tier import TierStatistics

PURGES_READ_EVERY = 2.0  # seconds between two looks for what others have purged
USES_TOLD_EVERY = 5.0  # seconds: short beside the time that an entry stays in a tier below
_USES_AT_ONCE = 200  # that a tier is told without letting anybody else work
_FIRST_LOOK = 0.05  # seconds until the second look whether a purge has been noted; the pauses double
_MOST_TOLD = 1_000  # purges that a tier is told again at once, so that look-ups have room
_SEALED_ASIDE = 256 << 10  # bytes above which an entry is sealed in a thread
_MAX_PURGES = 5_000  # that are kept apart: all who share a tier read them again and again
EVERYTHING = "all"
"""The tag that every entry has."""


class TierFigures(msgspec.Struct, frozen=True):
    """What one tier did, and what its guard had to do, since the start."""

    name: str
    hits: int
    own: TierStatistics
    late: int = 0
    failed: int = 0
    skipped: int = 0
    open: bool = False
    unheard: int = 0  # purges that it has not noted yet


class Cache:
    """Entries by key, in memory and in the tiers below.

    :param guards: the tiers below, nearest first
    :param key_secret: with which its keys are made, see ``cache.keys``
    :param max_entry_bytes: a larger answer is not kept
    :param now: seconds since 1970
    :param clock: instead of ``now``, where machines share a tier
    """

    def __init__(
        self,
        memory: MemoryTier,
        guards: Sequence[Guard],
        sealer: Sealer,
        *,
        max_entry_bytes: int,
        key_secret: bytes = PUBLIC_SECRET,
        now: Callable[[], float] = time.time,
        clock: SharedClock | None = None,
    ) -> None:
        self.memory = memory
        self.guards = tuple(guards)
        self.max_entry_bytes = max_entry_bytes
        self.key_secret = key_secret
        self.now = now if clock is None else clock.now
        self.misses = 0  # look-ups that found nothing that answers; counted by who looks up
        self.stored = 0
        self.too_large = 0
        self.purged = 0  # entries that were found, but had been purged
        self.unusable: dict[Reason, int] = dict.fromkeys(
            ("truncated", "version", "tampered", "undecodable"), 0
        )
        self.hits = dict.fromkeys([memory.name, *(guard.tier.name for guard in guards)], 0)
        self._sealer = sealer
        self._clock = clock
        if clock is not None:
            clock.agreed = self._agreed
        self._purges: dict[str, float] = {}
        # Purges that each tier has not noted yet.
        self._unheard: list[dict[str, float]] = [{} for _ in guards]
        self._purged_now = asyncio.Event()
        # Keys found above those who keep what is used; None: nobody does.
        self._used: set[bytes] | None = None
        if any(guard.tier.by_use for guard in guards):
            self._used = set()
        self._working: list[asyncio.Task[None]] = []
        self._sealing: dict[bytes, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Cache {self.memory!r}, {', '.join(map(repr, self.guards)) or 'nothing below'}>"

    @property
    def waits(self) -> bool:
        """Whether there is more to ask than memory."""
        return bool(self.guards)

    # ---- life ----

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        for guard in self.guards:
            guard.tier.start(self._learn)
        if self.guards:
            loop = asyncio.get_running_loop()
            self._working = [loop.create_task(self._read_purges()), loop.create_task(self._tell_uses())]

    async def close(self) -> None:
        for task in self._working:
            task.cancel()
        if self._working:
            await asyncio.wait(self._working)
        if self._sealing:
            await asyncio.wait(self._sealing.values())
        for guard in self.guards:
            await guard.tier.close()

    # ---- entries ----

    def get_nowait(self, key: bytes) -> Entry | None:
        """What memory has."""
        entry = self.memory.get(key)
        if entry is None:
            return None
        if not self._answers(key, entry):
            self.memory.remove(key)
            return None
        return entry

    def holds(self, key: bytes, entry: Entry) -> bool:
        """Whether memory would answer with this very entry; then it counts as a hit."""
        return self.memory.get(key) is entry and self._answers(key, entry)

    def _answers(self, key: bytes, entry: Entry) -> bool:
        """Whether memory's entry has not been purged; then it counts as a hit."""
        if self._purges and self._was_purged(key, entry):
            return False
        self.hits[self.memory.name] += 1
        if self._used is not None:
            self._used.add(key)
        return True

    @property
    def in_trouble(self) -> bool:
        """Whether a tier below is: what is not found may be there all the same."""
        return any(guard.in_trouble for guard in self.guards)

    async def get(self, key: bytes) -> Entry | None:
        """What the tiers below have; memory has been asked.  Takes no longer than their budgets."""
        found: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        self.look(key, lambda entry: None if found.done() else found.set_result(entry))
        return await found

    def look(self, key: bytes, then: Callable[[Entry | None], None]) -> None:
        """As :meth:`get`; what is found goes to ``then``: once, now or later.  It must not raise."""
        self._look_in(0, key, then)

    def _look_in(self, position: int, key: bytes, then: Callable[[Entry | None], None]) -> None:
        if position < len(self.guards):
            self.guards[position].get(key, partial(self._looked, position, key, then))
        else:
            then(None)

    def _looked(
        self, position: int, key: bytes, then: Callable[[Entry | None], None], sealed: bytes | None
    ) -> None:
        """A tier has answered, or has not in time."""
        entry = None
        if sealed is not None:
            entry = self._opened(key, sealed)
            if entry is None:
                self.guards[position].tier.remove(key)
        if entry is None:
            self._look_in(position + 1, key, then)
            return
        assert sealed is not None
        tier = self.guards[position].tier
        self.hits[tier.name] += 1
        held = self.memory.peek(key)
        if held is None or held.stored <= entry.stored:
            self.memory.put(key, entry)
        if self._used is not None and not tier.by_use:
            self._used.add(key)
        for nearer in self.guards[:position]:
            nearer.tier.put(key, sealed, entry.kept_until)
        then(entry)

    def largest(self, max_bytes: int | None = None) -> int:
        """Bytes of an entry, at most, where ``max_bytes`` are asked for; more than that of all is not granted."""
        return self.max_entry_bytes if max_bytes is None else min(max_bytes, self.max_entry_bytes)

    def put(self, key: bytes, entry: Entry, max_bytes: int | None = None) -> bool:
        """Keep an entry, everywhere.

        :param max_bytes: see :meth:`largest`
        :returns: whether it was small enough
        """
        if entry.size > self.largest(max_bytes):
            self.too_large += 1
            return False
        self.stored += 1
        self.memory.put(key, entry)
        if not self.guards or (self._clock is not None and not self._clock.known):
            return True
        if entry.size < _SEALED_ASIDE:
            self._put_below(key, entry, self._sealer.seal(key, entry))
        else:
            task = asyncio.get_running_loop().create_task(self._seal_aside(key, entry))
            self._sealing[key] = task
            task.add_done_callback(lambda _: self._sealed(key, task))
        return True

    def _sealed(self, key: bytes, task: asyncio.Task[None]) -> None:
        if self._sealing.get(key) is task:
            del self._sealing[key]

    def when_kept(self, key: bytes, act: Callable[[], None]) -> None:
        """Do something once the tiers below have been told of an entry that was put just now."""
        task = self._sealing.get(key)
        if task is None:
            act()
        else:
            task.add_done_callback(lambda _: act())

    async def _seal_aside(self, key: bytes, entry: Entry) -> None:
        self._put_below(key, entry, await asyncio.to_thread(self._sealer.seal_apart, key, entry))

    def _put_below(self, key: bytes, entry: Entry, sealed: bytes) -> None:
        for guard in self.guards:
            if not guard.is_open:
                guard.tier.put(key, sealed, entry.kept_until)

    def _opened(self, key: bytes, sealed: bytes) -> Entry | None:
        try:
            entry = self._sealer.open(key, sealed)
        except Unusable as unusable:
            self.unusable[unusable.reason] += 1
            return None
        if entry.kept_until <= self.now() or (self._purges and self._was_purged(key, entry)):
            return None
        if self._clock is not None and entry.asked > self._clock.latest():
            return None
        return entry

    async def tell_uses(self) -> None:
        """Tell the tiers that keep what is used what was found above them."""
        if not self._used:
            return
        used, self._used = iter(self._used), set()
        while keys := list(islice(used, _USES_AT_ONCE)):
            for guard in self.guards:
                if guard.tier.by_use and not guard.is_open:
                    guard.tier.used(keys)
            await asyncio.sleep(0)

    async def _tell_uses(self) -> None:
        while True:
            await asyncio.sleep(USES_TOLD_EVERY)
            await self.tell_uses()

    # ---- purging ----

    def remove(self, key: bytes) -> None:
        """Forget one entry, in every tier."""
        self.memory.remove(key)
        for guard in self.guards:
            guard.tier.remove(key)

    def purge(self, tag: str) -> None:
        """What carries this tag and was asked until now counts no more, for all who share a tier."""
        at = self.now() if self._clock is None else self._clock.latest()
        self._note(tag, at)
        for guard, unheard in zip(self.guards, self._unheard, strict=True):
            guard.tier.purged(tag, at)
            unheard[tag] = at
        self._purged_now.set()

    def purge_key(self, key: bytes) -> None:
        """As :meth:`purge`, for one entry."""
        self.purge(_tag_of(key))
        self.remove(key)

    def _note(self, tag: str, at: float) -> None:
        if tag == EVERYTHING:
            self._purges = {name: since for name, since in self._purges.items() if since > at}
            self.memory.clear()
        self._purges[tag] = max(at, self._purges.get(tag, 0.0))
        if len(self._purges) > _MAX_PURGES:
            self._cover_the_older()

    def _cover_the_older(self) -> None:
        """One purge of everything until then for the older half of all: what was asked before is long out of date."""
        middle = sorted(self._purges.values())[len(self._purges) // 2]
        # That of everything may be of a machine whose time is ahead.
        until = max(middle, self._purges.get(EVERYTHING, 0.0))
        self._purges = {tag: at for tag, at in self._purges.items() if at > until} | {EVERYTHING: until}

    def _learn(self, found: dict[str, float]) -> None:
        """A tier has noted these purges."""
        everything = found.get(EVERYTHING, 0.0)
        if everything > self._purges.get(EVERYTHING, 0.0):
            self._note(EVERYTHING, everything)
        for tag, at in found.items():
            if at > self._purges.get(tag, 0.0) and at > self._purges.get(EVERYTHING, 0.0):
                self._note(tag, at)

    def _agreed(self, early: float, late: bool) -> None:
        """The time of all is known, and another than it was taken for here: see :attr:`SharedClock.agreed`."""
        if late:
            self.memory.clear()  # a purge by somebody else would leave what is dated after it
        for unheard in self._unheard:
            for tag in unheard:
                unheard[tag] += early
                self._note(tag, unheard[tag])

    def _was_purged(self, key: bytes, entry: Entry) -> bool:
        purges = self._purges
        asked = entry.asked
        if (
            purges.get(EVERYTHING, 0.0) >= asked
            or any(purges.get(tag, 0.0) >= asked for tag in entry.tags)
            or purges.get(_tag_of(key), 0.0) >= asked
        ):
            self.purged += 1
            return True
        return False

    async def read_purges(self) -> None:
        """Learn what others have purged, and tell each tier what it has not noted.

        Also a tier that is left alone otherwise: while memory answers, nobody would notice that it is back.
        """
        for position, guard in enumerate(self.guards):
            try:
                async with asyncio.timeout(1.0):
                    found = await guard.tier.purges()
            except (OSError, TimeoutError):
                continue
            self._learn(found)
            covered = self._purges.get(EVERYTHING, 0.0)
            if any(at <= covered and tag != EVERYTHING for tag, at in found.items()):
                guard.tier.covered(EVERYTHING, covered)
            missing = {
                tag: at
                for tag, at in self._purges.items()
                if (at > covered or tag == EVERYTHING) and at > found.get(tag, 0.0)
            }
            self._unheard[position] = missing
            for tag, at in islice(missing.items(), _MOST_TOLD):
                guard.tier.purged(tag, at)

    async def _read_purges(self) -> None:
        pause = PURGES_READ_EVERY
        while True:
            await self.read_purges()
            if not any(self._unheard):
                pause = PURGES_READ_EVERY
            try:
                async with asyncio.timeout(pause):
                    await self._purged_now.wait()
            except TimeoutError:
                pause = min(pause * 2, PURGES_READ_EVERY)
            else:
                self._purged_now.clear()
                pause = _FIRST_LOOK

    # ---- figures ----

    def figures(self) -> list[TierFigures]:
        """Nearest tier first."""
        return [
            TierFigures(self.memory.name, self.hits[self.memory.name], self.memory.statistics()),
            *(
                TierFigures(
                    guard.tier.name,
                    self.hits[guard.tier.name],
                    guard.tier.statistics(),
                    guard.late,
                    guard.failed,
                    guard.skipped,
                    guard.is_open,
                    len(unheard),
                )
                for guard, unheard in zip(self.guards, self._unheard, strict=True)
            ),
        ]


def _tag_of(key: bytes) -> str:
    """What an entry carries besides the tags that are written in it: a single one can be purged, too."""
    return f"key:{key.hex()}"
