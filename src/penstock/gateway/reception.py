"""What a request is for, as its head says, and who answers it: a call, the rest of an answer, or what is kept here.

What can be refused by the head alone is refused before a body is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import msgspec

from penstock.errors import KeyExpired, PenstockError
from penstock.gateway import own_key, routes, stored
from penstock.gateway.beside.listing import Listing
from penstock.gateway.coded import Coding, Codings
from penstock.gateway.kept.by_path import Kept, Work, end_work
from penstock.gateway.kept.in_pieces import InPieces
from penstock.gateway.kept.resumed import ResumedExchange
from penstock.gateway.pipeline import Pipeline
from penstock.gateway.returning import Returning
from penstock.gateway.stages.authenticate import owner_of
from penstock.gateway.stages.read import CLIENT_GONE, refuse
from penstock.messages import Endpoint, Tenant
from penstock.net.exchange import Exchange

LAST_WORK = 2.0  # seconds that a request for what is kept here may take yet when the gateway closes


class _Accepted(msgspec.Struct, frozen=True):
    """What :meth:`Reception.opening` found out, kept until the body is there."""

    endpoint: Endpoint
    tenant: Tenant
    coding: Coding | None = None  # None: neither body nor answer is coded
    path: str = ""
    version: int = 0  # of our understanding of heads, by which that was found out


class _Asked(msgspec.Struct, frozen=True):
    """The same, of a request for a generation that is there already."""

    asked: stored.Asked
    tenant: Tenant


class Reception:
    """An :class:`~penstock.net.exchange.Application`: what a listener serves.

    :param listing: answers with the model list where upstreams are asked what they have
    """

    def __init__(self, pipeline: Pipeline, codings: Codings, listing: Listing) -> None:
        self._pipeline = pipeline
        self._recorder = pipeline.recorder
        self._codings = codings
        self._listing = listing
        self._returning = Returning(pipeline)
        self._kept = Kept({})
        self._pieces: InPieces | None = None
        self._working: set[asyncio.Task[Any]] = set()  # on what is kept here
        self._version = 1  # another one where the same head may mean something else

    def __repr__(self) -> str:
        return f"<Reception, {self._kept}, {len(self._working)} at work>"

    def lead_to(self, kept: Kept, pieces: InPieces | None) -> None:
        """Where requests for what is kept here go from now on, and those whose bodies come in pieces.

        :param pieces: None: they are whole
        """
        self._kept = kept
        self._pieces = pieces

    def forget_heads(self) -> None:
        """What was recognised without being read has to be read once more."""
        self._version += 1
        self._pipeline.repeats.clear()

    async def close(self) -> None:
        """No more requests come; those that are at what is kept here get :data:`LAST_WORK` seconds."""
        await end_work(self._working, LAST_WORK)
        await self._listing.close()

    def opening(self, exchange: Exchange) -> int | None:
        """Refuse before a body is read what can be refused by its head alone."""
        snapshot = self._pipeline.snapshot
        accepted = exchange.meaning
        if type(accepted) is _Accepted and accepted.version == self._version:
            exchange.state, exchange.path = accepted, accepted.path
            return snapshot.config.listener.max_body_bytes
        tenant = None
        try:
            if routes.is_public(exchange.path):
                routes.serve_public(exchange)
                return 0
            tenant = snapshot.keyring.tenant(exchange.headers)
            if self._pieces is not None and (work := self._pieces.opening(exchange, tenant)) is not None:
                exchange.state = work
                return work.body
            endpoint = routes.endpoint_of(exchange)
            if endpoint is not None:
                coding = self._codings.of(exchange.headers, endpoint)
                accepted = _Accepted(endpoint, tenant, coding, exchange.path, self._version)
                exchange.state = exchange.meaning = accepted
                return snapshot.config.listener.max_body_bytes
            asked = stored.asked_by(exchange)
            if asked is not None:
                exchange.state = _Asked(asked, tenant)
                return stored.MAX_BODY
            work = self._kept.opening(exchange, tenant)
            if work is not None:
                exchange.state = work
                return work.body
            if routes.set_version(exchange):
                return self.opening(exchange)
            if routes.lists_models(exchange) and snapshot.router.enumerable:
                serve = partial(self._listing.serve, snapshot.upstreams, snapshot.router, tenant)
                exchange.state = Work("other", tenant, 0, serve)
                return 0
            if routes.asks_for_key(exchange):
                tell = partial(own_key.serve, snapshot, tenant, self._pipeline.admission.limiter)
                exchange.state = Work("other", tenant, 0, tell)
                return 0
            routes.serve_own(exchange, snapshot.router, tenant)
            self._recorder.counted("other", 200)
        except PenstockError as error:
            if isinstance(error, KeyExpired):
                tenant = Tenant(error.tenant, error.key)
            status = refuse(exchange, error, routes.dialect_for(exchange))
            label = self._kept.label_of(exchange.path) or routes.label_of(exchange.path)
            self._recorder.refused(exchange, label, tenant, status=status, error=error.code)
        return 0

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answer a request that :meth:`opening` accepted."""
        accepted = exchange.state
        if isinstance(accepted, _Accepted):
            if accepted.coding is not None:
                return self._answer_coded(exchange, accepted, accepted.coding)
            self._pipeline.answer(exchange, accepted.endpoint, accepted.tenant)
            return None
        if isinstance(accepted, _Asked):
            self._returning.resume(exchange, accepted.asked, accepted.tenant)
            return None
        assert isinstance(accepted, Work), "opening() answered every other request"
        return self._do(accepted, exchange)

    async def answer_resumed(self, exchange: ResumedExchange, endpoint: Endpoint, tenant: Tenant) -> None:
        """Answer a call that came in pieces."""
        try:
            coding = self._codings.of(exchange.headers, endpoint)
        except PenstockError as error:
            status = refuse(exchange, error, endpoint.dialect)
            self._recorder.refused(exchange, endpoint.label, tenant, status=status, error=error.code)
            return
        if coding is not None:
            await self._answer_coded(exchange, _Accepted(endpoint, tenant), coding)
        else:
            self._pipeline.answer(exchange, endpoint, tenant)
            await exchange.wait_ended()

    async def _answer_coded(self, exchange: Exchange, accepted: _Accepted, coding: Coding) -> None:
        """Answer a call whose body or answer is coded."""
        endpoint, tenant = accepted.endpoint, accepted.tenant
        try:
            coded = await self._codings.exchange(exchange, coding, owner_of(tenant, exchange.headers))
        except ConnectionError:  # the caller left before it had asked
            return
        except PenstockError as error:
            status = refuse(exchange, error, endpoint.dialect)
            self._recorder.refused(exchange, endpoint.label, tenant, status=status, error=error.code)
            return
        self._pipeline.answer(coded, endpoint, tenant)
        await coded.wait_ended()

    async def _do(self, work: Work, exchange: Exchange) -> None:
        """Answer a request for what is kept here."""
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        try:
            await work.do(exchange)
        except ConnectionError:
            self._recorder.counted(work.label, CLIENT_GONE)
        except PenstockError as error:
            status = error.status
            if exchange.started:
                exchange.abort()
            else:
                status = refuse(exchange, error, routes.dialect_for(exchange))
            self._recorder.refused(exchange, work.label, work.tenant, status=status, error=error.code)
        else:
            self._recorder.counted(work.label, CLIENT_GONE if exchange.gone else 200)
        finally:
            self._working.discard(task)
