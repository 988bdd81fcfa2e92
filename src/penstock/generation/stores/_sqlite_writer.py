"""Everything that changes the file of a SQLite store; in one thread of each process."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.generation.log import State
from penstock.generation.store import (
    Claim,
    Reason,
    Record,
    Refusal,
    Write,
    request_size,
    size_of,
)
from penstock.generation.stores._sqlite_file import (
    PIECE_SHIFT,
    Batch,
    SQLiteFile,
)
from penstock.generation.stores._sqlite_reader import Row, find, load_record, waiting_events
from penstock.messages import Event

_PIECE_EVENTS = 64  # a piece is written when so many events wait for one,
_PIECE_BYTES = 65_536  # or so many bytes,
_PIECE_BATCHES = 1_024  # or for so many batches, since old batches must go
_TRIM_EVERY = 256  # batches between two looks whether old ones can go
_KEPT_BATCHES = 1_024  # for those who follow by reading them, a few seconds; then they read pieces

_encode = msgspec.msgpack.Encoder().encode


class _Open:
    """A running generation, as this writer knows it."""

    __slots__ = ("epoch", "events", "fence", "first_batch", "number", "size", "waiting", "waiting_size")

    def __init__(self, number: int, epoch: int, events: int, size: int, first_batch: int, fence: int) -> None:
        self.number = number
        self.fence = fence  # as long as the file's is the same, the epoch is
        self.epoch = epoch
        self.events = events  # stored, in pieces or in batches
        self.size = size  # with what waits for a piece
        self.waiting: list[Event] = []  # in batches only
        self.waiting_size = 0
        self.first_batch = first_batch  # where the first of these is; without any, the next batch

    def add(self, events: Sequence[Event]) -> None:
        added = size_of(events)
        self.events += len(events)
        self.size += added
        self.waiting += events
        self.waiting_size += added

    def __repr__(self) -> str:
        return f"<open generation {self.number}, epoch {self.epoch}, {self.events} events>"


class SQLiteWriter:
    """The writing side of a file.  Belongs to one thread.

    Methods raise :class:`sqlite3.Error`; after that nothing of what they were given is in the file.  Only
    when COMMIT itself fails nobody knows.
    """

    def __init__(self, file: SQLiteFile) -> None:
        self.file = file
        self._db = file.db
        self._fence = 0
        self._open: dict[str, _Open] = {}  # in the order of `first_batch`
        self._batches = 0

    def __repr__(self) -> str:
        return f"<SQLiteWriter {self.file.path}, {len(self._open)} open>"

    # ---- generations grow ----

    def write(self, writes: Sequence[Write]) -> dict[str, Refusal]:
        try:
            with self.file.transaction():
                return self._write(writes)
        except BaseException:
            self._open.clear()  # what we know may not be true any more
            raise

    def _write(self, writes: Sequence[Write]) -> dict[str, Refusal]:
        seq = self._look() + 1
        refused: dict[str, Refusal] = {}
        batch = Batch([], [], [], [])
        for write in writes:
            known = self._begin(write, seq) if write.begin is not None else self._known(write.id)
            if isinstance(known, Refusal):
                refused[write.id] = known
                continue
            refusal = self._check(write, known)
            if refusal is not None:
                refused[write.id] = refusal
                continue
            self._append(write, known, batch, seq)
        if batch.numbers or batch.ended:
            self._db.execute("INSERT INTO batches VALUES (?, ?)", (seq, _encode(batch)))
            self._cut_old(seq)
            self._batches += 1
            if self._batches % _TRIM_EVERY == 0:
                self._trim(seq)
        return refused

    def _look(self) -> int:
        """The last batch; and the fence, for what we believe to know."""
        self._fence, last = self._db.execute(
            "SELECT version, (SELECT max(seq) FROM batches) FROM fence"
        ).fetchone()
        return last or 0

    def _begin(self, write: Write, seq: int) -> _Open | Refusal:
        begin = write.begin
        assert begin is not None
        if write.first != 0 or write.epoch != begin.epoch:
            return Refusal(Reason.MISPLACED)
        size = request_size(begin)
        end = write.end
        state = State.RUNNING if end is None else end.state  # over already: spares the index an entry
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO generations (id, state, owner, epoch, events, size, tail, expires_at)"
            " VALUES (?, ?, ?, ?, 0, ?, ?, ?)",
            (begin.id, state.value, begin.owner, begin.epoch, size, seq, begin.expires_at),
        )
        if cursor.rowcount == 0:
            known = self._known(write.id)
            return known if isinstance(known, Refusal) else Refusal(Reason.EXISTS, known.events)
        number = cursor.lastrowid
        assert number is not None
        self._db.execute("INSERT INTO requests VALUES (?, ?)", (number, _encode(begin)))
        known = self._open[begin.id] = _Open(number, begin.epoch, 0, size, seq, self._fence)
        return known

    def _known(self, generation_id: str) -> _Open | Refusal:
        known = self._open.get(generation_id)
        if known is not None and known.fence == self._fence:
            return known
        row = find(self._db, generation_id)
        if known is not None and row is not None and row.epoch == known.epoch:
            known.fence = self._fence
            return known
        self._open.pop(generation_id, None)
        if row is None:
            return Refusal(Reason.UNKNOWN)
        if row.state != State.RUNNING.value:
            return Refusal(Reason.ENDED, row.events)
        known = _Open(row.number, row.epoch, row.events, row.size, row.tail, self._fence)
        known.add(waiting_events(self._db, row))
        self._open[generation_id] = known
        return known

    def _check(self, write: Write, known: _Open) -> Refusal | None:
        if write.epoch != known.epoch:
            return Refusal(Reason.FENCED, known.events)
        if write.first != known.events:
            return Refusal(Reason.MISPLACED, known.events)
        return None

    def _append(self, write: Write, known: _Open, batch: Batch, seq: int) -> None:
        events = write.events
        if events:
            known.add(events)
        if write.end is not None:
            self._put_piece(known)
            end = write.end
            self._db.execute(
                "UPDATE generations SET state = ?, events = ?, size = ?, expires_at = ?, ending = ?"
                " WHERE number = ?",
                (
                    end.state.value,
                    known.events,
                    known.size,
                    end.expires_at,
                    _encode(end.ending),
                    known.number,
                ),
            )
            batch.ended.append(known.number)
            del self._open[write.id]
        elif events:
            batch.numbers.append(known.number)
            batch.firsts.append(write.first)
            batch.events.append(msgspec.Raw(_encode(events)))
            if len(known.waiting) >= _PIECE_EVENTS or known.waiting_size >= _PIECE_BYTES:
                self._cut(write.id, seq)

    # ---- from batches to pieces ----

    def _put_piece(self, known: _Open) -> None:
        if known.waiting:
            first = known.events - len(known.waiting)
            self._db.execute(
                "INSERT INTO pieces VALUES (?, ?)",
                (known.number << PIECE_SHIFT | first, _encode(known.waiting)),
            )
            known.waiting = []
            known.waiting_size = 0

    def _cut_old(self, seq: int) -> None:
        """Write the pieces that are due, so that no batch is needed for long."""
        due = []
        for generation_id, known in self._open.items():
            if known.first_batch > seq - _PIECE_BATCHES:
                break
            due.append(generation_id)
        for generation_id in due:
            self._cut(generation_id, seq)

    def _cut(self, generation_id: str, seq: int) -> None:
        known = self._open.pop(generation_id)
        self._put_piece(known)
        known.first_batch = seq + 1
        self._open[generation_id] = known
        self._db.execute(
            "UPDATE generations SET events = ?, size = ?, tail = ? WHERE number = ?",
            (known.events, known.size, known.first_batch, known.number),
        )

    def _trim(self, seq: int) -> None:
        (needed,) = self._db.execute("SELECT min(tail) FROM generations WHERE state = 'running'").fetchone()
        self._db.execute("DELETE FROM batches WHERE seq < ?", (min(needed or seq, seq - _KEPT_BATCHES),))

    # ---- whose is it? ----

    def claim(
        self, tenant: str, name: str, mine: Claim, *, now: float, until: float, instead_of: str
    ) -> Claim:
        with self.file.transaction():
            row = self._db.execute(
                "SELECT generation, fingerprint, expires_at FROM claims WHERE tenant = ? AND name = ?",
                (tenant, name),
            ).fetchone()
            if row is not None and row[2] > now and row[0] != instead_of:
                return Claim(row[0], row[1], won=False)
            self._db.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                (tenant, name, mine.generation, mine.fingerprint, until),
            )
            return mine

    def renew(self, owner: str, until: float) -> None:
        with self.file.transaction():
            self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (owner, until))

    def take_over(self, generation_id: str, owner: str, now: float) -> Record | None:
        try:
            with self.file.transaction():
                seq = self._look()
                row = find(self._db, generation_id)
                if row is None or row.state != State.RUNNING.value or self._lease(row.owner) > now:
                    return None
                self._known(generation_id)
                self._cut(generation_id, seq)
                del self._open[generation_id]
                self._db.execute(
                    "UPDATE generations SET owner = ?, epoch = epoch + 1 WHERE number = ?",
                    (owner, row.number),
                )
                self._raise_fence()
                row = find(self._db, generation_id)
                assert row is not None
                return load_record(self._db, row)
        except BaseException:
            self._open.clear()
            raise

    def release(self, owner: str, generation_ids: Sequence[str]) -> None:
        with self.file.transaction():
            self._db.executemany(
                "UPDATE generations SET owner = '' WHERE id = ? AND owner = ? AND state = 'running'",
                [(generation_id, owner) for generation_id in generation_ids],
            )

    def _lease(self, owner: str) -> float:
        row = self._db.execute("SELECT until FROM leases WHERE owner = ?", (owner,)).fetchone()
        return row[0] if row else 0.0

    def _raise_fence(self) -> None:
        self._db.execute("UPDATE fence SET version = version + 1")

    # ---- letting go ----

    def delete(self, generation_id: str) -> None:
        with self.file.transaction():
            row = find(self._db, generation_id)
            if row is not None:
                self._remove(row)

    def remove(self, generation_ids: Sequence[str], now: float) -> int:
        """Remove generations that have ended, or that nobody owns.

        :returns: how many there were
        """
        with self.file.transaction():
            removed = 0
            for generation_id in generation_ids:
                row = find(self._db, generation_id)
                if row is not None and (row.state != State.RUNNING.value or self._lease(row.owner) <= now):
                    self._remove(row)
                    removed += 1
            return removed

    def _remove(self, row: Row) -> None:
        number = row.number
        base = number << PIECE_SHIFT
        self._db.execute("DELETE FROM requests WHERE number = ?", (number,))
        self._db.execute(
            "DELETE FROM pieces WHERE row BETWEEN ? AND ?", (base, base | (1 << PIECE_SHIFT) - 1)
        )
        self._db.execute("DELETE FROM generations WHERE number = ?", (number,))
        if row.state == State.RUNNING.value:
            self._raise_fence()

    def forget_old(self, now: float) -> None:
        """Remove claims and leases that have run out."""
        with self.file.transaction():
            self._db.execute("DELETE FROM claims WHERE expires_at <= ?", (now,))
            self._db.execute("DELETE FROM leases WHERE until <= ?", (now,))

    def checkpoint(self) -> None:
        """The last part of it, after which the write-ahead log can begin anew."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
