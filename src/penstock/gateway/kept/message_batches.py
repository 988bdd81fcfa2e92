"""``/v1/messages/batches``, as Anthropic has it; ``penstock.batches`` runs them, like those of ``/v1/batches``.

The body of a new batch goes to the disk as it comes, request by request, as the input of a batch, which is a file of
its tenant's like any other (:mod:`penstock.wire.message_batch`).  So are its results, which are kept as long as files
are, and go with the batch when it is deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qs

import msgspec
from blake3 import blake3

from penstock.batches.batch import ANTHROPIC, ENDED, Batch, Counts, Status, new_batch_id
from penstock.errors import BadRequest, BodyTooLarge, Gone, NotFound, PenstockError
from penstock.gateway.kept.answering import method_of, page_of, respond
from penstock.gateway.kept.batch_room import BatchRoom
from penstock.gateway.kept.by_path import Do
from penstock.gateway.kept.files import send
from penstock.gateway.kept.naming_batches import repeatable
from penstock.gateway.kept.uploads import base_of
from penstock.messages import JSON, Endpoint, Tenant
from penstock.net.exchange import Exchange
from penstock.upload.file_index import StoredFile, new_file_id
from penstock.wire.message_batch import RequestReader

PATH = "/v1/messages/batches"
MAX_BODY = 65_536  # of a request that brings no batch
WINDOW = 86_400.0  # seconds, as Anthropic has it
_LIST_MOST, _LIST_USUAL = 1_000, 20
_SLICE = 65_536  # bytes that are cut into requests at a time


class MessageBatchRoom(BatchRoom):
    """A :class:`penstock.gateway.kept.by_path.Room`."""

    label = "message_batches"

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, Do] | None:
        match steps:
            case []:
                if method_of(exchange, "GET", "POST") == "POST":
                    return None, partial(self._create, tenant)
                return 0, partial(self._list, tenant.name)
            case [batch_id]:
                if method_of(exchange, "GET", "DELETE") == "DELETE":
                    return MAX_BODY, partial(self._delete, tenant.name, batch_id)
                return 0, partial(self._retrieve, tenant.name, batch_id)
            case [batch_id, "cancel"]:
                method_of(exchange, "POST")
                return MAX_BODY, partial(self._cancel, tenant.name, batch_id)
            case [batch_id, "results"]:
                method_of(exchange, "GET")
                return 0, partial(self._results, tenant.name, batch_id)
        return None

    # ---- create ----

    async def _create(self, tenant: Tenant, exchange: Exchange) -> None:
        store = self._runner.store
        known = repeatable(exchange, tenant, ANTHROPIC)
        repeats = known is not None and known.may_repeat
        if not repeats:
            await self._refuse_more(tenant.name)
        batch_id = new_batch_id(ANTHROPIC)
        count, file, fingerprint = await self._receive(tenant.name, batch_id, exchange)
        now = self._now()
        naming = known.naming(fingerprint) if known is not None else None
        batch = Batch(
            id=batch_id,
            tenant=tenant.name,
            key_name=tenant.key_name,
            models=tenant.models,
            endpoint=Endpoint.MESSAGES.path,
            input_file=file.id,
            window="24h",
            created=now,
            expires=now + WINDOW,
            output_file=new_file_id(),
            error_file=new_file_id(),
            status=Status.IN_PROGRESS,  # it was validated as it came
            began=now,
            counts=Counts(count),
            betas=exchange.headers.get(b"anthropic-beta", b"").decode("latin-1"),
        )
        entered = None
        try:
            entered = await store.named(naming, now)
            if entered is None:
                if repeats:
                    await self._refuse_more(tenant.name)
                entered = await self._runner.take(batch, naming)
        finally:
            if entered is not batch:  # it was made before, or is not to be
                with contextlib.suppress(PenstockError):
                    await self._runner.files.delete(tenant.name, file.id)
        respond(exchange, self._shown(entered, exchange))

    async def _receive(self, tenant: str, batch_id: str, exchange: Exchange) -> tuple[int, StoredFile, str]:
        """How many requests a body has, the file that they are now, and its fingerprint."""
        announced = exchange.headers.get(b"content-length", b"")
        most = self._config.max_input_bytes
        if announced.isdigit() and int(announced) > most:
            raise _too_large(most)
        reader = RequestReader(most=self._config.max_lines, longest=self._runner.longest_line)
        incoming = await self._runner.files.receive(tenant, 0)
        received, hasher = 0, blake3()
        try:
            async for piece in exchange.pieces():
                received += len(piece)
                hasher.update(piece)
                if received > most:
                    raise _too_large(most)
                for start in range(0, len(piece), _SLICE):
                    if lines := reader.feed(piece[start : start + _SLICE]):
                        await incoming.write(lines)
            reader.close()
            file = await incoming.finish(f"{batch_id}.jsonl", "batch", WINDOW)
            return reader.count, file, hasher.hexdigest()
        finally:
            await incoming.discard()

    # ---- the rest ----

    async def _retrieve(self, tenant: str, batch_id: str, exchange: Exchange) -> None:
        respond(exchange, self._shown(await self._found(tenant, batch_id), exchange))

    async def _list(self, tenant: str, exchange: Exchange) -> None:
        query = {name: values[-1] for name, values in parse_qs(exchange.query).items()}
        after, before = query.get("after_id", ""), query.get("before_id", "")
        if after and before:
            raise BadRequest("there can be only one of after_id and before_id", param="before_id")
        limit = page_of(exchange, most=_LIST_MOST, usual=_LIST_USUAL).limit
        batches, more = await self._runner.store.page(
            tenant, ANTHROPIC, after=after, before=before, limit=limit
        )
        respond(
            exchange,
            {
                "data": [self._shown(batch, exchange) for batch in batches],
                "has_more": more,
                "first_id": batches[0].id if batches else None,
                "last_id": batches[-1].id if batches else None,
            },
        )

    async def _cancel(self, tenant: str, batch_id: str, exchange: Exchange) -> None:
        """What is under way is finished, because it is paid for; nothing more is begun."""
        await self._found(tenant, batch_id)
        batch = await self._runner.store.cancel(batch_id, self._now())
        if _has_ended(batch) and batch.cancelling is None:
            raise BadRequest("the batch has ended already", code="batch_ended")
        self._runner.look_soon()
        respond(exchange, self._shown(batch, exchange))

    async def _delete(self, tenant: str, batch_id: str, exchange: Exchange) -> None:
        store, files = self._runner.store, self._runner.files
        batch = await self._found(tenant, batch_id)
        if not _has_ended(batch):
            raise BadRequest("the batch has not ended; cancel it first", code="batch_running")
        for file_id in (batch.output_file, batch.error_file, batch.input_file):
            with contextlib.suppress(NotFound):  # its time was over, or it was deleted as a file
                await files.delete(tenant, file_id)
        await store.remove(tenant, batch_id)
        respond(exchange, {"id": batch_id, "type": "message_batch_deleted"})

    async def _results(self, tenant: str, batch_id: str, exchange: Exchange) -> None:
        files = self._runner.files
        batch = await self._found(tenant, batch_id)
        if not _has_ended(batch):
            raise BadRequest("the batch has no results before it has ended", code="batch_running")
        try:
            found = [
                await files.get(tenant, file_id)
                for file_id, there in (
                    (batch.output_file, batch.has_output),
                    (batch.error_file, batch.has_errors),
                )
                if there
            ]
        except NotFound:
            raise Gone("the results of this batch are not kept any more") from None
        await send(exchange, files, found, b"application/x-jsonl")

    async def _found(self, tenant: str, batch_id: str) -> Batch:
        return await self._runner.store.get(tenant, ANTHROPIC, batch_id)

    def _shown(self, batch: Batch, exchange: Exchange) -> dict[str, JSON]:
        """The object of Anthropic's API; its counts grow as it goes."""
        counts, ended = batch.counts, _has_ended(batch)
        kept_for = self._runner.files.kept_for
        archived = batch.ended + kept_for if batch.ended is not None and kept_for else None
        if archived is not None and archived > self._now():
            archived = None
        status = "in_progress" if batch.cancelling is None else "canceling"
        there = ended and archived is None
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else status,
            "request_counts": {
                "processing": counts.total - counts.completed - counts.failed,
                "succeeded": counts.completed,
                "errored": counts.failed - batch.unrun,
                "canceled": batch.unrun if batch.cancelling is not None else 0,
                "expired": batch.unrun if batch.cancelling is None else 0,
            },
            "created_at": _moment(batch.created),
            "expires_at": _moment(batch.expires),
            "ended_at": _moment(batch.ended),
            "cancel_initiated_at": _moment(batch.cancelling),
            "archived_at": _moment(archived),
            "results_url": f"{base_of(exchange)}{PATH}/{batch.id}/results" if there else None,
        }


def _has_ended(batch: Batch) -> bool:
    """Whether there is nothing more to do for it, so that it may be deleted."""
    return batch.status in ENDED and batch.announced


def _moment(time: float | None) -> str | None:
    return None if time is None else msgspec.to_builtins(datetime.fromtimestamp(time, UTC))


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {most} bytes")
