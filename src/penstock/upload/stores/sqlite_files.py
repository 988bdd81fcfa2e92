"""The files of one machine: what is known of them in SQLite, and each in a plain file under its id."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from penstock.database import Database
from penstock.sqlite_files import Kind
from penstock.upload import files
from penstock.upload.disk_threads import DiskThreads
from penstock.upload.file_index import Parts, Query, StoredFile, files_quota
from penstock.upload.local_files import READ, FileReader, old_names, sync_directory, unlink_all

_SCHEMA = (
    """
CREATE TABLE files (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  charged INTEGER NOT NULL,
  created REAL NOT NULL,
  expires REAL,
  filename TEXT NOT NULL,
  purpose TEXT NOT NULL
)""",
    "CREATE INDEX files_of_tenant ON files (tenant, created, id)",
    "CREATE INDEX files_expire ON files (expires) WHERE expires IS NOT NULL",
)
_COLUMNS = "id, bytes, created, expires, filename, purpose"


class SQLiteFileIndex:
    """A :class:`~penstock.upload.file_index.FileIndex` in a database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, application_id=Kind.FILES, schema=_SCHEMA)

    def __repr__(self) -> str:
        return f"<SQLiteFileIndex {self._path}>"

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def used(self, tenant: str) -> int:
        return await self._database.read(lambda db: _used(db, tenant))

    async def insert(
        self, tenant: str, file: StoredFile, charged: int, parts: Parts, limit: int | None
    ) -> bool:
        assert not parts, "a file of this machine has its id for a name"

        def enter(db: sqlite3.Connection) -> bool:
            if limit is not None and _used(db, tenant) + charged > limit:
                raise files_quota(limit)
            statement = "INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            row = (file.id, tenant, file.bytes, charged, file.created, file.expires)
            return db.execute(statement, (*row, file.filename, file.purpose)).rowcount > 0

        return await self._database.write(enter)

    async def find(self, tenant: str, file_id: str, now: float) -> StoredFile | None:
        statement = (
            f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ? AND (expires IS NULL OR expires > ?)"  # noqa: S608 - only names
        )
        row = await self._database.read(lambda db: db.execute(statement, (file_id, tenant, now)).fetchone())
        return StoredFile(*row) if row else None

    async def parts(self, file_id: str) -> Parts:  # noqa: ARG002 - an interface
        return ()

    async def page(self, tenant: str, query: Query) -> tuple[list[StoredFile], bool]:
        order, beyond = ("DESC", "<") if query.newest_first else ("ASC", ">")
        where = "tenant = ? AND (expires IS NULL OR expires > ?)"
        values: list[object] = [tenant, query.now]
        if query.purpose:
            where += " AND purpose = ?"
            values.append(query.purpose)
        if query.after:
            cursor = "(SELECT created, id FROM files WHERE id = ? AND tenant = ?)"
            where += f" AND (created, id) {beyond} {cursor}"
            values += [query.after, tenant]
        statement = f"SELECT {_COLUMNS} FROM files WHERE {where} ORDER BY created {order}, id {order} LIMIT ?"  # noqa: S608 - only names
        values.append(query.limit + 1)
        rows = await self._database.read(lambda db: db.execute(statement, values).fetchall())
        return [StoredFile(*row) for row in rows[: query.limit]], len(rows) > query.limit

    async def delete(self, tenant: str, file_id: str) -> Parts | None:
        def forget(db: sqlite3.Connection) -> bool:
            statement = "DELETE FROM files WHERE id = ? AND tenant = ?"
            return db.execute(statement, (file_id, tenant)).rowcount > 0

        return () if await self._database.write(forget, frees=True) else None

    async def expire(self, now: float) -> list[tuple[str, Parts]]:
        rows = await self._database.read(
            lambda db: db.execute("SELECT id FROM files WHERE expires <= ? LIMIT 10000", (now,)).fetchall()
        )
        if rows:
            await self._database.write(
                lambda db: db.executemany("DELETE FROM files WHERE id = ?", rows), frees=True
            )
        return [(file_id, ()) for (file_id,) in rows]

    async def unknown(self, names: Sequence[str]) -> list[str]:
        known = await self._database.read(
            lambda db: {
                name
                for name in names
                if db.execute("SELECT 1 FROM files WHERE id = ?", (name,)).fetchone() is not None
            }
        )
        return [name for name in names if name not in known]


class LocalShelf:
    """A :class:`~penstock.upload.file_index.Shelf` of plain files in a directory."""

    def __init__(self, directory: Path, threads: DiskThreads) -> None:
        self._directory = directory
        self._threads = threads

    def __repr__(self) -> str:
        return f"<LocalShelf {self._directory}>"

    async def open(self) -> None:
        with contextlib.suppress(OSError):  # the first write will say what is wrong
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def close(self) -> None:
        pass

    async def keep(self, file_id: str, path: Path) -> Parts:
        # A second name, not another one: until the file is entered its owner can still begin again.
        await self._threads.run(lambda: _link(path, self._directory / file_id))
        return ()

    async def pieces(self, file_id: str, parts: Parts) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 - an interface
        source = FileReader(self._directory / file_id, READ)
        try:
            while piece := await self._threads.run(source.read):
                yield piece
        finally:
            source.close()

    async def fetch(self, file_id: str, parts: Parts, target: Path) -> None:  # noqa: ARG002 - an interface
        await self._threads.run(lambda: os.link(self._directory / file_id, target))

    async def remove(self, file_id: str, parts: Parts) -> None:  # noqa: ARG002 - an interface
        await self.remove_names([file_id])

    async def old(self) -> list[str]:
        return await self._threads.run(lambda: old_names(self._directory, files.ORPHANED))

    async def remove_names(self, names: Sequence[str]) -> None:
        await self._threads.run(lambda: unlink_all(self._directory, names))


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileExistsError:
        return  # done before a crash, by whoever begins again
    except FileNotFoundError:
        if not target.exists():  # entered whole, and then the crash came
            raise
    sync_directory(target.parent)


def _used(db: sqlite3.Connection, tenant: str) -> int:
    (used,) = db.execute("SELECT total(charged) FROM files WHERE tenant = ?", (tenant,)).fetchone()
    return int(used)
