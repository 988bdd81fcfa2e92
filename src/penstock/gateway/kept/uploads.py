"""Resumable uploads on the wire: created at the path that is meant, gone on with at ``/v1/uploads/{id}``.

::

    POST    an inference endpoint, or /v1/files     create   (Upload-Complete or Tus-Resumable in the head)
    HEAD    /v1/uploads/{id}                        how far it is; ends an append under way
    PATCH   /v1/uploads/{id}                        append; the last one is answered as the request itself
    DELETE  /v1/uploads/{id}                        give up
    OPTIONS /v1/uploads/{id}, and where one creates what is spoken here

Two dialects say this, ``penstock.upload.rufh`` and ``penstock.upload.tus``; what is done is the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec

from penstock.config.model import Config
from penstock.errors import (
    BadRequest,
    BodyTooLarge,
    DigestMismatch,
    Forbidden,
    Gone,
    MethodNotAllowed,
    OffsetMismatch,
    PenstockError,
    StorageUnavailable,
    UnsupportedVersion,
)
from penstock.gateway.kept.by_path import Work
from penstock.gateway.kept.files import PURPOSES, FileRoom, shown
from penstock.gateway.kept.resumed import ResumedExchange, Target, decoded, encoded, kept
from penstock.gateway.routes import RELAYED
from penstock.gateway.stages.authenticate import owner_of
from penstock.messages import Endpoint, Tenant
from penstock.net.exchange import Exchange
from penstock.upload import rufh, tus
from penstock.upload.asked import MAX_BLOCK, Append, Concat, Creation, UploadDialect, content_length_of
from penstock.upload.digests import Digest
from penstock.upload.file_index import StoredFile
from penstock.upload.files import FileStore
from penstock.upload.form import filename_in, name_shown
from penstock.upload.index import Upload, new_upload_id, unknown
from penstock.upload.offsets import Offsets, Phase
from penstock.upload.uploads import UploadStore
from penstock.upload.writer import Writer, not_whole
from penstock.wire import problems
from penstock.wire.request import dialect_of

FILES = "/v1/files"
PREFIX = "/v1/uploads"
LABEL = "uploads"

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_KEPT = (b"penstock-blocks", b"kept")
_LARGE = 1_048_576  # bytes of an append from which on the quota is looked at before it is read
_HOST = re.compile(r"[A-Za-z0-9.\-_\[\]:]{1,255}")

_Do = Callable[[Exchange], Coroutine[Any, Any, None]]
Answer = Callable[[ResumedExchange, Endpoint, Tenant], Coroutine[Any, Any, None]]


class UploadRoom:
    """Creates uploads, appends to them, and answers what they become.

    :param answer: answers a call, to its end
    """

    label = LABEL
    decodes = True

    def __init__(
        self, store: UploadStore, files: FileStore, room: FileRoom, answer: Answer, config: Config
    ) -> None:
        self._store = store
        self._files = files
        self._room = room
        self._answer = answer
        self._max_body = config.listener.max_body_bytes
        self._max_file = config.files.max_file_bytes

    def __repr__(self) -> str:
        return f"<UploadRoom over {self._store}>"

    # ---- what is asked for ----

    def creation(self, exchange: Exchange, tenant: Tenant, endpoint: Endpoint | None) -> Work | None:
        """The work of a request that says that it is resumable, or asks what is spoken; None: not at this path."""
        path = exchange.path
        if endpoint is None and path != FILES:
            return None
        if exchange.method == "OPTIONS":
            return Work(LABEL, tenant, 0, self._options)
        if exchange.method != "POST":
            return None
        return Work(LABEL, tenant, None, self._told(partial(self._create, tenant)))

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, _Do] | None:
        """What a request at ``/v1/uploads/{id}`` wants; of others only that tus creates at ``/v1/uploads``."""
        method = exchange.method
        if method == "OPTIONS":
            return 0, self._options
        if method == "POST":
            method = exchange.headers.get(b"x-http-method-override", b"POST").decode("latin-1").upper()
        if not steps:
            if method == "POST" and b"tus-resumable" in exchange.headers:
                return None, self._told(partial(self._create, tenant))
            return None
        if len(steps) != 1:
            return None
        upload_id = steps[0]
        match method:
            case "PATCH":
                return None, self._told(partial(self._append, tenant, upload_id))
            case "HEAD" | "GET":
                return 0, self._told(partial(self._head, tenant, upload_id))
            case "DELETE":
                return 0, self._told(partial(self._give_up, tenant, upload_id))
        allow = "HEAD, GET, PATCH, DELETE, OPTIONS"
        raise MethodNotAllowed(f"an upload takes {allow}, not {method[:20]}", allow=allow)

    def _told(self, do: _Do) -> _Do:
        """The same with errors told in the dialect's own way."""

        async def work(exchange: Exchange) -> None:
            try:
                await do(exchange)
            except PenstockError as error:
                if not exchange.started:
                    _refuse(exchange, error)
                raise

        return work

    # ---- create ----

    async def _create(self, tenant: Tenant, exchange: Exchange) -> None:
        headers = exchange.headers
        asked: Creation | None
        if tus.speaks(headers):
            asked = tus.creation(headers)
            if content_length_of(headers) != 0:
                tus.check_type(headers)
        else:
            asked = rufh.creation(headers)
        assert asked is not None, "the field is there"
        upload, new = await self._entered(exchange, tenant, asked)
        if upload.phase is Phase.COMPLETE:  # created before, and complete: its answer is asked for once more
            await _drain(exchange, upload.max_size)
            await self._complete(exchange, tenant, upload, created=True)
            return
        content_length = content_length_of(headers)
        if not new and content_length != 0 and upload.offset:
            # Sent once more with its beginning: nobody knows where that ended, so it begins anew.
            await self._store.give_up(upload.owner, upload.id)
            upload, new = await self._entered(exchange, tenant, asked)
        if content_length == 0 and not asked.closes and asked.length != 0:
            exchange.respond(201, [*self._where(exchange, upload), *self._state(upload)], b"")
            return
        if asked.dialect is UploadDialect.RUFH and rufh.interim(headers):
            exchange.inform(104, [*self._where(exchange, upload), *rufh.version(headers)])
        append = Append(0, asked.closes, asked.length, asked.digest, asked.whole, asked.cuts)
        await self._take(exchange, tenant, upload.owner, upload.id, append, created=True)

    async def _entered(self, exchange: Exchange, tenant: Tenant, asked: Creation) -> tuple[Upload, bool]:
        """The upload that a request creates, in the store; and whether it is new."""
        path = FILES if exchange.path == PREFIX else exchange.path
        max_size = self._max_file if path == FILES else self._max_body
        Offsets(max_size=max_size, length=asked.length)  # refused before anything is read
        owner = owner_of(tenant, exchange.headers)
        await self._store.check_room(owner, asked.length or content_length_of(exchange.headers) or 0)
        now = self._store.now()
        key = exchange.headers.get(b"idempotency-key", b"").decode("latin-1")
        if len(key) > 255:
            raise BadRequest("the Idempotency-Key is longer than 255 bytes", param="idempotency-key")
        upload = Upload(
            new_upload_id(),
            owner,
            asked.dialect,
            encoded(_target(exchange, path, asked)),
            now,
            now + self._store.kept_for,
            max_size,
            asked.length,
            0,
            Phase.OPEN,
            0,
            key or None,
            _fingerprint(exchange, asked),
            asked.concat,
            "",
            "",
        )
        if asked.concat is Concat.FINAL:
            return await self._store.concatenate(upload, asked.parts), True
        return await self._store.create(upload)

    # ---- append ----

    async def _append(self, tenant: Tenant, upload_id: str, exchange: Exchange) -> None:
        headers = exchange.headers
        asked = tus.append(headers) if tus.speaks(headers) else rufh.append(headers)
        await self._take(exchange, tenant, owner_of(tenant, headers), upload_id, asked)

    async def _take(
        self,
        exchange: Exchange,
        tenant: Tenant,
        owner: str,
        upload_id: str,
        asked: Append,
        *,
        created: bool = False,
    ) -> None:
        """Append a request's content; the upload's last byte is answered as the request that it is."""
        upload, writer = await self._store.append(owner, upload_id, exchange.abort)
        whole = (
            asked.whole or _whole(decoded(upload.target))
            if upload.dialect is not UploadDialect.OPENAI
            else None
        )
        try:
            if upload.dialect is UploadDialect.OPENAI:
                raise unknown(upload_id)
            if upload.concat is Concat.FINAL:
                raise Forbidden("what was put together from parts is not appended to", code="final_upload")
            content_length = content_length_of(exchange.headers)
            complete, cut = True, False
            if writer.offsets.begin(
                asked.offset, closes=asked.closes, length=asked.length, content_length=content_length
            ):
                if not created and (content_length is None or content_length > _LARGE):
                    await self._store.check_room(owner, content_length or 0)
                writer.expect(asked.digest, MAX_BLOCK, whole, asked.cuts)
                async for piece in exchange.pieces():
                    await writer.write(piece)
                complete = await writer.finish()
                cut = bool(asked.cuts) and not asked.offset and writer.cut_as_told
        finally:
            await self._closed(writer)
        upload = await self._store.get(owner, upload_id)
        if complete and upload.phase is Phase.OPEN:
            assert whole is not None, "what needs no proof is complete at once"
            await self._prove(upload, whole)
        if complete:
            await self._complete(exchange, tenant, upload, created=created, cut=cut)
        else:
            fields = self._where(exchange, upload) if created else [self._expires(upload)]
            exchange.respond(201 if created else 204, [*fields, *self._state(upload)], b"")

    async def _closed(self, writer: Writer) -> None:
        await writer.close()
        if writer.offsets.phase is Phase.GONE:
            try:
                await self._store.give_up(writer.owner, writer.upload)
            except Gone:  # somebody else was faster
                pass

    async def _prove(self, upload: Upload, whole: Digest) -> None:
        """Let an upload be complete that came in several appends, if its content is what was announced.

        :raises DigestMismatch: it is not; the upload is given up
        """
        computed = whole.new()
        async with aclosing(self._store.pieces(upload.id)) as pieces:
            async for piece in pieces:
                computed.update(piece)
        if not whole.fits(computed.digest()):
            await self._store.give_up(upload.owner, upload.id)
            raise not_whole()
        await self._store.complete(upload)

    # ---- what it becomes ----

    async def _complete(
        self, exchange: Exchange, tenant: Tenant, upload: Upload, *, created: bool = False, cut: bool = False
    ) -> None:
        """Answer the request that an upload is.

        :param cut: it came in one append, and is kept in the blocks that this asked for, which the answer says
        """
        fields = self._where(exchange, upload) if created else []
        if cut:
            fields.append(_KEPT)
        if upload.dialect is UploadDialect.TUS:
            fields += [tus.RESUMABLE, (b"upload-offset", b"%d" % upload.offset)]
        else:
            fields += rufh.state(upload.offset, None, complete=True)
        if upload.concat is Concat.PARTIAL:
            exchange.respond(201 if created else 204, [*fields, self._expires(upload)], b"")
            return
        target = decoded(upload.target)
        endpoint = RELAYED.get(target.path)
        if endpoint is not None:
            body = await self._store.whole(upload.id)
            if len(body) != upload.offset:
                raise StorageUnavailable("what the gateway keeps of this upload is not whole")
            resumed = ResumedExchange(exchange, target, body, len(body), fields, key=upload.id)
            await self._answer(resumed, endpoint, tenant)
            return
        answer = upload.answer
        if answer is None:
            file = await self._file(exchange, tenant, upload, target)
            answer = msgspec.json.encode(shown(file))
            await self._store.remember(upload.id, answer)
        if upload.dialect is UploadDialect.TUS:
            file_id = msgspec.json.decode(answer)["id"].encode()
            exchange.respond(201 if created else 204, [*fields, (b"penstock-file", file_id)], b"")
        else:
            exchange.respond(200, [_JSON, *fields], answer)

    async def _file(self, exchange: Exchange, tenant: Tenant, upload: Upload, target: Target) -> StoredFile:
        """The file that an upload becomes: of a form's part, or of all of it."""
        content = partial(self._store.pieces, upload.id)
        if upload.dialect is UploadDialect.RUFH and target.content_type.startswith(b"multipart/form-data"):
            form = ResumedExchange(exchange, target, content, upload.offset, (), key=upload.id)
            return await self._room.receive(tenant.name, form)
        incoming = await self._files.receive(tenant.name, upload.offset)
        try:
            async with aclosing(content()) as pieces:
                async for piece in pieces:
                    await incoming.write(piece)
            return await incoming.finish(target.filename, target.purpose, None)
        finally:
            await incoming.discard()

    # ---- the rest ----

    async def _head(self, tenant: Tenant, upload_id: str, exchange: Exchange) -> None:
        headers = exchange.headers
        in_tus = tus.speaks(headers)
        upload = await self._store.settle(owner_of(tenant, headers), upload_id)
        if upload.dialect is UploadDialect.OPENAI:
            raise unknown(upload_id)
        fields = [_NO_STORE, self._expires(upload)]
        if in_tus:
            parts = tuple(f"{PREFIX}/{part}" for part in upload.parts.split())
            fields += [
                tus.RESUMABLE,
                *tus.state(upload.offset, upload.length, concat=upload.concat, parts=parts),
            ]
        else:
            complete = upload.phase is Phase.COMPLETE
            fields += rufh.state(upload.offset, upload.length, complete=complete)
            fields.append(self._limit(upload))
        exchange.respond(204, fields, b"")

    async def _give_up(self, tenant: Tenant, upload_id: str, exchange: Exchange) -> None:
        fields = [tus.RESUMABLE] if tus.speaks(exchange.headers) else []
        owner = owner_of(tenant, exchange.headers)
        upload = await self._store.get(owner, upload_id)
        if upload.dialect is UploadDialect.OPENAI:
            raise unknown(upload_id)
        await self._store.give_up(owner, upload_id)
        exchange.respond(204, fields, b"")

    async def _options(self, exchange: Exchange) -> None:
        max_size = self._max_file if exchange.path.startswith((FILES, PREFIX)) else self._max_body
        fields = [rufh.limits(max_size, self._store.kept_for), *tus.abilities(max_size)]
        exchange.respond(204, [*fields, (b"accept-patch", rufh.MEDIA_TYPE + b", " + tus.MEDIA_TYPE)], b"")

    def _state(self, upload: Upload) -> rufh.Fields:
        """What a creation or an append is answered with."""
        if upload.dialect is UploadDialect.TUS:
            return [tus.RESUMABLE, (b"upload-offset", b"%d" % upload.offset)]
        return rufh.state(upload.offset, None, complete=upload.phase is Phase.COMPLETE)

    def _where(self, exchange: Exchange, upload: Upload) -> rufh.Fields:
        location = f"{base_of(exchange)}{PREFIX}/{upload.id}".encode()
        return [(b"location", location), self._limit(upload), self._expires(upload)]

    def _limit(self, upload: Upload) -> tuple[bytes, bytes]:
        return rufh.limits(upload.max_size, upload.expires - self._store.now())

    def _expires(self, upload: Upload) -> tuple[bytes, bytes]:
        return tus.expires(upload.expires)


def base_of(exchange: Exchange) -> str:
    """The gateway's own URL, as the client knows it; ``Location`` must be absolute for some tus clients."""
    headers = exchange.headers
    scheme = headers.get(b"x-forwarded-proto", b"").partition(b",")[0].strip().decode("latin-1").lower()
    host = headers.get(b"x-forwarded-host", b"").partition(b",")[0].strip().decode("latin-1")
    if not _HOST.fullmatch(host):
        host = headers.get(b"host", b"").decode("latin-1")
    if scheme not in {"http", "https"}:
        scheme = exchange.scheme
    return f"{scheme}://{host}{exchange.root}"


def _target(exchange: Exchange, path: str, asked: Creation) -> Target:
    headers = exchange.headers
    metadata = asked.metadata
    if asked.dialect is UploadDialect.TUS:
        content_type = metadata.get("filetype", "application/json").encode("latin-1", "replace")
        filename = name_shown(metadata.get("filename") or metadata.get("name") or "")
        purpose = metadata.get("purpose", "user_data")
    else:
        content_type = headers.get(b"content-type", b"application/json")
        purpose, filename = _file_asked(exchange)
    if path == FILES:
        _check_purpose(purpose)
    if any(byte < 32 or byte == 127 for byte in content_type):
        raise BadRequest("filetype holds control characters", param="upload-metadata")
    whole = asked.whole
    return Target(
        path,
        exchange.query,
        kept(headers),
        content_type,
        "" if whole is None else whole.algorithm,
        b"" if whole is None else whole.value,
        filename,
        purpose,
    )


def file_asked(exchange: Exchange) -> tuple[str, str]:
    """The purpose and the name of a file that is a request's content.

    :raises BadRequest: there is no such purpose
    """
    purpose, filename = _file_asked(exchange)
    _check_purpose(purpose)
    return purpose, filename


def _file_asked(exchange: Exchange) -> tuple[str, str]:
    purpose = parse_qs(exchange.query).get("purpose", ["user_data"])[-1]
    return purpose, filename_in(exchange.headers.get(b"content-disposition", b""))


def _check_purpose(purpose: str) -> None:
    if purpose not in PURPOSES:
        raise BadRequest(f"purpose must be one of {', '.join(sorted(PURPOSES))}", param="purpose")


def _whole(target: Target) -> Digest | None:
    return Digest(target.whole_algorithm, target.whole_value) if target.whole_algorithm else None


def _fingerprint(exchange: Exchange, asked: Creation) -> str:
    """What must be the same when a creation is repeated with the same ``Idempotency-Key``."""
    whole = asked.whole
    said = (
        exchange.path,
        exchange.query,
        asked.dialect,
        asked.length,
        asked.concat,
        asked.parts,
        None if whole is None else (whole.algorithm, whole.value.hex()),
    )
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def _refuse(exchange: Exchange, error: PenstockError) -> None:
    """Answer with an error, in the words of the dialect that was spoken."""
    in_tus = b"tus-resumable" in exchange.headers
    status, fields, body = problems.render(error, dialect_of(exchange.path))
    if in_tus:
        fields.append(tus.RESUMABLE)
        if isinstance(error, DigestMismatch):
            status = tus.MISMATCH
        elif isinstance(error, UnsupportedVersion):
            fields.append((b"tus-version", tus.VERSION))
    else:
        problem = rufh.encoded_problem(error)
        if problem is not None:
            fields = [rufh.PROBLEM_TYPE]
            body = problem
    if isinstance(error, OffsetMismatch):
        fields.append((b"upload-offset", b"%d" % error.expected))
        if not in_tus:
            fields.append(rufh.completeness(complete=False))
    exchange.respond(status, fields, body)


async def _drain(exchange: Exchange, limit: int) -> None:
    """Read a content that is here already; who is still sending does not read an answer."""
    received = 0
    async for piece in exchange.pieces():
        received += len(piece)
        if received > limit:
            raise BodyTooLarge(f"an upload may hold {limit} bytes here")
