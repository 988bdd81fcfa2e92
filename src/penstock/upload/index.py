"""Which uploads there are, and which blocks each consists of: what a store of uploads asks of its database.

Theory of operation
-------------------
A **block** is a content that some owner has sent, named by its SHA-256; its bytes lie under a random name, its
**file**, in :mod:`penstock.upload.contents`, and are whole before it is entered here.  An **upload** is a list of
blocks, by their positions; several uploads may have the same block.

Who appends reads the upload's ``epoch`` first and enters what has come in one step, which asks that the epoch still
is that one.  So of two who append at once, in whichever processes or on whichever machines, one is told that it was
superseded, and has changed nothing: there is no lock to wait for, and none to be left behind by a process that was
killed.  Asking for the offset ends the epoch as well: what was told is then true.

Every step is one transaction.  What it returns as *going* are files that nobody needs any more; their bytes are
removed after it, and if that does not come to be, found by :meth:`Index.unknown`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from penstock.errors import BodyTooLarge, Conflict, Forbidden, Gone, NotFound, RateLimited
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.files import LEAST_CHARGE
from penstock.upload.offsets import Offsets, Phase

MAX_SEGMENTS = 65_536  # blocks of one upload; with the smallest ones that are sensible, 1 GiB


class Upload(msgspec.Struct, frozen=True):
    """What is known of an upload; times in Unix seconds."""

    id: str
    owner: str
    dialect: UploadDialect
    target: bytes  # what its maker wants done with it; the store does not look into it
    created: float
    expires: float
    max_size: int
    length: int | None
    offset: int
    phase: Phase
    epoch: int
    name: str | None  # by which its creation, sent once more, finds it
    fingerprint: str  # what must be the same then
    concat: Concat
    parts: str  # ids of the uploads that a final one was put together from, with spaces between them
    parent: str  # the upload that this is a part of; empty: none
    answer: bytes | None = None  # what its completion was answered with, where that cannot be done twice

    def offsets(self) -> Offsets:
        return Offsets(max_size=self.max_size, offset=self.offset, length=self.length, phase=self.phase)


class Sealed(msgspec.Struct, frozen=True):
    """A block that is whole, in a file that no index knows yet."""

    file: str
    digest: bytes  # SHA-256
    size: int


class Addition(msgspec.Struct, frozen=True):
    """What an append adds: all that must still be so, and what is then so."""

    upload: str
    owner: str
    epoch: int
    offset: int  # where it began
    length: int | None  # of the whole, as far as that is known
    complete: bool  # whether it is the last


class Limits(msgspec.Struct, frozen=True):
    """What an index keeps to; times in seconds.

    :param tenant_bytes: what the blocks of one owner may take
    :param max_open: uploads of one owner that have not ended
    :param completed_kept_for: how long a complete upload can be asked for its answer
    :param blocks_kept_for: how long since its last use a block is kept that no upload has
    """

    tenant_bytes: int
    max_open: int
    kept_for: float
    completed_kept_for: float
    blocks_kept_for: float
    now: Callable[[], float]  # Unix time


class Index(Protocol):
    """Every method raises :class:`~penstock.errors.StorageUnavailable` where the database does not answer, and
    :class:`~penstock.errors.StorageFull` where it has no room; nothing has changed then, or all of it has.
    """

    async def open(self) -> None:
        """A server that does not answer now may do so later; that is told of in the log.

        :raises penstock.errors.ConfigError: what is this machine's own cannot be used
        """

    async def close(self) -> None: ...

    async def create(self, upload: Upload) -> tuple[Upload, bool]:
        """Enter a new upload, or find the one of the same name; whether it is new.

        :raises KeyReused: the name belongs to an upload with another fingerprint
        :raises RateLimited: the owner has as many as it may
        """

    async def get(self, owner: str, upload_id: str) -> Upload:
        """:raises NotFound: this owner has no such upload
        :raises Gone: it had
        """

    async def end_epoch(self, owner: str, upload_id: str) -> Upload:
        """The upload as it is; whoever is appending to it cannot enter anything any more.

        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """

    async def enter(self, addition: Addition, sealed: Sequence[Sealed]) -> list[str]:
        """Make an append's blocks a part of its upload; returns the going files.

        :raises Conflict: a later request for the upload came
        :raises Forbidden: the owner would keep more than it may
        :raises BodyTooLarge: the upload consists of too many pieces
        """

    async def add(self, owner: str, sealed: Sealed) -> list[str]:
        """Enter a block that is part of no upload yet; returns the going files, its own if it was there already.

        :raises Forbidden: the owner would keep more than it may
        """

    async def find(self, owner: str, digests: Sequence[bytes]) -> dict[bytes, tuple[str, int]]:
        """File and size of those blocks that are here; they count as used now."""

    async def held(self, owner: str) -> int:
        """Bytes of the blocks that the owner's uploads have."""

    async def complete(self, upload: Upload) -> bool:
        """Note that an open upload is complete as it is; False: a later request for it came."""

    async def remember(self, upload_id: str, answer: bytes) -> None:
        """Keep what the completion of an upload was answered with."""

    async def give_up(self, owner: str, upload_id: str) -> None:
        """End an upload, and all its parts.

        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """

    async def concatenate(self, upload: Upload, part_ids: Sequence[str], parent: str) -> Upload:
        """As :meth:`penstock.upload.uploads.UploadStore.concatenate`."""

    async def files(self, upload_id: str) -> list[str]:
        """Of an upload's blocks, in their order."""

    async def expire(self) -> list[str]:
        """Remove what is past its time; returns the going files."""

    async def unknown(self, files: Sequence[str]) -> list[str]:
        """Those that no block has."""


def new_upload_id() -> str:
    """``upload_`` and 128 random bits, the form that OpenAI's have."""
    return "upload_" + secrets.token_hex(16)


def charge(size: int) -> int:
    """Bytes that a block counts for."""
    return max(size, LEAST_CHARGE)


# ---- what every index answers alike ----


def unknown(upload_id: str) -> NotFound:
    return NotFound(f"you have no upload {upload_id[:100]!r}", param="upload_id", code="upload_not_found")


def gone() -> Gone:
    return Gone("this upload was given up, or its time is over")


def superseded() -> Conflict:
    return Conflict("a later request for this upload came", code="superseded")


def too_many(count: int) -> RateLimited:
    return RateLimited(
        f"{count} of your uploads have not ended; end some, or give them up", code="too_many_uploads"
    )


def too_many_segments() -> BodyTooLarge:
    return BodyTooLarge(f"an upload may consist of {MAX_SEGMENTS} chunks; send larger ones")


def no_part(part_id: str) -> Conflict:
    return Conflict(f"{part_id[:100]} is no part that is complete", code="incomplete_part")


def checked_size(upload: Upload, size: int, segments: int) -> None:
    """Whether parts may become an upload.

    :raises BodyTooLarge: together they are too long
    :raises Conflict: they are not as long as was announced
    """
    if size > upload.max_size or segments > MAX_SEGMENTS:
        raise BodyTooLarge(f"an upload may hold {upload.max_size} bytes here")
    if upload.length is not None and size != upload.length:
        raise Conflict(
            f"the parts hold {size} bytes together, and {upload.length} were announced",
            code="inconsistent_length",
        )


def quota(limits: Limits) -> Forbidden:
    return Forbidden(
        f"your uploads may take {limits.tenant_bytes} bytes together; give some up",
        code="storage_quota_exceeded",
    )


def joined(upload: Upload, part_ids: Sequence[str], size: int, limits: Limits) -> Upload:
    """An open and empty upload as it is when it has been put together from parts."""
    return msgspec.structs.replace(
        upload,
        offset=size,
        length=size,
        phase=Phase.COMPLETE,
        expires=min(upload.expires, limits.now() + limits.completed_kept_for),
        parts=" ".join(part_ids),
    )
