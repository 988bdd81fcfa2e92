"""Who comes back: requests for a generation that is there already, in this process or in a store.

What they ask for, and what they are told, is in :mod:`penstock.gateway.stored`.
"""

from __future__ import annotations

import contextlib

from penstock.errors import Cancelled, Gone, NotFound, PenstockError
from penstock.gateway import stored
from penstock.gateway.durable import Durable, missing
from penstock.gateway.pipeline import Pipeline
from penstock.gateway.stages import recall
from penstock.gateway.stages.read import refuse
from penstock.gateway.stored import Asked
from penstock.generation.log import Generation, State
from penstock.messages import Call, Dialect, Endpoint, Tenant
from penstock.net.exchange import Exchange
from penstock.wire import prefer, responses


class Returning:
    """Answers them, by the parts of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __repr__(self) -> str:
        return f"<Returning to {self._pipeline!r}>"

    def resume(self, exchange: Exchange, asked: Asked, tenant: Tenant) -> None:
        """Answer a request for a generation that is there already."""
        generation = self._known(asked, tenant)
        durable = self._pipeline.durable
        if durable is not None and (generation is None or durable.is_elsewhere(generation)):
            self._pipeline.soon(self._resume_stored(exchange, asked, tenant, durable))
        elif durable is not None and generation is not None and durable.may_be_deleted(generation):
            self._pipeline.soon(self._resume_kept(exchange, asked, tenant, generation, durable))
        else:
            self._resume(exchange, asked, tenant, generation)

    async def _resume_stored(
        self, exchange: Exchange, asked: Asked, tenant: Tenant, durable: Durable
    ) -> None:
        try:
            shown = 0 if asked.response_id else asked.after + 1
            generation = await durable.known(asked.id, asked.response_id, tenant, shown)
        except PenstockError as error:
            self._pipeline.recorder.counted("generations", refuse(exchange, error, Dialect.OPENAI, asked.id))
        else:
            self._resume(exchange, asked, tenant, generation)
            durable.shown(generation)

    async def _resume_kept(
        self, exchange: Exchange, asked: Asked, tenant: Tenant, generation: Generation, durable: Durable
    ) -> None:
        """A response that has ended, and was stored; another process may have deleted it since."""
        if await durable.has(generation):
            self._resume(exchange, asked, tenant, generation)
        else:
            self._forget(generation)
            self._resume(exchange, asked, tenant, None)

    def _resume(
        self, exchange: Exchange, asked: Asked, tenant: Tenant, generation: Generation | None
    ) -> None:
        status, code = 200, ""
        durable = self._pipeline.durable
        try:
            if generation is None:
                pipeline = self._pipeline
                alone = durable is not None or pipeline.snapshot.config.workers == 1
                raise missing(pipeline.registry, asked.id, asked.response_id, tenant, alone=alone)
            self._told(exchange, asked, generation, tenant)
        except PenstockError as error:
            status, code = refuse(exchange, error, Dialect.OPENAI, asked.id), error.code
        later = (
            asked.stream
            or asked.what in {"events", "answer", "input_items"}
            or (asked.what == "delete" and durable is not None)
        )
        if code or not later:
            self._pipeline.recorder.counted("generations", status)

    def _forget(self, generation: Generation) -> None:
        generation.abandon()
        generation.forget()
        self._pipeline.registry.delete(generation)

    async def _delete_stored(
        self, exchange: Exchange, asked: Asked, generation: Generation, durable: Durable, *, elsewhere: bool
    ) -> None:
        """Answered once nobody can find it any more, at no other process either.

        :param elsewhere: whether another process had it to produce
        """
        status = 200
        try:
            await durable.delete(generation, elsewhere=elsewhere)
        except PenstockError as error:
            status = refuse(exchange, error, Dialect.OPENAI, asked.id)
        else:
            stored.respond_deleted(exchange, asked.response_id)
        self._pipeline.recorder.counted("generations", status)

    def _known(self, asked: Asked, tenant: Tenant) -> Generation | None:
        """The generation that is meant, if this process has it and it is this tenant's."""
        registry = self._pipeline.registry
        generation = registry.get(asked.id) if asked.id else None
        if generation is None and asked.response_id:
            generation = next(iter(registry.named(("response", tenant.name, asked.response_id))), None)
        return generation if generation is not None and generation.tenant == tenant.name else None

    def _told(self, exchange: Exchange, asked: Asked, generation: Generation, tenant: Tenant) -> None:
        pipeline, durable = self._pipeline, self._pipeline.durable
        if asked.response_id and generation.endpoint is not Endpoint.RESPONSES:
            raise NotFound("there is no response of this id here")
        now = pipeline.clock.now()
        if asked.what == "cancel":
            if generation.ending is None and not (asked.unread and generation.is_wanted):
                if durable is not None and durable.is_elsewhere(generation):
                    durable.cancel(generation, unread=asked.unread)
                elif durable is not None and asked.unread and generation.journal is not None:
                    durable.dismissed(generation)  # once the store has said that no other process reads it
                else:
                    generation.abandon()
                    generation.fail(Cancelled("the call was cancelled"))
        elif asked.what == "delete":
            elsewhere = durable is not None and durable.is_elsewhere(generation)
            self._forget(generation)
            if durable is None:
                stored.respond_deleted(exchange, asked.response_id)
            else:
                pipeline.soon(self._delete_stored(exchange, asked, generation, durable, elsewhere=elsewhere))
            return
        if asked.what == "input_items":
            pipeline.soon(self._list_input(exchange, asked, generation, tenant))
        elif asked.what == "answer":
            self._reread_whole(exchange, generation, tenant)
        elif asked.what == "events" or asked.stream:
            self._reread(exchange, asked, generation, tenant)
        elif asked.response_id:
            pipeline.soon(stored.respond_response(exchange, generation, asked.response_id, now))
        else:
            stored.respond_state(exchange, generation, now)

    async def _list_input(
        self, exchange: Exchange, asked: Asked, generation: Generation, tenant: Tenant
    ) -> None:
        """All that a response was asked with: also what its request only names, where its upstream keeps that."""
        status = 200
        try:
            assert asked.page is not None
            earlier = await self._earlier(generation, tenant)
            name = generation.id.removeprefix("gen_")
            items = responses.input_items(generation.whole or generation.body, name, earlier)
            stored.respond_input_items(exchange, items, asked.page)
        except PenstockError as error:
            status = refuse(exchange, error, Dialect.OPENAI, asked.id)
        self._pipeline.recorder.counted("generations", status)

    async def _earlier(self, generation: Generation, tenant: Tenant) -> list[responses.Earlier]:
        """What a response goes on from, the first one first.

        :raises Gone: one of them has been forgotten, or never became whole
        """
        found: list[responses.Earlier] = []
        seen = {generation.id}
        while True:
            if not generation.body:
                raise Gone("what this response was asked with is not kept any more")
            name = responses.previous_of(generation.body)
            if not name:
                return found[::-1]
            previous = await self._previous(name, tenant)
            if previous is None or previous.id in seen or (one := recall.earlier(previous)) is None:
                raise Gone(
                    f"the earlier response {name[:100]!r} is not kept here, and belongs to what this was asked"
                )
            found.append(one)
            seen.add(previous.id)
            generation = previous

    async def _previous(self, name: str, tenant: Tenant) -> Generation | None:
        asked, durable = Asked("response", stored.generation_of(name), name), self._pipeline.durable
        known = self._known(asked, tenant)
        if durable is None:
            return known
        if known is not None and known.stored and not await durable.has(known):
            return None
        if known is None:
            with contextlib.suppress(NotFound, Gone):
                known = await durable.known(asked.id, name, tenant)
        return known

    def _reread(self, exchange: Exchange, asked: Asked, generation: Generation, tenant: Tenant) -> None:
        """Read a generation's events, from an offset on."""
        start = stored.position(asked, generation)
        if generation.state is State.FINISHED and generation.stream and start == generation.readable:
            exchange.respond(204, [], b"")  # "stop reconnecting", in the words of the event stream's standard
            self._pipeline.recorder.counted("generations", 204)
            return
        self._pipeline.readings.begin_again(
            exchange, self._reader(exchange, generation, tenant, stream=True), generation, start
        )

    def _reread_whole(self, exchange: Exchange, generation: Generation, tenant: Tenant) -> None:
        """Read all of a generation's answer at once; where it is not whole yet, that is what is told."""
        call = self._reader(exchange, generation, tenant, stream=False)
        call.wait = prefer.read(exchange.headers.get(b"prefer", b"")).wait
        self._pipeline.reread_whole(exchange, call, generation)

    def _reader(self, exchange: Exchange, generation: Generation, tenant: Tenant, *, stream: bool) -> Call:
        """What a reader is like; it asks nothing."""
        return Call(
            id=generation.id,
            endpoint=generation.endpoint,
            model=generation.model,
            stream=stream,
            fields={},
            body=b"",
            headers=exchange.headers,
            received=self._pipeline.clock.now(),
            tenant=tenant,
            include_usage=generation.include_usage,
            running_usage=generation.running_usage,
        )
