"""Work on a directory, in threads of its own."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from penstock.errors import StorageFull, StorageUnavailable
from penstock.uninterrupted import uninterrupted

_COUNT = 4
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_T = TypeVar("_T")


class DiskThreads:
    """See the module's text.

    :param name: of the threads
    :param log: is told what a disk says
    """

    def __init__(self, directory: Path, name: str, log: logging.Logger) -> None:
        self._directory = directory
        self._log = log
        self._threads = ThreadPoolExecutor(_COUNT, name)

    def __repr__(self) -> str:
        return f"<DiskThreads of {self._directory}>"

    async def run(self, work: Callable[[], _T]) -> _T:
        """Waits to the work's end, also for who is cancelled meanwhile.

        :raises StorageFull: there is no room
        :raises StorageUnavailable: anything else that a disk may say
        """
        try:
            return await uninterrupted(asyncio.get_running_loop().run_in_executor(self._threads, work))
        except OSError as error:
            self._log.warning(
                "what was to be written or read in %s was refused to its caller: %s", self._directory, error
            )
            raise storage_error(error) from error

    def close(self) -> None:
        self._threads.shutdown(wait=False)


def storage_error(error: OSError) -> StorageFull | StorageUnavailable:
    """What an error of the disk is to a caller, who learns no path."""
    if error.errno in _NO_ROOM:
        return StorageFull("there is no room left on the gateway's disk")
    return StorageUnavailable("what the gateway keeps cannot be reached now", retry_after=1.0)
