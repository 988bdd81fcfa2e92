"""A call without a connection: a line of a batch, as the pipeline sees it.

To the pipeline it is an exchange like any other (:class:`penstock.net.exchange.Exchange`), whose body is there
from the beginning and whose answer is kept instead of sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from penstock.errors import InternalError
from penstock.messages import Headers
from penstock.net.exchange import BATCH, HeaderList, Watcher


class LineExchange:
    """One request of a batch, and its answer once :meth:`wait_answered` returns."""

    __slots__ = (
        "_answered",
        "_body",
        "_watcher",
        "answer",
        "answer_headers",
        "gone",
        "headers",
        "meaning",
        "method",
        "path",
        "peer",
        "query",
        "started",
        "state",
        "status",
    )

    def __init__(self, path: str, body: bytes, headers: Headers) -> None:
        self.method = "POST"
        self.path = path
        self.query = ""
        self.headers = headers
        self.peer = BATCH
        self.gone = False
        self.state: object = None
        self.meaning: object = None
        self.started = False
        self.status = 0
        self.answer_headers: dict[bytes, bytes] = {}
        self.answer = b""
        self._body = body
        self._watcher: Watcher | None = None
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<LineExchange {self.path}, {self.status or 'open'}>"

    async def wait_answered(self) -> None:
        """Until there is an answer; whoever is cancelled here leaves, like any client."""
        try:
            await self._answered
        finally:
            if not self.started:
                self.gone = True
                watcher, self._watcher = self._watcher, None
                if watcher is not None:
                    watcher.on_gone()

    # ---- Exchange ----

    @property
    def scheme(self) -> str:
        return "http"

    @property
    def root(self) -> str:
        return ""

    @property
    def segment(self) -> bytes:
        return b""

    @property
    def unsent(self) -> bool:
        return False

    async def body(self) -> bytes:
        return self._body

    def whole_body(self) -> bytes:
        return self._body

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self._body

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.gone or self.started:
            return
        self.started = True
        self.status = status
        self.answer_headers = dict(headers)
        self.answer = body
        self._watcher = None
        if not self._answered.done():
            self._answered.set_result(None)

    def start(self, status: int, headers: HeaderList) -> None:  # noqa: ARG002
        raise self._no_stream()

    def write(self, data: bytes) -> bool:  # noqa: ARG002
        raise self._no_stream()

    def end(self) -> None:
        raise self._no_stream()

    def _no_stream(self) -> InternalError:
        return InternalError(f"{self!r} cannot be streamed: a batch's lines are checked for that")

    def inform(self, status: int, headers: HeaderList) -> None:
        """Nobody waits for an interim answer."""

    def abort(self) -> None:
        """There is no connection to cut: the line is answered with the error that the cut stands for."""
        self.respond(502, [(b"content-type", b"application/json")], b'{"error":{"code":"upstream_broken"}}')

    def watch(self, watcher: Watcher | None) -> None:
        if self.gone:
            if watcher is not None:
                watcher.on_gone()
        elif not self.started:
            self._watcher = watcher
