"""The other way in: one :class:`~penstock.net.exchange.Exchange` per ASGI ``http`` scope.

For those who want uvicorn, hypercorn or granian in front, or the gateway inside their own application.
The server enforces its own limits on heads and connections; the limits on bodies are enforced here.

ASGI gives bytes out by awaiting ``send`` and in by awaiting ``receive``, and an exchange must not block.
So :func:`serve_asgi` itself is the pump that sends what the application has written, and a second task
receives: the body in pieces, if the application wants it so, and the client's leaving.  An application
that answers before its first wait costs neither the second task nor a turn of the loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import quote

from penstock.config.model import ListenerConfig
from penstock.errors import BadRequest, BodyTooLarge, PenstockError, RequestTimeout
from penstock.messages import Headers
from penstock.net._proxies import Proxies
from penstock.net.exchange import Application, HeaderList, Watcher
from penstock.net.responses import internal_error, raised_error, render_fields
from penstock.net.tasks import start

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LINE_END = re.compile(rb"[\0\r\n]")

_log = logging.getLogger(__name__)

_proxies = functools.lru_cache(maxsize=8)(Proxies)  # a configuration's are read once, not for each request


class AnswerCut(Exception):
    """Raised into the server after an answer was aborted: its only way to learn that it must not end it."""


async def serve_asgi(
    application: Application, scope: Scope, receive: Receive, send: Send, config: ListenerConfig
) -> None:
    """Serve one ASGI ``http`` scope.

    :raises AnswerCut: the answer was aborted; the server then cuts the connection (or resets the stream)
    """
    if scope["type"] != "http":
        raise ValueError(f"an ASGI scope of type {scope['type']!r} cannot be served here")
    exchange = ASGIExchange(scope, receive, config)
    await exchange.serve(application, send)


class ASGIExchange:
    """One request and its answer; ``penstock.net.exchange.Exchange`` says what its methods promise."""

    def __init__(self, scope: Scope, receive: Receive, config: ListenerConfig) -> None:
        self.method: str = scope["method"]
        self.path = _path(scope)
        self.root: str = scope.get("root_path", "").rstrip("/")
        self.scheme: str = scope.get("scheme", "http")
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self.headers: Headers = _headers(scope["headers"])
        client = scope.get("client")
        self.peer = str(client[0]) if client else ""
        if config.trusted_proxies and (proxies := _proxies(tuple(config.trusted_proxies))).trusts(self.peer):
            self.peer = proxies.caller(self.peer, self.headers)
        self.gone = False
        self.state: object = None
        self.meaning: object = None
        self._receive = receive
        self._config = config
        self._watcher: Watcher | None = None
        # the body
        self._streaming = False
        self._body = b""
        self._received = 0
        self._whole = False
        self._failure: Exception | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._reader: asyncio.Task[None] | None = None
        self._piece_waiter: asyncio.Future[None] | None = None
        self._room_waiter: asyncio.Future[None] | None = None
        # the answer
        self._started = False
        self._ended = False
        self._aborted = False
        self._head: MutableMapping[str, Any] | None = None  # not sent yet
        self._output: list[bytes] = []  # not sent yet
        self._output_bytes = 0
        self._sending = False  # the server is taking something, or has failed to
        self._full = False  # write() has said so
        self._output_waiter: asyncio.Future[None] | None = None
        self._sent = self._sent_before = 0  # messages the server has taken: now, and at the last look
        self._pumping: asyncio.Task[Any] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._stalled = False

    async def serve(self, application: Application, send: Send) -> None:
        """Read what the application wants, call it, send what it answers."""
        try:
            if _LINE_END.search(b"".join(self.headers.values())):
                # RFC 9113, 8.2.1; some servers pass it on, and the next server reads a field of its own.
                raise BadRequest("A header field holds a control character.", code="bad_header")  # noqa: TRY301
            limit = application.opening(self)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            self._defect(error)
            limit = 0
        task: asyncio.Task[None] | None = None
        if not self._ended:
            if limit is None:
                self._streaming = True
                self._reader = asyncio.create_task(self._read())
            else:
                await self._read_whole(min(limit, self._config.max_body_bytes))
            if self.gone:
                return
            task = start(self._answer(application), asyncio.get_running_loop())
        try:
            if not self._ended and self._reader is None:
                self._reader = asyncio.create_task(self._read())
            await self._pump(send)
            if task is not None:
                await task
        except BaseException:  # cancelled by the server, which serves this client no longer
            self._leave()
            if task is not None and not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            if self._reader is not None:
                self._reader.cancel()
                await asyncio.gather(self._reader, return_exceptions=True)
        if self._aborted:
            raise AnswerCut(f"the answer to {self.method} {self.path} was cut")

    async def _answer(self, application: Application) -> None:
        try:
            answering = application(self)
            if answering is None:  # it answers in callbacks
                return
            await answering
            if not self._ended and not self.gone:
                _log.error("the application left %r without an answer", self)
                self._defect(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            self._defect(error)
        except BaseException:
            self.abort()
            raise

    # ---- the body

    async def body(self) -> bytes:
        if self._streaming:
            limit = self._config.max_body_bytes
            parts = bytearray()
            async for piece in self.pieces():
                parts += piece
                if len(parts) > limit:
                    raise _too_large(limit)
            self._body = bytes(parts)
            self._streaming = False
        return self.whole_body()

    def whole_body(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        return self._body

    async def pieces(self) -> AsyncIterator[bytes]:
        if not self._streaming:
            if whole := await self.body():
                yield whole
            return
        low_water = self._config.pipeline_bytes // 2
        while True:
            while self._queue:
                piece = self._queue.popleft()
                self._queued -= len(piece)
                if self._queued <= low_water:
                    _wake(self._room_waiter)
                yield piece
            if self._failure is not None:
                raise self._failure
            if self._whole:
                return
            self._piece_waiter = asyncio.get_running_loop().create_future()
            await self._piece_waiter

    async def _read_whole(self, limit: int) -> None:
        """Receive a body that is to be whole, or learn why it is not."""
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            self._failure = _too_large(limit)
            return
        message = await self._receive_in_time(None)
        if message is not None and message["type"] == "http.request" and not message.get("more_body", False):
            self._body = message.get("body", b"")  # the usual case: nothing to put together
            self._received = len(self._body)
            self._whole = True
        else:
            self._body = await self._gather(message, limit)
        if self._received > limit:
            self._body = b""
            self._failure = _too_large(limit)

    async def _gather(self, message: MutableMapping[str, Any] | None, limit: int) -> bytes:
        parts = bytearray()
        began = time.monotonic()
        while message is not None:
            if message["type"] == "http.disconnect":
                self._leave()
                return b""
            parts += message.get("body", b"")
            self._received = len(parts)
            if self._received > limit:
                return b""
            if not message.get("more_body", False):
                self._whole = True
                return bytes(parts)
            message = await self._receive_in_time(began)
        return b""

    async def _receive_in_time(self, began: float | None) -> MutableMapping[str, Any] | None:
        """The next message, or None, and a failure, if it does not come in time."""
        timeout = self._config.body_timeout or None
        try:
            async with asyncio.timeout(timeout):
                message = await self._receive()
        except TimeoutError:
            self._failure = RequestTimeout("The request's body did not come in time.")
            return None
        if began is not None and timeout is not None:
            elapsed = time.monotonic() - began
            if elapsed > timeout and self._received < elapsed * self._config.min_body_rate:
                self._failure = RequestTimeout("The request's body comes too slowly.")
                return None
        return message

    async def _read(self) -> None:
        """Receive until the client leaves: pieces for the application, or a rest that is dropped."""
        while not self.gone:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._leave()
                return
            piece = message.get("body", b"")
            if not message.get("more_body", False):
                self._whole = True
            if piece and self._streaming and not self._ended:
                self._queue.append(piece)
                self._queued += len(piece)
            _wake(self._piece_waiter)
            if self._queued > self._config.pipeline_bytes:
                self._room_waiter = asyncio.get_running_loop().create_future()
                await self._room_waiter

    # ---- the answer

    @property
    def started(self) -> bool:
        return self._started

    @property
    def segment(self) -> bytes:
        return b""

    @property
    def unsent(self) -> bool:
        return self._sending or self._head is not None or bool(self._output)

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.gone:
            return
        fields = self._begin(status, headers)
        if status not in (204, 304):
            fields.append((b"content-length", b"%d" % len(body)))
        self._ended = True
        if body and self.method != "HEAD" and status not in (204, 304):
            self._output.append(body)
        _wake(self._output_waiter)

    def start(self, status: int, headers: HeaderList) -> None:
        if self.gone:
            return
        self._begin(status, headers)
        _wake(self._output_waiter)

    def _begin(self, status: int, headers: HeaderList) -> list[tuple[bytes, bytes]]:
        if self._started:
            raise RuntimeError("the answer has begun already")
        render_fields(headers)  # for its check: some servers pass CR and LF on
        fields = list(headers)
        self._started = True
        self._head = {"type": "http.response.start", "status": status, "headers": fields}
        return fields

    def write(self, data: bytes) -> bool:
        if self.gone:
            return True
        if not self._started or self._ended:
            raise RuntimeError("a piece of an answer that has not begun or has ended")
        if data and self.method != "HEAD":
            self._output.append(data)
            self._output_bytes += len(data)
            if self._output_bytes > self._config.write_high_water:
                self._full = True
            _wake(self._output_waiter)
        return not self._full

    def end(self) -> None:
        if self.gone:
            return
        if not self._started or self._ended:
            raise RuntimeError("the end of an answer that has not begun or has ended")
        self._ended = True
        _wake(self._output_waiter)

    def inform(self, status: int, headers: HeaderList) -> None:
        """Does nothing: ASGI has no way to send an interim answer."""

    def abort(self) -> None:
        if self.gone or self._ended:
            return
        self.gone = self._aborted = True
        self._watcher = None
        self._failure = self._failure or ConnectionError("the answer was cut")
        for waiter in (self._output_waiter, self._piece_waiter, self._room_waiter):
            _wake(waiter)

    def watch(self, watcher: Watcher | None) -> None:
        if self.gone:
            if watcher is not None:
                watcher.on_gone()
        elif not self._ended:
            self._watcher = watcher

    async def _pump(self, send: Send) -> None:
        """Send what is written, until the answer has ended or there is nobody to send it to."""
        self._pumping = asyncio.current_task()
        self._look_later()
        try:
            while not self.gone or (self._aborted and self._output):
                if self._head is not None:
                    head, self._head = self._head, None
                    self._sending = True
                    await send(head)
                    self._sending = False
                    self._sent += 1
                    continue
                output = self._output
                if output or self._ended:
                    data = output[0] if len(output) == 1 else b"".join(output)
                    output.clear()
                    self._output_bytes = 0
                    ended = self._ended
                    self._sending = True
                    await send({"type": "http.response.body", "body": data, "more_body": not ended})
                    self._sending = False
                    self._sent += 1
                    if ended:
                        self._watcher = None
                        return
                    self._writable()
                    continue
                self._output_waiter = asyncio.get_running_loop().create_future()
                await self._output_waiter
                self._output_waiter = None
        except OSError:  # ASGI 2.4: the client has gone
            self._leave()
        except asyncio.CancelledError:
            if not self._stalled or self._pumping is None:
                raise
            self._pumping.uncancel()
            self._leave()
            self._aborted = True
        finally:
            if self._looking is not None:
                self._looking.cancel()

    def _look_later(self) -> None:
        if self._config.write_timeout:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(self._config.write_timeout, self._look)

    def _look(self) -> None:
        """A client that takes nothing for so long is gone: an HTTP/2 window may be shut for ever, at no cost to it."""
        if self._sending and self._sent == self._sent_before and self._pumping is not None:
            self._stalled = True
            self._pumping.cancel()
        else:
            self._sent_before = self._sent
            self._look_later()

    def _writable(self) -> None:
        if self._full and self._output_bytes <= self._config.write_high_water // 2:
            self._full = False
            if self._watcher is not None and not self._ended:
                self._watcher.on_writable()

    def _leave(self) -> None:
        """The client is gone."""
        if self.gone:
            return
        self.gone = True
        if not self._whole:
            self._failure = ConnectionError("the client left before the end of its request")
        for waiter in (self._output_waiter, self._piece_waiter, self._room_waiter):
            _wake(waiter)
        watcher = self._watcher
        self._watcher = None
        if watcher is not None and not self._ended:
            watcher.on_gone()
        self._output.clear()

    def _defect(self, error: Exception | None) -> None:
        """The application failed: say so to the client in the way that is left."""
        if isinstance(error, PenstockError):
            status, (headers, body) = error.status, raised_error(error)
        else:
            status, (headers, body) = 500, internal_error()
            if error is not None and not (self.gone and isinstance(error, ConnectionError)):
                _log.error("the application failed at %r", self, exc_info=error)
        if self.gone or self._ended:
            return
        if self._head is not None:  # nobody has seen it yet
            self._head = None
            self._output.clear()
            self._started = False
        if self._started:
            self.abort()
        else:
            self.respond(status, headers, body)

    def __repr__(self) -> str:
        answer = "gone" if self.gone else "ended" if self._ended else "started" if self._started else "open"
        return f"<ASGIExchange {self.method} {self.path} from {self.peer}, answer {answer}>"


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is larger than {limit} bytes.")


def _headers(fields: Any) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        key = name.lower()
        headers[key] = headers[key] + b", " + value if key in headers else value
    return headers


def _path(scope: Scope) -> str:
    """The path below the place where the gateway is mounted, with its percent-encoding as sent.

    ASGI: ``path`` is decoded and begins with ``root_path``; ``raw_path`` is as sent, and optional.  Some
    servers and frameworks leave ``root_path`` out of ``path``, so it is removed only where it is.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    raw = scope.get("raw_path")
    sent = raw.decode("latin-1") if raw else quote(path, safe="/:@!$&'()*+,;=~-._%")
    if root and (path == root or path.startswith(root + "/")):
        encoded = quote(root, safe="/:@!$&'()*+,;=~-._%")
        if sent.startswith(encoded):
            sent = sent[len(encoded) :]
        else:
            sent = quote(path[len(root) :], safe="/:@!$&'()*+,;=~-._")
    return sent or "/"
