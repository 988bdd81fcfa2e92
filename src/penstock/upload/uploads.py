"""Uploads under way, and the blocks that they consist of: an index, and contents.

Which uploads there are, and what belongs to each, an :class:`~penstock.upload.index.Index` knows, where the rules are
told by which two who append at once cannot spoil each other's bytes; the bytes lie in
:class:`~penstock.upload.contents.Contents`.  Both may be this machine's or shared by several.  Here is what joins them:
bytes first, and then what knows them, so that whatever the index knows is whole, and what it does not know is
nobody's, and goes after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from penstock.errors import BadRequest, BlocksLacking, Forbidden, PenstockError, StorageUnavailable
from penstock.uninterrupted import uninterrupted
from penstock.upload.block_files import BlockFiles
from penstock.upload.contents import Contents
from penstock.upload.index import Index, Limits, Sealed, Upload, quota, superseded
from penstock.upload.stores.disk import Disk
from penstock.upload.writer import Writer

EXPIRE_EVERY = 60.0  # seconds
QUIET = 0.5  # seconds without a byte after which what has come of an append is confirmed


class UploadStore:
    """The uploads and blocks of all owners.

    Every method raises :class:`~penstock.errors.StorageUnavailable` where disk, index or contents do not answer, and
    :class:`~penstock.errors.StorageFull` where one has no room.

    :param disk: where blocks are written
    :param index: knows the uploads
    :param contents: where blocks are kept; None: where they are written
    :ivar block_files: what is made a block of, to be put here
    """

    def __init__(self, disk: Disk, index: Index, limits: Limits, contents: Contents | None = None) -> None:
        self.kept_for = limits.kept_for
        self.now = limits.now
        self.block_files = BlockFiles(disk, contents)
        self._index = index
        self._limits = limits
        self._writers: dict[str, Writer] = {}  # by upload
        self._settling: set[asyncio.Task[None]] = set()
        self._expires_next = 0.0

    def __repr__(self) -> str:
        return f"<UploadStore {self._index}, {self.block_files}, {len(self._writers)} appends>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the directory, or a store, cannot be used"""
        await self.block_files.open()
        await self._index.open()

    async def close(self) -> None:
        if self._settling:
            await asyncio.wait(self._settling)
        await self._index.close()
        await self.block_files.close()

    # ---- one upload ----

    async def create(self, upload: Upload) -> tuple[Upload, bool]:
        """Enter a new upload, or find the one of the same name; whether it is new.

        :raises KeyReused: the name belongs to an upload with another fingerprint
        :raises RateLimited: the owner has as many as it may
        """
        return await self._index.create(upload)

    async def get(self, owner: str, upload_id: str) -> Upload:
        """:raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        return await self._index.get(owner, upload_id)

    async def settle(self, owner: str, upload_id: str) -> Upload:
        """The upload with nobody appending to it: whoever did has kept what had come, and cannot go on.

        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        await self._interrupt(owner, upload_id)
        return await self._index.end_epoch(owner, upload_id)

    async def _interrupt(self, owner: str, upload_id: str) -> None:
        """End the append that this process has under way."""
        while (writer := self._writers.get(upload_id)) is not None and writer.owner == owner:
            writer.supersede()
            await writer.wait_ended()

    async def append(self, owner: str, upload_id: str, cut: Callable[[], None]) -> tuple[Upload, Writer]:
        """Begin to append; whoever was appending is ended.  The writer must be closed.

        :param cut: ends this append's request, if a later one comes
        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        while True:
            await self._interrupt(owner, upload_id)
            upload = await self.get(owner, upload_id)
            if upload_id not in self._writers:
                break
        writer = Writer(
            self.block_files,
            self._index,
            upload.id,
            owner,
            upload.offsets(),
            upload.epoch,
            cut,
            self._release,
        )
        self._writers[upload.id] = writer
        return upload, writer

    def _release(self, writer: Writer) -> None:
        if self._writers.get(writer.upload) is writer:
            del self._writers[writer.upload]

    async def check_room(self, owner: str, size: int) -> None:
        """Before so many bytes are read.

        :raises Forbidden: they could never be kept
        """
        most = self._limits.tenant_bytes
        if size > most or size + await self._index.held(owner) > most:
            raise quota(self._limits)

    async def complete(self, upload: Upload) -> None:
        """Note that an open upload is complete as it is.

        :raises Conflict: a later request for the upload came
        """
        if not await self._index.complete(upload):
            raise superseded()

    async def remember(self, upload_id: str, answer: bytes) -> None:
        """Keep what the completion of an upload was answered with."""
        await self._index.remember(upload_id, answer)

    async def give_up(self, owner: str, upload_id: str) -> None:
        """End an upload, and all its parts.

        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        await self._interrupt(owner, upload_id)
        await self._index.give_up(owner, upload_id)

    async def concatenate(self, upload: Upload, part_ids: Sequence[str], *, parent: str = "") -> Upload:
        """Enter an upload that consists of others, in this order; their bytes are not copied.

        :param upload: open and empty; entered already if it has parts by ``parent``, else found by its name if there
            is one of it
        :raises NotFound: this owner has no such part
        :raises Conflict: a part is not complete
        :raises BodyTooLarge: together they are too long
        """
        return await self._index.concatenate(upload, part_ids, parent)

    # ---- contents ----

    async def pieces(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """The content of an upload, by :data:`~penstock.upload.local_files.READ` bytes at most."""
        for file in await self._index.files(upload_id):
            async with aclosing(self.block_files.pieces(file)) as pieces:
                async for piece in pieces:
                    yield piece

    async def whole(self, upload_id: str) -> bytes:
        """The content of an upload that is short enough to be a request's body."""
        return await self.block_files.whole(await self._index.files(upload_id))

    # ---- blocks ----

    async def put_block(self, owner: str, sealed: Sealed) -> bool:
        """Enter a block that is part of no upload yet; whether it is new.  If this raises, its file is gone.

        :raises Forbidden: the owner would keep more than it may
        """
        return await uninterrupted(self._put_block(owner, sealed))

    async def _put_block(self, owner: str, sealed: Sealed) -> bool:
        held = [sealed]
        try:
            held = await self.block_files.keep(held)
        except PenstockError:
            await self.block_files.discard(held)
            raise
        try:
            going = await self._index.add(owner, held[0])
        except Forbidden:  # after anything else it may have been entered
            await self.block_files.discard(held)
            raise
        await self.block_files.forget(going)
        return held[0].file not in going

    async def blocks(self, owner: str, wanted: Sequence[tuple[bytes, int]]) -> bytes:
        """The contents of these blocks, one after the other; each digest with the size that it should have.

        Those that are here count as used now, also if others are lacking: they will be asked for again.

        :raises BlocksLacking: some are not here
        :raises BadRequest: one has another size
        :raises StorageUnavailable: what is kept is not what was sent
        """
        body = await self.block_files.whole(await self._found(owner, wanted))
        if len(body) != sum(size for _, size in wanted):
            raise _not_whole()
        return body

    async def block_pieces(
        self, owner: str, wanted: Sequence[tuple[bytes, int]]
    ) -> Callable[[], AsyncGenerator[bytes, None]]:
        """As :meth:`blocks`, of what may be too long for the memory: the contents, as they are read."""
        files = await self._found(owner, wanted)

        async def content() -> AsyncGenerator[bytes, None]:
            for file, (_, size) in zip(files, wanted, strict=True):
                read = 0
                async with aclosing(self.block_files.pieces(file)) as pieces:
                    async for piece in pieces:
                        read += len(piece)
                        yield piece
                if read != size:
                    raise _not_whole()

        return content

    async def _found(self, owner: str, wanted: Sequence[tuple[bytes, int]]) -> list[str]:
        """The files of these blocks."""
        found = await self._index.find(owner, list(dict.fromkeys(digest for digest, _ in wanted)))
        lacking = dict.fromkeys(digest.hex() for digest, _ in wanted if digest not in found)
        if lacking:
            raise BlocksLacking(list(lacking))
        for digest, size in wanted:
            if found[digest][1] != size:
                message = f"block {digest.hex()} has {found[digest][1]} bytes, not {size}"
                raise BadRequest(message, param="blocks")
        return [found[digest][0] for digest, _ in wanted]

    # ---- what is to go ----

    def sweep(self, now: float) -> None:
        """Confirm what has come of appends that are silent: they may never go on."""
        for writer in list(self._writers.values()):
            if writer.is_quiet(now, QUIET):
                self._begin(writer.settle())
        if now >= self._expires_next:
            self._expires_next = now + EXPIRE_EVERY
            self._begin(self._expire_quietly())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _expire_quietly(self) -> None:
        try:
            await self.expire()
        except PenstockError:  # logged where it was met; the next time comes
            pass

    async def expire(self) -> int:
        """Remove what is past its time, and what no index knows; returns how many files there were."""
        going = await self._index.expire()
        if old := await self.block_files.old():
            going += await self._index.unknown(old)
        await self.block_files.remove(going)
        return len(set(going))


def _not_whole() -> StorageUnavailable:
    return StorageUnavailable("what the gateway keeps of these blocks is not whole")
