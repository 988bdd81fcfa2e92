"""What becomes of background work, in the words of a webhook, and who tells it."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from penstock.batches.batch import Batch
from penstock.errors import Cancelled, Gone, HandedOver, PenstockError
from penstock.generation.log import Generation, State
from penstock.messages import Call, Endpoint
from penstock.webhooks.sender import Sender
from penstock.wire import responses, sse
from penstock.wire.not_json import NOT_JSON

log = logging.getLogger("penstock.gateway")


class _Typed(msgspec.Struct):
    type: str = ""


class _Plain(msgspec.Struct):
    status: str = ""


_typed = msgspec.json.Decoder(_Typed).decode
_plain = msgspec.json.Decoder(_Plain).decode


class Announcer:
    """Tells the tenants' own servers that something has ended.

    :param sender: None: nobody wants to know
    """

    def __init__(self, sender: Sender | None) -> None:
        self._sender = sender
        self._announcing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Announcer by {self._sender!r}, {len(self._announcing)} being told>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: what is to be told cannot be kept"""
        if self._sender is not None:
            await self._sender.start()

    async def close(self) -> None:
        if self._announcing:
            await asyncio.wait(self._announcing)
        if self._sender is not None:
            await self._sender.close()

    async def batch_ended(self, batch: Batch) -> None:
        """A batch has."""
        if self._sender is not None:
            await self._sender.announce(batch.tenant, f"batch.{batch.status.value}", batch.id)

    def response_ended(self, call: Call, generation: Generation) -> None:
        """A background call has; nobody waits for its being told."""
        event = event_of(call, generation)
        if event is not None and self._sender is not None:
            announcing = self._announce(self._sender, call.tenant.name, *event)
            task = asyncio.get_running_loop().create_task(announcing)
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

    @staticmethod
    async def _announce(sender: Sender, tenant: str, kind: str, subject: str) -> None:
        try:
            await sender.announce(tenant, kind, subject)
        except PenstockError as error:  # the response itself is there, for who asks for it
            log.warning("nobody will be told of %s %s: %s", subject, kind, error.message)


def event_of(call: Call, generation: Generation) -> tuple[str, str] | None:
    """The kind of event that the end of a background call is, and the id of its response, else of its generation.

    None: it has not ended, another process goes on with it.
    """
    is_response = call.endpoint is Endpoint.RESPONSES
    what = "response" if is_response else "generation"
    if generation.ending is State.FAILED:
        if isinstance(generation.error, HandedOver):
            return None
        kind = f"{what}.cancelled" if isinstance(generation.error, Cancelled | Gone) else f"{what}.failed"
    else:
        kind = _last_type(generation) if is_response else "generation.completed"
    if not is_response:
        return kind, generation.id
    first = generation.events[0] if generation.events and call.deferred is call.promised else b""
    return kind, responses.id_in(first, stream=generation.stream) or responses.id_of(generation.id)


def _last_type(generation: Generation) -> str:
    """``response.completed`` or ``response.incomplete``: what the last event is called, or a plain answer says."""
    try:
        last = generation.events[-1]
        kind = _typed(sse.data_of(last)).type if generation.stream else f"response.{_plain(last).status}"
    except (IndexError, *NOT_JSON):
        kind = ""
    return kind if kind in responses.SUCCESSFUL_EVENTS else "response.completed"
