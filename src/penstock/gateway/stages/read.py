"""Give a generation to one caller: the events from an offset on, as a stream or folded into one answer.

A :class:`Reading` is a reader of the log on one side and watches the client on the other.  It works in callbacks:
an event goes from the log to the client's buffer without a task switch, and a caller costs no task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence

from penstock.errors import (
    REFUSED,
    InternalError,
    PenstockError,
    PressureError,
    RateLimited,
    UpstreamError,
    UpstreamFailed,
    UpstreamRefused,
)
from penstock.generation.log import EVENT_OVERHEAD, Generation, State
from penstock.messages import Call, Dialect, Event
from penstock.net.exchange import Exchange
from penstock.wire import heartbeat, problems, ratelimits
from penstock.wire.fold import folding

SLICE_EVENTS = 256  # joined for one write; a late reader of a long log is not copied all at once
SLICE_BYTES = 262_144  # nor one of long events
_IDS = [b"id: %d\n" % number for number in range(4096)]  # most answers end before

PATIENCE = 60.0  # seconds; of a longer Retry-After both SDKs take no notice, and come back at once

CLIENT_GONE = 499  # nginx's code for a client that closed before its answer; only in logs and metrics

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
JSON = (b"content-type", b"application/json")
_STOP_RETRYING = (b"x-should-retry", b"false")
_RUNNING, _FINISHED, _FAILED = State.RUNNING, State.FINISHED, State.FAILED

log = logging.getLogger("penstock.gateway")


class Reading:
    """One caller's reading of one generation.

    :param status_name: value of ``Penstock-Status``
    :param on_done: called once, when the answer has ended or the caller has left
    :param position: index of the first event that the caller wants
    """

    __slots__ = (
        "_alive_position",
        "_alive_since",
        "_folding",
        "_on_done",
        "_paused",
        "_position",
        "call",
        "done",
        "error",
        "exchange",
        "generation",
        "read_bytes",
        "status",
        "status_name",
    )

    def __init__(
        self,
        call: Call,
        generation: Generation,
        exchange: Exchange,
        status_name: bytes,
        on_done: Callable[[Reading], None],
        position: int = 0,
    ) -> None:
        self.call = call
        self.generation = generation
        self.exchange = exchange
        self.status_name = status_name
        self._on_done = on_done
        self._position = position
        self._paused = False
        self._folding: Generator[None, None, bytes] | None = None
        self._alive_since = call.received
        self._alive_position = position
        self.read_bytes = _size(generation.events[:position]) if position else 0
        self.done = False
        self.status = 0  # what the caller got; CLIENT_GONE: nothing whole
        self.error = ""

    def __repr__(self) -> str:
        state = "done" if self.done else "paused" if self._paused else "following"
        return f"<Reading of {self.generation.id} at {self._position}, {state}>"

    # ---- Reader ----

    def advance(self) -> None:
        """Write what the log has beyond our position; at its end, end the answer."""
        if self._paused or self.done:
            return
        generation = self.generation
        if self.call.stream:
            self._stream(generation)
        elif generation.state is _FINISHED:
            self._tell_whole(generation)
        elif generation.state is _FAILED:
            self._refuse(generation.error)

    def _stream(self, generation: Generation) -> None:
        events = generation.events
        readable = generation.readable
        exchange = self.exchange
        while (position := self._position) < readable:
            if not exchange.started:
                exchange.start(200, [*STREAM_HEADERS, *self._own_headers(), *generation.headers])
            if position + 1 == readable:
                event = events[position]
                self._position = position + 1
                self.read_bytes += len(event) + EVENT_OVERHEAD
                data = b"id: %d\n%b" % (position, event)
            else:
                data = self._slice(events, readable)
            if not exchange.write(data):
                self._paused = True
                break
        if self._position >= readable and generation.state is not _RUNNING:
            self._end_stream(generation)

    def _slice(self, events: list[bytes], readable: int) -> bytes:
        position = self._position
        some = events[position : min(position + SLICE_EVENTS, readable)]
        size = sum(map(len, some))
        while size > SLICE_BYTES and len(some) > 1:
            some = some[: len(some) // 2]
            size = sum(map(len, some))
        end = position + len(some)
        ids = _IDS[position:end] if end <= len(_IDS) else [b"id: %d\n" % n for n in range(position, end)]
        self._position = end
        self.read_bytes += size + EVENT_OVERHEAD * len(some)
        data = [b""] * (2 * len(some))
        data[::2] = ids
        data[1::2] = some
        return b"".join(data)

    def _end_stream(self, generation: Generation) -> None:
        exchange = self.exchange
        if generation.state is _FAILED:
            error = generation.error or InternalError("the answer failed")
            # Who has all that there ever was of a failed answer gains nothing by asking again.
            final = self._position > 0 and not isinstance(error, PressureError)
            self._break_stream(error, final=final)
            return
        if not exchange.started:  # it had every event when it came back, and what was missing was the end
            exchange.respond(204, self._own_headers(), b"")
            self._finish(204)
            return
        exchange.end()
        self._finish(200)

    def _break_stream(self, error: PenstockError, *, final: bool = False) -> None:
        """An error ends it: in an event, or in the answer's head if that has not gone out."""
        if not self.exchange.started:
            self._refuse(error, final=final)
            return
        self.error = error.code
        self.exchange.write(problems.render_event(error, self.call.endpoint, self.generation.id))
        self.exchange.end()
        self._finish(200)

    def _tell_whole(self, generation: Generation) -> None:
        if not generation.stream:
            self._respond(generation, b"".join(generation.events))
        elif self._folding is None:
            self._folding = folding(generation.endpoint, generation.events, usage=generation.usage)
            self._fold()

    def _fold(self) -> None:
        if self._step():  # others have their turn
            asyncio.get_running_loop().call_soon(self._fold)

    def hurry(self) -> None:
        """Take all steps at once that are left."""
        while self._step():
            pass

    def _step(self) -> bool:
        """Whether more of them are left."""
        if self._folding is None or self.done:  # whole by now, or its caller has left
            return False
        try:
            next(self._folding)
        except StopIteration as whole:
            self._respond(self.generation, whole.value)
        except PenstockError as error:
            self._refuse(error)
        except Exception:  # the caller waits for an answer, and nobody else will tell
            log.exception("defect while folding %s", self.generation.id)
            self._refuse(InternalError("internal error"))
        return not self.done

    def _respond(self, generation: Generation, body: bytes) -> None:
        self.read_bytes = generation.size
        self.exchange.respond(200, [JSON, *self._own_headers(), *generation.headers], body)
        self._finish(200)

    def _refuse(self, error: PenstockError | None, *, final: bool = False) -> None:
        error = error or InternalError("the answer failed")
        self.error = error.code
        dialect = self.call.endpoint.dialect
        # Where the gateway has tried again already, the SDK's own retries would only multiply its.
        final = final or (self.generation.attempts > 1 and isinstance(error, UpstreamError))
        self._finish(refuse(self.exchange, error, dialect, self.generation.id, final=final))

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        generation = self.generation
        headers = [
            (b"penstock-generation", generation.id.encode()),
            (b"penstock-status", self.status_name),
            *self._limits(),
        ]
        if generation.cost and generation.state is _FINISHED:  # before its end it is not known
            headers.append((b"penstock-cost", dollars(generation.cost)))
        if self.call.stream and (asked := self.call.headers.get(b"penstock-heartbeat")) is not None:
            headers.append((b"penstock-heartbeat", b"%d" % heartbeat.read(asked)))
        if self.call.changed:
            headers.append((b"penstock-prompt-changed", self.call.changed))
        if self.call.degraded:
            headers.append((b"penstock-degraded", self.call.degraded))
        if generation.attempts > 1:
            headers.append((b"penstock-attempts", b"%d" % generation.attempts))
        if generation.seams:
            headers.append((b"penstock-continued", b"%d" % generation.seams))
        return headers

    def _limits(self) -> Sequence[tuple[bytes, bytes]]:
        """How much of the caller's limits is left."""
        reservation = self.call.reservation
        if reservation is None:
            return ()
        requests, tokens = reservation.windows()
        return ratelimits.render(self.call.endpoint.dialect, requests, tokens, time.time())

    def _finish(self, status: int) -> None:
        if not self.done:
            self.done = True
            self.status = status
            self._on_done(self)

    # ---- Watcher ----

    def on_gone(self) -> None:
        """The client left: so do we, unless it has all and closed on the terminator, as SDKs do.

        Then only the end of the upstream's message is missing, and with the log's end comes ours.
        """
        if not (self.done or self._has_all):
            self.error = "client_gone"
            self._finish(CLIENT_GONE)

    @property
    def _has_all(self) -> bool:
        """Whether a stream's reader has been sent all that the answer will ever have."""
        generation = self.generation
        return (
            self.call.stream
            and generation.complete
            and not self._paused
            and self._position == len(generation.events)
            and not self.exchange.unsent
        )

    def on_writable(self) -> None:
        self._paused = False
        self.advance()
        self.generation.caught_up()

    # ---- keep-alive ----

    def keep_alive(self, now: float) -> None:
        """Called now and then: a stream that is silent for too long gets a sign of life."""
        if self.call.stream and not (self._paused or self.done):
            self._sign_of_life(now)

    def _sign_of_life(self, now: float) -> None:
        if self._position != self._alive_position:
            self._alive_position = self._position
            self._alive_since = now
        silence, exchange = now - self._alive_since, self.exchange
        if silence < heartbeat.LEAST:
            return
        # What goes out before the first event is the answer's head: 200, whatever becomes of it.
        hurried = exchange.started or self._position > 0
        if silence < heartbeat.read(self.call.headers.get(b"penstock-heartbeat") if hurried else None):
            return
        self._alive_since = now
        if not exchange.started:
            exchange.start(200, [*STREAM_HEADERS, *self._own_headers()])
        if self.call.endpoint.dialect is Dialect.ANTHROPIC:
            exchange.write(b'event: ping\ndata: {"type":"ping"}\n\n')
        else:
            # One newline: a comment and a blank line would make the OpenAI SDK dispatch an empty
            # event once it has seen an id.
            exchange.write(b": hb\n")


def _size(events: list[Event]) -> int:
    return sum(map(len, events)) + EVENT_OVERHEAD * len(events)


def dollars(cost: int) -> bytes:
    """An amount of 1e-12 US dollars, exactly, in dollars: ``0.000123``."""
    return (b"%d.%012d" % divmod(cost, 10**12)).rstrip(b"0").removesuffix(b".")


def refuse(
    exchange: Exchange,
    error: PenstockError,
    dialect: Dialect,
    generation_id: str = "",
    *,
    final: bool = False,
) -> int:
    """Answer with an error in the caller's dialect; returns its HTTP status.

    :param final: who asks again will get no other answer, and is told so
    """
    status, headers, body = problems.render(error, dialect, generation_id)
    if generation_id:
        headers.append((b"penstock-generation", generation_id.encode()))
    if isinstance(error, RateLimited):
        headers += ratelimits.render(dialect, error.requests, error.tokens, time.time())
        final = final or error.retry_after is None or error.retry_after > PATIENCE
    elif isinstance(error, UpstreamFailed | UpstreamRefused):
        headers += error.fields
    elif error.code == REFUSED:
        headers.append((b"penstock-degraded", b"refuse"))
    if final:
        headers.append(_STOP_RETRYING)
    exchange.respond(status, headers, body)
    return status
