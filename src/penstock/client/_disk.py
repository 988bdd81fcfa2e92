"""Kept answers in a SQLite file, for any number of threads and processes.

Its troubles are never the caller's: a file that is damaged is begun anew, one that is somebody else's is left alone,
and a disk that is full or gone makes every look-up a miss.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from penstock.cache import entry_table
from penstock.sqlite_files import Foreign, Kind, Mark, create_private, log_ahead, transaction

MARK = Mark(Kind.CLIENT_CACHE, 1)

_BUSY_SECONDS = 0.2  # that a look-up may wait for another process
_EVICTED_AT_ONCE = 0.05  # of the entries
_MOST_EVICTIONS = 40  # before an entry that finds no room is left out

_log = logging.getLogger("penstock.client")


class Disk:
    """Sealed entries by key.

    :param path: the file; it and its directory are made
    :param max_bytes: of the file, its journal aside
    :param now: seconds since 1970
    """

    def __init__(self, path: Path, max_bytes: int, now: Callable[[], float]) -> None:
        self.path = path.absolute()
        self._pages = entry_table.pages(max_bytes)
        self._now = now
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._trouble = ""
        self._given_up = False
        self._inherited: list[sqlite3.Connection] = []

    def __repr__(self) -> str:
        return f"<Disk {self.path}, {self._trouble or 'well'}>"

    def get(self, key: bytes) -> bytes | None:
        row = self._do(
            lambda database: database.execute(
                "SELECT sealed FROM entries WHERE key = ? AND kept_until > ?", (key, self._now())
            ).fetchone()
        )
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    def put(self, key: bytes, sealed: bytes, kept_until: float) -> None:
        self._do(lambda database: self._put(database, key, sealed, kept_until), writes=True)

    def forked(self) -> None:
        """In a child process: its parent's connection may neither be used nor closed here, SQLite says."""
        self._lock = threading.Lock()
        if self._database is not None:
            self._inherited.append(self._database)
            self._database = None

    def close(self) -> None:
        with self._lock:
            self._close()

    def _put(self, database: sqlite3.Connection, key: bytes, sealed: bytes, kept_until: float) -> None:
        for _ in range(_MOST_EVICTIONS):
            try:
                database.execute(entry_table.PUT, (key, kept_until, sealed))
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
            if not self._evict(database):
                return

    def _evict(self, database: sqlite3.Connection) -> bool:
        """Let what has expired go, then the oldest; whether anything went."""
        if database.execute("DELETE FROM entries WHERE kept_until <= ?", (self._now(),)).rowcount:
            return True
        return entry_table.evict_oldest(database, _EVICTED_AT_ONCE) > 0

    def _do(
        self, work: Callable[[sqlite3.Connection], object], *, writes: bool = False
    ) -> tuple[object, ...] | None:
        with self._lock:
            if self._given_up:
                return None
            try:
                if self._database is None:
                    self._database = self._open()
                found = work(self._database)
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
                return None
            if writes:  # what is full can still be read, and would be told of after each look-up
                self._trouble = ""
            return found if isinstance(found, tuple) else None

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Answers are nobody else's to read; SQLite gives its other two files the same mode.
        create_private(self.path)
        database = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            is_made = MARK.check(database)
            database.execute(f"PRAGMA max_page_count = {self._pages}")
            log_ahead(database, patience=_BUSY_SECONDS)
            database.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the newest, nothing else
            if not is_made:
                with transaction(database):
                    MARK.adopt(database, entry_table.SCHEMA)
        except BaseException:
            database.close()
            raise
        return database

    def _failed(self, error: Exception) -> None:
        if str(error) != self._trouble:
            _log.warning("answers are not kept on the disk, in %s: %s", self.path, error)
        self._trouble = str(error)
        if isinstance(error, Foreign):
            # Whoever has it keeps it.
            self._given_up = True
        elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self._close()
            self._begin_anew()
        elif isinstance(error, sqlite3.OperationalError) and "locked" not in str(error):
            self._close()

    def _begin_anew(self) -> None:
        """A damaged file, if it is recognisably ours, is no loss."""
        try:
            self._given_up = not MARK.remove(self.path)
        except OSError:
            self._given_up = True

    def _close(self) -> None:
        if self._database is not None:
            try:
                self._database.close()
            except sqlite3.Error:
                pass
            self._database = None
