"""One request and its answer on an accepted connection: the body on its way in, the answer on its way out.

What an application writes into a stream within one turn of the loop goes out as one write, at the next
turn: the pieces of a burst then cost a copy each instead of a buffer each in every layer below.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from penstock.errors import BodyTooLarge, PenstockError
from penstock.messages import Headers
from penstock.net._request_head import RequestHead
from penstock.net._serving import Serving
from penstock.net.exchange import HeaderList, Watcher
from penstock.net.responses import (
    CLOSE,
    CONTINUE,
    KEEP_ALIVE,
    LAST_CHUNK,
    STATUS_LINES,
    internal_error,
    raised_error,
    render_fields,
)
from penstock.net.tasks import start

_log = logging.getLogger(__name__)

_SMALL_PIECE = 4_096  # body pieces below are gathered, so that a byte a time costs a byte of memory
_LONG_BODY = 65_536  # an answer's body above is a write of its own: copying costs more than the write
_NO_PIECES: deque[bytes] = deque(maxlen=0)


class Connection(Protocol):
    """The connection that the request came on, as its exchange sees it."""

    serving: Serving
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    write: Callable[[bytes], None]
    peer: str
    segment: bytes  # what has come at once, while it is looked at
    exchange: InboundExchange | None  # the one that it is busy with
    last: bool  # no request after this one
    broken: bool  # lost, and with it what had been written and not yet sent
    writing_paused: bool

    def ends_connection(self) -> bool:
        """Whether the answer whose head goes out now is the last one of the connection."""

    def answered(self) -> None:
        """The application has ended the answer."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, *, at_once: bool = False) -> None:
        """Close once everything written has gone out; or at once, with a reset."""


class InboundExchange:
    """One request and its answer; ``penstock.net.exchange.Exchange`` says what its methods promise."""

    __slots__ = (
        "_connection",
        "_no_body",
        "_parts",
        "_pieces",
        "_queue",
        "_queued",
        "_seen",
        "_unsent",
        "_waiter",
        "chunked",
        "continue_wanted",
        "ended",
        "failure",
        "gone",
        "head",
        "headers",
        "limit",
        "meaning",
        "method",
        "path",
        "peer",
        "query",
        "received",
        "started",
        "state",
        "streaming",
        "task",
        "watcher",
        "whole",
    )

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers: Headers = head.headers
        self.peer = connection.peer
        self.gone = False
        self.state: object = None
        self.meaning: object = head.meaning
        self._connection = connection
        self.head = head
        self.task: asyncio.Task[None] | None = None
        self.watcher: Watcher | None = None
        # the body
        self.streaming = False
        self.limit = 0
        self.received = 0
        self._parts: list[bytes | bytearray] = []
        self._queue: deque[bytes] = _NO_PIECES
        self._queued = 0
        self._waiter: asyncio.Future[None] | None = None
        self.whole = head.length == 0
        self.failure: Exception | None = None
        self.continue_wanted = False
        # the answer
        self.started = False
        self.ended = False
        self._pieces: list[bytes] = []  # head and pieces that go out at the loop's next turn
        self._unsent = 0  # bytes in _pieces
        self._seen = False  # something of the answer has gone out
        self.chunked = False
        self._no_body = head.method == "HEAD"

    @property
    def scheme(self) -> str:
        return "http" if self._connection.transport.get_extra_info("sslcontext") is None else "https"

    @property
    def root(self) -> str:
        return ""

    @property
    def segment(self) -> bytes:
        segment, head = self._connection.segment, self.head
        if head.http10 or not head.keep_alive or head.expects_continue or head.length <= 0:
            return b""
        length = segment.find(b"\r\n\r\n") + 4 + head.length  # of this request, if the segment begins with it
        return segment if len(segment) == length and self._connection.exchange is self else b""

    @property
    def unsent(self) -> bool:
        connection = self._connection
        return bool(self._pieces) or connection.broken or connection.transport.get_write_buffer_size() > 0

    # ---- the application

    def run(self) -> None:
        """Start the application; eagerly, so that an answer at hand costs no turn of the loop."""
        serving = self._connection.serving
        try:
            answering = serving.application(self)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            self.defect(error)
            return
        if answering is None:  # it answers in callbacks
            return
        task = start(self._answer(answering, serving), serving.loop)
        if not task.done():
            self.task = task
            serving.tasks.add(task)

    async def _answer(self, answering: Coroutine[Any, Any, None], serving: Serving) -> None:
        try:
            await answering
            if not self.ended and not self.gone:
                _log.error("the application left %r without an answer", self)
                self.defect(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            self.defect(error)
        except BaseException:  # cancelled: nobody will end this answer
            self.abort()
            raise
        finally:
            if self.task is not None:
                serving.tasks.discard(self.task)
                self.task = None

    # ---- the body

    async def body(self) -> bytes:
        if self.streaming:
            limit = self._connection.serving.config.max_body_bytes
            async for piece in self.pieces():
                if self.received > limit:
                    raise too_large(limit)
                self.gather(piece)
            self.streaming = False
        return self.whole_body()

    def whole_body(self) -> bytes:
        if self.failure is not None:
            raise self.failure
        parts = self._parts
        if len(parts) == 1 and type(parts[0]) is bytes:
            return parts[0]
        whole = b"".join(parts)
        self._parts = [whole]
        return whole

    async def pieces(self) -> AsyncIterator[bytes]:
        if not self.streaming:
            if whole := await self.body():
                yield whole
            return
        connection = self._connection
        if self.continue_wanted:
            self.continue_wanted = False
            if not self.started and not self.gone:
                connection.transport.write(CONTINUE)
        low_water = connection.serving.config.pipeline_bytes // 2
        while True:
            while self._queue:
                piece = self._queue.popleft()
                self._queued -= len(piece)
                if self._queued <= low_water and not self.gone:
                    connection.resume_reading()
                yield piece
            if self.failure is not None:
                raise self.failure
            if self.whole:
                return
            self._waiter = connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def gather(self, piece: bytes) -> None:
        """Keep a piece of a body that is to be whole."""
        parts = self._parts
        if len(piece) >= _SMALL_PIECE or not parts:
            parts.append(piece)
            return
        tail = parts[-1]
        if type(tail) is bytearray:
            tail += piece
        else:
            parts.append(bytearray(piece))

    def push(self, piece: bytes) -> None:
        """Keep a piece for who iterates over :meth:`pieces`."""
        if self._queue is _NO_PIECES:
            self._queue = deque()
        queue = self._queue
        if queue and len(piece) < _SMALL_PIECE and len(queue[-1]) < _SMALL_PIECE:
            queue[-1] += piece
        else:
            queue.append(piece)
        self._queued += len(piece)
        if self._queued > self._connection.serving.config.pipeline_bytes:
            self._connection.pause_reading()
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- the answer

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.gone:
            return
        if self.started:
            raise RuntimeError("the answer has begun already")
        fields = render_fields(headers)
        connection = self._connection
        opening = connection.serving.openings[status]
        if connection.ends_connection():
            opening += CLOSE
        elif self.head.http10:
            opening += KEEP_ALIVE
        self.started = self.ended = self._seen = True
        self.watcher = None
        if status in (204, 304):
            connection.write(b"%b%b\r\n" % (opening, fields))
        elif self._no_body:
            connection.write(b"%bcontent-length: %d\r\n%b\r\n" % (opening, len(body), fields))
        elif len(body) <= _LONG_BODY:
            connection.write(b"%bcontent-length: %d\r\n%b\r\n%b" % (opening, len(body), fields, body))
        else:
            connection.write(b"%bcontent-length: %d\r\n%b\r\n" % (opening, len(body), fields))
            connection.write(body)
        connection.answered()

    def start(self, status: int, headers: HeaderList) -> None:
        if self.gone:
            return
        if self.started:
            raise RuntimeError("the answer has begun already")
        fields = render_fields(headers)
        connection = self._connection
        opening = connection.serving.openings[status]
        if status in (204, 304):
            self._no_body = True
        elif self.head.http10:
            connection.last = True  # the end of the connection is the only end that HTTP/1.0 knows
        else:
            self.chunked = True
            opening += b"transfer-encoding: chunked\r\n"
        if connection.ends_connection():
            opening += CLOSE
        elif self.head.http10:
            opening += KEEP_ALIVE
        self.started = True
        self._pieces.append(b"%b%b\r\n" % (opening, fields))
        connection.serving.flush_soon(self)

    def write(self, data: bytes) -> bool:
        if self.gone:
            return True
        if not self.started or self.ended:
            raise RuntimeError("a piece of an answer that has not begun or has ended")
        connection = self._connection
        if data and not self._no_body:
            pieces = self._pieces
            if not pieces:
                connection.serving.flush_soon(self)
            if self.chunked:
                pieces += (b"%x\r\n" % len(data), data, b"\r\n")
            else:
                pieces.append(data)
            self._unsent += len(data)
            if self._unsent > connection.serving.config.write_high_water:
                self.flush()
        return not connection.writing_paused

    def flush(self) -> None:
        """Send what :meth:`start` and :meth:`write` have kept: pieces of one turn go out as one."""
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._unsent = 0
            self._seen = True
            self._connection.write(data)

    def end(self) -> None:
        if self.gone:
            return
        if not self.started or self.ended:
            raise RuntimeError("the end of an answer that has not begun or has ended")
        self.ended = True
        self.watcher = None
        if self.chunked and not self._no_body:
            self._pieces.append(LAST_CHUNK)
        self.flush()
        self._connection.answered()

    def inform(self, status: int, headers: HeaderList) -> None:
        if not 100 <= status < 200 or status == 101:
            raise ValueError(f"{status} is not the status of an interim answer")
        if self.gone or self.started or self.head.http10:
            return
        self._connection.write(b"%b%b\r\n" % (STATUS_LINES[status], render_fields(headers)))

    def abort(self) -> None:
        if self.gone or self.ended:
            return
        self.flush()
        self.gone = True
        self.watcher = None
        self.ended = True
        connection = self._connection
        connection.exchange = None
        self.failure = self.failure or ConnectionError("the connection was cut")
        self.wake()
        connection.close(at_once=self.started and not self.chunked and not self._no_body)

    @property
    def transport(self) -> asyncio.Transport:
        """The connection beneath, for the simulator, which breaks HTTP on purpose."""
        return self._connection.transport

    def watch(self, watcher: Watcher | None) -> None:
        if self.gone:
            if watcher is not None:
                watcher.on_gone()
        elif not self.ended:
            self.watcher = watcher

    def fail(self, error: PenstockError) -> None:
        """The body will not become whole."""
        self.failure = error
        self._parts.clear()
        self.wake()

    def drop(self) -> None:
        """Nobody will read what has come of the body."""
        self._queue.clear()
        self._queued = 0

    def leave(self) -> None:
        """The client is gone."""
        if self.gone:
            return
        self.gone = True
        self._queue.clear()
        if not self.whole:
            self.failure = ConnectionError("the client left before the end of its request")
        self.wake()
        watcher = self.watcher
        self.watcher = None
        if watcher is not None and not self.ended:
            try:
                watcher.on_gone()
            except Exception:  # noqa: BLE001 - the connection must be cleared away even so
                _log.exception("a watcher failed at %r", self)
        self._pieces.clear()

    def defect(self, error: Exception | None) -> None:
        """The application failed: say so to the client in the way that is left."""
        if isinstance(error, PenstockError):
            status, (headers, body) = error.status, raised_error(error)
        else:
            status, (headers, body) = 500, internal_error()
            gone = self.gone and isinstance(error, ConnectionError)
            if error is not None and not gone:
                _log.error("the application failed at %r", self, exc_info=error)
        if self.gone or self.ended:
            return
        if not self._seen:  # the head, if there is one, is still here
            self._pieces.clear()
            self.started = self.chunked = False
            self._no_body = self.method == "HEAD"
        if self.started:
            self.abort()
        else:
            self.respond(status, headers, body)

    def __repr__(self) -> str:
        answer = "gone" if self.gone else "ended" if self.ended else "started" if self.started else "open"
        return f"<InboundExchange {self.method} {self.path} from {self.peer}, answer {answer}>"


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is larger than {limit} bytes.")
