"""The bytes of uploads in object storage that speaks S3: Amazon's, MinIO, Ceph, Cloudflare R2, and others.

A block becomes objects of at most :data:`PIECE` bytes, of which one is in memory at a time: an object is sent whole.
``{prefix}{file}.{number}``; the file's name tells how many there are, so nothing has to be asked to read or remove it.
Each ends in a digest of its key and its bytes, without which it is not read: what a disk has spoiled, or somebody has put
in its place, is no upload.  (Who may write to the bucket and knows all this can still make one.)
Objects that no index knows, because a process was killed or a server did not answer, are found by listing the bucket
(:meth:`S3Contents.old`).

The protocol is that of obstore, which is Rust's object_store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from blake3 import blake3
from obstore.exceptions import BaseError
from obstore.store import S3Store

from penstock.errors import ConfigError, PenstockError, StorageFull, StorageUnavailable
from penstock.uninterrupted import uninterrupted
from penstock.upload.files import ORPHANED
from penstock.upload.index import Sealed
from penstock.upload.local_files import READ, FileReader
from penstock.upload.stores.disk import Disk

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

PIECE = 524_288  # bytes of an object, beside its digest
_DIGEST = 32  # bytes
_DIGESTED = "d"  # ends the names of files whose objects have one; those of earlier versions have none
BUDGET = 10.0  # seconds for one object, with what is tried again
_AT_ONCE = 4  # objects that are read at a time

# Of a block of ours, which are few objects each: whatever else somebody has put there is not ours to remove.
_FILE = re.compile(r"(?P<file>[0-9a-f]{32}-[1-9]\d{0,2}d?)\.\d{1,3}")
_NO_ROOM = re.compile(r"status code: 507|StorageFull|InsufficientStorage|QuotaExceeded")
_ERRORS = (BaseError, OSError, ValueError)

log = logging.getLogger("penstock.uploads")


class S3Contents:
    """:class:`~penstock.upload.contents.Contents` in a bucket.

    :param disk: where blocks are written
    :param prefix: of all objects, a folder's name
    :param endpoint: of a server that is not Amazon's
    :param access_key: with ``secret_key``; empty: what the environment has, or the machine's own role
    :param budget: seconds
    :raises ConfigError: that is none
    """

    local = False

    def __init__(
        self,
        disk: Disk,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str = "",
        region: str = "",
        access_key: str = "",
        secret_key: str = "",
        budget: float = BUDGET,
    ) -> None:
        self._disk = disk
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._name = f"{endpoint or 's3:/'}/{bucket}/{self._prefix}"
        config: S3Config = {}
        if endpoint:
            config["endpoint"] = endpoint
        if region:
            config["region"] = region
        if access_key:
            config["access_key_id"] = access_key
            config["secret_access_key"] = secret_key
        client: ClientConfig = {
            "timeout": timedelta(seconds=budget),
            "connect_timeout": timedelta(seconds=min(budget, 3.0)),
            "allow_http": endpoint.startswith("http://"),
        }
        try:
            self._store = S3Store(
                bucket,
                config=config,
                client_options=client,
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=budget)},
            )
        except _ERRORS as error:
            raise ConfigError(f"uploads.s3 cannot be used: {error}") from error

    def __repr__(self) -> str:
        return f"<S3Contents {self._name}>"

    async def open(self) -> None:
        with contextlib.suppress(PenstockError):  # it is in the log, and all but uploads goes on
            await self._listed(0)

    async def close(self) -> None:
        pass

    async def keep(self, sealed: Sequence[Sealed]) -> list[Sealed]:
        kept: list[Sealed] = []
        try:
            for block in sealed:
                file = f"{block.file}-{-(-block.size // PIECE)}{_DIGESTED}"
                kept.append(Sealed(file, block.digest, block.size))
                await self._send(block.file, kept[-1].file)
        except PenstockError:
            with contextlib.suppress(PenstockError):  # they are found by listing
                await self.remove([block.file for block in kept])
            raise
        await self._disk.remove([block.file for block in sealed])
        return kept

    async def _send(self, written: str, file: str) -> None:
        source = FileReader(self._disk.directory / written, PIECE)
        try:
            for key in self._objects(file):
                piece = await self._disk.run(source.read)
                piece += self._digest(key, piece)
                try:
                    await uninterrupted(
                        asyncio.ensure_future(obstore.put_async(self._store, key, piece, use_multipart=False))
                    )
                except _ERRORS as error:
                    raise self._translated(error) from error
        finally:
            source.close()

    async def pieces(self, file: str) -> AsyncGenerator[bytes, None]:
        for key in self._objects(file):
            content = await self._get(key, last=_is_last(key))
            for start in range(0, len(content), READ):
                yield bytes(content[start : start + READ])

    async def whole(self, files: Sequence[str]) -> bytes:
        keys = [key for file in files for key in self._objects(file)]
        found: list[memoryview] = []
        for at in range(0, len(keys), _AT_ONCE):
            found += await asyncio.gather(
                *(self._get(key, last=_is_last(key)) for key in keys[at : at + _AT_ONCE])
            )
        return b"".join(found)

    async def _get(self, key: str, *, last: bool) -> memoryview:
        """What an object holds: as much as a piece unless it is the last of its block, and may be shorter then."""
        beside = _DIGEST if _DIGESTED in key.rpartition("-")[2] else 0
        try:
            answer = await obstore.get_async(self._store, key)
            size = answer.meta["size"] - beside
            if size > PIECE or (size < PIECE and not last):
                raise self._translated(ValueError(f"{key} has {size} bytes, which nobody here has written"))
            content = memoryview((await answer.bytes_async()).to_bytes())
            if beside and self._digest(key, content[:size]) != content[size:]:
                raise self._translated(ValueError(f"{key} holds other bytes than were written"))
            return content[:size]
        except _ERRORS as error:
            raise self._translated(error) from error

    def _digest(self, key: str, piece: bytes | memoryview) -> bytes:
        hasher = blake3(key.removeprefix(self._prefix).encode())
        hasher.update(piece)
        return hasher.digest()

    async def remove(self, files: Sequence[str]) -> None:
        keys = [key for file in files for key in self._objects(file)]
        if not keys:
            return
        try:
            await obstore.delete_async(self._store, keys)
        except FileNotFoundError:
            pass
        except _ERRORS as error:
            raise self._translated(error) from error

    async def old(self) -> list[str]:
        before = datetime.now(UTC) - timedelta(seconds=ORPHANED)
        newest: dict[str, datetime] = {}
        for name, modified in await self._listed():
            file = name.partition(".")[0]
            newest[file] = max(newest.get(file, modified), modified)
        return [file for file, modified in newest.items() if modified < before]

    async def _listed(self, most: int = 1 << 31) -> list[tuple[str, datetime]]:
        """Names of our objects, without the prefix, and when they were made; a page more than ``most`` at most."""
        found: list[tuple[str, datetime]] = []
        try:
            async for page in obstore.list(self._store, self._prefix or None, chunk_size=1_000):
                names = [(each["path"].removeprefix(self._prefix), each["last_modified"]) for each in page]
                found += [each for each in names if _FILE.fullmatch(each[0]) is not None]
                if len(found) >= most:
                    break
        except _ERRORS as error:
            raise self._translated(error) from error
        return found

    def _objects(self, file: str) -> list[str]:
        """The keys of a file's objects; none of one that was only written here."""
        count = int(file.removesuffix(_DIGESTED).partition("-")[2] or 0)
        return [f"{self._prefix}{file}.{number}" for number in range(count)]

    def _translated(self, error: Exception) -> StorageFull | StorageUnavailable:
        log.warning(
            "uploads and files cannot be written or read: %s: %s",
            self._name,
            str(error).partition("\n")[0][:500],
        )
        if _NO_ROOM.search(str(error)):
            return StorageFull("there is no room left where the gateway keeps uploads")
        return StorageUnavailable("what the gateway keeps cannot be reached now", retry_after=1.0)


def _is_last(key: str) -> bool:
    """Whether an object is the last of its block."""
    file, _, number = key.rpartition(".")
    return int(number) + 1 == int(file.rpartition("-")[2].removesuffix(_DIGESTED))
