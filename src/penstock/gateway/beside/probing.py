"""Asks upstreams now and then whether they are there, or about to go away.

Servers that are told to end answer their health check with 503 while what is under way there ends (SGLang's ``/health``,
vLLM's with ``--shutdown-timeout``, any readiness check that Kubernetes goes by), and a machine that knows of its end can
let its own agent do so.  Anything else says nothing: whoever does not answer at all is a matter for breakers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.net.clock import Clock
    from penstock.upstream.http import HTTPUpstream

PATIENCE = 5.0  # seconds for an answer
AT_LEAST = 0.2  # seconds between two questions, however urgent

log = logging.getLogger("penstock.gateway")


class Probes:
    """Asks those upstreams that say where, each by itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: dict[str, float] = {}  # when each was asked last
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._upstreams: list[HTTPUpstream] = []
        self._strange: dict[str, int] = {}  # what was answered instead, and has been told of

    def __repr__(self) -> str:
        return f"<Probes of {len(self._upstreams)} upstreams, {len(self._asking)} under way>"

    def use(self, upstreams: Iterable[HTTPUpstream]) -> None:
        """Ask these from now on."""
        self._upstreams = [
            upstream
            for upstream in upstreams
            if upstream.config.departure is not None and upstream.config.departure.probe
        ]
        if self._upstreams:
            self._clock.add(self)
        else:
            self._clock.remove(self)

    async def close(self) -> None:
        self.use(())
        for task in self._asking.values():
            task.cancel()
        if self._asking:
            await asyncio.wait(list(self._asking.values()))

    def sweep(self, now: float) -> None:
        for upstream in self._upstreams:
            config, herald, name = upstream.config.departure, upstream.herald, upstream.name
            assert config is not None
            assert herald is not None
            passed = now - self._asked.get(name, float("-inf"))
            if name not in self._asking and (
                passed >= config.every or (herald.is_asked_soon and passed >= AT_LEAST)
            ):
                herald.is_asked_soon = False
                self._asked[name] = now
                task = asyncio.get_running_loop().create_task(self._ask(upstream, config.probe, now))
                self._asking[name] = task
                task.add_done_callback(lambda _, name=name: self._asking.pop(name, None))  # type: ignore[misc]

    async def _ask(self, upstream: HTTPUpstream, path: str, now: float) -> None:
        try:
            reply = await upstream.ask(path, PATIENCE)
        except (PenstockError, TimeoutError) as error:
            log.debug("%s does not say how it is: %s", upstream.name, error)
            return
        if upstream.herald is not None:
            upstream.herald.on_probe(reply.status, reply.headers, now)
        if reply.status not in {200, 503} and self._strange.get(upstream.name) != reply.status:
            self._strange[upstream.name] = reply.status
            log.warning(
                "upstream %s answers its probe, %s, with %d: that says nothing of how it is",
                upstream.name,
                path,
                reply.status,
            )
