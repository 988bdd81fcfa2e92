"""Asks upstreams now and then how they are, those whose configuration says so and no others.

Of the processes of a machine one asks, and the others hear from it (``admin.worker``); see :mod:`penstock.flow.health`
for what the answers come to.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from penstock.errors import PenstockError
from penstock.flow.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.metrics import Registry
    from penstock.net.clock import Clock
    from penstock.upstream.http import HTTPUpstream

JITTER = 0.1  # of the time between two questions, more or less: so that machines do not ask in step
_MOST_READ = 1_024  # bytes of an answer, whose status says all

log = logging.getLogger("penstock.gateway")


class HealthChecks:
    """Of one process.

    :param rand: from 0 to 1
    :ivar asks: whether this process is the one that does
    :ivar on_verdict: told an upstream's name and whether it is well, for the other processes; None: there are none
    """

    def __init__(self, clock: Clock, metrics: Registry, rand: Callable[[], float] = random.random) -> None:
        self.asks = True
        self.on_verdict: Callable[[str, bool], None] | None = None
        self._clock = clock
        self._rand = rand
        self._next: dict[str, float] = {}  # when each is asked next
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._upstreams: dict[str, HTTPUpstream] = {}
        self._checks = metrics.counter(
            "penstock_health_checks_total",
            "Questions to upstreams how they are, by whether the answer said that they are well.",
            labels=("upstream", "outcome"),
        )
        unhealthy = metrics.gauge(
            "penstock_upstream_unhealthy",
            "Whether an upstream that is asked how it is counts as unwell, and is asked last.",
            labels=("upstream",),
            merge="max",
        )

        def collect() -> None:
            for name, upstream in self._upstreams.items():
                if upstream.health is not None:
                    unhealthy.labels(name).set(int(not upstream.health.well))

        metrics.before_collecting(collect)

    def __repr__(self) -> str:
        return f"<HealthChecks of {len(self._upstreams)} upstreams, {len(self._asking)} under way>"

    def use(self, upstreams: Mapping[str, HTTPUpstream]) -> None:
        """Ask these from now on; what is known of them stays known."""
        self._upstreams = {}
        for name, upstream in upstreams.items():
            if upstream.config.health is not None:
                self._upstreams[name] = upstream
                if upstream.health is None:
                    upstream.health = Health(upstream.config.health)
        self._next = {name: at for name, at in self._next.items() if name in self._upstreams}
        if self._upstreams:
            self._clock.add(self)
        else:
            self._clock.remove(self)

    async def close(self) -> None:
        """Ask nobody any more."""
        self.use({})
        for task in self._asking.values():
            task.cancel()
        if self._asking:
            await asyncio.wait(list(self._asking.values()))

    def heard(self, name: str, *, well: bool) -> None:
        """What another process has found out."""
        upstream = self._upstreams.get(name)
        if upstream is not None and upstream.health is not None:
            upstream.health.heard(self._clock.now(), well=well)

    def sweep(self, now: float) -> None:
        if not self.asks:
            return
        for name, upstream in self._upstreams.items():
            config = upstream.config.health
            if config is None or name in self._asking or now < self._next.get(name, 0.0):
                continue
            self._next[name] = now + config.every * (1.0 + JITTER * (2.0 * self._rand() - 1.0))
            task = asyncio.get_running_loop().create_task(self._ask(upstream, config.path, config.timeout))
            self._asking[name] = task
            task.add_done_callback(lambda _, name=name: self._asking.pop(name, None))  # type: ignore[misc]

    async def _ask(self, upstream: HTTPUpstream, path: str, timeout: float) -> None:  # noqa: ASYNC109
        try:
            status = (await upstream.ask(path, timeout, most=_MOST_READ)).status
        except (PenstockError, TimeoutError) as error:
            log.debug("%s does not say how it is: %s", upstream.name, error)
            status = 0
        succeeds = 200 <= status < 300
        self._checks.labels(upstream.name, "ok" if succeeds else "failed").add()
        health = upstream.health
        if health is None:
            return
        before = health.well
        if health.answered(self._clock.now(), succeeds=succeeds) and self.on_verdict is not None:
            self.on_verdict(upstream.name, succeeds)
        if health.well is before:
            return
        if before:
            log.warning(
                "upstream %s is unwell, and asked last: %s answers %s",
                upstream.name,
                path,
                status or "nothing",
            )
        else:
            log.info("upstream %s is well again", upstream.name)
