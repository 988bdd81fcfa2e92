"""Contents in the directory in which they were written: a file each, synced, and its name with it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from penstock.upload.disk_threads import DiskThreads
from penstock.upload.files import ORPHANED
from penstock.upload.index import Sealed
from penstock.upload.local_files import READ, FileReader, sync_directory

_T = TypeVar("_T")

log = logging.getLogger("penstock.uploads")


class Disk:
    """The directory of a machine's blocks, and the threads that work on it.

    It is what :class:`~penstock.upload.contents.Contents` asks for, and where blocks are written that other contents
    then take.
    """

    local = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._threads = DiskThreads(directory, "penstock-uploads", log)

    def __repr__(self) -> str:
        return f"<Disk {self.directory}>"

    async def open(self) -> None:
        with contextlib.suppress(OSError):  # the first write will say what is wrong
            for directory in (self.directory.parent, self.directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def close(self) -> None:
        self._threads.close()

    async def keep(self, sealed: Sequence[Sealed]) -> list[Sealed]:
        if sealed:
            await self.run(lambda: sync_directory(self.directory))
        return list(sealed)

    async def pieces(self, file: str) -> AsyncGenerator[bytes, None]:
        source = FileReader(self.directory / file, READ)
        try:
            while piece := await self.run(source.read):
                yield piece
        finally:
            source.close()

    async def whole(self, files: Sequence[str]) -> bytes:
        return await self.run(lambda: b"".join([(self.directory / name).read_bytes() for name in files]))

    async def remove(self, files: Sequence[str]) -> None:
        def unlink() -> None:
            for name in files:
                (self.directory / name).unlink(missing_ok=True)

        if files:
            await self.run(unlink)

    async def old(self) -> list[str]:
        return await self.run(self._old)

    def _old(self) -> list[str]:
        before = time.time() - ORPHANED  # by the file system's clock, whatever ours says
        old = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    if entry.stat().st_mtime < before:
                        old.append(entry.name)
        return old

    async def run(self, work: Callable[[], _T]) -> _T:
        """Work on the disk; see :meth:`~penstock.upload.disk_threads.DiskThreads.run`."""
        return await self._threads.run(work)
