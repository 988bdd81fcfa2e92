"""Files told in blocks: what a tenant has sent before, of any file, is not sent again.

An upload without content stands for the file, so that a list that is sent once more, with its ``Idempotency-Key``, finds
what the first one has become.  Who sends it while the file is being made waits for it, and it is made to its end though
whoever asked has left.  Two processes may make it at once: the first to complete the upload says what it has become, and
the other one removes its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias

import msgspec

from penstock.errors import BodyTooLarge, Conflict
from penstock.gateway.kept.files import shown
from penstock.gateway.kept.resumed import Target, encoded
from penstock.gateway.kept.uploads import file_asked
from penstock.gateway.stages.authenticate import owner_of
from penstock.messages import Tenant
from penstock.net.exchange import Exchange
from penstock.uninterrupted import uninterrupted
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.files import FileStore, Incoming
from penstock.upload.index import Upload, new_upload_id
from penstock.upload.offsets import Phase
from penstock.upload.uploads import UploadStore

_JSON = (b"content-type", b"application/json")

_LOOKS, _LOOK_EVERY = 20, 0.1  # at what another process will say that it has made; seconds

Wanted: TypeAlias = Sequence[tuple[bytes, int]]
_Content: TypeAlias = Callable[[], AsyncGenerator[bytes, None]]


class ToldFiles:
    """Makes files of blocks, and answers who has told them.

    :param most: bytes of a file
    """

    def __init__(self, store: UploadStore, files: FileStore, most: int) -> None:
        self._store = store
        self._files = files
        self._most = most
        self._making: dict[str, asyncio.Task[bytes]] = {}  # by upload: the answer

    def __repr__(self) -> str:
        return f"<ToldFiles of {self._store}, {len(self._making)} being made>"

    async def close(self) -> None:
        """Give up what is being made."""
        if making := list(self._making.values()):
            for task in making:
                task.cancel()
            await asyncio.wait(making)

    async def answer(self, exchange: Exchange, tenant: Tenant, wanted: Wanted) -> None:
        """Answer a request whose content these blocks are, by their digests and sizes.

        :raises BlocksLacking: some are not here
        :raises BadRequest: one has another size, or there is no such purpose
        :raises KeyReused: its ``Idempotency-Key`` belongs to something else
        """
        size = sum(each for _, each in wanted)
        if size > self._most:
            raise BodyTooLarge(f"a file may hold {self._most} bytes")
        purpose, filename = file_asked(exchange)
        owner = owner_of(tenant, exchange.headers)
        content = await self._store.block_pieces(owner, wanted)
        upload, new = await self._store.create(self._named(exchange, owner, wanted, purpose, filename))
        answer = upload.answer
        if answer is None:
            making = self._making.get(upload.id)
            if making is None:
                made = self._made(tenant.name, upload, new, content, size, filename, purpose)
                making = self._making[upload.id] = asyncio.get_running_loop().create_task(made)
                making.add_done_callback(lambda task: self._ended(upload.id, task))
            answer = await asyncio.shield(making)
        exchange.respond(200, [_JSON], answer)

    def _ended(self, upload_id: str, task: asyncio.Task[bytes]) -> None:
        del self._making[upload_id]
        if not task.cancelled():
            task.exception()  # looked at, or the loop would tell of it: who waited may have left

    async def _made(
        self,
        tenant: str,
        upload: Upload,
        new: bool,
        content: _Content,
        size: int,
        filename: str,
        purpose: str,
    ) -> bytes:
        """Make the file, unless somebody has: the answer."""
        answer = None if new else await self._remembered(upload)
        if answer is not None:
            return answer
        incoming = await self._files.receive(tenant, size)
        try:
            async with aclosing(content()) as pieces:
                async for piece in pieces:
                    await incoming.write(piece)
            return await uninterrupted(self._entered(tenant, upload, incoming, filename, purpose))
        finally:
            await incoming.discard()

    async def _entered(
        self, tenant: str, upload: Upload, incoming: Incoming, filename: str, purpose: str
    ) -> bytes:
        """Let the upload become this file, or leave it what it has become meanwhile."""
        file = await incoming.finish(filename, purpose, None)
        if upload.phase is Phase.OPEN:
            try:
                await self._store.complete(upload)
            except Conflict:
                answer = await self._remembered(upload)
                if answer is not None:
                    await self._files.delete(tenant, file.id)
                    return answer
        answer = msgspec.json.encode(shown(file))
        await self._store.remember(upload.id, answer)
        return answer

    async def _remembered(self, upload: Upload) -> bytes | None:
        """What an upload has become; None: nothing yet, or who completed it was killed before it could say so."""
        for _ in range(_LOOKS):
            found = await self._store.get(upload.owner, upload.id)
            if found.answer is not None or found.phase is Phase.OPEN:
                return found.answer
            await asyncio.sleep(_LOOK_EVERY)
        return None

    def _named(self, exchange: Exchange, owner: str, wanted: Wanted, purpose: str, filename: str) -> Upload:
        """What stands for the file; without content, which is the blocks'."""
        now = self._store.now()
        told = hashlib.sha256(repr((purpose, filename)).encode())
        for digest, _ in wanted:
            told.update(digest)
        return Upload(
            new_upload_id(),
            owner,
            UploadDialect.RUFH,
            encoded(Target(exchange.path, exchange.query, {}, b"", "", b"", filename, purpose)),
            now,
            now + self._store.kept_for,
            0,
            None,
            0,
            Phase.OPEN,
            0,
            exchange.headers.get(b"idempotency-key", b"").decode("latin-1") or None,
            told.hexdigest(),
            Concat.NONE,
            "",
            "",
        )
