"""A SQLite file of ours, shared by all workers of a machine, that keeps the event loop out of the disk.

Every piece of work runs in the one thread that owns the connection, and is waited for to its end, also by who is
cancelled meanwhile.  A write is one transaction, and is on the disk when it returns (``synchronous = FULL``): what is
answered with a 2xx after it survives a power cut.
Nothing here is on the path of a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from penstock.errors import ConfigError, StorageFull, StorageUnavailable
from penstock.uninterrupted import uninterrupted

BUSY_TIMEOUT = 5.0  # seconds that a write waits for another worker's

_T = TypeVar("_T")

log = logging.getLogger("penstock.database")


class Database:
    """One file; opened at the first use.

    :param application_id: SQLite's mark of who a file belongs to
    :param version: of the schema
    :param schema: the statements that make an empty file one of this version
    """

    def __init__(self, path: Path, *, application_id: int, version: int, schema: Sequence[str]) -> None:
        self.path = path
        self._application_id = application_id
        self._version = version
        self._schema = schema
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, f"penstock-{path.stem}")

    def __repr__(self) -> str:
        return f"<Database {self.path}, {'open' if self._connection else 'closed'}>"

    async def open(self) -> None:
        """Open now rather than at the first use.

        :raises ConfigError: the file cannot be used
        """
        try:
            await self.read(lambda _: None)
        except (StorageUnavailable, StorageFull) as error:
            raise ConfigError(f"{self.path} cannot be used: {error.__cause__}") from error

    async def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """What ``work`` makes of the connection.

        :raises StorageUnavailable: the file is locked, broken or gone
        """
        return await self._run(lambda: work(self._opened()))

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """The same in one transaction, which is on the disk when this returns; an exception undoes it.

        :raises StorageFull: the disk is
        :raises StorageUnavailable: the file is locked, broken, gone or may not be written
        """
        return await self._run(lambda: self._transaction(work))

    async def close(self) -> None:
        try:
            await self._run(self._close)
        finally:
            self._thread.shutdown(wait=False)

    # ---- in the thread ----

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await uninterrupted(asyncio.get_running_loop().run_in_executor(self._thread, work))
        except (sqlite3.Error, OSError) as error:
            log.warning("%s: %s", self.path, error)
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_FULL"):
                raise StorageFull("there is no room left on the gateway's disk") from error
            raise StorageUnavailable(
                "what the gateway keeps cannot be reached now", retry_after=1.0
            ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
            try:
                log_ahead(connection, patience=BUSY_TIMEOUT)
                connection.execute("PRAGMA synchronous = FULL")
                _in_transaction(connection, self._adopt)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _adopt(self, connection: sqlite3.Connection) -> None:
        """Make an empty file ours; refuse one that is not, or of another version."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == application == tables == 0:
            for statement in self._schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {self._application_id}")
            connection.execute(f"PRAGMA user_version = {self._version}")
        elif application != self._application_id:
            raise sqlite3.DatabaseError("it is somebody else's database")
        elif version != self._version:
            raise sqlite3.DatabaseError(f"it has version {version}, this program writes {self._version}")

    def _transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return _in_transaction(self._opened(), work)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T]) -> _T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise
    return result


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


def create_private(path: Path) -> None:
    """Make an empty file that nobody else may read, if there is none; SQLite gives its other files the same mode.

    One that is there is not touched.  Closing a file takes away all locks that the process has on it, also those of
    SQLite's connections to it: others would then take it for unused, and remove its log under those who write it
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    :raises OSError: it cannot be made
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
