"""Files of this machine: written whole, read piece by piece, synced, and found when they are old."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

READ = 262_144  # bytes that are read at a time


class FileReader:
    """A file, piece by piece; opened by the first :meth:`read`.  For a thread."""

    __slots__ = ("_file", "_path", "_size")

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._file: BinaryIO | None = None

    def __repr__(self) -> str:
        return f"<FileReader {self._path.name}, {'open' if self._file else 'closed'}>"

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


def old_names(directory: Path, age: float) -> list[str]:
    """Of all files that nobody has written to for so many seconds, by the file system's clock."""
    before = time.time() - age
    old = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                status = entry.stat()
                if max(status.st_mtime, status.st_ctime) < before:  # ctime: a link is new
                    old.append(entry.name)
    return old


def unlink_all(directory: Path, names: Sequence[str]) -> None:
    """Those that are there."""
    for name in names:
        (directory / name).unlink(missing_ok=True)
