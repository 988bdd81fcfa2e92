"""``/v1/batches``, as OpenAI has it: create, retrieve, list, cancel.  ``penstock.batches`` runs them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from blake3 import blake3

from penstock.batches.batch import ENDED, OPENAI, Batch, Status, new_batch_id, shown
from penstock.errors import BadRequest, Conflict
from penstock.gateway.kept.answering import method_of, page_of, respond, respond_list
from penstock.gateway.kept.batch_room import BatchRoom
from penstock.gateway.kept.by_path import Do
from penstock.gateway.kept.files import checked_lifetime
from penstock.gateway.kept.naming_batches import repeatable
from penstock.messages import JSON, Tenant
from penstock.net.exchange import Exchange
from penstock.upload.file_index import new_file_id
from penstock.wire.batch import ENDPOINTS
from penstock.wire.members import Members, body_of

MAX_BODY = 65_536
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512  # pairs, and characters, as OpenAI has it
_LIST_MOST, _LIST_USUAL = 100, 20
_WINDOW = re.compile(r"([1-9][0-9]{0,2})([mhd])")
_UNITS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}
LONGEST_WINDOW = 1_209_600.0  # seconds: 14 days


class OpenAIBatchRoom(BatchRoom):
    """A :class:`penstock.gateway.kept.by_path.Room`."""

    label = "batches"

    def work(self, exchange: Exchange, steps: Sequence[str], tenant: Tenant) -> tuple[int | None, Do] | None:
        match steps:
            case []:
                if method_of(exchange, "GET", "POST") == "POST":
                    return MAX_BODY, partial(self._create, tenant)
                return 0, partial(self._list, tenant.name)
            case [batch_id]:
                method_of(exchange, "GET")
                return 0, partial(self._retrieve, tenant.name, batch_id)
            case [batch_id, "cancel"]:
                method_of(exchange, "POST")
                return MAX_BODY, partial(self._cancel, tenant.name, batch_id)
        return None

    async def _create(self, tenant: Tenant, exchange: Exchange) -> None:
        body = exchange.whole_body()
        batch = self._asked(tenant, body_of(body))
        known = repeatable(exchange, tenant, OPENAI)
        naming = known.naming(blake3(body).hexdigest()) if known is not None else None
        if (present := await self._runner.store.named(naming, batch.created)) is not None:
            respond(exchange, shown(present))
            return
        file = await self._runner.files.get(tenant.name, batch.input_file)
        if file.purpose != "batch":
            raise BadRequest("the purpose of the input file must be batch", param="input_file_id")
        if file.bytes > self._config.max_input_bytes:
            raise BadRequest(
                f"the input file is larger than {self._config.max_input_bytes} bytes", param="input_file_id"
            )
        await self._refuse_more(tenant.name)
        respond(exchange, shown(await self._runner.take(batch, naming)))

    def _asked(self, tenant: Tenant, body: Members) -> Batch:
        """:raises BadRequest: there is something in the body that cannot be"""
        endpoint = body.required_string("endpoint")
        if endpoint not in ENDPOINTS:
            raise BadRequest(f"endpoint must be one of {', '.join(ENDPOINTS)}", param="endpoint")
        window = body.required_string("completion_window")
        input_file = body.required_string("input_file_id")
        output_life = body.object("output_expires_after")
        now = self._now()
        return Batch(
            id=new_batch_id(OPENAI),
            tenant=tenant.name,
            key_name=tenant.key_name,
            models=tenant.models,
            endpoint=endpoint,
            input_file=input_file,
            window=window,
            created=now,
            expires=now + _seconds(window),
            output_file=new_file_id(),
            error_file=new_file_id(),
            output_kept_for=(
                None
                if output_life is None
                else checked_lifetime(output_life.string("anchor"), output_life.integer("seconds"))
            ),
            metadata=checked_metadata(body.raw("metadata")),
        )

    async def _retrieve(self, tenant: str, batch_id: str, exchange: Exchange) -> None:
        respond(exchange, shown(await self._runner.store.get(tenant, OPENAI, batch_id)))

    async def _list(self, tenant: str, exchange: Exchange) -> None:
        page = page_of(exchange, most=_LIST_MOST, usual=_LIST_USUAL)
        batches, more = await self._runner.store.page(tenant, OPENAI, after=page.after, limit=page.limit)
        respond_list(exchange, [shown(batch) for batch in batches], more=more)

    async def _cancel(self, tenant: str, batch_id: str, exchange: Exchange) -> None:
        """What is under way is finished, because it is paid for; nothing more is begun."""
        store = self._runner.store
        await store.get(tenant, OPENAI, batch_id)
        batch = await store.cancel(batch_id, self._now())
        if batch.status is Status.FINALIZING or (
            batch.status in ENDED and batch.status is not Status.CANCELLED
        ):
            raise Conflict(f"the batch is {batch.status.value} already", code="batch_ended")
        self._runner.look_soon()
        respond(exchange, shown(batch))


def _seconds(window: str) -> float:
    match = _WINDOW.fullmatch(window)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST_WINDOW:
        raise BadRequest(
            "completion_window must be 24h, or another number of minutes, hours or days (30m, 6h, 7d), 14d at most",
            param="completion_window",
        )
    return seconds


def checked_metadata(value: JSON) -> dict[str, str] | None:
    """:raises BadRequest: this is no ``metadata``, as OpenAI has it"""
    if value is None:
        return None
    right = (
        isinstance(value, dict)
        and len(value) <= MAX_METADATA
        and all(isinstance(text, str) and len(text) <= MAX_VALUE for text in value.values())
        and all(len(key) <= MAX_KEY for key in value)
    )
    if not right:
        raise BadRequest(
            f"metadata must be at most {MAX_METADATA} pairs: keys of {MAX_KEY} characters at most, "
            f"and texts of {MAX_VALUE}",
            param="metadata",
        )
    pairs: dict[str, str] = value
    return pairs
