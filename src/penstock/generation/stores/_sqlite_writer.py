"""Everything that changes the file of a SQLite store; in one thread of each process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from penstock.generation.log import State
from penstock.generation.store import (
    YOUNG,
    Bill,
    Booking,
    Claim,
    End,
    Naming,
    Reason,
    Record,
    Refusal,
    Write,
    request_size,
    size_of,
)
from penstock.generation.stores import _sqlite_bookings, _sqlite_gone
from penstock.generation.stores._sqlite_file import (
    PIECE_SHIFT,
    RAISE_FENCE,
    SQLiteFile,
)
from penstock.generation.stores._sqlite_packing import Columns, Packing
from penstock.generation.stores._sqlite_reader import (
    Row,
    find,
    lease,
    load_record,
    load_whose,
    waiting_events,
)
from penstock.generation.stores._sqlite_rows import Values, write_rows
from penstock.messages import Event

_PIECE_EVENTS = 128  # a piece is written when so many events wait for one,
_PIECE_BYTES = 65_536  # or so many bytes,
_PIECE_BATCHES = 1_024  # or for so many batches, since old batches must go
_DUE = 32  # pieces written together
_LOOK_EVERY = 128  # batches between two looks whether anything is due, or can go
_KEPT_BATCHES = 1_024  # for those who follow by reading them, a few seconds; then they read pieces

# The name stays whose it is, if that one counts; see :class:`~penstock.generation.store.Naming`.
_UNLESS_HELD = """
ON CONFLICT (tenant, name) DO UPDATE
SET generation = excluded.generation, fingerprint = excluded.fingerprint, expires_at = excluded.expires_at
WHERE claims.expires_at <= ? OR NOT ifnull(
  (SELECT state = 'running' OR generations.expires_at > excluded.expires_at - ? FROM generations
   WHERE id = claims.generation),
  claims.expires_at > excluded.expires_at - ?)"""
_END = (
    "UPDATE OR FAIL generations SET state = ended.column2, events = ended.column3, size = ended.column4,"
    " expires_at = ended.column5, ending = ended.column6 FROM (VALUES "
)
_BY_NUMBER = ") AS ended WHERE number = ended.column1"
OLD_CLAIMS = """
DELETE FROM claims WHERE (tenant, name) IN (SELECT tenant, name FROM claims WHERE expires_at <= ? LIMIT ?)"""
# Of statements with several rows that could be undone by itself SQLite keeps a copy of each page that it changes: in
# memory, and of more than a dozen pages in a file that it makes and removes each time.  These leave out what is there
# already, or end their transaction.
_PUT_GENERATIONS = "INSERT OR IGNORE INTO generations VALUES "
_PUT_NEW_CLAIMS = "INSERT OR IGNORE INTO claims VALUES "
_PUT_CLAIMS = "INSERT INTO claims VALUES "
_PUT_REQUESTS = "INSERT OR FAIL INTO requests VALUES "
_PUT_PIECES = "INSERT OR FAIL INTO pieces VALUES "

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

    def piece(self, packing: Packing) -> tuple[int, bytes]:
        """The row with all that waits."""
        return self.number << PIECE_SHIFT | self.events - len(self.waiting), packing.pack(self.waiting)

    def add(self, events: Sequence[Event], added: int) -> None:
        """:param added: bytes that they count for"""
        self.events += len(events)
        self.size += added
        self.waiting += events
        self.waiting_size += added

    def __repr__(self) -> str:
        return f"<open generation {self.number}, epoch {self.epoch}, {self.events} events>"


_Grown: TypeAlias = "list[tuple[_Open, Write]]"
"""Events for generations that we know."""


def _columns(grown: _Grown, ended: Sequence[int] = ()) -> Columns:
    return (
        [known.number for known, _ in grown],
        [write.first for _, write in grown],
        [write.events for _, write in grown],
        ended,
    )


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
        self._due: dict[str, None] = {}  # of these, the ones with enough for a piece
        self._batches = 0
        self._looked_at = 0

    def __repr__(self) -> str:
        return f"<SQLiteWriter {self.file.path}, {len(self._open)} open>"

    # ---- generations grow ----

    def write(self, writes: Sequence[Write]) -> dict[str, Refusal]:
        try:
            grown, others = self._sorted(writes)
            refused: dict[str, Refusal] = {}
            if others or not self._write_events(grown):
                with self.file.transaction():
                    refused = self._write_anything(writes, grown, others)
            if len(self._due) >= _DUE or self._batches - self._looked_at >= _LOOK_EVERY:
                self._looked_at = self._batches
                self._look_after()
            return refused
        except BaseException:
            self._open.clear()  # what we know may not be true any more
            self._due.clear()
            raise

    def _sorted(self, writes: Sequence[Write]) -> tuple[_Grown, list[Write]]:
        """The common case, events for generations that we know and as far as we know them, and all others."""
        fence, get = self._fence, self._open.get
        grown: _Grown = []
        others: list[Write] = []
        for write in writes:
            known = get(write.id)
            if (
                known is None
                or write.end is not None
                or known.fence != fence
                or write.first != known.events
                or write.epoch != known.epoch
                or write.bill is not None
                or write.begin is not None
                or not write.events
            ):
                others.append(write)
            else:
                grown.append((known, write))
        return grown, others

    def _write_events(self, grown: _Grown) -> bool:
        """Where there is nothing else, in a single statement.

        Each statement lets go of the interpreter's lock and has to get it back from the event loop, which
        costs more than the statement.

        :returns: False: something has changed hands, and nothing was written
        """
        if not grown:
            return True
        inserted = self.file.patiently(
            "INSERT INTO batches SELECT (SELECT ifnull(max(seq), 0) + 1 FROM batches), ? FROM fence"
            " WHERE version = ?",
            (self.file.packing.pack(_columns(grown)), self._fence),
        )
        if inserted.rowcount == 0:
            return False
        self._batches += 1
        self._grow(grown)
        return True

    def _grow(self, grown: _Grown) -> None:
        """These have got their events."""
        for known, write in grown:
            known.add(write.events, write.counts)
            if len(known.waiting) >= _PIECE_EVENTS or known.waiting_size >= _PIECE_BYTES:
                self._due[write.id] = None

    def _write_anything(
        self, writes: Sequence[Write], grown: _Grown, others: Sequence[Write]
    ) -> dict[str, Refusal]:
        """What has been sorted, within a transaction."""
        fence = self._fence
        seq, number = self._look()
        if self._fence != fence:  # what was taken for known may be somebody else's by now
            grown, others = [], writes
        seq += 1
        refused: dict[str, Refusal] = {}
        begun = [write for write in others if write.begin is not None]
        if begun:
            self._begin(begun, seq, number, refused)
        ended: list[tuple[Write, _Open, End]] = []
        for write in others:
            if write.begin is not None:
                if write.end is not None or write.id in refused:
                    continue
                known: _Open | Refusal = self._open[write.id]
            else:
                known = self._known(write.id, write.epoch)
            refusal = known if isinstance(known, Refusal) else self._check(write, known)
            if refusal is not None:
                refused[write.id] = refusal
                continue
            assert isinstance(known, _Open)
            self._open[write.id] = known
            if write.bill is not None and write.begin is None:
                self._bill(known.number, write.bill)
            if write.end is not None:
                known.add(write.events, write.counts)
                ended.append((write, known, write.end))
            elif write.events:
                grown.append((known, write))
        self._grow(grown)
        if ended:
            self._end(ended)
        if grown or ended:
            content = self.file.packing.pack(_columns(grown, [known.number for _, known, _ in ended]))
            self._db.execute("INSERT INTO batches VALUES (?, ?)", (seq, content))
            self._batches += 1
        return refused

    def _bill(self, number: int, bill: Bill) -> None:
        """It is with the request, which is written anew: attempts beyond the first are few."""
        packing = self.file.packing
        (stored,) = self._db.execute("SELECT record FROM requests WHERE number = ?", (number,)).fetchone()
        record = packing.record(stored)
        record.bill = bill
        self._db.execute("UPDATE requests SET record = ? WHERE number = ?", (packing.pack(record), number))

    def _look(self) -> tuple[int, int]:
        """The last batch, and the last generation's number; and the fence, for what we believe to know.

        So begins each transaction: it may have become a file of a later version.
        """
        self._fence, last, number = self._db.execute(
            "SELECT version, (SELECT max(seq) FROM batches),"
            " (SELECT seq FROM sqlite_sequence WHERE name = 'generations') FROM fence"
        ).fetchone()
        self.file.look(self._fence)
        return last or 0, number or 0

    def _begin(self, begun: list[Write], seq: int, number: int, refused: dict[str, Refusal]) -> None:
        """Generations that begin; what begins and ends between two batches, as plain answers do, is written whole."""
        rows: list[Values] = []
        placed: list[Write] = []
        for write in begun:
            begin, end = write.begin, write.end
            assert begin is not None
            if write.first != 0 or write.epoch != begin.epoch:
                refused[write.id] = Refusal(Reason.MISPLACED)
                continue
            number += 1
            size = request_size(begin)
            state, events, expires_at, ending = State.RUNNING, 0, begin.expires_at, None
            if end is not None:
                size += write.counts
                state, events, expires_at, ending = (
                    end.state, len(write.events), end.expires_at, _encode(end.ending)
                )  # fmt: skip
            rows.append(
                (
                    number,
                    begin.id,
                    state.value,
                    begin.owner,
                    begin.epoch,
                    events,
                    size,
                    seq,
                    expires_at,
                    ending,
                )
            )
            placed.append(write)
        self._put_generations(rows, refused)
        packing = self.file.packing
        requests: list[Values] = []
        pieces: list[Values] = []
        named: list[Values] = []
        for write, values in zip(placed, rows, strict=True):
            begin = write.begin
            if begin is None or write.id in refused:
                continue
            number = values[0]
            requests.append((number, packing.pack(begin)))
            if write.end is None:
                self._open[write.id] = _Open(number, write.epoch, 0, values[6], seq, self._fence)
            elif write.events:
                pieces.append((number << PIECE_SHIFT, packing.pack(write.events)))
            if (naming := write.naming) is not None:
                named.append((naming.tenant, naming.name, write.id, naming.fingerprint, naming.until))
                now, recent = naming.now, naming.recent
        write_rows(self._db, _PUT_REQUESTS, requests)
        write_rows(self._db, _PUT_PIECES, pieces)
        # Few names are there already.  To put one where it is changes nothing.
        if write_rows(self._db, _PUT_NEW_CLAIMS, named) < len(named):
            # Of all of a process these two are the same, but for milliseconds.
            write_rows(self._db, _PUT_CLAIMS, named, _UNLESS_HELD, (now, recent, YOUNG))

    def _put_generations(self, rows: list[Values], refused: dict[str, Refusal]) -> None:
        if write_rows(self._db, _PUT_GENERATIONS, rows) == len(rows):
            return
        for row in rows:
            generation_id = row[1]
            there = find(self._db, generation_id)
            if there is None or there.number != row[0]:
                known = self._known(generation_id)
                refused[generation_id] = Refusal(Reason.EXISTS, known.events)

    def _known(self, generation_id: str, epoch: int = 0) -> _Open | Refusal:
        """What we know, or what the file says; that is remembered once it has proved to be ours to write."""
        known = self._open.get(generation_id)
        if known is not None and known.fence == self._fence:
            return known
        row = find(self._db, generation_id)
        if known is not None and row is not None and row.epoch == known.epoch:
            known.fence = self._fence
            return known
        self._open.pop(generation_id, None)
        self._due.pop(generation_id, None)
        if row is None:
            return Refusal(Reason.UNKNOWN)
        if row.state != State.RUNNING.value:
            return Refusal(Reason.ENDED if epoch == row.epoch else Reason.FENCED, row.events)
        return self._read(row)

    def _read(self, row: Row) -> _Open:
        known = _Open(row.number, row.epoch, row.events, row.size, row.tail, self._fence)
        waiting = waiting_events(self.file, row)
        known.add(waiting, size_of(waiting))
        return known

    def _check(self, write: Write, known: _Open) -> Refusal | None:
        if write.epoch != known.epoch:
            return Refusal(Reason.FENCED, known.events)
        if write.first != known.events:
            return Refusal(Reason.MISPLACED, known.events)
        return None

    def _end(self, ended: list[tuple[Write, _Open, End]]) -> None:
        packing = self.file.packing
        write_rows(self._db, _PUT_PIECES, [known.piece(packing) for _, known, _ in ended if known.waiting])
        rows = [
            (known.number, end.state.value, known.events, known.size, end.expires_at, _encode(end.ending))
            for _, known, end in ended
        ]
        write_rows(self._db, _END, rows, _BY_NUMBER)
        for write, _, _ in ended:
            del self._open[write.id]
            self._due.pop(write.id, None)

    # ---- from batches to pieces ----

    def _look_after(self) -> None:
        """Write the pieces that are due, and remove the batches that nobody needs any more."""
        with self.file.transaction():
            seq, _ = self._look()
            for generation_id, known in self._open.items():
                if known.first_batch > seq - _PIECE_BATCHES:
                    break
                self._due[generation_id] = None
            # What was taken over meanwhile is not ours to cut: it is forgotten here.
            for generation_id in list(self._due):
                self._known(generation_id)
            self._cut([due for due in self._due if due in self._open], seq)
            self._due.clear()
            (needed,) = self._db.execute(
                "SELECT min(tail) FROM generations WHERE state = 'running'"
            ).fetchone()
            self._db.execute("DELETE FROM batches WHERE seq < ?", (min(needed or seq, seq - _KEPT_BATCHES),))

    def _cut(self, generation_ids: Sequence[str], seq: int) -> None:
        cut = [self._open.pop(generation_id) for generation_id in generation_ids]
        self._open.update(zip(generation_ids, cut, strict=True))  # behind those that were not cut
        self._put_pieces(cut, seq)

    def _put_pieces(self, cut: Sequence[_Open], seq: int) -> None:
        packing = self.file.packing
        write_rows(self._db, _PUT_PIECES, [known.piece(packing) for known in cut if known.waiting])
        for known in cut:
            known.waiting = []
            known.waiting_size = 0
            known.first_batch = seq + 1
        self._db.executemany(
            "UPDATE generations SET events = ?, size = ?, tail = ? WHERE number = ?",
            [(known.events, known.size, known.first_batch, known.number) for known in cut],
        )

    # ---- whose is it? ----

    def claim(
        self, tenant: str, name: str, mine: Claim, *, now: float, until: float, instead_of: str
    ) -> Claim:
        with self.file.transaction():
            self._look()
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

    def take(self, naming: Naming, generation_id: str, instead_of: str) -> Claim:
        tenant, name = naming.tenant, naming.name
        with self.file.transaction():
            self._look()
            if instead_of:
                self._db.execute(
                    "DELETE FROM claims WHERE tenant = ? AND name = ? AND generation = ?",
                    (tenant, name, instead_of),
                )
            row = (tenant, name, generation_id, naming.fingerprint, naming.until)
            write_rows(self._db, _PUT_CLAIMS, [row], _UNLESS_HELD, (naming.now, naming.recent, YOUNG))
            whose, fingerprint = self._db.execute(
                "SELECT generation, fingerprint FROM claims WHERE tenant = ? AND name = ?", (tenant, name)
            ).fetchone()
            return Claim(whose, fingerprint, won=whose == generation_id)

    def renew(self, owner: str, until: float) -> None:
        with self.file.transaction():
            self._look()
            self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (owner, until))

    def take_over(self, generation_id: str, owner: str, now: float) -> Record | None:
        with self.file.transaction():
            seq, _ = self._look()
            row = find(self._db, generation_id)
            if row is None or row.state != State.RUNNING.value or lease(self._db, row.owner) > now:
                return None
            # What we know of it is of the time when it was ours, if it ever was.
            self._open.pop(generation_id, None)
            self._due.pop(generation_id, None)
            self._put_pieces([self._read(row)], seq)
            self._db.execute(
                "UPDATE generations SET owner = ?, epoch = epoch + 1 WHERE number = ?", (owner, row.number)
            )
            self._db.execute(RAISE_FENCE)
            row = find(self._db, generation_id)
            assert row is not None
            return load_record(self.file, row)

    def release(self, owner: str, generation_ids: Sequence[str], bills: Mapping[str, Bill]) -> None:
        with self.file.transaction():
            self._look()
            for generation_id in generation_ids:
                released = self._db.execute(
                    "UPDATE generations SET owner = '' WHERE id = ? AND owner = ? AND state = 'running' RETURNING number",
                    (generation_id, owner),
                ).fetchone()
                if released is not None and generation_id in bills:
                    self._bill(released[0], bills[generation_id])

    # ---- several ledgers ----

    def book(self, ledger: str, booking: Booking) -> bool:
        with self.file.transaction():
            self._look()
            return _sqlite_bookings.book(self._db, ledger, booking)

    def forget_bookings(self, ledger: str, bookings: Sequence[Booking]) -> None:
        with self.file.transaction():
            self._look()
            _sqlite_bookings.forget(self._db, ledger, bookings)

    # ---- letting go ----

    def delete(self, generation_id: str) -> None:
        self.file.make_room(lambda: self._delete(generation_id))

    def _delete(self, generation_id: str) -> None:
        with self.file.transaction():
            self._look()
            row = find(self._db, generation_id)
            if row is not None:
                self._remove(row, time.time())

    def cut(self, generation_id: str, end: End) -> bool:
        with self.file.transaction():
            seq, _ = self._look()
            row = find(self._db, generation_id)
            if row is None or row.state != State.RUNNING.value:
                return False
            self._open.pop(generation_id, None)
            self._due.pop(generation_id, None)
            self._put_pieces([self._read(row)], seq)
            self._db.execute(
                "UPDATE generations SET state = ?, ending = ?, expires_at = ?, epoch = epoch + 1 WHERE number = ?",
                (end.state.value, _encode(end.ending), end.expires_at, row.number),
            )
            self._db.execute(RAISE_FENCE)
            return True

    def remove_past(self, generation_ids: Sequence[str], now: float) -> int:
        """Remove those that are past their time and that nobody owns if they run; all of it still, or again.

        :returns: how many there were
        """
        return self._remove_if(
            generation_ids,
            now,
            lambda row: (
                row.expires_at <= now
                and (row.state != State.RUNNING.value or lease(self._db, row.owner) <= now)
            ),
        )

    def remove_ended(self, generation_ids: Sequence[str]) -> int:
        """Remove those that have ended, before their time.

        :returns: how many there were
        """
        return self._remove_if(generation_ids, time.time(), lambda row: row.state != State.RUNNING.value)

    def _remove_if(self, generation_ids: Sequence[str], now: float, may_go: Callable[[Row], bool]) -> int:
        def remove() -> int:
            with self.file.transaction():
                self._look()
                rows = [find(self._db, generation_id) for generation_id in generation_ids]
                going = [row for row in rows if row is not None and may_go(row)]
                for row in going:
                    self._remove(row, now)
                return len(going)

        return self.file.make_room(remove)

    def _remove(self, row: Row, now: float) -> None:
        number = row.number
        base = number << PIECE_SHIFT
        whose = load_whose(self.file, row)
        self._db.execute("DELETE FROM requests WHERE number = ?", (number,))
        self._db.execute(
            "DELETE FROM pieces WHERE row BETWEEN ? AND ?", (base, base | (1 << PIECE_SHIFT) - 1)
        )
        self._db.execute("DELETE FROM generations WHERE number = ?", (number,))
        if whose is not None:  # behind what makes room for it
            _sqlite_gone.leave(self._db, *whose, now)
        if row.state == State.RUNNING.value:
            self._db.execute(RAISE_FENCE)

    def forget_old(self, now: float, limit: int) -> bool:
        """Remove up to ``limit`` claims that have run out, and leases; whether there may be other claims."""
        return self.file.make_room(lambda: self._forget_old(now, limit))

    def _forget_old(self, now: float, limit: int) -> bool:
        with self.file.transaction():
            self._look()
            removed = self._db.execute(OLD_CLAIMS, (now, limit)).rowcount
            self._db.execute("DELETE FROM leases WHERE until <= ?", (now,))
            _sqlite_gone.bound(self._db)
        return removed == limit

    def checkpoint(self) -> None:
        """The last part of it, after which the write-ahead log can begin anew."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
