"""The files that callers keep here: names and owners in an index, contents on a shelf.

Theory of operation
-------------------
Index and shelf are this machine's, or shared by several (:mod:`penstock.upload.file_index`).  A file's id is ours and
unguessable; what its sender calls it is only a text in the index, and never a path.  It is written to ``incoming/``
on this machine, synced, taken by the shelf, and only then entered: whatever the index knows is whole.  What a killed
process left behind is in no index, and is removed when it has not been written to for :data:`ORPHANED` seconds.

Everything is asked for by tenant, and what belongs to another is not there.  Disk work runs in threads of the
store's own, and a sender is held up while its last half megabyte is being written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, TypeVar

from penstock.errors import BodyTooLarge, Forbidden, PenstockError
from penstock.sqlite_files import private_opener
from penstock.uninterrupted import uninterrupted
from penstock.upload.disk_threads import DiskThreads
from penstock.upload.file_index import (
    FileIndex,
    Query,
    Shelf,
    StoredFile,
    files_quota,
    new_file_id,
    unknown_file,
)
from penstock.upload.local_files import old_names, unlink_all, write_all

BUFFER = 524_288  # bytes of an upload that wait for the disk; as many again are being written
LEAST_CHARGE = 4_096  # bytes that a file counts for at least: what it takes on a disk
ORPHANED = 3_600.0  # seconds after which what nobody has finished is nobody's


_T = TypeVar("_T")

log = logging.getLogger("penstock.files")


class FileStore:
    """The files of all tenants.

    Every method raises :class:`~penstock.errors.StorageUnavailable` where disk, index or shelf do not answer, and
    :class:`~penstock.errors.StorageFull` where one has no room.

    :param directory: where files are written as they come, shared by this machine's workers; made if it is missing
    :param threads: that work on it
    :param tenant_bytes: what one tenant may keep
    :param kept_for: seconds after which a file goes, unless its sender says otherwise; 0: never
    :param now: Unix time
    """

    def __init__(
        self,
        directory: Path,
        threads: DiskThreads,
        index: FileIndex,
        shelf: Shelf,
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
        self._threads = threads
        self._index = index
        self._shelf = shelf
        self._coming: dict[str, int] = {}  # bytes under way, by tenant

    def __repr__(self) -> str:
        return f"<FileStore {self._index}, {self._shelf}, {len(self._coming)} tenants sending>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the directory cannot be used"""
        with contextlib.suppress(OSError):  # the first write will say what is wrong
            for directory in (self.directory, self._incoming):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._shelf.open()
        await self._index.open()

    async def close(self) -> None:
        await self._index.close()
        await self._shelf.close()
        self._threads.close()

    # ---- coming in ----

    async def receive(self, tenant: str, announced: int) -> Incoming:
        """Begin to take a file.

        :param announced: how long the request says to be, in bytes; 0: it does not
        :raises Forbidden: the tenant keeps as much as it may
        """
        used = await self._index.used(tenant)
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
        if not within_quota and await self.size_of(tenant, file.id):  # and then the crash came
            await self.run(lambda: path.unlink(missing_ok=True))
            return
        parts = await self._shelf.keep(file.id, path)
        try:
            charged = max(file.bytes, LEAST_CHARGE)
            limit = self._tenant_bytes if within_quota else None
            entered = await self._index.insert(tenant, file, charged, parts, limit)
        except PenstockError:
            if within_quota:  # else its owner still has the id, and tries again
                await self._shelf.remove(file.id, parts)
            raise
        if not entered and parts:  # somebody else has entered the same, of parts of its own
            await self._shelf.remove(file.id, parts)
        await self.run(lambda: path.unlink(missing_ok=True))

    async def size_of(self, tenant: str, file_id: str) -> int:
        """Bytes of a file; 0: this tenant has none of this id."""
        found = await self._index.find(tenant, file_id, self._now())
        return 0 if found is None else found.bytes

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
        found = await self._index.find(tenant, file_id, self._now())
        if found is None:
            raise unknown_file(file_id)
        return found

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
        return await self._index.page(tenant, Query(self._now(), purpose, after, limit, newest_first))

    async def delete(self, tenant: str, file_id: str) -> None:
        """:raises NotFound: this tenant has no such file"""
        parts = await self._index.delete(tenant, file_id)
        if parts is None:
            raise unknown_file(file_id)
        await self._shelf.remove(file_id, parts)

    async def fetch(self, file_id: str, target: Path) -> None:
        """Have the content of a file that :meth:`get` or :meth:`page` has returned in a file of this machine."""
        await self._shelf.fetch(file_id, await self._index.parts(file_id), target)

    async def pieces(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """The content of a file that :meth:`get` has returned, by :data:`~penstock.upload.local_files.READ` bytes at most."""
        async with aclosing(self._shelf.pieces(file_id, await self._index.parts(file_id))) as pieces:
            async for piece in pieces:
                yield piece

    # ---- what is to go ----

    async def expire(self) -> int:
        """Remove what is past its time, and what no index knows; returns how many there were."""
        expired = await self._index.expire(self._now())
        for file_id, parts in expired:
            await self._shelf.remove(file_id, parts)
        orphans = await self._index.unknown(await self._shelf.old())
        await self._shelf.remove_names(orphans)
        left = await self.run(self._left)
        return len(expired) + len(orphans) + len(left)

    def _left(self) -> list[str]:
        """Remove what nobody writes to any more, in a thread; the names of it."""
        names = old_names(self._incoming, ORPHANED)
        unlink_all(self._incoming, names)
        return names

    async def run(self, work: Callable[[], _T]) -> _T:
        """Work on the disk; see :meth:`~penstock.upload.disk_threads.DiskThreads.run`."""
        return await self._threads.run(work)

    def too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the file is larger than {self.max_file_bytes} bytes", param="file")

    def quota(self) -> Forbidden:
        return files_quota(self._tenant_bytes)


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
            self._file = open(self._path, "xb", buffering=0, opener=private_opener)  # noqa: SIM115
        write_all(self._file, data)

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._file.close()

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)
