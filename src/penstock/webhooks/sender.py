"""Delivers webhooks: one POST per message and endpoint, again and again until it is taken or a day has gone by."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from penstock import __version__
from penstock.config.model import PoolConfig, WebhookConfig, WebhooksConfig
from penstock.config.webhook_secret import key_of
from penstock.errors import PenstockError
from penstock.metrics import Registry
from penstock.net.client_tls import client_context
from penstock.net.clock import Clock
from penstock.net.origin import Origin
from penstock.net.pool import Pool
from penstock.net.reply import reply_to
from penstock.webhooks.outbox import Delivery, Outbox
from penstock.webhooks.signature import signed
from penstock.wire.event import event_body, event_id

SCHEDULE = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0)
"""Seconds from one attempt to the next, as the specification suggests; a tenth more or less at random."""

LOOK_INTERVAL = 1.0  # seconds between two looks for what is due
AT_ONCE = 32  # deliveries of one worker
OF_ONE = 4  # of these, to one endpoint: it may say nothing, and hold each until its time is over
_POOL = PoolConfig(max_open=OF_ONE, max_idle=1, max_waiting=64)

log = logging.getLogger("penstock.webhooks")


class Endpoint:
    """Somebody who wants to know, and the connections to him."""

    def __init__(self, config: WebhookConfig, clock: Clock, timeout: float) -> None:
        self.config = config
        self.url = config.url
        self.origin, _ = Origin.parse(config.url)
        self._key = key_of(config.secret.reveal())
        tls = client_context(None, verify=True) if self.origin.secure else None
        self.pool = Pool(self.origin, _POOL, clock, connect_timeout=timeout, ssl=tls)
        self._fixed = (
            f"POST {urlsplit(config.url).path or '/'} HTTP/1.1\r\nhost: {self.origin.authority}\r\n"
            f"user-agent: penstock/{__version__}\r\ncontent-type: application/json\r\n"
        ).encode()

    def __repr__(self) -> str:
        return f"<Endpoint {self.origin} of {self.config.tenant}>"

    def wants(self, tenant: str, kind: str) -> bool:
        """Whether events of this kind go to this endpoint."""
        events = self.config.events
        return tenant == self.config.tenant and (
            not events
            or any(kind == event or (event.endswith("*") and kind.startswith(event[:-1])) for event in events)
        )

    async def post(self, message: str, body: bytes, now: int) -> int:
        """Deliver; returns the status of the answer.

        :raises PenstockError: there was none
        """
        fields = b"".join(b"%b: %b\r\n" % field for field in signed(self._key, message, now, body))
        head = self._fixed + fields + b"content-length: %d\r\n\r\n" % len(body)
        return (await reply_to(self.pool, head, body)).status


class Sender:
    """The webhooks of one worker.  Swept by its clock.

    :param now: Unix time
    """

    def __init__(
        self,
        config: WebhooksConfig,
        outbox: Outbox,
        clock: Clock,
        metrics: Registry,
        *,
        now: Callable[[], float] = time.time,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._now = now
        self._rand = rand
        self._timeout = config.timeout
        self._endpoints = [Endpoint(each, clock, config.timeout) for each in config.endpoints]
        self._looking: asyncio.Task[None] | None = None
        self._under_way: dict[asyncio.Task[None], str] = {}  # and to which URL
        self._next_look = 0.0
        self._stopping = False
        self._attempts = metrics.counter(
            "penstock_webhook_attempts_total", "Deliveries of webhooks tried.", labels=("outcome",)
        )

    def __repr__(self) -> str:
        return f"<Sender to {len(self._endpoints)} endpoints, {len(self._under_way)} under way>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the outbox cannot be used"""
        await self._outbox.start()
        self._clock.add(self)

    async def close(self) -> None:
        """What is under way is cut off, and delivered by whoever comes next."""
        self._stopping = True
        self._clock.remove(self)
        tasks = {task for task in (self._looking, *self._under_way) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for endpoint in self._endpoints:
            await endpoint.pool.close()
        await self._outbox.close()

    async def announce(self, tenant: str, kind: str, subject: str) -> None:
        """Enter an event for all who want it; durable when it returns, and entered once however often it is called.

        :param kind: such as ``batch.completed``
        :param subject: the id of what it happened to
        :raises penstock.errors.StorageUnavailable: it could not be entered
        """
        urls = [endpoint.url for endpoint in self._endpoints if endpoint.wants(tenant, kind)]
        if urls:
            now = self._now()
            body = event_body(kind, subject, now)
            pushed_out = await self._outbox.put(event_id(kind, subject), tenant, urls, body, now)
            for whose, many in pushed_out.items():
                self._attempts.labels("pushed_out").add(many)
                log.warning(
                    "%d of the oldest events for %s are lost: too many wait for its receivers", many, whose
                )
            self._next_look = 0.0

    # ---- delivering ----

    def sweep(self, now: float) -> None:
        if now >= self._next_look and self._looking is None and not self._stopping:
            self._next_look = now + LOOK_INTERVAL
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        try:
            free = AT_ONCE - len(self._under_way)
            busy = Counter(self._under_way.values())
            for delivery in await self._outbox.take(self._now(), free, busy, OF_ONE) if free > 0 else ():
                task = asyncio.ensure_future(self._deliver(delivery))
                self._under_way[task] = delivery.url
                task.add_done_callback(self._delivered)
        except PenstockError as error:
            log.warning("webhooks cannot be looked for: %s", error.message)
        finally:
            self._looking = None

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._next_look = 0.0  # there is room for another
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("defect while delivering a webhook", exc_info=error)

    async def _deliver(self, delivery: Delivery) -> None:
        endpoint = next(
            (e for e in self._endpoints if e.url == delivery.url and e.config.tenant == delivery.tenant), None
        )
        if endpoint is None:  # it has been taken out of the configuration
            await self._settle(delivery, None, "dropped")
            return
        try:
            async with asyncio.timeout(self._timeout):
                status = await endpoint.post(delivery.message, delivery.body, int(self._now()))
            reason = str(status)
        except TimeoutError:
            status, reason = 0, "no answer in time"
        except PenstockError as error:
            status, reason = 0, error.message
        if 200 <= status < 300:
            await self._settle(delivery, None, "delivered")
        elif status == 410 or delivery.attempts >= len(SCHEDULE):  # 410: it wants no more of this
            log.warning("%s given up for %r: %s", delivery.message, endpoint, reason)
            await self._settle(delivery, None, "given_up")
        else:
            wait = SCHEDULE[delivery.attempts] * (0.9 + 0.2 * self._rand())
            log.info("%s not taken by %r (%s): again in %.0f s", delivery.message, endpoint, reason, wait)
            await self._settle(delivery, self._now() + wait, "failed")

    async def _settle(self, delivery: Delivery, due: float | None, outcome: str) -> None:
        self._attempts.labels(outcome).add()
        try:
            await self._outbox.settle(delivery, due)
        except PenstockError as error:  # it is delivered once more when it is due again
            log.warning("%s cannot be settled: %s", delivery.message, error.message)
