"""Between running generations and their store: what is new is stored in batches, beside the event loop's work.

Theory of operation
-------------------
The log's producer says ``Entry.appended`` and goes on.  One task per journal takes what has come since
its last batch, of all generations together, and has the store write it; then it tells each log how far it is
stored (``Journaled.on_stored``).  A log gives its readers no event before that, so nobody ever holds an
event that a ``kill -9`` can take back.

The journal keeps no copies: it looks at the log's own list of events.  So it can always start again at any
index, which is how it gets over every uncertainty.  A batch whose outcome is unknown (the connection broke,
the disk hung) is simply written again, and the store, which refuses gaps and doubles, answers how much it
has.  A store that lost everything is given everything again.

When a batch takes longer than ``budget``, or fails, the generations in question are **behind**: they are not
``durable`` any more, and their readers are given what comes at once.  The journal goes
on trying; as soon as a log is stored to its end again, it is durable again.  A generation can also be
**given up**, for good: when it has ended, waits for the store, and there is no room for more like it.

A generation that another process has taken over is **fenced**: it is told so, and not written any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import msgspec

from penstock.generation.entry import Entry, Journaled
from penstock.generation.pace import Pace
from penstock.generation.store import (
    Naming,
    Reason,
    Record,
    Refusal,
    Store,
    StoreUnavailable,
    Write,
    trouble_at,
)
from penstock.messages import Event
from penstock.metrics import Histogram
from penstock.net.clock import Clock

log = logging.getLogger(__name__)

INTERVAL = 0.004  # seconds from one batch's beginning to the next one's, at least; the first goes at once
FIRST_INTERVAL = 0.002  # the same for a batch with an answer's first event
# Seconds in which a beginning is stored that nothing follows: with luck it has company then.
BEGIN_WITHIN = 0.02
BUDGET = 0.05  # seconds that a batch may take before readers go on without it
HANGS = 1.0  # seconds after which a batch is not late any more: the store cannot be written
STOOD_STILL = (
    1.0  # seconds without a look at the clock after which this process was asleep, not the store slow
)
BATCH_BYTES = 1 << 20  # of one batch; what is far behind takes several
_FIRST_PAUSE = 0.25  # seconds between two tries while the store is not there, doubling
_MAX_PAUSE = 5.0
_TELL_EVERY = 60.0  # seconds between two complaints that the store is slow
_MAX_DISCARDS = 10_000
WRITE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)


class Statistics(msgspec.Struct, frozen=True):
    """``trouble`` says why the store cannot be written now; empty: it can.  Counts are since the start."""

    open: int  # generations that are not stored to their end
    behind: int  # of these, the ones whose readers have more than the store
    held_bytes: int  # of generations that ended and wait for the store
    batches: int
    events: int
    errors: int
    exposed: int  # generations that were behind at least once
    given_up: int
    fenced: int
    trouble: str


class Journal:
    """Writes the generations of one event loop to one store.

    :param interval: seconds from one batch to the next, at least: what comes in between goes together
    :param first_interval: the same if an answer's first event waits
    :param budget: seconds after which a batch is late, and readers do not wait for it
    :param begin_within: seconds in which a beginning is stored to which nothing is added
    :param max_held_bytes: of generations that have ended and are not stored yet; the oldest are given up
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        interval: float = INTERVAL,
        first_interval: float = FIRST_INTERVAL,
        budget: float = BUDGET,
        begin_within: float = BEGIN_WITHIN,
        max_held_bytes: int = 64 << 20,
    ) -> None:
        self.store = store
        self.write_seconds = Histogram(WRITE_BUCKETS)
        self._clock = clock
        self._pace = Pace(interval, first_interval)
        self._budget = budget
        self._begin_within = begin_within
        self._max_held_bytes = max_held_bytes

        self._entries: dict[Entry, None] = {}
        self._behind = 0
        self._dirty: list[Entry] = []
        self._young: list[Entry] = []  # have begun, and nothing has come yet
        self._ripening: asyncio.TimerHandle | None = None
        self._held: dict[Entry, int] = {}  # ended and not stored, oldest first, with their size
        self._held_bytes = 0
        self._discards: deque[str] = deque(maxlen=_MAX_DISCARDS)  # given up: the store should forget them too

        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing_since: float | None = None  # None: no batch is under way
        self._looked = 0.0  # at the clock, when last
        self._late = False
        self._tell_late_at = 0.0
        self._one_by_one = False
        self._trouble = ""
        self._trouble_since = 0.0
        self._troubles = 0
        self._pause = 0.0
        self._retry_at = 0.0

        self._batches = self._written = self._errors = 0
        self._exposed = self._given_up = self._fenced = 0

    def __repr__(self) -> str:
        return (
            f"<Journal of {len(self._entries)} generations, {self._behind} behind, {self._trouble or 'well'}, "
            f"{self.store!r}>"
        )

    # ---- generations come and end ----

    def begin(
        self, record: Record, events: list[Event], log: Journaled, naming: Naming | None = None
    ) -> Entry:
        """A generation begins; ``events`` is its log's own list, which only grows.

        Nobody waits for a beginning: it is stored with the first event, or after some time if that takes longer.
        """
        entry = Entry(self, record, events, log, begun=False, proved=self._troubles, naming=naming)
        self._enter(entry)
        if not self._begin_within:
            self.queue(entry)
            return entry
        self._young.append(entry)
        if self._ripening is None:
            self._ripening = asyncio.get_running_loop().call_later(self._begin_within, self._ripen)
        return entry

    def resume(self, record: Record, events: list[Event], log: Journaled) -> Entry:
        """A generation that was taken over goes on; ``events`` begins with what is stored."""
        return self._enter(Entry(self, record, events, log, begun=True, proved=self._troubles))

    def _enter(self, entry: Entry) -> Entry:
        self._entries[entry] = None
        if self._late or self._trouble:
            self._expose(entry)
        return entry

    def _ripen(self) -> None:
        """Store the beginnings to which nothing has been added yet."""
        if self._ripening is not None:
            self._ripening.cancel()
            self._ripening = None
        young, self._young = self._young, []
        for entry in young:
            if not (entry.begun or entry.dirty or entry.sending):
                self.queue(entry)

    def queue(self, entry: Entry) -> None:
        """There is something to store of it."""
        if entry.out:
            return
        entry.dirty = True
        self._dirty.append(entry)
        if not entry.stored and entry.events:
            self._pace.hurry()
        wake = self._wake
        if wake is not None and not self._trouble and not wake.done():
            wake.set_result(None)

    def hold(self, entry: Entry, size: int) -> None:
        """It has ended: from now on it takes memory only because it is not stored.

        :param size: bytes of its events
        """
        if entry.out:
            return
        size += len(entry.record.body)
        self._held[entry] = size
        self._held_bytes += size
        if not entry.dirty:
            self.queue(entry)
        while self._held_bytes > self._max_held_bytes and (self._trouble or self._late):
            self._give_up(next(iter(self._held)))

    def verify(self) -> None:
        """The store may have lost what it had: have it say how much it has of everything that is not over.

        What nothing is added to for a long time, a plain answer say, would be missed at its end only.
        """
        self._troubles += 1
        self.ask_of_all()

    def ask_of_all(self) -> None:
        """Have it say whether everything that is not over is still this process's to write."""
        for entry in list(self._entries):
            if entry.begun and not entry.dirty:
                self.queue(entry)

    # ---- the task ----

    def start(self) -> None:
        """Begin to write; the store is open, or will be tried until it is."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._clock.add(self)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._dirty or (
                self._trouble and self._clock.now() < self._retry_at and not self._closing
            ):
                if not self._dirty:
                    self._wake_idle()
                    if self._closing:
                        return
                self._wake = loop.create_future()
                await self._wake
                self._wake = None
                continue
            await self._pace.gather()
            await self._write()
            if self._closing and self._trouble:
                return

    async def _write(self) -> None:
        sent, writes = self._batch()
        started = self._writing_since = self._clock.now()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._budget, self._look)
        try:
            if self._discards:
                await self._discard()
            refused = await self.store.write(writes)
        except StoreUnavailable as error:
            self._failed(sent, str(error))
        except Exception as error:
            log.exception("defect in %r", self.store)
            self._failed(sent, f"{type(error).__name__}: {error}")
            if len(sent) == 1:
                self._give_up(sent[0])
            self._one_by_one = True  # somebody's event cannot be written: the others must not suffer from it
        else:
            self._succeeded(sent, refused)
        finally:
            self.write_seconds.observe(self._clock.now() - started)
            self._writing_since = None
            self._late = False

    def _batch(self) -> tuple[list[Entry], list[Write]]:
        """What is to be written next, up to :data:`BATCH_BYTES`; the rest stays in the queue."""
        sent: list[Entry] = []
        writes: list[Write] = []
        dirty, self._dirty = self._dirty, []
        room = BATCH_BYTES
        for at, entry in enumerate(dirty):
            if entry.out:
                continue
            if room <= 0:
                self._dirty = dirty[at:]
                break
            write = entry.take(room)
            sent.append(entry)
            writes.append(write)
            room -= write.size or 0
            if write.begin is not None:
                room -= len(write.begin.body)
            if self._one_by_one:
                room = 0
        else:
            self._one_by_one = False
        return sent, writes

    def _succeeded(self, sent: list[Entry], refused: dict[str, Refusal]) -> None:
        self._batches += 1
        if self._trouble:
            log.warning(
                "answers are durable again after %.0f s: %s is written, also what was missing there",
                *(self._clock.now() - self._trouble_since, self.store.place),
            )
            self._trouble = ""
            self._pause = 0.0
        proved = self._troubles
        for entry in sent:
            if entry.out:  # given up meanwhile
                continue
            if refused and entry.record.id in refused:
                self._refused(entry, refused[entry.record.id])
                continue
            self._written += entry.sending - entry.stored
            entry.stored = upto = entry.sending
            entry.begun = True
            entry.billed = entry.billing or entry.billed
            entry.proved = proved
            if upto < len(entry.events):
                if not entry.dirty:  # it did not fit into one batch
                    self.queue(entry)
                ended = False
            else:
                ended = entry.ending is not None and not entry.dirty
            if not entry.behind:
                self._tell(entry, upto, ended=ended)
            elif upto == len(entry.events) and not entry.dirty:
                self._caught_up(entry)
            if ended:
                self._leave(entry)
            elif entry.waiting:
                entry.tell()

    def _refused(self, entry: Entry, refusal: Refusal) -> None:
        reason = refusal.reason
        if reason is Reason.EXISTS or (reason is Reason.MISPLACED and refusal.events != entry.stored):
            # A batch of whose outcome we had not heard was stored, or one that we had heard of was lost.
            entry.begun = True
            entry.billed = None
            if refusal.events <= len(entry.events):
                entry.stored = refusal.events
                if not entry.dirty:
                    self.queue(entry)
                return
        elif reason is Reason.UNKNOWN and entry.proved != self._troubles:  # the store lost it
            entry.begun = False
            entry.stored = 0
            if not entry.dirty:
                self.queue(entry)
            return
        elif reason is Reason.ENDED and entry.ending is not None and refusal.events == len(entry.events):
            # The same: our own end was stored.
            entry.stored = refusal.events
            if entry.behind:
                self._caught_up(entry)
            else:
                self._tell(entry, entry.stored, ended=True)
            self._leave(entry)
            return
        elif reason is Reason.FULL:
            self._give_up(entry)
            return
        entry.fenced = True
        self._leave(entry)
        self._fenced += 1
        log.warning(
            "%s is ended here, because another process has taken it over or it was deleted (%s); its callers come back "
            "to the other one",
            *(entry.record.id, reason.value),
        )
        try:
            entry.log.on_fenced(deleted=reason is Reason.UNKNOWN)
        except Exception:
            log.exception("defect while fencing %s", entry.record.id)

    def _failed(self, sent: list[Entry], trouble: str) -> None:
        self._errors += 1
        self._troubles += 1
        self._pause = min(_MAX_PAUSE, self._pause * 2 or _FIRST_PAUSE)
        self._retry_at = self._clock.now() + self._pause
        if not self._trouble:  # said once, not at every try
            self._trouble_since = self._clock.now()
            log.error(
                "answers are not durable now: they go out to their callers, and would be lost with this process, because "
                "they cannot be stored (%s); that is tried until it works",
                trouble_at(self.store.place, trouble),
            )
        self._trouble = trouble
        for entry in sent:
            if not entry.dirty:
                self.queue(entry)
        self._expose_all()

    def _tell(self, entry: Entry, upto: int, *, ended: bool) -> None:
        try:
            entry.log.on_stored(upto, ended=ended)
        except Exception:  # the others must be told
            log.exception("defect while telling %s what is stored", entry.record.id)

    # ---- when the store is slow or gone ----

    def _look(self) -> None:
        self._timer = None
        self.sweep(self._clock.now())

    def sweep(self, now: float) -> None:
        """Is the batch under way late?  Is it time to try again?"""
        looked, self._looked = self._looked, now
        if self._writing_since is not None:
            if now - max(looked, self._writing_since) > STOOD_STILL:
                # Others may have taken over what was produced here, and the store's answer tells, if it has come: it
                # is read before anybody is shown what is not stored.
                self._writing_since = now
            left = self._writing_since + self._budget - now
            if left > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(left, self._look)
            elif not self._late:
                self._late = True
                if now >= self._tell_late_at:
                    self._tell_late_at = now + _TELL_EVERY
                    log.warning(
                        "%s is slow: readers do not wait for it where it takes longer than %g s to store an event, which "
                        "would be lost with this process; said once a minute at most",
                        *(self.store.place, self._budget),
                    )
                self._expose_all()
        elif self._trouble and now >= self._retry_at and self._dirty and self._wake and not self._wake.done():
            self._wake.set_result(None)

    def _expose_all(self) -> None:
        """Nobody waits for what is not stored."""
        for entry in list(self._entries):
            if not entry.behind and (entry.dirty or entry.sending > entry.stored or not entry.begun):
                self._expose(entry)
                self._tell(entry, len(entry.events), ended=entry.ending is not None)

    def _expose(self, entry: Entry) -> None:
        entry.behind = True
        entry.tell()
        self._behind += 1
        self._exposed += 1

    def _caught_up(self, entry: Entry) -> None:
        entry.behind = False
        self._behind -= 1

    def _give_up(self, entry: Entry) -> None:
        """It will never be durable; what the store has of it is of no use to anybody."""
        self._given_up += 1
        self._discards.append(entry.record.id)
        if not entry.behind:
            self._expose(entry)
            self._tell(entry, len(entry.events), ended=entry.ending is not None)
        self._leave(entry)

    def forget(self, entry: Entry) -> None:
        """It is not to be stored, and what the store has of it is to go."""
        if not entry.out:
            self._discards.append(entry.record.id)
            self._tell(entry, len(entry.events), ended=entry.ending is not None)
            self._leave(entry)

    def _leave(self, entry: Entry) -> None:
        entry.out = True
        entry.tell()
        self._behind -= entry.behind
        self._entries.pop(entry, None)
        self._held_bytes -= self._held.pop(entry, 0)

    async def _discard(self) -> None:
        for _ in range(min(len(self._discards), 100)):
            await self.store.delete(self._discards[0])
            self._discards.popleft()

    # ---- the end ----

    async def flush(self, timeout: float) -> bool:  # noqa: ASYNC109 - one wait for all
        """Wait until everything that has been appended so far is stored.

        :returns: whether it is; False: the time ran out
        """
        self._ripen()
        if not self._dirty and self._writing_since is None:
            return True
        idle = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        try:
            await asyncio.wait_for(idle, timeout)
        except TimeoutError:
            return False
        return True

    def _wake_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for idle in waiting:
            if not idle.done():
                idle.set_result(None)

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Write what is waiting, and stop.  What cannot be written in time is lost, and the log says so."""
        task = self._task
        if task is None:
            return
        self._closing = True
        self._ripen()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        await asyncio.wait([task], timeout=timeout)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        self._clock.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        self._wake_idle()
        lost = sum(
            1 for entry in self._entries if entry.stored < len(entry.events) or entry.ending is not None
        )
        if lost:
            log.error(
                "%d answers were not stored to their end in %s when this process ended: who comes back for them finds less",
                *(lost, self.store.place),
            )

    # ---- introspection ----

    @property
    def _hanging(self) -> str:
        if self._writing_since is None or self._clock.now() - self._writing_since < HANGS:
            return ""
        return "it does not answer"

    def statistics(self) -> Statistics:
        return Statistics(
            open=len(self._entries),
            behind=self._behind,
            held_bytes=self._held_bytes,
            batches=self._batches,
            events=self._written,
            errors=self._errors,
            exposed=self._exposed,
            given_up=self._given_up,
            fenced=self._fenced,
            trouble=self._trouble or self._hanging,
        )
