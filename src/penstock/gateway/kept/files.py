"""``/v1/files``, as OpenAI has it: upload, list, retrieve, content, delete.

A file is never whole in memory: an upload goes to the disk as it comes, a download comes from it as it goes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

from penstock.errors import BadRequest, NotFound
from penstock.gateway.elsewhere import ANTHROPICS_FILES
from penstock.gateway.kept.answering import method_of, page_of, respond, respond_list
from penstock.gateway.kept.by_path import Do
from penstock.messages import JSON, Tenant
from penstock.net.exchange import Exchange
from penstock.upload.file_index import StoredFile
from penstock.upload.files import FileStore, Incoming
from penstock.upload.form import Field, FileBegin, FileData, FormReader

PURPOSES = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
SHORTEST_LIFE, LONGEST_LIFE = 3_600, 2_592_000  # seconds that a sender may give a file, as OpenAI has it
_LIST_MOST = 10_000
_FORM_BYTES = 65_536  # of a form beside its file
_NUMBER = re.compile(r"[0-9]{1,10}")
_SLICE = 65_536  # bytes fed to the form's parser at a time, so that what it makes of them is bounded, too


class FileRoom:
    """A :class:`penstock.gateway.kept.by_path.Room`."""

    label = "files"
    decodes = False

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<FileRoom over {self._store}>"

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, Do] | None:
        if b"anthropic-version" in exchange.headers:
            raise NotFound(f"Anthropic's files are not here: {ANTHROPICS_FILES}")
        match steps:
            case []:
                if method_of(exchange, "GET", "POST") == "POST":
                    return None, partial(self._upload, tenant.name)
                return 0, partial(self._list, tenant.name)
            case [file_id]:
                if method_of(exchange, "GET", "DELETE") == "DELETE":
                    return 0, partial(self._delete, tenant.name, file_id)
                return 0, partial(self._retrieve, tenant.name, file_id)
            case [file_id, "content"]:
                method_of(exchange, "GET")
                return 0, partial(self._content, tenant.name, file_id)
        return None

    # ---- upload ----

    async def _upload(self, tenant: str, exchange: Exchange) -> None:
        respond(exchange, shown(await self.receive(tenant, exchange)))

    async def receive(self, tenant: str, exchange: Exchange) -> StoredFile:
        """The file in a request's form, once it is in the store."""
        form = FormReader(exchange.headers.get(b"content-type", b""))
        announced = exchange.headers.get(b"content-length", b"")
        received, longest = 0, self._store.max_file_bytes + _FORM_BYTES
        upload = _Upload(self._store, tenant, int(announced) if announced.isdigit() else 0)
        try:
            async for piece in exchange.pieces():
                received += len(piece)
                if received > longest:  # whatever it is that comes after the file
                    raise self._store.too_large()
                for start in range(0, len(piece), _SLICE):
                    for part in form.feed(piece[start : start + _SLICE]):
                        await upload.take(part)
            form.close()
            return await upload.finish()
        finally:
            await upload.discard()

    # ---- the rest ----

    async def _list(self, tenant: str, exchange: Exchange) -> None:
        page = page_of(exchange, most=_LIST_MOST, usual=_LIST_MOST)
        files, more = await self._store.page(
            tenant,
            purpose=page.purpose,
            after=page.after,
            limit=page.limit,
            newest_first=page.newest_first,
        )
        respond_list(exchange, [shown(file) for file in files], more=more)

    async def _retrieve(self, tenant: str, file_id: str, exchange: Exchange) -> None:
        respond(exchange, shown(await self._store.get(tenant, file_id)))

    async def _delete(self, tenant: str, file_id: str, exchange: Exchange) -> None:
        await self._store.delete(tenant, file_id)
        respond(exchange, {"id": file_id, "object": "file", "deleted": True})

    async def _content(self, tenant: str, file_id: str, exchange: Exchange) -> None:
        file = await self._store.get(tenant, file_id)
        await send(exchange, self._store, [file], b"application/octet-stream")


async def send(exchange: Exchange, store: FileStore, files: Sequence[StoredFile], media_type: bytes) -> None:
    """Answer with the content of files that are there, one behind the other."""
    head = [(b"content-type", media_type)]
    taken = _Taken()
    sent = 0
    for file in files:
        async with aclosing(store.pieces(file.id)) as pieces:
            async for piece in pieces:
                if not exchange.started:
                    exchange.start(200, head)
                    exchange.watch(taken)
                sent += len(piece)
                if not exchange.write(piece):
                    await taken.wait()
                if exchange.gone:
                    return
    # Where it is not, somebody has been at our files; an end would say that this is all.
    if sent != sum(file.bytes for file in files):
        exchange.abort()
    elif exchange.started:
        exchange.end()
    else:
        exchange.respond(200, head, b"")


class _Upload:
    """One form on its way in."""

    def __init__(self, store: FileStore, tenant: str, announced: int) -> None:
        self._store = store
        self._tenant = tenant
        self._announced = announced
        self._fields: dict[str, str] = {}
        self._filename = ""
        self._incoming: Incoming | None = None

    async def take(self, part: object) -> None:
        match part:
            case Field(name, value):
                self._fields[name] = value
            case FileBegin(name, filename):
                if name != "file":
                    raise BadRequest("the file must be in the part called file", param=name[:100])
                self._incoming = await self._store.receive(self._tenant, self._announced)
                self._filename = filename
            case FileData(data):
                assert self._incoming is not None
                await self._incoming.write(data)

    async def finish(self) -> StoredFile:
        if self._incoming is None:
            raise BadRequest("the form holds no file", param="file", code="missing_parameter")
        purpose = self._fields.get("purpose", "")
        if purpose not in PURPOSES:
            raise BadRequest(f"purpose must be one of {', '.join(sorted(PURPOSES))}", param="purpose")
        return await self._incoming.finish(self._filename, purpose, lifetime(self._fields))

    async def discard(self) -> None:
        if self._incoming is not None:
            await self._incoming.discard()


def lifetime(fields: dict[str, str]) -> float | None:
    """``expires_after`` of a form, in seconds; None: it is not there.

    :raises BadRequest: it has a value that cannot be
    """
    anchor = fields.get("expires_after[anchor]")
    seconds = fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    return checked_lifetime(anchor, int(seconds) if seconds and _NUMBER.fullmatch(seconds) else None)


def checked_lifetime(anchor: JSON, seconds: JSON) -> float:
    """:raises BadRequest: these are no members of an ``expires_after``"""
    if anchor != "created_at":
        raise BadRequest("expires_after.anchor must be created_at", param="expires_after.anchor")
    if not isinstance(seconds, int) or not SHORTEST_LIFE <= seconds <= LONGEST_LIFE:
        raise BadRequest(
            f"expires_after.seconds must lie between {SHORTEST_LIFE} and {LONGEST_LIFE}",
            param="expires_after.seconds",
        )
    return float(seconds)


def shown(file: StoredFile) -> dict[str, JSON]:
    """The object of OpenAI's API."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


class _Taken:
    """Wakes who waits until the client has taken what was written, or has left."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def on_writable(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_gone(self) -> None:
        self.on_writable()
