"""The results of a batch, as they come: two files of JSON Lines that are also its progress.

Theory of operation
-------------------
A line that is on the disk is done; there is no other record of progress that could disagree with it.  So a
process that takes a batch over reads what is there, cuts off a last line that was not written to its end, and
goes on with the lines whose ``custom_id`` it has not met.

What has come is written and synced in groups: while one group is on its way to the disk, the next one gathers.
If the disk refuses (full, gone), the results wait in memory, of which there are no more than calls at once, and
are tried again: they are paid for.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from penstock.batches.batch import Counts
from penstock.errors import PenstockError
from penstock.sqlite_files import private_opener
from penstock.upload.local_files import write_all
from penstock.wire.batch import done

FIRST_PAUSE = 1.0  # seconds before a refused write is tried again; doubles up to the last
LAST_PAUSE = 30.0
_BLOCK = 1 << 20

log = logging.getLogger("penstock.batches")


class ResultFile:
    """One file of results, open for more.  Its methods block; they are for a thread.

    :param path: made if it is missing
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0  # up to where it is known to be whole
        self.unrun = 0  # lines, as it was opened, of requests that were never run
        self._file: BinaryIO | None = None
        self._torn = False  # behind what is whole there may be a part of what was refused

    def __repr__(self) -> str:
        return f"<ResultFile {self.path.name}, {self.size} bytes>"

    def open(self) -> list[str]:
        """:returns: the ``custom_id`` of each line that is there"""
        self._file = file = open(self.path, "a+b", buffering=0, opener=private_opener)  # noqa: SIM115
        file.seek(0)
        found = []
        rest = b""
        while block := file.read(_BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                told = done(line)
                if told is None:  # a write that a power cut left half done
                    break
                found.append(told.custom_id)
                self.unrun += not told.run
                self.size += len(line) + 1
            else:
                continue
            break
        file.truncate(self.size)
        return found

    def append(self, lines: bytes) -> None:
        """All of it, synced, or nothing.

        :raises OSError: nothing was written that counts
        """
        file = self._file
        assert file is not None
        self._mend(file)
        try:
            write_all(file, lines)
            os.fdatasync(file.fileno())
        except OSError:
            self._torn = True
            self._mend(file)
            raise
        self.size += len(lines)

    def _mend(self, file: BinaryIO) -> None:
        """A disk that refuses to write may refuse this as well: then it is done before the next line."""
        if self._torn:
            file.truncate(self.size)
            self._torn = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Results:
    """Both files of one batch.

    :param disk: runs work on the disk in a thread; raises a PenstockError where it refuses
    :param pause: waits so many seconds; False: the worker is going away, and there is no time to wait
    """

    def __init__(
        self,
        output: ResultFile,
        errors: ResultFile,
        disk: Callable[[Callable[[], object]], Awaitable[object]],
        pause: Callable[[float], Awaitable[bool]],
    ) -> None:
        self.output = output
        self.errors = errors
        self.completed = 0
        self.failed = 0
        self.unrun = 0  # of those that failed: they were never run
        self._disk = disk
        self._pause = pause
        self._waiting: list[tuple[bool, bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Results {self.completed} completed, {self.failed} failed, {len(self._waiting)} waiting>"

    def counts(self, total: int) -> Counts:
        return Counts(total, self.completed, self.failed)

    async def open(self) -> set[str]:
        """:returns: the ``custom_id`` of each line that is done"""
        done: set[str] = set()

        def read() -> None:
            for custom_id in self.output.open():
                done.add(custom_id)
            self.completed = len(done)
            done.update(self.errors.open())
            self.failed = len(done) - self.completed
            self.unrun = self.errors.unrun

        await self._disk(read)
        return done

    async def add(self, line: bytes, *, completed: bool) -> None:
        """Returns when the line is on the disk, however long that takes.

        :raises PenstockError: the disk does not take it, and the worker is going away
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((completed, line, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await written

    async def close(self) -> None:
        """After the last :meth:`add` has returned."""
        if self._writer is not None:
            await self._writer
        await self._disk(self._close)

    def _close(self) -> None:
        self.output.close()
        self.errors.close()

    async def _write(self) -> None:
        while group := self._waiting:
            self._waiting = []
            for completed, file in ((True, self.output), (False, self.errors)):
                lines = [line for kind, line, _ in group if kind is completed]
                error = await self._append(file, lines) if lines else None
                for kind, _, written in group:
                    if kind is completed and not written.done():
                        if error is None:
                            written.set_result(None)
                        else:
                            written.set_exception(error)
                if error is None:
                    self.completed += len(lines) if completed else 0
                    self.failed += 0 if completed else len(lines)
        self._writer = None

    async def _append(self, file: ResultFile, lines: list[bytes]) -> PenstockError | None:
        """Until they are written; or the error, where there is no time left."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._disk(lambda: file.append(b"".join(lines)))
            except PenstockError as error:
                log.warning(
                    "results of a batch wait in memory, and it stands still, until %s can be written: %s",
                    *(file.path.name, error.message),
                )
                if not await self._pause(pause):
                    return error
                pause = min(LAST_PAUSE, 2 * pause)
            else:
                return None
