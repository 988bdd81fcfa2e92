"""What all SQLite files of ours have in common: a mark that says whose they are and of which version, the way from
one version to the next, a log beside them, transactions.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID_AT = 68  # https://www.sqlite.org/fileformat.html, section 1.3


class Kind(enum.IntEnum):
    """The kinds of files that there are, each with the number that SQLite keeps in its head as ``application_id``."""

    BATCHES = 0x50454E42  # "PENB"
    CACHE = 0x50454E41  # "PENA"
    CLIENT_CACHE = 0x50454E4C  # "PENL"
    CONVERSATIONS = 0x50454E43  # "PENC", which caches had as well
    FILES = 0x50454E46  # "PENF"
    GENERATIONS = 0x50454E47  # "PENG"
    LEDGER = 0x50454E53  # "PENS"
    TRIALS = 0x50454E56  # "PENV"
    UPLOADS = 0x50455550  # "PEUP"
    WEBHOOKS = 0x50454E57  # "PENW"

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", " ")


_OF_CACHES = "entries"  # a table that no file of conversations has


class Foreign(sqlite3.DatabaseError):
    """A file is somebody else's, or of another kind of ours, and to be left alone.

    :param found: its application id
    """

    def __init__(self, found: int = 0) -> None:
        of_ours = found in Kind.__members__.values()
        super().__init__(
            f"it is Penstock's file of {Kind(found).words}" if of_ours else "it is somebody else's database"
        )


class OtherVersion(sqlite3.DatabaseError):
    """A file is ours, and of another version."""

    def __init__(self, found: int, wanted: int) -> None:
        whose = ": a newer Penstock has written it" if found > wanted else ""
        super().__init__(f"it has version {found}, this program writes {wanted}{whose}")
        self.found = found


Steps: TypeAlias = Sequence[Sequence[str]]
"""How a file of an earlier version becomes one of this: for each version the statements that make the next one of it.

The last of them lead to the present version.
"""


class Mark(msgspec.Struct, frozen=True):
    """Whose a file is and how it is laid out, in the two numbers that SQLite keeps in its head for that.

    :ivar application_id: tells files of one kind from all others
    :ivar version: of the schema
    """

    application_id: int
    version: int

    def is_on(self, db: sqlite3.Connection) -> bool:
        """Whether a file has just this mark."""
        return self._read(db) == (self.application_id, self.version)

    def check(self, db: sqlite3.Connection) -> bool:
        """Whether there is in a file what the mark promises; False: it has no tables.

        :raises Foreign: it is somebody else's
        :raises OtherVersion: it has our mark, and another version
        """
        # The tables first: who makes them just now enters the mark with them.
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            return False
        application, version = self._read(db)
        if application == Kind.CONVERSATIONS and _has_table(db, _OF_CACHES):
            application = Kind.CACHE
        if application != self.application_id:
            raise Foreign(application)
        if version != self.version:
            raise OtherVersion(version, self.version)
        return True

    def missing(self, db: sqlite3.Connection, steps: Steps) -> Steps:
        """Those steps that a file has still to go; of one that is empty, none.

        :raises Foreign: it is somebody else's
        :raises OtherVersion: it is of a later version, or of one from which no step leads
        """
        try:
            self.check(db)
        except OtherVersion as other:
            behind = self.version - other.found
            if not 0 < behind <= len(steps):
                raise
            return steps[-behind:]
        return ()

    def adopt(self, db: sqlite3.Connection, schema: Sequence[str], steps: Steps = ()) -> None:
        """Make an empty file one of ours, or one of an earlier version or mark one of this.

        Belongs into a transaction: who is killed in the middle has changed nothing, and who has waited for another
        finds it done.  Fails as :meth:`missing` does, and has changed nothing then.
        """
        statements = [statement for step in self.missing(db, steps) for statement in step]
        if not statements and not self.check(db):
            if any(self._read(db)):
                raise Foreign
            statements = [*schema]
        if self.is_on(db):
            return
        for statement in statements:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {self.application_id}")
        db.execute(f"PRAGMA user_version = {self.version}")

    def remove(self, path: Path) -> bool:
        """Remove a file that is damaged, and what belongs to it, if it can still be told to be ours; whether it was.

        :raises OSError: it cannot be read or removed
        """
        with path.open("rb") as file:
            head = file.read(_APPLICATION_ID_AT + 4)
        own = (b"", self.application_id.to_bytes(4, "big"))
        if not _MAGIC.startswith(head[: len(_MAGIC)]) or head[_APPLICATION_ID_AT:] not in own:
            return False
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return True

    @staticmethod
    def _read(db: sqlite3.Connection) -> tuple[int, int]:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return application, version


def _has_table(db: sqlite3.Connection, name: str) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


@contextlib.contextmanager
def transaction(
    db: sqlite3.Connection, begin: Callable[[str], object] | None = None
) -> Iterator[sqlite3.Connection]:
    """All or nothing; of all connections to a file one at a time is in here.

    :param begin: executes the statement that has to wait for others, if not the connection itself does
    """
    (begin or db.execute)("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            db.execute("ROLLBACK")
        raise


def log_ahead(connection: sqlite3.Connection, *, patience: float) -> None:
    """Have a file written by way of a log beside it (``journal_mode = WAL``), also where others begin with it now.

    The first who opens a file changes it, for which he must be alone.  SQLite does not wait for that as it waits for
    a lock, as two who want the same would wait for each other: it refuses at once.

    :param patience: seconds that others may take
    :raises sqlite3.OperationalError: they take longer, or the file cannot be written
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return


def create_private(path: Path, mode: int = 0o600) -> None:
    """Make an empty file that nobody else may read, if there is none; SQLite gives its other files the same mode.

    :param mode: of the file, where the group may read it

    One that is there is not touched.  Closing a file takes away all locks that the process has on it, also those of
    SQLite's connections to it: others would then take it for unused, and remove its log under those who write it
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    :raises OSError: it cannot be made
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))


def private_opener(path: str, flags: int) -> int:
    """As ``opener`` of :func:`open`: a file that it makes nobody else may read, wherever it is moved or copied to."""
    return os.open(path, flags, 0o600)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file a path names now; None: none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
