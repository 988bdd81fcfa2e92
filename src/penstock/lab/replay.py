"""Replaying a trace against a server: as in production, nobody waits for anybody.

The load is open: a call is sent when the trace says so, however many answers are outstanding, so that a slow
server shows its queue instead of slowing the load down.  What makes this client itself late (its own CPU, a
cap on connections) is measured and reported, because latencies are only worth something while it is small.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.config.model import PoolConfig
from penstock.errors import PenstockError, UpstreamTimeout, UpstreamUnreachable
from penstock.lab import prompt, prompts
from penstock.lab.histogram import Histogram
from penstock.lab.reading import Reading, refusal_of
from penstock.lab.text import tokens
from penstock.lab.trace import TraceCall
from penstock.messages import Dialect, Endpoint, Headers
from penstock.net import tasks
from penstock.net.client_tls import client_context
from penstock.net.clock import Clock
from penstock.net.connection import Connection, StaleConnection
from penstock.net.origin import Origin
from penstock.net.pool import Pool

MODEL = "sim:tokens=max"
_EXAMPLES = 5  # errors that are kept with their whole text
_STEP = 0.02  # seconds between turns of this client's own clock


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to replay."""

    url: str
    speed: float = 10.0
    dialect: Dialect = Dialect.OPENAI
    model: str = MODEL
    key: str = ""
    hang_up: float = 0.0  # share of the clients that leave before the end
    plain: float = 0.0  # share of the calls that do not stream
    concurrency: int = 10_000  # connections at most; calls beyond wait, and are late
    timeout: float = 600.0  # seconds for one answer
    check: bool = False  # the server is the simulator, or stands before it: compare the texts
    salt: str = ""
    seed: int = 1
    ca_file: str | None = None
    verify: bool = True


class Replay:
    """One replay: :meth:`run`, and meanwhile or afterwards :meth:`report`."""

    def __init__(self, plan: Plan, calls: list[TraceCall]) -> None:
        self.plan = plan
        self.calls = calls
        self.done = 0
        self.errors: Counter[str] = Counter()
        self.examples: list[str] = []
        self.completed = 0
        self.hung_up = 0
        self.in_flight: set[_Shot] = set()
        self.waiting = 0  # calls that are due and have no connection yet
        self.ttft, self.between, self.total, self.late = Histogram(), Histogram(), Histogram(), Histogram()
        self.input_tokens = self.output_tokens = self.cached_tokens = 0
        self.received_tokens = 0
        self.cost: float | None = None
        self.priced = 0  # answers that told their cost
        self.most_in_flight = 0
        self.started = 0.0
        self.seconds = 0.0
        self._endpoint = Endpoint.CHAT if plan.dialect is Dialect.OPENAI else Endpoint.MESSAGES
        self._chance = random.Random(plan.seed)
        origin, base = Origin.parse(plan.url)
        self._origin = origin
        self._path = base.removesuffix("/v1") + self._endpoint.path
        self._head = self._request_head()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._wake: asyncio.Future[None] | None = None

    async def run(self, on_turn: Callable[[], None] = lambda: None) -> None:
        """Replay all calls, and wait for their ends.

        :param on_turn: called now and then, for whoever shows the progress
        """
        plan = self.plan
        loop = asyncio.get_running_loop()
        clock = Clock()
        clock.start(loop)
        tls = client_context(plan.ca_file, plan.verify) if self._origin.scheme == "https" else None
        limits = PoolConfig(
            max_open=plan.concurrency,
            max_idle=plan.concurrency,
            max_waiting=max(1, len(self.calls)),
        )
        # Long: while this client is busy it is late with its own connections, which is no fault of the server.
        pool = Pool(self._origin, limits, clock, connect_timeout=60.0, ssl=tls)
        ticking = loop.create_task(self._tick(on_turn))
        self.started = begin = time.monotonic()
        try:
            for index, call in enumerate(self.calls):
                due = begin + call.at / plan.speed
                await self._sleep_until(due)
                if self._stopped:
                    break
                shot = self._aim(index, call, due)
                task = tasks.start(self._fire(pool, shot), loop)
                if not task.done():
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            while self._tasks:
                await asyncio.wait(set(self._tasks))
        finally:
            self.seconds = time.monotonic() - begin
            ticking.cancel()
            await pool.close()
            clock.stop()

    def stop(self) -> None:
        """Send nothing more, and cut what is under way (it counts as hung up)."""
        self._stopped = True
        if self._wake is not None:
            _awaken(self._wake)
        for shot in list(self.in_flight):
            shot.hang_up()

    async def _sleep_until(self, due: float) -> None:
        delay = due - time.monotonic()
        if delay > 0 and not self._stopped:
            loop = asyncio.get_running_loop()
            wake = self._wake = loop.create_future()
            timer = loop.call_later(delay, _awaken, wake)
            try:
                await wake
            finally:
                timer.cancel()

    async def _tick(self, on_turn: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(_STEP)
            now = time.monotonic()
            for shot in list(self.in_flight):
                shot.check(now)
            on_turn()

    # ---- one call ----------------------------------------------------------------------------------

    def _aim(self, index: int, call: TraceCall, due: float) -> _Shot:
        plan = self.plan
        streams = self._chance.random() >= plan.plain
        leaves = -1
        if self._chance.random() < plan.hang_up:
            leaves = self._chance.randrange(max(1, call.output_tokens))
        reading = Reading(plan.dialect, self.between, keep_text=plan.check)
        return _Shot(index, call, due, reading, streams=streams, leaves_after=leaves, timeout=plan.timeout)

    async def _fire(self, pool: Pool, shot: _Shot) -> None:
        self.waiting += 1
        sent = False
        try:
            body = self._body(shot)
            head = self._head % len(body)
            connection = await pool.acquire()
            self.waiting -= 1
            sent = True
            try:
                await self._send(connection, head, body, shot)
            except StaleConnection:
                # It had closed while it was idle: nothing was lost, as any HTTP client would see it.
                await self._send(await pool.acquire(fresh=True), head, body, shot)
        except PenstockError as error:
            if not sent:
                self.waiting -= 1
            shot.error = error
        self._settle(shot)

    async def _send(self, connection: Connection, head: bytes, body: bytes, shot: _Shot) -> None:
        future = connection.send(head, body, shot)
        shot.begin(connection, time.monotonic())
        self.in_flight.add(shot)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        try:
            await future
        finally:
            self.in_flight.discard(shot)

    def _body(self, shot: _Shot) -> bytes:
        plan, call = self.plan, shot.call
        stream = b""
        if shot.streams:
            stream = b'"stream":true,'
            if plan.dialect is Dialect.OPENAI:
                stream += b'"stream_options":{"include_usage":true},'
        return b'{"model":%b,%b"max_tokens":%d,"messages":[{"role":"user","content":"%b"}]}' % (
            msgspec.json.encode(plan.model),
            stream,
            max(1, call.output_tokens),
            prompts.prompt(call, shot.index, plan.salt),
        )

    def _request_head(self) -> bytes:
        plan = self.plan
        lines = [
            f"POST {self._path} HTTP/1.1",
            f"host: {self._origin.authority}",
            "user-agent: penstock-replay",
            "content-type: application/json",
        ]
        if plan.dialect is Dialect.ANTHROPIC:
            lines.append("anthropic-version: 2023-06-01")
        if plan.key:
            openai = plan.dialect is Dialect.OPENAI
            lines.append(f"authorization: Bearer {plan.key}" if openai else f"x-api-key: {plan.key}")
        # What comes before the length must not be taken for a format by the % that fills it in.
        return "\r\n".join(lines).replace("%", "%%").encode("latin-1") + b"\r\ncontent-length: %d\r\n\r\n"

    # ---- what came of it ---------------------------------------------------------------------------

    def _settle(self, shot: _Shot) -> None:
        now = time.monotonic()
        shot.finish()
        reading = shot.reading
        self.done += 1
        self.received_tokens += reading.tokens if shot.streams else reading.output_tokens
        self.input_tokens += reading.input_tokens
        self.output_tokens += reading.output_tokens
        self.cached_tokens += reading.cached_tokens
        cost = reading.cost if reading.cost is not None else shot.cost
        if cost is not None:
            self.cost = (self.cost or 0.0) + cost
            self.priced += 1
        if shot.sent:
            self.late.add(max(0.0, shot.sent - shot.due))
        if reading.first:
            self.ttft.add(reading.first - shot.sent)
        fault = self._fault(shot)
        if fault:
            self.errors[fault.partition(": ")[0].partition(" (")[0]] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"call {shot.index + 1}: {fault}")
        elif shot.left:
            self.hung_up += 1
        else:
            self.completed += 1
            self.total.add(now - shot.sent)

    def _fault(self, shot: _Shot) -> str:
        """What is wrong with an answer, in a line; empty: nothing."""
        reading, error = shot.reading, shot.error
        fault = reading.fault
        if not shot.left:
            if shot.timed_out:
                fault = f"no complete answer within the timeout: {self.plan.timeout:g} s"
            elif error is not None:
                kind = "broken off"
                if isinstance(error, (UpstreamUnreachable, UpstreamTimeout)):
                    kind = "no connection" if not shot.sent else "closed before an answer"
                fault = f"{kind}: {error.message}"
            elif shot.status != 200:
                fault = f"status {shot.status} {refusal_of(bytes(shot.body))}"
            elif not fault and not reading.finished:
                fault = "no finish reason"
            elif not fault and not reading.terminated:
                fault = "no terminator"
        if not fault and self.plan.check and shot.status == 200:
            fault = self._difference(shot)
        return fault

    def _difference(self, shot: _Shot) -> str:
        """Compare an answer, or what came of it, with what the simulator says to this prompt."""
        reading, call = shot.reading, shot.call
        text = prompts.prompt(call, shot.index, self.plan.salt).decode()
        body = {"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": text}]}
        digest = prompt.read(self._endpoint, body).digest
        count = reading.tokens if shot.streams else reading.output_tokens
        wanted = b"".join(tokens(digest, 0, count)).decode()
        if reading.text != wanted:
            return f"wrong text: {reading.text[:60]!r} in place of {wanted[:60]!r}"
        if shot.left:
            return ""
        asked = max(1, call.output_tokens)
        if reading.output_tokens != count or ("tokens=max" in self.plan.model and count != asked):
            return f"wrong length: {count} tokens came, {reading.output_tokens} reported, {asked} asked for"
        if reading.input_tokens != max(1, call.input_tokens):
            return f"wrong prompt: {reading.input_tokens} tokens reported of {call.input_tokens}"
        return ""

    def report(self) -> dict[str, Any]:
        """Everything that was measured, for JSON; times in seconds."""
        return {
            "url": self.plan.url,
            "model": self.plan.model,
            "dialect": self.plan.dialect.value,
            "speed": self.plan.speed,
            "calls": len(self.calls),
            "sent": self.done,
            "completed": self.completed,
            "hung_up": self.hung_up,
            "errors": dict(self.errors.most_common()),
            "error_examples": self.examples,
            "checked": self.plan.check,
            "seconds": self.seconds,
            "most_in_flight": self.most_in_flight,
            "ttft": self.ttft.summary(),
            "between_tokens": self.between.summary(),
            "total": self.total.summary(),
            "late": self.late.summary(),
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "received_tokens": self.received_tokens,
            "cost_usd": self.cost,
            "cost_told": self.priced,
        }

    def __repr__(self) -> str:
        return (
            f"<Replay {self.done} of {len(self.calls)} done, {len(self.in_flight)} in flight, "
            f"{self.errors.total()} errors>"
        )


def _awaken(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Shot:
    """One call under way; receives its answer."""

    __slots__ = (
        "_connection",
        "_leaves_after",
        "_timeout",
        "body",
        "call",
        "cost",
        "due",
        "error",
        "index",
        "left",
        "reading",
        "sent",
        "status",
        "streams",
        "timed_out",
    )

    def __init__(
        self,
        index: int,
        call: TraceCall,
        due: float,
        reading: Reading,
        *,
        streams: bool,
        leaves_after: int,
        timeout: float,
    ) -> None:
        self.index = index
        self.call = call
        self.due = due
        self.reading = reading
        self.streams = streams
        self.sent = 0.0
        self.status = 0
        self.body = bytearray()  # of a plain answer or an error
        self.error: PenstockError | None = None
        self.left = False  # this client hung up
        self.timed_out = False
        self.cost: float | None = None
        self._leaves_after = leaves_after  # tokens; 0: before the first; -1: never
        self._timeout = timeout
        self._connection: Connection | None = None

    def begin(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self.sent = self.sent or now

    def hang_up(self) -> None:
        if self._connection is not None and not self.left:
            self.left = True
            self._connection.abort()

    def check(self, now: float) -> None:
        if now - self.sent > self._timeout and self._connection is not None:
            self.timed_out = True
            self._connection.abort()
        elif self._leaves_after == 0 or (self._leaves_after > 0 and not self.streams):
            self.hang_up()

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        cost = headers.get(b"penstock-cost")
        # What was not made for this call was paid for by another.
        if cost is not None and headers.get(b"penstock-status", b"created") == b"created":
            try:
                self.cost = float(cost)
            except ValueError:
                self.reading.fault = f"malformed penstock-cost header ({cost!r})"

    def on_data(self, data: bytes) -> None:
        if not self.streams or self.status != 200:
            self.body += data
            return
        reading = self.reading
        reading.feed(data, time.monotonic())
        if 0 <= self._leaves_after <= reading.tokens:
            self.hang_up()

    def finish(self) -> None:
        """No more will come."""
        if not self.streams and self.status == 200 and not self.left and self.error is None:
            self.reading.plain(bytes(self.body))

    def __repr__(self) -> str:
        return f"<_Shot {self.index} status {self.status} {self.reading!r}>"
