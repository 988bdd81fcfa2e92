"""The file of a SQLite store: its schema, how it is opened, and what becomes of one that is broken.

Layout
------
Many generations grow at once, each by an event now and then.  A row per event, or a table in the order of
generations, would have every transaction touch as many pages as generations have grown: 25 µs for an event,
where 200 streams are paced.  So events are written twice, in an order that is cheap both times (5 µs):

* ``batches``: one row per transaction, with what all generations of this writer have got since the last one;
  written at the table's end, deleted at its beginning after a few seconds.
* ``pieces``: one row per generation for every few dozen events, and for the rest at its end.

What is large is compressed (:mod:`penstock.generation.stores._sqlite_packing`).

``generations.tail`` is the first batch that may hold events of the generation that are in no piece yet.

``fence.version`` grows whenever a generation changes hands or goes.  A writer remembers the epochs and
lengths of its generations, and forgets them when the version is not the one that it knows: fencing costs
one look per transaction.  It is looked at within the transaction, so nobody can get in between.  Who brings the file
to a later version raises it as well: only then does anybody look at the file's mark again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from penstock.generation.store import StoreUnavailable
from penstock.generation.stores._sqlite_packing import Packing
from penstock.reserve import Reserve, full_disk, lacks_room
from penstock.sqlite_files import (
    Foreign,
    Kind,
    Mark,
    OtherVersion,
    Steps,
    create_private,
    identity,
    log_ahead,
    transaction,
)

_T = TypeVar("_T")

log = logging.getLogger(__name__)

PIECE_SHIFT = 24  # a piece's row: the generation's number, and in so many bits the index of its first event

_SCHEMA = (
    # `events` and `size` are of what is in pieces.
    """
CREATE TABLE generations (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  owner TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  events INTEGER NOT NULL,
  size INTEGER NOT NULL,
  tail INTEGER NOT NULL,
  expires_at REAL NOT NULL,
  ending BLOB
)""",
    "CREATE INDEX generations_running ON generations (owner) WHERE state = 'running'",
    # Apart from the rest, which changes: a row is always written whole.
    "CREATE TABLE requests (number INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    "CREATE TABLE pieces (row INTEGER PRIMARY KEY, events BLOB NOT NULL)",
    "CREATE TABLE batches (seq INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    """
CREATE TABLE claims (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  generation TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  expires_at REAL NOT NULL,
  PRIMARY KEY (tenant, name)
) WITHOUT ROWID""",
    "CREATE TABLE leases (owner TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE fence (version INTEGER NOT NULL)",
    "INSERT INTO fence VALUES (1)",
)
RAISE_FENCE = "UPDATE fence SET version = version + 1"
STEPS: Steps = ()
MARK = Mark(Kind.GENERATIONS, 1 + len(STEPS))

# For letting go: a file of an earlier release gets them when it is opened, and an earlier release keeps them up.
_INDICES = (
    "CREATE INDEX IF NOT EXISTS generations_ended ON generations (expires_at) WHERE state != 'running'",
    "CREATE INDEX IF NOT EXISTS claims_past ON claims (expires_at)",
)

# Of the write-ahead log, when it begins anew, for which writers wait some milliseconds; it is cut to that then, so that
# it has to grow past it again before it is worth while once more.
LOG_BYTES = 64 << 20

_CORRUPT = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})
_PAGE = 4_096
_FIXED_PAGES = 4_096  # 16 MiB for batches, indices and what a file has anyway


class SQLiteFile:
    """A connection to the file.  Belongs to one thread.

    :param max_bytes: how much generations may hold; the file can become a quarter larger
    :param busy_timeout: seconds to wait for other writers
    :param fsync: a transaction is over when the disk has it, not already when the operating system has
    :ivar replaced: there was one that was corrupt, and it was set aside
    :raises StoreUnavailable: it cannot be opened, or is not ours
    """

    def __init__(self, path: Path, *, max_bytes: int, busy_timeout: float, fsync: bool) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._fence = 0  # with which the mark was looked at last
        self.replaced = False
        self.packing = Packing()
        self._reserve = Reserve(path)
        try:
            self._reserve.opened(lambda: self._open(max_bytes, fsync=fsync))
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                why = full_disk(path) if lacks_room(error, path) else error
                raise StoreUnavailable(f"{path} cannot be opened: {why}") from error
            # What could have broken it is over: a second time is a fault of the disk.
            set_aside(path, identity(path))
            self.replaced = True
            try:
                self._open(max_bytes, fsync=fsync)
            except (sqlite3.Error, OSError) as again:
                raise StoreUnavailable(f"{path} cannot be opened: {again}") from again
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be opened: {error}") from error

    def _open(self, max_bytes: int, *, fsync: bool) -> None:
        with _locked(self.path):
            create_private(self.path)
            self.identity = identity(self.path)
            others = _descriptors(self.identity)
            db = self.db = sqlite3.connect(self.path, timeout=self._busy_timeout, isolation_level=None)
            try:
                steps = MARK.missing(db, STEPS)  # before anything is written to it
                # Of a file that SQLite has kept open for us from before, nobody can tell which it is.
                self._descriptor = next(iter(_descriptors(self.identity) - others), None)
                log_ahead(db, patience=self._busy_timeout)
                db.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
                db.execute("PRAGMA wal_autocheckpoint = 0")  # the store does it, at a time of its choice
                db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
                db.execute(f"PRAGMA max_page_count = {_FIXED_PAGES + max_bytes * 5 // 4 // _PAGE}")
                if not MARK.is_on(db):
                    with transaction(db):
                        MARK.adopt(db, _SCHEMA, STEPS)
                        if steps:
                            db.execute(RAISE_FENCE)
                for index in _INDICES:
                    db.execute(index)
                db.execute("PRAGMA busy_timeout = 0")  # from here on we wait ourselves, see patiently()
            except (Foreign, OtherVersion) as error:
                db.close()
                raise StoreUnavailable(f"{self.path} cannot be used: {error}") from error
            except BaseException:
                db.close()
                raise

    def is_current(self) -> bool:
        """Whether the path still names the file that is open: nobody moved or removed it."""
        return identity(self.path) == self.identity

    def transaction(self) -> contextlib.AbstractContextManager[object]:
        """All or nothing; of all connections one at a time is in here."""
        return transaction(self.db, self.patiently)

    def make_room(self, job: Callable[[], _T]) -> _T:
        """Do something that makes room, on a full disk in the place of the reserve."""
        return self._reserve.freed(job, lambda: self.db)

    def look(self, fence: int) -> None:
        """Whether the file has still the layout that we know; of one moment with what follows.

        :param fence: ``fence.version``
        :raises OtherVersion: another process has brought it to a later version
        """
        if fence != self._fence:
            MARK.check(self.db)
            self._fence = fence

    def patiently(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute something that may have to wait for another process's transaction."""
        # SQLite's own waiting sleeps up to 0.1 s at a time; another worker's transaction takes 0.1 ms.
        deadline = 0.0
        while True:
            try:
                return self.db.execute(statement, values)
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                deadline = deadline or now + self._busy_timeout
                if not is_busy(error) or now > deadline:
                    raise
                time.sleep(random.uniform(0.0001, 0.0005))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """All that is read in here is of one moment."""
        self.db.execute("BEGIN")
        try:
            self.look(*self.patiently("SELECT version FROM fence").fetchone())
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")

    def log_bytes(self) -> int:
        """What the write-ahead log takes on the disk."""
        return self.path.with_name(self.path.name + "-wal").stat().st_size

    def sync(self) -> None:
        """Wait until the disk has what was copied from the log to its place; holds up nobody else.

        With SQLite's own descriptor, as closing another one would take all locks from it; and with this connection's,
        as each is told once that the disk has failed.

        :raises OSError: the disk fails
        """
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        self._descriptor = None
        with contextlib.suppress(sqlite3.Error):
            self.db.close()

    def __repr__(self) -> str:
        return f"<SQLiteFile {self.path}>"


def _descriptors(file: tuple[int, int] | None) -> set[int]:
    """Those that the process has of a file; none where the system does not list them."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in Path("/dev/fd").iterdir():
            with contextlib.suppress(OSError):  # that of the list itself is closed again
                status = os.fstat(int(entry.name))
                if (status.st_dev, status.st_ino) == file:
                    found.add(int(entry.name))
    return found


def is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def is_corrupt(error: sqlite3.Error) -> bool:
    name = getattr(error, "sqlite_errorname", "")
    return name in _CORRUPT or name.startswith("SQLITE_CORRUPT_")


def set_aside(path: Path, broken: tuple[int, int] | None) -> None:
    """Rename a file that is corrupt, so that a new one can be begun and the old one be looked at.

    :param broken: which file it was: another process may have done it already
    :raises StoreUnavailable: it cannot be renamed
    """
    aside = path.with_name(f"{path.name}.corrupt-{int(time.time())}")
    try:
        with _locked(path):
            if identity(path) != broken:
                return
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StoreUnavailable(f"{path} is corrupt, and cannot be set aside: {error}") from error
    log.error("%s is corrupt: it was set aside as %s, and a new one is begun", path, aside.name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else opens the file, or sets it aside."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
