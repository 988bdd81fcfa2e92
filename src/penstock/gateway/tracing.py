"""Which calls are traced, and where their spans go; nothing is, and nothing runs, until a configuration says so.

What a span says is taken when its call or attempt has ended (``stages.trace``), and made readable in the sender's
thread.
"""

from __future__ import annotations

import asyncio
import random
import time

from penstock.cache.entry import Entry
from penstock.config.extras import installed
from penstock.config.model import TracesConfig
from penstock.errors import ConfigError
from penstock.installing import install_command
from penstock.messages import Call, Headers, Tenant, Trace
from penstock.metrics import Registry
from penstock.net.exchange import Exchange
from penstock.traces.sender import Sender
from penstock.traces.spans import CallEnded, Link, RequestRefused, asked
from penstock.wire.trace_context import parent_in

REMEMBERED = 4_096  # generations whose readers are told which trace made them


class Tracer:
    """Decides at a call's beginning; the parent's decision goes first."""

    def __init__(self, sample: float, sender: Sender) -> None:
        self._sample = sample
        self._random = random.Random()  # seeded by the system, so no two processes make the same ids
        self._put = sender.put
        self._put_refused = sender.put_refused
        self._made: dict[str, Trace] = {}  # by generation

    def __repr__(self) -> str:
        return f"<Tracer of {self._sample:g} of all calls>"

    def begin(self, call: Call) -> None:
        """Let the call have a trace, if it is to be recorded."""
        trace = self._begun(call.headers)
        if trace is not None:
            call.trace = trace
            made = self._made
            made[call.id] = trace
            if len(made) > REMEMBERED:
                del made[next(iter(made))]

    def _begun(self, headers: Headers) -> Trace | None:
        parent = parent_in(headers)
        if parent is not None:
            if not parent.sampled:
                return None
            return Trace(parent.trace_id, self.new_id(), parent.span_id, parent.state, self._put, self.new_id)
        if self._random.random() >= self._sample:
            return None
        return Trace(
            f"{self._random.getrandbits(128) or 1:032x}", self.new_id(), "", b"", self._put, self.new_id
        )

    def refused(self, call: CallEnded) -> None:
        """A call was not admitted."""
        self._put_refused(call, known=True)

    def turned_away(
        self, exchange: Exchange, label: str, tenant: Tenant | None, *, status: int, error: str
    ) -> str:
        """A request was refused before it was a call; the id of its trace, empty: it is not recorded."""
        trace = self._begun(exchange.headers)
        if trace is None:
            return ""
        method, path = exchange.method, exchange.path
        ended = RequestRefused(trace, method, path, label, tenant, status, error, time.time())
        return trace.trace_id if self._put_refused(ended, known=tenant is not None) else ""

    def new_id(self) -> str:
        """Of a span; all noughts would be none."""
        return f"{self._random.getrandbits(64) or 1:016x}"

    def maker_of(self, generation: str) -> Link | None:
        """The span of the call for which it was made; None: it is not known, or was not recorded."""
        trace = self._made.get(generation)
        return None if trace is None else Link(trace.trace_id, trace.span_id, "shares")

    def hit(self, call: Call, entry: Entry, generation: str, duration: float) -> None:
        """A request was answered from the cache without its being read; it had no ``traceparent``."""
        trace = self._begun({})
        if trace is None:
            return
        self._put(
            CallEnded(
                trace,
                *asked(call),
                generation,
                "cached",
                200,
                "",
                time.time(),
                duration,
                duration,
                saved=entry.cost,
            )
        )


class Tracing:
    """The tracer and the sender of the configuration that counts, and the senders of those before it."""

    def __init__(self, metrics: Registry) -> None:
        self._metrics = metrics
        self._config = TracesConfig()
        self._sender: Sender | None = None
        self._senders: list[Sender] = []  # their counts stay
        self._closing: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Tracing by {self._sender}>"

    def use(self, config: TracesConfig) -> Tracer | None:
        """From now on, as this configuration says; None: nothing is traced.

        :raises ConfigError: as :func:`check`
        """
        check(config)
        before, self._config = self._config, config
        here = (config.endpoint, config.headers, config.service_name)
        if here != (before.endpoint, before.headers, before.service_name):
            self._retire()
        if not config.endpoint:
            return None
        if self._sender is None:
            if not self._senders:
                self._measure()
            self._sender = Sender(config)
            self._senders.append(self._sender)
        return Tracer(config.sample, self._sender)

    async def close(self) -> None:
        """Send what waits, for a moment."""
        self._retire()
        if self._closing:
            await asyncio.wait(self._closing)

    def _retire(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            closing = asyncio.get_running_loop().run_in_executor(None, sender.close)
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _measure(self) -> None:
        spans = self._metrics.counter(
            "penstock_spans_total",
            "Spans of calls, attempts and refused requests, by what became of them.",
            labels=("outcome",),
        )
        outcomes = ("sent", "failed", "dropped", "limited")
        cells = {outcome: spans.labels(outcome) for outcome in outcomes}

        def collect() -> None:
            for outcome, cell in cells.items():
                cell.value = sum(getattr(sender, outcome) for sender in self._senders)

        self._metrics.before_collecting(collect)


def check(config: TracesConfig) -> None:
    """:raises ConfigError: spans cannot be sent from here"""
    if config.endpoint and not installed("otel"):
        raise ConfigError(f"traces need the extra otel: {install_command('otel')}")
