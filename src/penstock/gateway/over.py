"""An exchange over another one: what the pipeline sees where a request or its answer has another form on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from penstock.messages import Headers
from penstock.net.exchange import Exchange, HeaderList, Watcher


class OverExchange:
    """An :class:`~penstock.net.exchange.Exchange` that passes everything on; those who change something derive.

    Somebody waits for its end (:meth:`wait_ended`), and leaves for its client if he is cancelled there.
    """

    def __init__(self, beneath: Exchange, method: str, path: str, query: str, headers: Headers) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.peer = beneath.peer
        self.state: object = None
        self.meaning: object = None
        self._beneath = beneath
        self._watcher: Watcher | None = None
        self._ended = asyncio.get_running_loop().create_future()

    async def wait_ended(self) -> None:
        """Until the answer has ended, or its client has left; whoever is cancelled here leaves."""
        try:
            await self._ended
        except asyncio.CancelledError:
            self.on_gone()
            raise

    # ---- Exchange ----

    @property
    def gone(self) -> bool:
        return self._beneath.gone

    @property
    def scheme(self) -> str:
        return self._beneath.scheme

    @property
    def root(self) -> str:
        return self._beneath.root

    @property
    def started(self) -> bool:
        return self._beneath.started

    @property
    def segment(self) -> bytes:
        return b""

    @property
    def unsent(self) -> bool:
        return self._beneath.unsent

    async def body(self) -> bytes:
        return self.whole_body()

    def whole_body(self) -> bytes:
        return self._beneath.whole_body()

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.whole_body()

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self._beneath.respond(status, headers, body)
        self._end()

    def start(self, status: int, headers: HeaderList) -> None:
        self._beneath.start(status, headers)

    def write(self, data: bytes) -> bool:
        return self._beneath.write(data)

    def end(self) -> None:
        self._beneath.end()
        self._end()

    def inform(self, status: int, headers: HeaderList) -> None:
        self._beneath.inform(status, headers)

    def abort(self) -> None:
        self._beneath.abort()
        self._end()

    def watch(self, watcher: Watcher | None) -> None:
        if self.gone:
            self._end()
            if watcher is not None:
                watcher.on_gone()
            return
        self._watcher = watcher
        self._beneath.watch(None if watcher is None else self)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- Watcher ----

    def on_gone(self) -> None:
        self._end()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.on_gone()

    def on_writable(self) -> None:
        if self._watcher is not None:
            self._watcher.on_writable()
