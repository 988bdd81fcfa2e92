"""One append on its way to the disk: cut into blocks, hashed, synced, and entered.

What comes is written and hashed in threads by :data:`BUFFER` bytes, so that the loop never waits and only a few
such buffers are in memory.  Without a digest of the append's own, what has come is confirmed whenever there
are :data:`STRIDE` bytes of it, when nothing more comes for a while, and when the request breaks: what is
on the disk need not be sent again.  With one, all of it is confirmed at once, if it is what the digest says.

A digest of the whole upload is computed by the way, where one append brings all of it: then its last byte completes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from penstock.errors import BodyTooLarge, Conflict, DigestMismatch, PenstockError, StorageUnavailable
from penstock.uninterrupted import uninterrupted
from penstock.upload.block_files import BlockFiles, BlockWriter
from penstock.upload.index import Addition, Index, Sealed
from penstock.upload.offsets import Offsets, Phase

if TYPE_CHECKING:
    from hashlib import _Hash

    from penstock.upload.digests import Digest

# Bytes that wait for the disk; on a busy machine each of the store's threads may hold as many.
BUFFER = 262_144
STRIDE = 4_194_304  # bytes after which an append without a digest is confirmed; the size of its blocks
MAX_UNSYNCED = 32  # sealed blocks of one append, each of which has a file open
# Bytes of an append with a digest, which are on the disk before anything is confirmed.
MAX_DIGESTED = 134_217_728


class Writer:
    """One append; made by :meth:`penstock.upload.uploads.UploadStore.append`.

    :param cut: ends its request
    :param release: told when the append has ended
    """

    def __init__(
        self,
        files: BlockFiles,
        index: Index,
        upload: str,
        owner: str,
        offsets: Offsets,
        epoch: int,
        cut: Callable[[], None],
        release: Callable[[Writer], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upload = upload
        self.owner = owner
        self.offsets = offsets
        self.epoch = epoch
        self._files = files
        self._index = index
        self._cut = cut
        self._release = release
        self._now = now
        self._known_length = offsets.length
        self._digest: Digest | None = None
        self._hash = hashlib.sha256()
        self._whole: Digest | None = None
        self._proof: _Hash | None = None  # of the whole, if all of it comes with this append
        self._block_size = STRIDE
        self._cuts: deque[int] = deque()
        self._cut_anew = False
        self._buffer = bytearray()
        self._block: BlockWriter | None = None
        self._sealed: list[Sealed] = []
        self._unsynced: list[BlockWriter] = []
        self._taken = 0
        self._heard = 0.0  # when something came last
        self._busy = asyncio.Lock()
        self._broken = False  # the disk refused: nobody knows what is in the last block
        self._superseded = False
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "superseded" if self._superseded else "open"
        return f"<Writer of {self.upload}, {self.offsets}, {state}>"

    def expect(
        self, digest: Digest | None, block_size: int, whole: Digest | None = None, cuts: Sequence[int] = ()
    ) -> None:
        """What the append's content must come to, and how large a block it may become as a whole.

        :param whole: what the upload must come to
        :param cuts: sizes of the blocks that it is to become; what goes beyond them is cut as without
        """
        self._cuts = deque(cuts)
        self._whole = whole
        if whole is not None and not self.offsets.offset:
            self._proof = whole.new()
        self._digest = digest
        if digest is not None:
            self._hash = digest.new()
            self._block_size = block_size

    @property
    def cut_as_told(self) -> bool:
        """Whether each of the blocks that the append was to become has been sealed, and in one piece."""
        return not (self._cuts or self._cut_anew)

    def supersede(self) -> None:
        """A later request for the same upload has come: this one ends."""
        if not self._superseded:
            self._superseded = True
            self._cut()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    def is_quiet(self, now: float, seconds: float) -> bool:
        """Whether something waits to be confirmed, and nothing more has come for so long."""
        return (
            self._digest is None
            and bool(self.offsets.unconfirmed)
            and not self._busy.locked()
            and now - self._heard > seconds
        )

    async def write(self, piece: bytes) -> None:
        """:raises InconsistentLength: more than was announced; the upload is to be given up
        :raises BodyTooLarge: more than an upload, or a chunk with a digest, may hold
        :raises Conflict: a later request for the upload came
        """
        async with self._busy:
            self.offsets.take(len(piece))
            self._taken += len(piece)
            if self._digest is not None and self._taken > MAX_DIGESTED:
                raise BodyTooLarge(f"a chunk with a digest may hold {MAX_DIGESTED} bytes")
            self._heard = self._now()
            self._buffer += piece
            if len(self._buffer) >= BUFFER:
                await uninterrupted(self._advance())

    async def settle(self) -> None:
        """Confirm what has come, from beside; whoever writes is told if that is not possible."""
        await uninterrupted(self._settle())

    async def _settle(self) -> None:
        async with self._busy:
            if self.offsets.unconfirmed and not self._broken and not self._ended.is_set():
                try:
                    await self._flush(seal=True)
                    await self._confirm(complete=False)
                except PenstockError:
                    self.supersede()

    async def finish(self) -> bool:
        """The append's content has ended.

        :returns: whether the upload's last byte is there; the upload is complete then, unless it has a digest of which
            this append cannot tell
        :raises DigestMismatch: the content is not what its digest says, and nothing of it is kept; or the upload is not
            what its own says, and is to be given up
        :raises InconsistentLength: the last append has ended before the length that was announced; it is kept
        :raises Conflict: a later request for the upload came
        :raises Gone: its time is over, or it was given up elsewhere
        """
        return await uninterrupted(self._finish())

    async def _finish(self) -> bool:
        async with self._busy:
            await self._flush(seal=True)
            if self._digest is not None and not self._digest.fits(self._hash.digest()):
                raise DigestMismatch("the content does not have the digest that was said", param="digest")
            offsets = self.offsets
            if self._whole is not None and self._proof is not None and offsets.last:
                self._check(self._whole, self._proof)
            complete = offsets.last and (self._whole is None or self._proof is not None)
            if offsets.unconfirmed or complete or offsets.length != self._known_length:
                await self._confirm(complete=complete)
            return offsets.end()

    def _check(self, whole: Digest, proof: _Hash) -> None:
        if not whole.fits(proof.digest()):
            self.offsets.give_up()
            raise not_whole()

    async def close(self) -> None:
        """However the append ended: what can be kept of it is."""
        await uninterrupted(self._close())

    async def _close(self) -> None:
        async with self._busy:
            try:
                wanted = self._digest is None and self.offsets.phase is not Phase.GONE
                if wanted and self.offsets.unconfirmed and not self._broken:
                    await self._flush(seal=True)
                    await self._confirm(complete=False)
            except PenstockError:  # the disk has told so; the client will see how far it came
                pass
            finally:
                self.offsets.lose()
                self._ended.set()
                self._release(self)
                left = [*self._unsynced, *([] if self._block is None else [self._block])], self._sealed
                self._block, self._sealed, self._unsynced = None, [], []
        blocks, sealed = left
        if blocks or sealed:
            await self._drop(blocks, sealed)

    async def _drop(self, blocks: list[BlockWriter], sealed: list[Sealed]) -> None:
        for block in blocks:
            with contextlib.suppress(PenstockError):  # nobody knows this file, and so it goes some time
                await self._files.run(block.drop)
        if sealed:
            await self._files.discard(sealed)

    async def _advance(self) -> None:
        await self._flush()
        if self._digest is None and self.offsets.unconfirmed >= STRIDE:
            await self._confirm(complete=False)  # the blocks that are full; the last one goes on
        elif len(self._unsynced) >= MAX_UNSYNCED:
            await self._sync()

    async def _flush(self, *, seal: bool = False) -> None:
        data, self._buffer = self._buffer, bytearray()
        if data or (seal and self._block is not None):
            try:
                await self._files.run(lambda: self._write(data, seal=seal))
            except BaseException:
                self._broken = True
                raise

    def _write(self, data: bytearray, *, seal: bool) -> None:
        """In a thread: into blocks, the last of which stays open unless it is to be sealed."""
        if self._digest is not None:
            self._hash.update(data)
        if self._proof is not None:
            self._proof.update(data)
        view = memoryview(data)
        while view:
            if self._block is None:
                self._block = BlockWriter(self._files)
            size = self._cuts[0] if self._cuts else self._block_size
            room = size - self._block.size
            self._block.write(view[:room])
            view = view[room:]
            if self._block.size >= size:
                self._seal()
        if seal:
            self._seal()

    def _seal(self) -> None:
        if self._block is not None:
            sealed = self._block.seal()
            self._sealed.append(sealed)
            self._unsynced.append(self._block)
            self._block = None
            if self._cuts:
                self._cut_anew |= sealed.size < self._cuts[0]
                self._cuts[0] -= sealed.size
                if not self._cuts[0]:
                    self._cuts.popleft()

    async def _sync(self) -> None:
        """Let the sealed blocks be on the disk, side by side."""
        blocks, self._unsynced = self._unsynced, []
        found = await asyncio.gather(
            *(self._files.run(block.sync) for block in blocks), return_exceptions=True
        )
        for error in found:
            if isinstance(error, BaseException):
                self._broken = True
                raise error

    async def _confirm(self, *, complete: bool) -> None:
        """The sealed blocks become a part of the upload, and its offset rises: from here on they are the client's."""
        if self._superseded and complete:
            raise Conflict("a later request for this upload came", code="superseded")

        offsets = self.offsets
        addition = Addition(self.upload, self.owner, self.epoch, offsets.offset, offsets.length, complete)
        size = sum(block.size for block in self._sealed)
        await self._sync()
        try:
            self._sealed = await self._files.keep(self._sealed)
            await self._enter(addition)
        except BaseException:
            self._broken = True
            raise
        self._sealed = []
        self.epoch += 1
        self._known_length = self.offsets.length
        self.offsets.confirm(size)

    async def _enter(self, addition: Addition) -> None:
        try:
            going = await self._index.enter(addition, self._sealed)
        except StorageUnavailable:
            # It may have been entered, and only the answer is lost: who asks for the offset will be told.  The blocks
            # are not this append's any more; if no index knows them, they go some time.
            self._sealed = []
            raise
        except Conflict:
            await self._index.get(self.owner, self.upload)  # who finds it gone is told that
            raise
        await self._files.forget(going)


def not_whole() -> DigestMismatch:
    return DigestMismatch("the upload does not have the digest that was said", param="repr-digest")
