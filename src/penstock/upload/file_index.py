"""Which files there are, whose they are, and where their bytes lie: what the store of files asks of others."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from penstock.errors import Forbidden, NotFound


class StoredFile(msgspec.Struct, frozen=True):
    """What is known of a file; times in Unix seconds, ``expires`` None: it is kept until it is deleted."""

    id: str
    bytes: int
    created: float
    expires: float | None
    filename: str
    purpose: str


class Query(msgspec.Struct, frozen=True):
    """A page of a tenant's files.

    :param purpose: empty: any
    :param after: the id of the last one of the page before; empty: from the beginning
    """

    now: float
    purpose: str
    after: str
    limit: int
    newest_first: bool


Parts = tuple[str, ...]
"""The names that a file's bytes have in a :class:`Shelf`; none where it has the file's own id."""


class FileIndex(Protocol):
    """Every method raises :class:`~penstock.errors.StorageUnavailable` where the database does not answer, and
    :class:`~penstock.errors.StorageFull` where it has no room.
    """

    async def open(self) -> None:
        """A server that does not answer now may do so later; that is told of in the log.

        :raises penstock.errors.ConfigError: what is this machine's own cannot be used
        """

    async def close(self) -> None: ...

    async def used(self, tenant: str) -> int:
        """Bytes that the tenant's files count for."""

    async def insert(
        self, tenant: str, file: StoredFile, charged: int, parts: Parts, limit: int | None
    ) -> bool:
        """Enter a file, in one step; False: it is there already.

        :param limit: what the tenant may keep; None: it is not asked
        :raises Forbidden: the tenant would keep more than it may
        """

    async def find(self, tenant: str, file_id: str, now: float) -> StoredFile | None: ...

    async def parts(self, file_id: str) -> Parts: ...

    async def page(self, tenant: str, query: Query) -> tuple[list[StoredFile], bool]:
        """The files, and whether there are more."""

    async def delete(self, tenant: str, file_id: str) -> Parts | None:
        """What it consisted of; None: this tenant has no such file."""

    async def expire(self, now: float) -> list[tuple[str, Parts]]:
        """Forget what is past its time: ids, and what they consisted of."""

    async def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of a shelf's names that no file has."""


class Shelf(Protocol):
    """Where the bytes of files lie.  Raises as :class:`FileIndex` does."""

    async def open(self) -> None:
        """:raises penstock.errors.ConfigError: what is this machine's own cannot be used"""

    async def close(self) -> None: ...

    async def keep(self, file_id: str, path: Path) -> Parts:
        """Take a synced file; when this returns it outlives this process.  ``path`` stays."""

    def pieces(self, file_id: str, parts: Parts) -> AsyncGenerator[bytes, None]: ...

    async def fetch(self, file_id: str, parts: Parts, target: Path) -> None:
        """Have its content in a file of this machine, synced."""

    async def remove(self, file_id: str, parts: Parts) -> None:
        """What is there of it."""

    async def old(self) -> list[str]:
        """Names of what has been there for so long that an index should know it."""

    async def remove_names(self, names: Sequence[str]) -> None: ...


def new_file_id() -> str:
    """``file-`` and 128 random bits."""
    return "file-" + secrets.token_hex(16)


def unknown_file(file_id: str) -> NotFound:
    return NotFound(f"you have no file {file_id[:100]!r}", param="file_id", code="file_not_found")


def files_quota(limit: int) -> Forbidden:
    return Forbidden(
        f"your files may take {limit} bytes together; delete some", code="storage_quota_exceeded"
    )
