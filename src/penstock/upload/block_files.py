"""The files of blocks: written in this machine's directory, and kept there or elsewhere.

A file is nobody's until an index knows its block; one that none ever does goes after a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from penstock.errors import PenstockError
from penstock.sqlite_files import private_opener
from penstock.upload.contents import Contents
from penstock.upload.index import Sealed
from penstock.upload.local_files import write_all
from penstock.upload.stores.disk import Disk

OLD_EVERY = 3_600.0  # seconds after which contents that cost something to list are looked through

_T = TypeVar("_T")


class BlockFiles:
    """All files of one store of uploads, on the way and kept.

    Every method raises :class:`~penstock.errors.StorageUnavailable` where disk or contents do not answer, and
    :class:`~penstock.errors.StorageFull` where one has no room.

    :param disk: where blocks are written
    :param contents: where blocks are kept; None: where they are written
    """

    def __init__(self, disk: Disk, contents: Contents | None = None) -> None:
        self._disk = disk
        self._contents: Contents = disk if contents is None else contents
        self._old_next = 0.0

    def __repr__(self) -> str:
        return f"<BlockFiles {self._contents}>"

    async def open(self) -> None:
        """:raises penstock.errors.ConfigError: the directory, or a store, cannot be used"""
        await self._disk.open()
        if self._contents is not self._disk:
            await self._contents.open()

    async def close(self) -> None:
        if self._contents is not self._disk:
            await self._contents.close()
        await self._disk.close()

    async def run(self, work: Callable[[], _T]) -> _T:
        """As :meth:`penstock.upload.stores.disk.Disk.run`."""
        return await self._disk.run(work)

    # ---- what is written, and not entered yet ----

    @property
    def synced(self) -> bool:
        """Whether what is written here is what is kept, and so has to be on the disk."""
        return self._contents.local

    def new(self) -> Path:
        """Where a block that comes now is written."""
        return self._disk.directory / secrets.token_hex(16)

    async def keep(self, sealed: Sequence[Sealed]) -> list[Sealed]:
        """Make blocks outlive this process; they may have other files then.  None of them does if this raises."""
        return await self._contents.keep(sealed)

    async def discard(self, sealed: Sequence[Sealed]) -> None:
        """Nobody wants them; what cannot be removed now goes some time."""
        files = [block.file for block in sealed]
        for each in (self._disk, self._contents):
            with contextlib.suppress(PenstockError):
                await each.remove(files)

    # ---- what is kept ----

    def pieces(self, file: str) -> AsyncGenerator[bytes, None]:
        """The content of one, by :data:`~penstock.upload.local_files.READ` bytes at most."""
        return self._contents.pieces(file)

    async def whole(self, files: Sequence[str]) -> bytes:
        """The content of several, one after the other."""
        return await self._contents.whole(files)

    async def forget(self, files: Sequence[str]) -> None:
        """No index has these any more; what cannot be removed now goes some time."""
        with contextlib.suppress(PenstockError):
            await self._contents.remove(files)

    # ---- what is to go ----

    async def old(self) -> list[str]:
        """What an index should know by now; nothing, where it costs something to list and was looked through lately."""
        now = time.monotonic()
        if not self._contents.local and now < self._old_next:
            return []
        self._old_next = now + OLD_EVERY
        return await self._contents.old()

    async def remove(self, files: Sequence[str]) -> None:
        """These, and what was written here long ago and never taken."""
        await self._contents.remove(files)
        if self._contents is not self._disk:
            await self._disk.remove(await self._disk.old())


class BlockWriter:
    """Writes one block; :meth:`seal` and :meth:`sync`, or :meth:`drop`, end it.

    To be used in the threads of :meth:`BlockFiles.run`.
    """

    def __init__(self, files: BlockFiles) -> None:
        self._files = files
        self._path = files.new()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.size = 0

    def __repr__(self) -> str:
        return f"<BlockWriter {self._path.name}, {self.size} bytes>"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._file is None:
            self._file = open(self._path, "xb", buffering=0, opener=private_opener)  # noqa: SIM115
        write_all(self._file, data)
        self._hash.update(data)
        self.size += len(data)

    def seal(self) -> Sealed:
        """It is whole; it outlives this process when it was synced, and kept (:meth:`BlockFiles.keep`)."""
        assert self._file is not None, "an empty block is none"
        return Sealed(self._path.name, self._hash.digest(), self.size)

    def sync(self) -> None:
        """What was sealed is on the disk, where that is where it is kept.

        Several threads that sync as many blocks wait for one commit of the file system: one after the other, each
        would wait for its own.
        """
        file, self._file = self._file, None
        if file is not None:
            with file:
                if self._files.synced:
                    os.fsync(file.fileno())

    def finish(self, rest: bytes) -> Sealed:
        """Write the rest, seal it, and sync it."""
        if rest:
            self.write(rest)
        sealed = self.seal()
        self.sync()
        return sealed

    def drop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._path.unlink(missing_ok=True)
