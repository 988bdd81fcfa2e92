"""``/v1/uploads`` as OpenAI has it: create, parts in any order, complete, cancel.

A part is an upload of its own, and completing puts parts together as tus does with its partial uploads: nothing
is copied but into the file that comes of it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import structs

from penstock.errors import BadRequest, Conflict
from penstock.gateway.kept.answering import method_of, respond
from penstock.gateway.kept.files import PURPOSES, checked_lifetime, shown
from penstock.gateway.kept.uploads import UploadRoom
from penstock.gateway.stages.authenticate import owner_of
from penstock.messages import JSON, Tenant
from penstock.net.exchange import Exchange
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.files import FileStore
from penstock.upload.form import FileBegin, FileData, FormReader, name_shown
from penstock.upload.index import Upload, new_upload_id, unknown
from penstock.upload.offsets import Phase
from penstock.upload.uploads import UploadStore

LIFE = 3_600.0  # seconds that a client has, as at OpenAI
MAX_BYTES = 8_589_934_592  # of the whole, as at OpenAI
MAX_PART = 67_108_864  # bytes, as at OpenAI
MAX_PARTS = 10_000
_FORM_BYTES = 65_536  # of a form beside its part
_MAX_BODY = 1_048_576  # so many part ids
_SLICE = 65_536

_Do = Callable[[Exchange], Coroutine[Any, Any, None]]


class _ExpiresAfter(msgspec.Struct, frozen=True):
    anchor: str
    seconds: int


class Announced(msgspec.Struct, frozen=True):
    """What a client says of the file that it will send; also kept with the upload."""

    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    purpose: str
    bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_BYTES)]
    mime_type: Annotated[str, msgspec.Meta(max_length=255)]
    expires_after: _ExpiresAfter | None = None


class _Completion(msgspec.Struct, frozen=True):
    part_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_PARTS)]
    md5: str | None = None


_announced = msgspec.json.Decoder(Announced).decode
_completion = msgspec.json.Decoder(_Completion).decode


class PartsRoom:
    """A :class:`penstock.gateway.kept.by_path.Room`: OpenAI's uploads, and before them the resumable ones of the same path."""

    label = "uploads"
    decodes = False

    def __init__(self, store: UploadStore, files: FileStore, uploads: UploadRoom) -> None:
        self._store = store
        self._files = files
        self._uploads = uploads

    def __repr__(self) -> str:
        return f"<PartsRoom over {self._store}>"

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, _Do] | None:
        resumable = len(steps) == 1 or exchange.method == "OPTIONS" or b"tus-resumable" in exchange.headers
        if resumable and len(steps) <= 1:
            return self._uploads.work(exchange, steps, tenant)
        match steps:
            case []:
                method_of(exchange, "POST")
                return _MAX_BODY, partial(self._create, tenant)
            case [upload_id, "parts"]:
                method_of(exchange, "POST")
                return None, partial(self._part, tenant, upload_id)
            case [upload_id, "complete"]:
                method_of(exchange, "POST")
                return _MAX_BODY, partial(self._complete, tenant, upload_id)
            case [upload_id, "cancel"]:
                method_of(exchange, "POST")
                return _MAX_BODY, partial(self._cancel, tenant, upload_id)
        return None

    async def _create(self, tenant: Tenant, exchange: Exchange) -> None:
        asked = _read(_announced, exchange)
        asked = structs.replace(asked, filename=name_shown(asked.filename))
        if asked.purpose not in PURPOSES:
            raise BadRequest(f"purpose must be one of {', '.join(sorted(PURPOSES))}", param="purpose")
        if asked.expires_after is not None:
            checked_lifetime(asked.expires_after.anchor, asked.expires_after.seconds)
        if asked.bytes > self._files.max_file_bytes:
            raise self._files.too_large()
        owner = owner_of(tenant, exchange.headers)
        await self._store.check_room(owner, asked.bytes)
        upload = self._entry(owner, new_upload_id(), msgspec.json.encode(asked), asked.bytes, asked.bytes)
        upload, _ = await self._store.create(upload)
        respond(exchange, _shown(upload, "pending"))

    def _entry(
        self,
        owner: str,
        name: str,
        target: bytes,
        max_size: int,
        length: int | None,
        *,
        of: Upload | None = None,
    ) -> Upload:
        now = self._store.now()
        return Upload(
            name,
            owner,
            UploadDialect.OPENAI,
            target,
            now,
            now + LIFE if of is None else of.expires,
            max_size,
            length,
            0,
            Phase.OPEN,
            0,
            None,
            "",
            Concat.NONE if of is None else Concat.PARTIAL,
            "",
            "" if of is None else of.id,
        )

    async def _part(self, tenant: Tenant, upload_id: str, exchange: Exchange) -> None:
        form = FormReader(exchange.headers.get(b"content-type", b""))
        owner = owner_of(tenant, exchange.headers)
        upload = await self._pending(owner, upload_id)
        await self._store.check_room(owner, 0)
        entry = self._entry(owner, "part_" + secrets.token_hex(16), b"", MAX_PART, None, of=upload)
        part, _ = await self._store.create(entry)
        _, writer = await self._store.append(owner, part.id, exchange.abort)
        whole = False
        try:
            writer.offsets.begin(0, closes=True)
            found, received = False, 0
            async for piece in exchange.pieces():
                received += len(piece)
                if received > MAX_PART + _FORM_BYTES:
                    raise BadRequest(f"a part may hold {MAX_PART} bytes", param="data")
                for start in range(0, len(piece), _SLICE):
                    for each in form.feed(piece[start : start + _SLICE]):
                        match each:
                            case FileBegin(name, _):
                                if name != "data":
                                    raise BadRequest("the part must be called data", param=name[:100])
                                found = True
                            case FileData(data):
                                await writer.write(data)
            form.close()
            if not found:
                raise BadRequest("the form holds no part", param="data", code="missing_parameter")
            whole = await writer.finish()
        finally:
            try:
                await writer.close()
            finally:
                if not whole:  # there is no way to go on with a part
                    await self._store.give_up(owner, part.id)
        respond(
            exchange,
            {
                "id": part.id,
                "object": "upload.part",
                "created_at": int(part.created),
                "upload_id": upload.id,
            },
        )

    async def _complete(self, tenant: Tenant, upload_id: str, exchange: Exchange) -> None:
        asked = _read(_completion, exchange)
        owner = owner_of(tenant, exchange.headers)
        upload = await self._own(owner, upload_id)
        if upload.phase is Phase.OPEN:
            if asked.md5 is not None:
                await self._prove(owner, upload, asked)
            upload = await self._store.concatenate(upload, asked.part_ids, parent=upload.id)
        elif upload.parts != " ".join(asked.part_ids):
            raise Conflict("this upload is complete, of other parts", code="upload_ended")
        answer = upload.answer  # there, if an answer to this was lost
        if answer is None:
            announced = _announced(upload.target)
            life = announced.expires_after
            incoming = await self._files.receive(tenant.name, upload.offset)
            try:
                async with aclosing(self._store.pieces(upload.id)) as pieces:
                    async for piece in pieces:
                        await incoming.write(piece)
                file = await incoming.finish(
                    announced.filename, announced.purpose, None if life is None else float(life.seconds)
                )
            finally:
                await incoming.discard()
            answer = msgspec.json.encode(_shown(upload, "completed", shown(file)))
            await self._store.remember(upload.id, answer)
        exchange.respond(200, [(b"content-type", b"application/json")], answer)

    async def _prove(self, owner: str, upload: Upload, asked: _Completion) -> None:
        """:raises BadRequest: the parts do not have the MD5 that was said; the upload stays as it is"""
        computed = hashlib.md5(usedforsecurity=False)
        for part_id in asked.part_ids:
            part = await self._store.get(owner, part_id)
            if part.parent != upload.id:
                raise Conflict(f"{part_id[:100]} is no part of this upload", code="incomplete_part")
            async with aclosing(self._store.pieces(part_id)) as pieces:
                async for piece in pieces:
                    computed.update(piece)
        if computed.hexdigest() != (asked.md5 or "").lower():
            raise BadRequest("the parts do not have this MD5 together", param="md5", code="digest_mismatch")

    async def _cancel(self, tenant: Tenant, upload_id: str, exchange: Exchange) -> None:
        owner = owner_of(tenant, exchange.headers)
        upload = await self._pending(owner, upload_id)
        await self._store.give_up(owner, upload_id)
        respond(exchange, _shown(upload, "cancelled"))

    async def _own(self, owner: str, upload_id: str) -> Upload:
        upload = await self._store.get(owner, upload_id)
        if upload.dialect is not UploadDialect.OPENAI or upload.parent:
            raise unknown(upload_id)
        return upload

    async def _pending(self, owner: str, upload_id: str) -> Upload:
        upload = await self._own(owner, upload_id)
        if upload.phase is not Phase.OPEN:
            raise Conflict("this upload is complete", code="upload_ended")
        return upload


def _read(decode: Callable[[bytes], Any], exchange: Exchange) -> Any:
    try:
        return decode(exchange.whole_body())
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}", code="invalid_json") from None


def _shown(upload: Upload, status: str, file: JSON = None) -> dict[str, JSON]:
    """The object of OpenAI's API."""
    announced = _announced(upload.target)
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": announced.bytes,
        "created_at": int(upload.created),
        "expires_at": int(upload.created + LIFE),
        "filename": announced.filename,
        "purpose": announced.purpose,
        "status": status,
        "file": file,
    }
