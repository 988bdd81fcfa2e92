"""Room on a disk that is kept for deleting, which needs some: SQLite writes down first what it is about to change.

Beside a file lies another one, which holds nothing but has its blocks.  Who finds the disk full and wants to make room
gives that up, does what he wants in its place, and has it again when there is room.  Whatever else writes to the disk
may be quicker: then there is no room, as before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

SIZE = 1 << 20  # bytes: what deleting the largest things changes, several times

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
# Bytes; SQLite takes half as much for what processes share of a file, and says another error.
_MAPPED = 65_536

_T = TypeVar("_T")


class Reserve:
    """:param path: of SQLite's file for which room is kept"""

    def __init__(self, path: Path) -> None:
        self._file = path
        self.path = path.with_name(path.name + "-reserve")
        self._is_there = False

    def __repr__(self) -> str:
        return f"<Reserve {self.path}, {'there' if self._is_there else 'given up'}>"

    def keep(self) -> None:
        """Have it, if there is room; also when another process has given it up."""
        if self._is_there:
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, SIZE)  # all or nothing is left by it
                self._is_there = True
            except OSError:
                self.path.unlink()
            finally:
                os.close(descriptor)

    def give_up(self) -> None:
        """Let there be room for what follows.

        :raises OSError: it cannot be removed
        """
        self._is_there = False
        self.path.unlink(missing_ok=True)

    def opened(self, opening: Callable[[], _T]) -> _T:
        """What opens the file, also on a full disk, if there is a reserve.

        :raises sqlite3.Error, OSError: as ``opening`` does
        """
        try:
            found = opening()
        except (sqlite3.Error, OSError) as error:
            if not lacks_room(error, self._file):
                raise
            self.give_up()
            return opening()
        self.keep()
        return found

    def freed(self, freeing: Callable[[], _T], connection: Callable[[], sqlite3.Connection]) -> _T:
        """Do something that makes room, on a full disk in the place of the reserve.

        :raises sqlite3.Error, OSError: as ``freeing`` does
        """
        try:
            done = freeing()
        except (sqlite3.Error, OSError) as error:
            if not lacks_room(error, self._file):
                raise
            self.give_up()
            done = freeing()
            with contextlib.suppress(sqlite3.Error):
                connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.keep()
        return done


def lacks_room(error: Exception, path: Path) -> bool:
    """Whether something failed because the disk is full on which a file is, or because the file is as large as it may
    be.
    """
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, sqlite3.Error) and name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        with contextlib.suppress(OSError):
            disk = os.statvfs(path.parent)
            return disk.f_bavail * disk.f_frsize < _MAPPED
    return name == "SQLITE_FULL"


def full_disk(path: Path) -> str:
    """What somebody is told who can make room."""
    return f"there is no room left on the disk of {path.parent}: delete something there, or give it a larger disk"
