"""What upstreams say that they have, for the model list: where a pattern answers, no name stands in the configuration.

Asked when somebody wants the list, and kept for :data:`FRESH` seconds; what is older is shown, and asked for anew behind
the answer.  Only where nothing is known yet the list waits, :data:`PATIENCE` at most.  An upstream that does not say
what it has is missing in the list, and no error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from penstock.errors import PenstockError
from penstock.gateway import routes

if TYPE_CHECKING:
    from penstock.gateway.stages.route import Router
    from penstock.messages import Tenant
    from penstock.net.clock import Clock
    from penstock.net.exchange import Exchange
    from penstock.upstream.http import HTTPUpstream

FRESH = 300.0  # seconds
AGAIN = 30.0  # seconds after which one is asked again that did not say
PATIENCE = 2.0  # seconds that the first list waits
ANSWERED = 5.0  # seconds that an upstream has for its answer
MAX_BYTES = 2_097_152  # of that; the longest known has half a megabyte
MAX_NAMES = 2_000  # of one upstream
MAX_NAME = 256  # characters

# Kinds of upstreams that have a list in a form that is known.
_ASKED = frozenset({"openai", "anthropic", "sim"})
_VERSION = b"anthropic-version: 2023-06-01\r\n"

log = logging.getLogger("penstock.gateway")


class _Named(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Named]


_decode = msgspec.json.Decoder(_List).decode


class _Known:
    """What one upstream has said."""

    __slots__ = ("asked", "names", "upstream")

    def __init__(self, upstream: HTTPUpstream) -> None:
        self.upstream = upstream
        self.names: list[str] | None = None  # None: nothing yet
        self.asked = float("-inf")


class Listing:
    """The lists of all upstreams that patterns lead to."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Listing of {len(self._known)} upstreams, {len(self._asking)} asked>"

    async def serve(
        self, upstreams: Mapping[str, HTTPUpstream], router: Router, tenant: Tenant, exchange: Exchange
    ) -> None:
        """Answer ``GET /v1/models``."""
        names = sorted(name for name in router.enumerable if upstreams[name].config.kind in _ASKED)
        known = [self._look(upstreams[name]) for name in names]
        if any(each.names is None for each in known) and self._asking:
            await asyncio.wait(list(self._asking.values()), timeout=PATIENCE)
        has = {each.upstream.name: each.names or [] for each in known}
        routes.serve_models(exchange, router, tenant, has)

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _look(self, upstream: HTTPUpstream) -> _Known:
        name = upstream.name
        known = self._known.get(name)
        if known is None or known.upstream is not upstream:  # a reload has made it another
            known = self._known[name] = _Known(upstream)
        now = self._clock.now()
        if now - known.asked >= FRESH and name not in self._asking:
            known.asked = now
            task = self._asking[name] = asyncio.get_running_loop().create_task(self._ask(known))
            task.add_done_callback(partial(self._done, name))
        return known

    def _done(self, name: str, _: asyncio.Task[None]) -> None:
        del self._asking[name]

    async def _ask(self, known: _Known) -> None:
        upstream = known.upstream
        anthropic = upstream.config.kind == "anthropic"
        target = "/models"
        if anthropic:
            target = "/models?limit=1000" if upstream.base.endswith("/v1") else "/v1/models?limit=1000"
        try:
            reply = await upstream.ask(
                upstream.base + target, ANSWERED, _VERSION if anthropic else b"", most=MAX_BYTES
            )
            found = _decode(bytes(reply.body)).data if reply.status == 200 else None
        except (PenstockError, TimeoutError, ValueError) as error:
            log.debug("%s does not tell its models: %s", upstream.name, error)
            found = None
        if found is None:
            known.asked += AGAIN - FRESH
            known.names = known.names or []
        else:
            known.names = [each.id for each in found[:MAX_NAMES] if 0 < len(each.id) <= MAX_NAME]
