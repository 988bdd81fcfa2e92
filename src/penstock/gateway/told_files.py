"""Files told in blocks: what a tenant has sent before, of any file, is not sent again.

An upload without content stands for the file, so that a list that is sent once more, with its ``Idempotency-Key``, finds
what the first one has become.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from penstock.errors import BodyTooLarge
from penstock.gateway.files import shown
from penstock.gateway.resumed import Target, encoded
from penstock.gateway.stages.authenticate import owner_of
from penstock.gateway.uploads import file_asked
from penstock.messages import Tenant
from penstock.net.exchange import Exchange
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.files import FileStore
from penstock.upload.index import Upload, new_upload_id
from penstock.upload.offsets import Phase
from penstock.upload.uploads import UploadStore

_JSON = (b"content-type", b"application/json")

Wanted = Sequence[tuple[bytes, int]]


class ToldFiles:
    """Makes files of blocks, and answers who has told them.

    :param most: bytes of a file
    """

    def __init__(self, store: UploadStore, files: FileStore, most: int) -> None:
        self._store = store
        self._files = files
        self._most = most

    def __repr__(self) -> str:
        return f"<ToldFiles of {self._store}>"

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
        upload, _ = await self._store.create(self._named(exchange, owner, wanted, purpose, filename))
        answer = upload.answer
        if answer is None:
            incoming = await self._files.receive(tenant.name, size)
            try:
                async with aclosing(content()) as pieces:
                    async for piece in pieces:
                        await incoming.write(piece)
                answer = msgspec.json.encode(shown(await incoming.finish(filename, purpose, None)))
            finally:
                await incoming.discard()
            if upload.phase is Phase.OPEN:
                await self._store.complete(upload)
            await self._store.remember(upload.id, answer)
        exchange.respond(200, [_JSON], answer)

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
