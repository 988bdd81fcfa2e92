"""A SQLite file of ours, shared by all workers of a machine, that keeps the event loop out of the disk.

Every piece of work runs in the one thread that owns the connection, and is waited for to its end, also by who is
cancelled meanwhile.  A write is one transaction, and is on the disk when it returns (``synchronous = FULL``): what is
answered with a 2xx after it survives a power cut.  What makes room is done on a full disk as well, where there is a
reserve (:mod:`penstock.reserve`).
Nothing here is on the path of a call.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from penstock.errors import ConfigError, StorageFull, StorageUnavailable
from penstock.reserve import Reserve, full_disk, lacks_room
from penstock.sqlite_files import Mark, Steps, create_private, log_ahead, transaction
from penstock.uninterrupted import uninterrupted

MEMORY = Path(":memory:")
"""In the place of a path: nothing is kept but in memory, for this process alone."""

BUSY_TIMEOUT = 5.0  # seconds that a write waits for another worker's
STEPS_TIMEOUT = 60.0  # the same, while another worker may be rewriting a file of an earlier version

_T = TypeVar("_T")

log = logging.getLogger("penstock.database")


class Database:
    """One file; opened at the first use.

    :param application_id: SQLite's mark of who a file belongs to
    :param schema: the statements that make an empty file one of the present version
    :param steps: from version 1 to 2, from 2 to 3 and so on: the present version is one more than there are
    """

    def __init__(self, path: Path, *, application_id: int, schema: Sequence[str], steps: Steps = ()) -> None:
        self.path = path
        self._mark = Mark(application_id, 1 + len(steps))
        self._schema = schema
        self._steps = steps
        self._reserve = Reserve(path) if path != MEMORY else None
        self._connection: sqlite3.Connection | None = None
        self._closed = False
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
            why = full_disk(self.path) if isinstance(error, StorageFull) else error.__cause__
            raise ConfigError(f"{self.path} cannot be used: {why}") from error

    async def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """What ``work`` makes of the connection.

        :raises StorageUnavailable: the file is locked, broken or gone
        """
        return await self._run(lambda: work(self._checked(self._opened())))

    async def write(self, work: Callable[[sqlite3.Connection], _T], *, frees: bool = False) -> _T:
        """The same in one transaction, which is on the disk when this returns; an exception undoes it.

        :param frees: it makes room: where the disk is full it gets the reserve, and is done once more
        :raises StorageFull: the disk is
        :raises StorageUnavailable: the file is locked, broken, gone or may not be written
        """
        return await self._run(lambda: self._transaction(work, frees=frees))

    async def close(self) -> None:
        """Once is enough, and once more does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._run(self._close)
        finally:
            self._thread.shutdown(wait=False)

    # ---- in the thread ----

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await uninterrupted(asyncio.get_running_loop().run_in_executor(self._thread, work))
        except (sqlite3.Error, OSError) as error:
            log.warning("what was to be kept in %s, or looked up there, was refused: %s", self.path, error)
            if lacks_room(error, self.path):
                raise StorageFull("there is no room left on the gateway's disk") from error
            raise StorageUnavailable(
                "what the gateway keeps cannot be reached now", retry_after=1.0
            ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            opening = self._open
            self._connection = opening() if self._reserve is None else self._reserve.opened(opening)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if self.path != MEMORY:
            create_private(self.path)
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
        try:
            # Before anything else: to a file that is not for us nothing is written.
            if self._mark.missing(connection, self._steps):
                _wait_for_others(connection, STEPS_TIMEOUT)
            log_ahead(connection, patience=BUSY_TIMEOUT)
            connection.execute("PRAGMA synchronous = FULL")
            with transaction(connection):
                self._mark.adopt(connection, self._schema, self._steps)
            _wait_for_others(connection, BUSY_TIMEOUT)
        except BaseException:
            connection.close()
            raise
        return connection

    def _transaction(self, work: Callable[[sqlite3.Connection], _T], *, frees: bool) -> _T:
        if frees and self._reserve is not None:
            return self._reserve.freed(lambda: self._done(work), self._opened)
        done = self._done(work)
        if self._reserve is not None:
            self._reserve.keep()
        return done

    def _done(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with transaction(self._opened()) as connection:
            return work(self._checked(connection))

    def _checked(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """The file may have become one of a later version since it was opened, by a process that was started later."""
        if not self._mark.is_on(connection):
            self._mark.check(connection)
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _wait_for_others(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {seconds * 1_000:.0f}")
