"""A ledger store that writes behind: rows wait in a queue, and one thread writes them in batches.

The hot path appends to a queue and goes on.  Every :data:`INTERVAL`, or when :data:`BATCH` rows wait, the
thread takes what is there and writes it in one transaction.  A row that was opened and settled within a
batch is written once; one that is still open is written as reserved, so that a crash leaves a trace.

Nothing that happens to the disk reaches an answer.  While the file cannot be written, rows wait in memory;
when too many wait, the oldest settled ones are folded into sums, one for each outcome, which are written
once the disk is back: single rows are lost then, and are counted as such, but not one token.

The threads share two deques, whose ``append`` and ``popleft`` are atomic, and nothing else that changes:
an attempt that is under way belongs to the event loop, so the writer reads of it only what was fixed when
it was opened; one that is settled is not changed by anybody.

What waits would be lost if the process were killed.  So each row is also put into a queue that outlives it
(:mod:`penstock.ledger._queue`), and the writer marks there how far the file has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections import deque
from itertools import islice
from pathlib import Path

import msgspec

from penstock.errors import StorageUnavailable
from penstock.ledger._file import LedgerFile
from penstock.ledger._mended import UNWRITABLE, mended
from penstock.ledger._queue import RowQueue, queue_path
from penstock.ledger._recovery import Recovery
from penstock.ledger._rows import Fold
from penstock.ledger.template import RowTemplate
from penstock.messages import Attempt, Outcome
from penstock.turns import Turns

log = logging.getLogger(__name__)

INTERVAL = 0.2  # seconds between two batches, when there is little to write
SHORT_INTERVAL = 0.05  # the same, at the least
# Rows of one transaction, where the intervals allow it: with more, calls notice the writer's work.
SMOOTH = 100
BATCH = 1_000  # rows of one transaction
FORGET_ROWS = 500  # deleted in one transaction
FORGET_INTERVAL = 600.0  # seconds between two looks for rows that are too old
RECOVER_INTERVAL = 30.0  # seconds between two looks for what dead processes have left
_MAX_PAUSE = 5.0  # seconds between two tries while the file cannot be written


class StoreStatistics(msgspec.Struct, frozen=True):
    """``trouble`` says why the file cannot be written now; empty: it can."""

    waiting: int
    written: int  # settled rows that are in the file
    errors: int
    folded: int  # settled rows that are no longer kept one by one
    unreserved: int  # openings that were not written, since the writer was too far behind
    orphans: int  # rows of dead processes that this one settled
    recovered: int  # settled rows that it found in the queues of dead processes
    unqueued: int  # openings and settlings of which nothing would be left if the process were killed at once
    trouble: str


class SQLiteStore:
    """A :class:`~penstock.ledger.ledger.LedgerStore` in a SQLite file that several processes share.

    :param path: the file; it is made, its directory is not
    :param max_rows: settled rows that may wait for the disk
    :param keep_days: older rows are deleted; 0: none ever
    :param interval: seconds between two batches
    :param busy_timeout: seconds that the writer waits for another process's transaction
    :param recover_interval: seconds between two looks for what dead processes have left
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_rows: int = 10_000,
        keep_days: float = 0.0,
        interval: float = INTERVAL,
        busy_timeout: float = 2.0,
        recover_interval: float = RECOVER_INTERVAL,
    ) -> None:
        self.path = Path(path).absolute()
        self._max_rows = max_rows
        self._keep_seconds = keep_days * 86_400
        self._forget_at = 0.0  # when old rows are looked for again, monotonic
        self._recover_at = 0.0  # the same, of what dead processes have left
        self._interval = interval
        self._busy_timeout = busy_timeout
        self._recover_interval = recover_interval
        self._batch = min(BATCH, max_rows)
        self._heeds_forks = False
        self._begin()

    def _begin(self) -> None:
        # Shared by the two threads.
        self._opened: deque[Attempt] = deque()
        self._settled: deque[tuple[Attempt, int]] = deque()  # each with its position in the queue
        self._queue: RowQueue | None = None
        self._noted: deque[Attempt] = deque()  # open ones that have come by their answer's id
        self._gone: deque[str] = deque()  # ids of attempts that were folded by the event loop's thread
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._asked = 0  # flushes asked for, and the last one that was done, under _changed
        self._done = 0
        self._done_well = True
        self._stopping = False
        self._folds: dict[Outcome, Fold] = {}  # under _changed
        self._folded = 0
        self._folded_to = 0  # the position of the last one, under _changed
        self._unreserved = 0
        self._unqueued = 0
        self._rows = 0  # the number of the row that was opened last
        self._savings = 0  # the same, of those that are written in groups

        # The writer's own.
        self._thread: threading.Thread | None = None
        self.token = secrets.token_hex(8)  # this process's name in the table "boots"
        self._file: LedgerFile | None = None
        self._turns = Turns()
        self._folds_numbered = 0
        self._reserved: dict[str, Attempt] = {}  # open attempts by id
        # Of these, by row, the ones whose answer's id is not in the file yet.
        self._to_note: dict[int, Attempt] = {}
        self._to_reserve: dict[int, Attempt] = {}  # of these, by row, the ones that are not in the file yet
        # With the position in the queue, and whether the file may have the row as reserved.
        self._to_settle: deque[tuple[Attempt, int, bool]] = deque()
        self._to_withdraw: list[int] = []
        # A transaction that failed may yet have held.  Of the rows in it, the settled ones are tried again
        # until it is known: they are the first in _to_settle, and are not folded, or they would count twice.
        self._tried = 0
        self._maybe_reserved: set[int] = set()
        self._to_fold: list[tuple[int, Fold]] = []
        self._savings_taken = 0  # the number of the saving before the last look, about
        self._taken_to = 0  # what comes before this position in the queue is in the file when nothing waits
        self._queue_at = 0.0  # when a queue is tried to be made again, monotonic
        self._refused = 0  # by the present queue, as far as the log knows
        self._written = 0
        self._errors = 0
        self._orphans = 0
        self._recovered = 0
        self._trouble = ""
        self._pause = 0.0
        self._retry_at = 0.0

    # ---- the event loop's side ----

    def start(self) -> SQLiteStore:
        """Start the writer, which settles at once what dead processes left open.

        The first row starts it too.  A forked child begins with nothing, and under a name of its own.
        """
        if self._thread is None:
            if not self._heeds_forks:
                self._heeds_forks = True
                forked = weakref.WeakMethod(self._forked)
                os.register_at_fork(after_in_child=lambda: (child := forked()) and child())
            self._make_queue()
            self._thread = threading.Thread(target=self._run, name="penstock-ledger", daemon=True)
            self._thread.start()
        return self

    def _forked(self) -> None:
        """What waits is the parent's to write, and so are its queue, its file and its locks."""
        if self._queue is not None:
            self._queue.close(remove=False)
        if self._file is not None:
            self._file.abandon()
        self._inherited = self._file  # never closed here: that would take the parent's write-ahead log away
        self._begin()

    def opened(self, attempt: Attempt) -> None:
        if self._thread is None and not self._stopping:
            self.start()
        self._rows = attempt.row = self._rows + 1
        opened = self._opened
        queue = self._queue
        if queue is None:
            self._unqueued += 1
            opened.append(attempt)
        else:
            head = queue.append(attempt)
            opened.append(attempt)
            queue.head = head  # only now: the writer takes what comes before the head for handed over
        if len(opened) > self._max_rows:
            opened.popleft()
            self._unreserved += 1

    def noted(self, attempt: Attempt) -> None:
        queue = self._queue
        if queue is not None:
            head = queue.append(attempt)
            self._noted.append(attempt)
            queue.head = head
        else:
            self._noted.append(attempt)
        if len(self._noted) > self._max_rows:
            self._noted.popleft()

    def entered(self, attempt: Attempt) -> None:
        if self._thread is None and not self._stopping:
            self.start()
        self._rows = attempt.row = self._rows + 1
        self.settled(attempt)

    def saved(self, attempt: Attempt, template: RowTemplate | None = None) -> None:
        if self._thread is None and not self._stopping:
            self.start()
        self._savings = number = self._savings + 1
        attempt.row = -number
        self.settled(attempt, template)

    def settled(self, attempt: Attempt, template: RowTemplate | None = None) -> None:
        settled = self._settled
        queue = self._queue
        if queue is None:
            self._unqueued += 1
            settled.append((attempt, 0))
        else:
            head = queue.append(attempt, template)
            settled.append((attempt, head))
            queue.head = head
        if len(settled) >= self._batch:
            self._crowd()

    def _crowd(self) -> None:
        if not self._wake.is_set():
            self._wake.set()
        while len(self._settled) > self._max_rows:  # the writer hangs in the disk
            with self._changed:  # so that no row is on its way from here to there when the writer takes them
                try:
                    oldest, position = self._settled.popleft()
                except IndexError:  # it does not: it has just taken them all
                    return
                self._fold(oldest, position)
            if oldest.id in self._reserved:
                self._gone.append(oldest.id)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything that has been handed over so far is in the file.

        :returns: whether it is; False: the file cannot be written, or the time ran out
        """
        if self._thread is None or not self._thread.is_alive():
            return False
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._wake.set()
            self._changed.wait_for(lambda: self._done >= mine, timeout)
            return self._done >= mine and self._done_well

    async def wait_flushed(self, timeout: float = 10.0) -> bool:  # noqa: ASYNC109 - it is the thread's
        """:meth:`flush` for coroutines."""
        return await asyncio.get_running_loop().run_in_executor(None, self.flush, timeout)

    def known(self, generations: set[str], since: float, timeout: float = 10.0) -> set[str]:
        """Those of these generations that have a row, whichever process has written it, be it dead; blocks.

        :param since: Unix time of the first that there can be
        :raises StorageUnavailable: the file cannot be read, or written
        """
        if self._thread is None:
            self.start()
        self._recover_at = 0.0  # what only the queues of the dead have is entered first
        if not self.flush(timeout):
            raise StorageUnavailable("the ledger cannot be written now", retry_after=1.0)
        try:
            with contextlib.closing(sqlite3.connect(self.path.as_uri() + "?mode=ro", uri=True)) as db:
                rows = db.execute("SELECT generation FROM attempts WHERE started >= ?", (since,))
                return {generation for (generation,) in rows if generation in generations}
        except sqlite3.Error as error:
            raise StorageUnavailable(f"the ledger cannot be read now: {error}", retry_after=1.0) from error

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, and stop.

        The log says how much could not be written in time; whoever opens the ledger next enters it from the queue.
        """
        thread = self._thread
        if thread is None or self._stopping:
            return
        self._stopping = True
        self._wake.set()
        queued = self._queue is not None
        thread.join(timeout)
        waiting = self._waiting()
        if thread.is_alive() or waiting:
            log.error(
                "the ledger %s was closed with %d rows not written; %s",
                *(self.path, waiting),
                "the next start looks for them in the queue" if queued else "they are lost: it had no queue",
            )

    def statistics(self) -> StoreStatistics:
        queue = self._queue
        return StoreStatistics(
            self._waiting(),
            self._written,
            self._errors,
            self._folded,
            self._unreserved,
            self._orphans,
            self._recovered,
            self._unqueued + (queue.refused if queue is not None else 0),
            self._trouble,
        )

    def _waiting(self) -> int:
        return len(self._settled) + len(self._to_settle)

    # ---- the writer's side ----

    def _run(self) -> None:
        last = False
        wait = self._interval
        since = time.monotonic()
        while not last:
            self._wake.wait(wait)
            self._wake.clear()
            last = self._stopping
            with self._changed:
                asked = self._asked
            try:
                taken = self._take()
                now = time.monotonic()
                since, passed = now, now - since
                wait = min(max(SMOOTH * passed / max(taken, 1), SHORT_INTERVAL), self._interval)
                # Who asks for a flush, or closes, does not want to wait for a pause to end.
                urgent = last or asked > self._done
                if urgent:
                    self._turns.hurry()
                if urgent or now >= self._retry_at:
                    self._write()
                    self._turns.pace(time.monotonic() - now, passed)
                    if self._keep_seconds and not last and time.monotonic() >= self._forget_at:
                        self._forget()
                    if not last and time.monotonic() >= self._recover_at:
                        self._recover_dead()
            except Exception as error:  # noqa: BLE001 - whatever it is, rows wait and the writer lives
                self._fail(error)
            with self._changed:
                self._done = asked
                self._done_well = not self._trouble
                self._changed.notify_all()
        ended = not (self._reserved or self._opened or self._waiting() or self._folds or self._to_fold)
        if self._file is not None:
            self._file.close(ended=ended)
            self._file = None
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.close(remove=ended)

    def _take(self) -> int:
        """Take over what waits in the queues.

        :returns: about how many rows have been settled; one that is written in a group is a quarter of the work
        """
        with self._changed:
            # In this order: what comes before the head is in the two deques, was taken, or is in a sum; and whatever
            # is settled now was opened before, and is in the other deque or was taken.
            if self._queue is not None:
                self._taken_to = self._queue.head
            settled = [self._settled.popleft() for _ in range(len(self._settled))]
            opened = [self._opened.popleft() for _ in range(len(self._opened))]
            noted = [self._noted.popleft() for _ in range(len(self._noted))]
        if opened:
            done = {attempt.id for attempt, _ in settled}
            for attempt in opened:
                # One that has an outcome is about to be settled, or was and has been folded.
                if attempt.id not in done and attempt.outcome is None:
                    self._reserved[attempt.id] = attempt
                    self._to_reserve[attempt.row] = attempt
        for attempt in noted:
            if attempt.id in self._reserved and attempt.row not in self._to_reserve:
                self._to_note[attempt.row] = attempt
        self._to_settle.extend(
            (attempt, position, attempt.row > 0 and self._release(attempt.id)[1])
            for attempt, position in self._turns.over(settled)
        )
        while self._gone:
            row, in_file = self._release(self._gone.popleft())
            if in_file:
                self._to_withdraw.append(row)
        while len(self._to_settle) > self._max_rows:
            attempt, position, in_file = self._to_settle[self._tried]
            del self._to_settle[self._tried]
            with self._changed:
                self._fold(attempt, position)
            if in_file:
                self._to_withdraw.append(attempt.row)
        # Bounded like the rest.  A row that stays reserved by mistake has no tokens, so no sum suffers.
        del self._to_withdraw[: -10 * self._max_rows]
        savings, self._savings_taken = self._savings - self._savings_taken, self._savings
        return max(len(settled) - savings * 3 // 4, 0)

    def _release(self, attempt_id: str) -> tuple[int, bool]:
        """An open attempt's row, 0 if it was not known as open, and whether the file may have it as reserved."""
        attempt = self._reserved.pop(attempt_id, None)
        if attempt is None:
            return 0, False
        row = attempt.row
        self._to_note.pop(row, None)
        not_written = self._to_reserve.pop(row, None) is not None
        if row in self._maybe_reserved:
            self._maybe_reserved.discard(row)
            return row, True
        return row, not not_written

    def _fold(self, attempt: Attempt, position: int) -> None:
        """Add the row to the sums; under ``_changed``, the row being in no other place any more."""
        outcome = attempt.outcome
        assert outcome is not None
        fold = self._folds.get(outcome)
        if fold is None:
            fold = self._folds[outcome] = Fold(outcome, attempt.started, attempt.started)
        fold.add(attempt)
        self._folded += 1
        self._folded_to = max(self._folded_to, position)

    def _write(self) -> None:
        file = self._file
        if file is None or not file.is_current():
            file = self._open_file()
        while (
            self._to_reserve
            or self._to_settle
            or self._to_withdraw
            or self._folds
            or self._to_fold
            or self._to_note
        ):
            try:
                self._write_batch(file)
            except UNWRITABLE:  # nonsense that an upstream reported, such as 2**70 tokens
                self._mend()
                self._write_batch(file)
        self._mark()
        self._recover()

    def _mark(self) -> None:
        """Everything that was taken is in the file: the queue need not keep it."""
        queue = self._queue
        if queue is None or not queue.is_current():
            if time.monotonic() >= self._queue_at:
                self._queue_at = time.monotonic() + _MAX_PAUSE
                trouble = self._make_queue()
                if trouble:
                    log.warning("the ledger %s has no queue, a kill loses what waits: %s", self.path, trouble)
            return
        if queue.refused != self._refused:
            log.warning("the ledger's queue %s was full: a kill would have lost rows", queue.path)
            self._refused = queue.refused
        if self._taken_to > queue.tail:
            queue.mark(self._taken_to)

    def _make_queue(self) -> str:
        """A queue for this process, if there can be one.

        :returns: why there can not, and rows wait in memory only
        """
        old = self._queue
        position = old.head + 1 if old is not None else 0
        try:
            self._queue = RowQueue(queue_path(self.path, self.token), self.token, position=position)
        except OSError as error:
            self._queue = None
            return f"{type(error).__name__}: {error}"
        if old is not None:
            self._unqueued += old.refused
            self._refused = 0
        return ""

    def _forget(self) -> None:
        """Delete what is too old, in steps: nobody shall wait long for a long transaction."""
        assert self._file is not None
        deleted = self._file.forget(time.time() - self._keep_seconds, FORGET_ROWS)
        if deleted < FORGET_ROWS:
            self._forget_at = time.monotonic() + FORGET_INTERVAL

    def _write_batch(self, file: LedgerFile) -> None:
        reserved = list(islice(self._to_reserve.items(), BATCH))
        settled = list(islice(self._to_settle, self._batch))
        last = len(settled) == len(self._to_settle)
        self._maybe_reserved.update(number for number, _ in reserved)
        self._tried = max(self._tried, len(settled))
        # Once numbered a fold is not added to: it may be in the file already.  Sums are written with the last of the
        # rows that are older: so one position tells of which rows in the queue the file has everything.
        if last and not self._to_fold:
            with self._changed:
                folds, self._folds = self._folds, {}
                folded_to = self._folded_to
            for fold in folds.values():
                fold.queued = folded_to
                self._folds_numbered += 1
                self._to_fold.append((self._folds_numbered, fold))
        noted = list(self._to_note.items())
        file.write(
            reserved,
            [attempt for attempt, _, _ in settled],
            self._to_withdraw,
            self._to_fold,
            noted,
        )
        self._to_note.clear()
        for number, _ in reserved:
            del self._to_reserve[number]
        for _ in self._turns.over(settled):
            self._to_settle.popleft()
        self._maybe_reserved.clear()
        self._tried = 0
        self._to_withdraw.clear()
        self._to_fold.clear()
        self._written += len(settled)

    def _mend(self) -> None:
        self._to_reserve = {row: mended(attempt) for row, attempt in self._to_reserve.items()}
        self._to_settle = deque(
            (mended(attempt), position, in_file) for attempt, position, in_file in self._to_settle
        )

    def _open_file(self) -> LedgerFile:
        if self._file is not None:
            log.warning("the ledger %s was moved or removed; a new one is begun", self.path)
            self._file.close(ended=False)
            self._file = None
        self._file = file = LedgerFile(self.path, self.token, self._turns, busy_timeout=self._busy_timeout)
        if file.registered:
            # Nothing of ours is in this file: what is open must be reserved in it.
            self._to_reserve = {attempt.row: attempt for attempt in self._reserved.values()}
            self._to_settle = deque((attempt, position, False) for attempt, position, _ in self._to_settle)
            self._to_withdraw.clear()
            self._to_note.clear()
            self._maybe_reserved.clear()
            self._tried = 0
        self._tell_of_dead(file.recovery)
        self._recover_at = time.monotonic() + self._recover_interval
        return file

    def _recover_dead(self) -> None:
        """A replacement does this as it opens the file; of who was not replaced somebody else has to."""
        assert self._file is not None
        self._recover_at = time.monotonic() + self._recover_interval
        self._file.recover()
        self._tell_of_dead(self._file.recovery)

    def _tell_of_dead(self, found: Recovery) -> None:
        orphans, recovered, strange = found.take_found()
        if orphans:
            self._orphans += orphans
            log.warning("%d attempts of processes that died were open in the ledger: now partial", orphans)
        if recovered:
            self._recovered += recovered
            log.warning("%d rows of processes that died were found in their queues", recovered)
        for reason in strange:
            log.warning("a queue of the ledger was left alone: %s", reason)

    def _fail(self, error: Exception) -> None:
        self._errors += 1
        self._pause = min(_MAX_PAUSE, max(self._interval, self._pause * 2))
        self._retry_at = time.monotonic() + self._pause
        trouble = f"{type(error).__name__}: {error}"
        if trouble != self._trouble:  # said once, not at every try
            self._trouble = trouble
            log.error("the ledger %s cannot be written, rows wait in memory: %s", self.path, trouble)
        if getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY" and self._file is not None:
            self._file.close(ended=False)
            self._file = None

    def _recover(self) -> None:
        self._pause = self._retry_at = 0.0
        if self._trouble:
            self._trouble = ""
            log.warning(
                "the ledger %s is written again; %d rows are kept as sums only", self.path, self._folded
            )

    def __repr__(self) -> str:
        return f"<SQLiteStore {self.path}, {self._waiting()} waiting, {self._trouble or 'well'}>"
