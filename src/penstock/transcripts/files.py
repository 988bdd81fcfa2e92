"""The files of one process: appended to, begun anew when they are full or old, removed when they were kept for long.

Nothing of a file is ever rewritten.  A line is written in one call; where the disk fills up in its middle, it is cut
off again.  Several processes may share a directory: each has files of its own, and removes the old ones of all.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from penstock.transcripts.transcript import SUFFIX, began, files, folder_of

_PARTS = 10  # a file is ended after this part of the time for which it is kept
_LONGEST = 86_400.0  # seconds that a file is appended to at most


class _Open(msgspec.Struct):
    path: Path
    descriptor: int
    began: float
    size: int = 0


class Files:
    """:param kept_for: seconds; no line stays longer, and some go a tenth of it sooner
    :param max_bytes: of all files in the directory; the oldest make room
    """

    def __init__(self, directory: Path, *, kept_for: float, max_bytes: int, file_bytes: int) -> None:
        self.directory = directory
        self.kept_for = kept_for
        self.max_bytes = max_bytes
        self.file_bytes = file_bytes
        self._open: dict[str, _Open] = {}
        self._begun = 0

    def __repr__(self) -> str:
        return f"<Files in {self.directory}, {len(self._open)} open>"

    def append(self, tenant: str, line: bytes, now: float) -> None:
        """Write one whole line.

        :param now: Unix time
        :raises OSError: it is not written
        """
        file = self._open.get(tenant)
        if file is not None and not self._fits(file, len(line), now):
            self._end(tenant)
            file = None
        if file is None:
            self.remove_old(now, room=len(line))
            file = self._open[tenant] = self._begin(tenant, now)
        try:
            written = os.write(file.descriptor, line)
        except OSError:
            self._end(tenant)
            raise
        if written < len(line):  # the disk is full
            with contextlib.suppress(OSError):
                os.ftruncate(file.descriptor, file.size)
            self._end(tenant)
            raise OSError(f"only {written} of {len(line)} bytes were written")
        file.size += written

    def remove_old(self, now: float, *, room: int = 0) -> int:
        """Remove what was kept for long enough, and the oldest of what is too much.

        :param room: bytes that are to be written next
        :returns: how many files went
        """
        present, removed = [], 0
        for path in files(self.directory):
            with contextlib.suppress(OSError):
                if (began(path) or 0.0) + self.kept_for <= now:
                    path.unlink()
                    removed += 1
                else:
                    present.append((path, path.stat().st_size))
        held = sum(size for _, size in present) + room
        for path, size in present:
            if held <= self.max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
            held -= size
        for tenant, file in list(self._open.items()):
            if not self._fits(file, 0, now):
                self._end(tenant)
        return removed

    def close(self) -> None:
        for tenant in list(self._open):
            self._end(tenant)

    def _begin(self, tenant: str, now: float) -> _Open:
        folder = self.directory / folder_of(tenant)
        for place in (self.directory, folder):  # nobody else has any business with what was said here
            place.mkdir(mode=0o700, exist_ok=True)
        self._begun += 1
        path = folder / f"{int(now * 1_000):013d}-{os.getpid()}-{self._begun}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return _Open(path, os.open(path, flags, 0o600), now)

    def _fits(self, file: _Open, added: int, now: float) -> bool:
        if file.size and file.size + added > self.file_bytes:
            return False
        if now >= file.began + min(self.kept_for / _PARTS, _LONGEST):
            return False
        return os.fstat(file.descriptor).st_nlink > 0  # nobody has removed it

    def _end(self, tenant: str) -> None:
        file = self._open.pop(tenant)
        with contextlib.suppress(OSError):  # a file system may tell only now that there was no room
            os.close(file.descriptor)
