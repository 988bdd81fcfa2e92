"""Everything that is read from the file of a SQLite store; in one thread of each process."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from penstock.generation.log import State
from penstock.generation.store import (
    Booking,
    Ending,
    Record,
    StoreStatistics,
    StoreUnavailable,
    Tail,
    size_of,
)
from penstock.generation.stores import _sqlite_bookings, _sqlite_gone
from penstock.generation.stores._sqlite_file import (
    LOG_BYTES,
    PIECE_SHIFT,
    SQLiteFile,
)
from penstock.generation.stores._sqlite_packing import decode_events
from penstock.messages import Event

_decode_ending = msgspec.msgpack.Decoder(Ending).decode

_NO_LEASE = "NOT EXISTS (SELECT 1 FROM leases WHERE leases.owner = generations.owner AND until > ?)"


PAST = f"""
SELECT id FROM generations WHERE state != 'running' AND expires_at <= ?
UNION ALL
SELECT id FROM generations WHERE state = 'running' AND expires_at <= ? AND {_NO_LEASE}
LIMIT ?"""  # noqa: S608 - two questions, each of which has its index

STATISTICS = """
SELECT count(*), count(*) FILTER (WHERE state = 'running'), sum(size), max(number)
FROM (SELECT number, state, size FROM generations WHERE number > ? ORDER BY number LIMIT ?)"""


class Row(NamedTuple):
    """A row of ``generations``."""

    number: int
    state: str
    owner: str
    epoch: int
    events: int
    size: int
    tail: int
    expires_at: float
    ending: bytes | None


def find(db: sqlite3.Connection, generation_id: str) -> Row | None:
    row = db.execute(
        "SELECT number, state, owner, epoch, events, size, tail, expires_at, ending FROM generations WHERE id = ?",
        (generation_id,),
    ).fetchone()
    return None if row is None else Row._make(row)


def find_state(db: sqlite3.Connection, generation_id: str) -> State | None:
    row = db.execute("SELECT state FROM generations WHERE id = ?", (generation_id,)).fetchone()
    return None if row is None else State(row[0])


def lease(db: sqlite3.Connection, owner: str) -> float:
    """Until when an owner is believed to live; 0: nothing is known of it."""
    row = db.execute("SELECT until FROM leases WHERE owner = ?", (owner,)).fetchone()
    return row[0] if row else 0.0


def waiting_events(file: SQLiteFile, row: Row) -> list[Event]:
    """What a running generation has in no piece yet."""
    if row.state != State.RUNNING.value:
        return []
    events: list[Event] = []
    for (content,) in file.db.execute("SELECT content FROM batches WHERE seq >= ? ORDER BY seq", (row.tail,)):
        batch = file.packing.batch(content)
        if row.number in batch.numbers:
            events += decode_events(batch.events[batch.numbers.index(row.number)])
    return events


def load_record(file: SQLiteFile, row: Row) -> Record:
    (stored,) = file.db.execute("SELECT record FROM requests WHERE number = ?", (row.number,)).fetchone()
    record = file.packing.record(stored)
    waiting = waiting_events(file, row)
    record.owner = row.owner
    record.epoch = row.epoch
    record.state = State(row.state)
    record.events = row.events + len(waiting)
    record.size = row.size + size_of(waiting)
    record.expires_at = row.expires_at
    record.ending = None if row.ending is None else _decode_ending(row.ending)
    return record


def load_whose(file: SQLiteFile, row: Row) -> tuple[str, str] | None:
    """A generation's id and its tenant; None: what is kept of it is damaged."""
    stored = file.db.execute("SELECT record FROM requests WHERE number = ?", (row.number,)).fetchone()
    try:
        record = file.packing.record(*stored) if stored is not None else None
    except StoreUnavailable:
        return None
    return None if record is None else (record.id, record.tenant)


def read_events(file: SQLiteFile, row: Row, start: int, limit: int | None = None) -> list[Event]:
    """Stored events from an index on: up to ``limit`` bytes, but at least one if there is one."""
    db = file.db
    base = row.number << PIECE_SHIFT
    taken: list[Event] = []
    (first,) = db.execute(
        "SELECT max(row) FROM pieces WHERE row BETWEEN ? AND ?", (base, base | start)
    ).fetchone()
    pieces = db.execute(
        "SELECT row, events FROM pieces WHERE row BETWEEN ? AND ? ORDER BY row",
        (base if first is None else first, base | (1 << PIECE_SHIFT) - 1),
    )
    for key, content in pieces:
        for event in file.packing.events(content)[max(0, start - (key - base)) :]:
            if limit is not None:
                limit -= len(event)
                if limit < 0 and taken:
                    return taken
            taken.append(event)
    for event in waiting_events(file, row)[max(0, start - row.events) :]:
        if limit is not None:
            limit -= len(event)
            if limit < 0 and taken:
                return taken
        taken.append(event)
    return taken


class _Followed:
    """A generation that somebody follows, and how far."""

    __slots__ = ("next", "number", "state")

    def __init__(self, number: int, next_index: int, state: State) -> None:
        self.number = number
        self.next = next_index
        self.state = state


class SQLiteReader:
    """The reading side of a file.  Belongs to one thread; methods raise :class:`sqlite3.Error`."""

    def __init__(self, file: SQLiteFile) -> None:
        self.file = file
        self._db = file.db
        self._followed: dict[str, _Followed] = {}
        self._seen = 0  # the last batch that was looked through for those who follow
        self._fence = 0

    def __repr__(self) -> str:
        return f"<SQLiteReader {self.file.path}, {len(self._followed)} followed>"

    def load(self, generation_id: str) -> Record | None:
        with self.file.reading():
            row = find(self._db, generation_id)
            return None if row is None else load_record(self.file, row)

    def events(self, generation_id: str, start: int, limit: int) -> list[Event]:
        with self.file.reading():
            row = find(self._db, generation_id)
            return [] if row is None else read_events(self.file, row, start, limit)

    # ---- following ----

    def tail(self, wanted: Mapping[str, int]) -> dict[str, Tail]:
        """Reads each batch once for all who follow; what a batch cannot tell is read by itself."""
        with self.file.reading():
            news, ended = self._news()
            tails: dict[str, Tail] = {}
            followed: dict[str, _Followed] = {}
            for generation_id, start in wanted.items():
                known = self._followed.get(generation_id)
                if known is None or known.next != start or known.number in ended:
                    tails[generation_id] = self._afresh(generation_id, start, followed)
                    continue
                events: list[Event] = []
                for first, added in news.get(known.number, ()):
                    if first != start + len(events):  # some were in a batch that has been removed
                        tails[generation_id] = self._afresh(generation_id, start, followed)
                        break
                    events += decode_events(added)
                else:
                    known.next += len(events)
                    followed[generation_id] = known
                    tails[generation_id] = Tail(events, known.state)
            self._followed = followed
            return tails

    def _news(self) -> tuple[dict[int, list[tuple[int, msgspec.Raw]]], set[int]]:
        """What batches since the last look say of those who are followed, and who of them ended."""
        fence, oldest, last = self._db.execute(
            "SELECT version, (SELECT min(seq) FROM batches), (SELECT max(seq) FROM batches) FROM fence"
        ).fetchone()
        seen, self._seen = self._seen, last or 0
        news: dict[int, list[tuple[int, msgspec.Raw]]] = {}
        if (oldest or 0) > seen + 1:  # we come too late
            self._followed.clear()
        numbers = {known.number for known in self._followed.values()}
        ended: set[int] = set()
        if fence != self._fence:
            self._fence = fence
            # Somebody's generation changed hands, ended that way or went: all are looked at.
            ended = {
                known.number
                for generation_id, known in self._followed.items()
                if find_state(self._db, generation_id) is not known.state
            }
        if not numbers or last == seen:
            return news, ended
        for (content,) in self._db.execute("SELECT content FROM batches WHERE seq > ? ORDER BY seq", (seen,)):
            batch = self.file.packing.batch(content)
            ended.update(numbers.intersection(batch.ended))
            for number, first, events in zip(batch.numbers, batch.firsts, batch.events, strict=True):
                if number in numbers:
                    news.setdefault(number, []).append((first, events))
        return news, ended

    def _afresh(self, generation_id: str, start: int, followed: dict[str, _Followed]) -> Tail:
        row = find(self._db, generation_id)
        if row is None:
            return Tail([], None)
        events = read_events(self.file, row, start)
        state = State(row.state)
        followed[generation_id] = _Followed(row.number, start + len(events), state)
        return Tail(events, state)

    # ---- what needs to be done ----

    def lease(self, owner: str) -> float:
        with self.file.reading():
            return lease(self._db, owner)

    def expired(self, now: float, limit: int) -> list[str]:
        rows = self.file.patiently(
            f"SELECT id FROM generations WHERE state = 'running' AND {_NO_LEASE} LIMIT ?",  # noqa: S608
            (now, limit),
        )
        return [generation_id for (generation_id,) in rows]

    def was_there(self, generation_id: str, tenant: str) -> bool:
        with self.file.reading():
            return _sqlite_gone.was_there(self._db, generation_id, tenant, time.time())

    def bookings(self, ledger: str) -> list[Booking]:
        with self.file.reading():
            return _sqlite_bookings.bookings(self._db, ledger)

    def past(self, now: float, limit: int) -> list[str]:
        """Up to ``limit`` generations that are past their time, and that nobody owns if they run."""
        rows = self.file.patiently(PAST, (now, now, now, limit))
        return [generation_id for (generation_id,) in rows]

    def too_much(self, excess: int) -> list[str]:
        """The oldest ended generations that hold as much as there is too much."""
        found: list[str] = []
        if excess > 0:
            rows = self.file.patiently(
                "SELECT id, size FROM generations WHERE state != 'running' ORDER BY number"
            )
            for generation_id, freed in rows:
                found.append(generation_id)
                excess -= freed
                if excess <= 0:
                    break
        return found

    def statistics(self, after: int, limit: int) -> tuple[StoreStatistics, int | None]:
        """Of up to ``limit`` generations, and the number of the last of them; None: there are no others.

        :param after: the number of the last one of those before
        """
        number, running, size, last = self.file.patiently(STATISTICS, (after, limit)).fetchone()
        return StoreStatistics(number, running, size or 0), last if number == limit else None

    def checkpoint(self) -> int:
        """Bring what transactions wrote to its place, and have the disk take it; holds up nobody.

        The write-ahead log can begin anew when all of it is in its place and on the disk, and nothing is added
        meanwhile: that part is the writer's, and calls wait for it.  SQLite by itself would leave it most of the work:
        a checkpoint that is overtaken copies pages, but does not wait until the disk has them, so that the writer's
        own would wait for megabytes (10 to 170 ms, where a page takes 3).

        :returns: bytes that the log takes; above :data:`LOG_BYTES` it is worth while to begin it anew
        :raises OSError: the disk fails
        """
        self._copy()
        size = self.file.log_bytes()
        if size > LOG_BYTES:
            self._copy()  # what came while the bulk was copied
        return size

    def _copy(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.file.sync()
