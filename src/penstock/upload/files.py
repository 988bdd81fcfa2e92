"""The files that callers keep here: names and owners in a database, contents in plain files beside it.

Theory of operation
-------------------
A file's content lies under its id, which is ours and unguessable; what its sender calls it is only a text in
the database, and never a path.  It is written to ``incoming/``, synced, linked into ``content/``, and only then
entered: whatever the database knows is whole.  What a killed process left behind is in no database, and is
removed when it has not been written to for :data:`ORPHANED` seconds.

Everything is asked for by tenant, and what belongs to another is not there.  Disk work runs in threads of the
store's own, and a sender is held up while its last half megabyte is being written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from penstock.database import Database
from penstock.errors import BodyTooLarge, Forbidden, NotFound, PenstockError
from penstock.uninterrupted import uninterrupted
from penstock.upload.disk_threads import DiskThreads

BUFFER = 524_288  # bytes of an upload that wait for the disk; as many again are being written
BLOCK = 262_144  # bytes of a file that are read at a time
LEAST_CHARGE = 4_096  # bytes that a file counts for at least: what it takes on a disk
ORPHANED = 3_600.0  # seconds after which what nobody has finished is nobody's

_APPLICATION_ID = 0x50454E46  # "PENF"
_VERSION = 1
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


_T = TypeVar("_T")

log = logging.getLogger("penstock.files")


class StoredFile(msgspec.Struct, frozen=True):
    """What is known of a file; times in Unix seconds, ``expires`` None: it is kept until it is deleted."""

    id: str
    bytes: int
    created: float
    expires: float | None
    filename: str
    purpose: str


def new_file_id() -> str:
    """``file-`` and 128 random bits."""
    return "file-" + secrets.token_hex(16)


class FileStore:
    """The files of all tenants, in one directory.

    Every method but :meth:`path_of` raises :class:`~penstock.errors.StorageUnavailable` where the disk does not
    answer, and :class:`~penstock.errors.StorageFull` where it has no room.

    :param directory: shared by all workers; made if it is missing
    :param tenant_bytes: what one tenant may keep
    :param kept_for: seconds after which a file goes, unless its sender says otherwise; 0: never
    :param now: Unix time
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_file_bytes: int,
        tenant_bytes: int,
        kept_for: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.max_file_bytes = max_file_bytes
        self.kept_for = kept_for
        self._tenant_bytes = tenant_bytes
        self._now = now
        self._incoming = directory / "incoming"
        self._content = directory / "content"
        self._database = Database(
            directory / "files.sqlite", application_id=_APPLICATION_ID, version=_VERSION, schema=_SCHEMA
        )
        self._threads = DiskThreads(directory, "penstock-files", log)
        self._coming: dict[str, int] = {}  # bytes under way, by tenant

    def __repr__(self) -> str:
        return f"<FileStore {self.directory}, {len(self._coming)} tenants sending>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the directory cannot be used"""
        with contextlib.suppress(OSError):  # the database will say what is wrong
            for directory in (self.directory, self._incoming, self._content):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()
        self._threads.close()

    # ---- coming in ----

    async def receive(self, tenant: str, announced: int) -> Incoming:
        """Begin to take a file.

        :param announced: how long the request says to be, in bytes; 0: it does not
        :raises Forbidden: the tenant keeps as much as it may
        """
        used = await self._database.read(lambda db: _used(db, tenant))
        room = self._tenant_bytes - used - self._coming.get(tenant, 0)
        if room < LEAST_CHARGE:
            raise self.quota()
        if announced > self.max_file_bytes + BUFFER:  # the rest of the form is not that long
            raise self.too_large()
        file_id = new_file_id()
        incoming = Incoming(self, tenant, file_id, self._incoming / file_id)
        self.reserve(tenant, LEAST_CHARGE)
        incoming.room = min(room, self.max_file_bytes)
        return incoming

    def reserve(self, tenant: str, size: int) -> None:
        """Count bytes that are under way; negative: they are no longer."""
        left = self._coming.get(tenant, 0) + size
        if left:
            self._coming[tenant] = left
        else:
            self._coming.pop(tenant, None)

    async def enter(self, tenant: str, path: Path, file: StoredFile, *, within_quota: bool = True) -> None:
        """Take a synced file into the store; once it is there, doing so again changes nothing.

        :param within_quota: False: even if the tenant then keeps more than it may (what is paid for is kept)
        :raises Forbidden: the tenant would keep more than it may
        """
        target = self._content / file.id
        # A second name, not another one: until the file is entered its owner can still begin again.
        await self.run(lambda: _link(path, target))
        try:
            await self._database.write(
                lambda db: self._insert(db, tenant, file, self._tenant_bytes if within_quota else None)
            )
        except PenstockError:
            if within_quota:  # else its owner still has the id, and tries again
                await self.run(lambda: target.unlink(missing_ok=True))
            raise
        await self.run(lambda: path.unlink(missing_ok=True))

    def _insert(self, db: sqlite3.Connection, tenant: str, file: StoredFile, limit: int | None) -> None:
        charged = max(file.bytes, LEAST_CHARGE)
        if limit is not None and _used(db, tenant) + charged > limit:
            raise self.quota()
        db.execute(
            "INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (file.id, tenant, file.bytes, charged, file.created, file.expires, file.filename, file.purpose),
        )

    def described(
        self, file_id: str, size: int, filename: str, purpose: str, kept_for: float | None
    ) -> StoredFile:
        """A file as it is now, at its beginning."""
        now = self._now()
        seconds = self.kept_for if kept_for is None else kept_for
        return StoredFile(file_id, size, now, now + seconds if seconds else None, filename, purpose)

    # ---- what is there ----

    async def get(self, tenant: str, file_id: str) -> StoredFile:
        """:raises NotFound: this tenant has no such file"""
        found = await self._database.read(lambda db: self._find(db, tenant, file_id))
        if found is None:
            raise _unknown(file_id)
        return found

    def _find(self, db: sqlite3.Connection, tenant: str, file_id: str) -> StoredFile | None:
        row = db.execute(
            f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ? AND (expires IS NULL OR expires > ?)",  # noqa: S608 - only names
            (file_id, tenant, self._now()),
        ).fetchone()
        return StoredFile(*row) if row else None

    async def page(
        self,
        tenant: str,
        *,
        purpose: str = "",
        after: str = "",
        limit: int = 10_000,
        newest_first: bool = True,
    ) -> tuple[list[StoredFile], bool]:
        """A page of a tenant's files, and whether there are more.

        :param after: the id of the last one of the page before
        """
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        where = "tenant = ? AND (expires IS NULL OR expires > ?)"
        values: list[object] = [tenant, self._now()]
        if purpose:
            where += " AND purpose = ?"
            values.append(purpose)
        if after:
            cursor = "(SELECT created, id FROM files WHERE id = ? AND tenant = ?)"
            where += f" AND (created, id) {beyond} {cursor}"
            values += [after, tenant]
        statement = f"SELECT {_COLUMNS} FROM files WHERE {where} ORDER BY created {order}, id {order} LIMIT ?"  # noqa: S608 - only names
        rows = await self._database.read(lambda db: db.execute(statement, (*values, limit + 1)).fetchall())
        return [StoredFile(*row) for row in rows[:limit]], len(rows) > limit

    async def delete(self, tenant: str, file_id: str) -> None:
        """:raises NotFound: this tenant has no such file"""

        def forget(db: sqlite3.Connection) -> bool:
            statement = "DELETE FROM files WHERE id = ? AND tenant = ?"
            return db.execute(statement, (file_id, tenant)).rowcount > 0

        if not await self._database.write(forget):
            raise _unknown(file_id)
        await self.run(lambda: self.path_of(file_id).unlink(missing_ok=True))

    def path_of(self, file_id: str) -> Path:
        """Where the content of a file that :meth:`get` or :meth:`page` has returned lies."""
        return self._content / file_id

    async def pieces(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """The content of a file that :meth:`get` has returned, by :data:`BLOCK` bytes."""
        source = BlockReader(self.path_of(file_id), BLOCK)
        try:
            while piece := await self.run(source.read):
                yield piece
        finally:
            source.close()

    # ---- what is to go ----

    async def expire(self) -> int:
        """Remove what is past its time, and what no database knows; returns how many there were."""
        now = self._now()
        rows = await self._database.read(
            lambda db: db.execute("SELECT id FROM files WHERE expires <= ? LIMIT 10000", (now,)).fetchall()
        )
        expired = [file_id for (file_id,) in rows]
        if expired:
            await self._database.write(
                lambda db: db.executemany("DELETE FROM files WHERE id = ?", [(name,) for name in expired])
            )
        candidates = await self.run(self._old)
        known = await self._database.read(
            lambda db: {
                name
                for name in candidates
                if db.execute("SELECT 1 FROM files WHERE id = ?", (name,)).fetchone() is not None
            }
        )
        orphans = [name for name in candidates if name not in known]
        await self.run(lambda: self._remove(expired + orphans))
        return len(expired) + len(orphans)

    def _old(self) -> list[str]:
        """The names of all files that nobody has written to for a while."""
        before = time.time() - ORPHANED  # by the file system's clock, whatever ours says
        old = []
        for directory in (self._incoming, self._content):
            with os.scandir(directory) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                        status = entry.stat()
                        if max(status.st_mtime, status.st_ctime) < before:  # ctime: a link is new
                            old.append(entry.name)
        return old

    def _remove(self, names: list[str]) -> None:
        for name in names:
            (self._incoming / name).unlink(missing_ok=True)
            (self._content / name).unlink(missing_ok=True)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Work on the disk; see :meth:`~penstock.upload.disk_threads.DiskThreads.run`."""
        return await self._threads.run(work)

    def too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the file is larger than {self.max_file_bytes} bytes", param="file")

    def quota(self) -> Forbidden:
        return Forbidden(
            f"your files may take {self._tenant_bytes} bytes together; delete some",
            code="storage_quota_exceeded",
        )


class Incoming:
    """A file on its way in; :meth:`finish` or :meth:`discard` ends it."""

    __slots__ = (
        "_buffer",
        "_ended",
        "_file",
        "_id",
        "_path",
        "_reserved",
        "_store",
        "_tenant",
        "room",
        "size",
    )

    def __init__(self, store: FileStore, tenant: str, file_id: str, path: Path) -> None:
        self._store = store
        self._tenant = tenant
        self._id = file_id
        self._path = path
        self._file: BinaryIO | None = None  # opened by the thread that first writes to it
        self._ended = False
        self._buffer = bytearray()
        self._reserved = LEAST_CHARGE
        self.size = 0
        self.room = 0  # bytes that it may grow to

    def __repr__(self) -> str:
        return f"<Incoming {self._id}, {self.size} bytes, {'ended' if self._ended else 'open'}>"

    async def write(self, data: bytes) -> None:
        """:raises BodyTooLarge: more than a file may hold
        :raises Forbidden: more than the tenant may keep
        """
        self.size += len(data)
        if self.size > self.room:
            raise self._store.too_large() if self.size > self._store.max_file_bytes else self._store.quota()
        self._buffer += data
        if len(self._buffer) >= BUFFER:
            await uninterrupted(self._flush())

    async def finish(self, filename: str, purpose: str, kept_for: float | None) -> StoredFile:
        """The file is whole: it is synced and entered.

        :param kept_for: seconds; None: the store's own
        """
        return await uninterrupted(self._finish(filename, purpose, kept_for))

    async def _finish(self, filename: str, purpose: str, kept_for: float | None) -> StoredFile:
        assert not self._ended
        await self._flush()
        await self._store.run(self._sync)
        described = self._store.described(self._id, self.size, filename, purpose, kept_for)
        await self._store.enter(self._tenant, self._path, described)
        self._ended = True
        self._store.reserve(self._tenant, -self._reserved)
        return described

    async def discard(self) -> None:
        """Nobody wants it; does nothing after :meth:`finish`."""
        await uninterrupted(self._discard())

    async def _discard(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._store.reserve(self._tenant, -self._reserved)
        with contextlib.suppress(PenstockError):  # a disk that is broken has told so already
            await self._store.run(self._drop)

    async def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        await self._store.run(lambda: self._append(data))
        charge = max(self.size, LEAST_CHARGE)
        self._store.reserve(self._tenant, charge - self._reserved)
        self._reserved = charge

    # ---- in the store's threads ----

    def _append(self, data: bytearray) -> None:
        if self._file is None:
            self._file = self._path.open("xb", buffering=0)
        write_all(self._file, data)

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._file.close()

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)


class BlockReader:
    """A file, a block at a time; opened by the first :meth:`read`.  For a thread."""

    __slots__ = ("_file", "_path", "_size")

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._file: BinaryIO | None = None

    def __repr__(self) -> str:
        return f"<BlockReader {self._path.name}, {'open' if self._file else 'closed'}>"

    def read(self) -> bytes:
        """The next bytes; none: it has ended."""
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        return self._file.read(self._size)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def write_all(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write to an unbuffered file, which may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _unknown(file_id: str) -> NotFound:
    return NotFound(f"you have no file {file_id[:100]!r}", param="file_id", code="file_not_found")
