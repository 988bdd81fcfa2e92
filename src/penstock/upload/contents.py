"""Where the bytes of blocks lie, under their files' names: what a store of uploads asks of it.

A block is written in this machine's directory first, in any case (:class:`penstock.upload.block_files.BlockWriter`): so it
can be hashed as it comes, and no store ever holds half of one.  Then it is :meth:`Contents.keep`, and only then
entered in the index.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from penstock.upload.index import Sealed


class Contents(Protocol):
    """Every method raises :class:`~penstock.errors.StorageUnavailable` where the store does not answer, and
    :class:`~penstock.errors.StorageFull` where it has no room.
    """

    local: bool
    """Whether they lie in the directory where they are written: they are synced there."""

    async def open(self) -> None:
        """A server that does not answer now may do so later; that is told of in the log.

        :raises penstock.errors.ConfigError: what is this machine's own cannot be used
        """

    async def close(self) -> None: ...

    async def keep(self, sealed: Sequence[Sealed]) -> list[Sealed]:
        """Take blocks that were written; when this returns, they outlive this process.  They may have other files now.

        None of them has been taken if this raises.
        """

    def pieces(self, file: str) -> AsyncGenerator[bytes, None]:
        """By :data:`~penstock.upload.local_files.READ` bytes at most."""

    async def whole(self, files: Sequence[str]) -> bytes:
        """Of several, one after the other."""

    async def remove(self, files: Sequence[str]) -> None:
        """Those that are there."""

    async def old(self) -> list[str]:
        """All that have been there for :data:`~penstock.upload.files.ORPHANED` seconds, and that an index should know
        by now.  Nobody asks more often than it is cheap.
        """
