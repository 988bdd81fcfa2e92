"""Bodies told in blocks: what a tenant has sent before need not be sent again.

::

    POST an inference endpoint   Content-Type: application/vnd.penstock.blocks+json: the body is a list of digests
    POST /v1/files               the same: the file is
    PUT  /v1/blocks/{sha256}     a block that the list named and the gateway lacked
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec

from penstock.errors import BadRequest, BlocksLacking, BodyTooLarge, DigestMismatch, PenstockError
from penstock.gateway.kept.answering import method_of
from penstock.gateway.kept.by_path import Work
from penstock.gateway.kept.resumed import ResumedExchange, Target, kept
from penstock.gateway.kept.told_files import ToldFiles, Wanted
from penstock.gateway.kept.uploads import Answer
from penstock.gateway.stages.authenticate import owner_of
from penstock.messages import Endpoint, Tenant
from penstock.net.exchange import Exchange
from penstock.upload.asked import MAX_BLOCK
from penstock.upload.block_files import BlockWriter
from penstock.upload.index import Sealed
from penstock.upload.uploads import UploadStore
from penstock.upload.writer import BUFFER
from penstock.wire import codings, problems
from penstock.wire.request import dialect_of

MEDIA_TYPE = b"application/vnd.penstock.blocks+json"
MAX_BLOCKS = 4_096
MAX_LIST = 524_288  # bytes: so many blocks, and room for spaces

_SHA256 = re.compile(r"[0-9a-f]{64}")

_Do = Callable[[Exchange], Coroutine[Any, Any, None]]


class Block(msgspec.Struct, frozen=True):
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK)]


class BlockList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body, told in blocks."""

    blocks: Annotated[list[Block], msgspec.Meta(min_length=1, max_length=MAX_BLOCKS)]
    content_type: str = "application/json"
    content_encoding: str = ""


_list = msgspec.json.Decoder(BlockList).decode


class BlockRoom:
    """A :class:`penstock.gateway.kept.by_path.Room`, and the answers to bodies told in blocks.

    :param files: answers who has told a file
    :param answer: answers a call, to its end
    """

    label = "blocks"
    decodes = True

    def __init__(self, store: UploadStore, files: ToldFiles, answer: Answer, max_body: int) -> None:
        self._store = store
        self._files = files
        self._answer = answer
        self._max_body = max_body

    def __repr__(self) -> str:
        return f"<BlockRoom over {self._store}>"

    def told_in_blocks(self, exchange: Exchange, tenant: Tenant, endpoint: Endpoint | None) -> Work | None:
        """The work of a request whose body is a list of blocks; None: it is not.

        :param endpoint: None: it asks for a file to be kept
        """
        kind = exchange.headers.get(b"content-type", b"")
        if not kind.startswith(MEDIA_TYPE) or exchange.method != "POST":
            return None
        return Work(self.label, tenant, MAX_LIST, partial(self._assembled, tenant, endpoint))

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, _Do] | None:
        if len(steps) != 1:
            return None
        method_of(exchange, "PUT")
        return None, partial(self._put, tenant, steps[0])

    async def _assembled(self, tenant: Tenant, endpoint: Endpoint | None, exchange: Exchange) -> None:
        """Answer a request whose body is told in blocks, if they are all here."""
        try:
            asked = _list(exchange.whole_body())
        except msgspec.MsgspecError as error:
            raise BadRequest(f"that is no list of blocks: {error}", param="blocks") from None
        wanted = [(bytes.fromhex(block.sha256), block.size) for block in asked.blocks]
        try:
            if endpoint is None:
                if asked.content_encoding:
                    raise BadRequest("a file is kept as it is, in no coding", param="content_encoding")
                await self._files.answer(exchange, tenant, wanted)
            else:
                await self._call(exchange, tenant, endpoint, asked, wanted)
        except BlocksLacking as error:
            _tell_lacking(exchange, error)
            raise

    async def _call(
        self, exchange: Exchange, tenant: Tenant, endpoint: Endpoint, asked: BlockList, wanted: Wanted
    ) -> None:
        if sum(size for _, size in wanted) > self._max_body:
            raise BodyTooLarge(f"The request's body is larger than {self._max_body} bytes.")
        body = await self._store.blocks(owner_of(tenant, exchange.headers), wanted)
        headers = {
            name: value for name, value in kept(exchange.headers).items() if name != b"content-encoding"
        }
        if asked.content_encoding:
            headers[b"content-encoding"] = _field(asked.content_encoding)
        target = Target(exchange.path, exchange.query, headers, _field(asked.content_type))
        resumed = ResumedExchange(exchange, target, body, len(body), ())
        await self._answer(resumed, endpoint, tenant)

    async def _put(self, tenant: Tenant, name: str, exchange: Exchange) -> None:
        """Take a block."""
        if not _SHA256.fullmatch(name):
            raise BadRequest("a block's name is 64 hexadecimal digits, in lower case", param="sha256")
        block = BlockWriter(self._store.block_files)
        try:
            sealed = await self._taken(block, exchange)
            if sealed.digest.hex() != name:
                raise DigestMismatch("the block does not have the digest by which it is called")  # noqa: TRY301
        except BaseException:
            await self._drop(block)
            raise
        new = await self._store.put_block(owner_of(tenant, exchange.headers), sealed)
        exchange.respond(201 if new else 204, [], b"")

    async def _taken(self, block: BlockWriter, exchange: Exchange) -> Sealed:
        """A request's content as a block, on the disk."""
        buffer = bytearray()
        async for piece in self._content(exchange):
            buffer += piece
            if block.size + len(buffer) > MAX_BLOCK:
                raise BodyTooLarge(f"a block may hold {MAX_BLOCK} bytes")
            if len(buffer) >= BUFFER:
                data, buffer = buffer, bytearray()
                await self._store.block_files.run(partial(block.write, data))
        if not block.size and not buffer:
            raise BadRequest("a block holds at least one byte")
        return await self._store.block_files.run(partial(block.finish, bytes(buffer)))

    async def _content(self, exchange: Exchange) -> AsyncIterator[bytes]:
        """The content as it comes; one that is coded when it is whole."""
        coding = exchange.headers.get(b"content-encoding")
        if coding is None:
            async for piece in exchange.pieces():
                yield piece
            return
        names = codings.codings_in(coding)
        coded = bytearray()
        async for piece in exchange.pieces():
            coded += piece
            if len(coded) > MAX_BLOCK:
                raise BodyTooLarge(f"a block may hold {MAX_BLOCK} bytes")
        yield await self._store.block_files.run(
            lambda: codings.decoded(bytes(coded), names, MAX_BLOCK, lambda _: None)
        )

    async def _drop(self, block: BlockWriter) -> None:
        try:
            await self._store.block_files.run(block.drop)
        except PenstockError:  # nobody knows this file, and so it goes some time
            pass


def _tell_lacking(exchange: Exchange, error: BlocksLacking) -> None:
    status, fields, body = problems.render(error, dialect_of(exchange.path))
    told = msgspec.json.decode(body)
    told["lacking"] = error.lacking
    exchange.respond(status, fields, msgspec.json.encode(told))


def _field(value: str) -> bytes:
    try:
        field = value.encode("ascii")
    except UnicodeError:
        field = b"\0"
    if len(field) > 255 or any(byte < 32 or byte == 127 for byte in field):
        raise BadRequest("content_type and content_encoding are short, and of plain text")
    return field
