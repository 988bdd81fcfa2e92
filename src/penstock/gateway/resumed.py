"""A request that came in pieces, over several connections, as the pipeline sees it: whole, and on one.

Its head was sent when the upload was created, and is kept with it but for the caller's key; its body lies in the
upload store; its answer goes out on the connection that brought the last piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from penstock.messages import Headers
from penstock.net.exchange import Exchange, HeaderList, Watcher

_KEYS = frozenset({b"authorization", b"x-api-key"})  # are sent with each request, and never written to a disk
_OF_ONE_CONNECTION = frozenset(
    {
        *_KEYS,
        b"connection",
        b"content-digest",
        b"content-length",
        b"cookie",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authorization",
        b"repr-digest",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OF_UPLOADS = (
    b"upload-",
    b"tus-",
    b"x-forwarded-",
    b"x-http-method-override",
)


class Target(msgspec.Struct, frozen=True):
    """The request that an upload will become: its head."""

    path: str
    query: str
    headers: dict[bytes, bytes]
    content_type: bytes
    whole_algorithm: str = ""  # of the digest that the whole must have; empty: none was said
    whole_value: bytes = b""
    filename: str = ""
    purpose: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Target).decode


def encoded(target: Target) -> bytes:
    return _encode(target)


def decoded(target: bytes) -> Target:
    return _decode(target)


def kept(headers: Headers) -> dict[bytes, bytes]:
    """What of a creating request's head belongs to the request that it will become."""
    return {
        name: value
        for name, value in headers.items()
        if name not in _OF_ONE_CONNECTION and not name.startswith(_OF_UPLOADS)
    }


class ResumedExchange:
    """An :class:`~penstock.net.exchange.Exchange` over another one, which brought the last piece.

    :param content: the body, or what yields its pieces
    :param fields: of the upload, put beside those of the answer
    :param key: the call's ``Idempotency-Key``, if it has none of its own
    """

    def __init__(
        self,
        beneath: Exchange,
        target: Target,
        content: bytes | Callable[[], AsyncIterator[bytes]],
        length: int,
        fields: HeaderList,
        *,
        key: str = "",
    ) -> None:
        self.method = "POST"
        self.path = target.path
        self.query = target.query
        self.peer = beneath.peer
        self.state: object = None
        headers = dict(target.headers)
        if key and b"idempotency-key" not in headers:
            headers[b"idempotency-key"] = key.encode()
        headers[b"content-type"] = target.content_type
        headers[b"content-length"] = b"%d" % length
        for name in _KEYS:
            if name in beneath.headers:
                headers[name] = beneath.headers[name]
        self.headers: Headers = headers
        self._beneath = beneath
        self._content = content
        self._fields = list(fields)
        self._watcher: Watcher | None = None
        self._ended = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<ResumedExchange {self.path} over {self._beneath!r}>"

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

    async def body(self) -> bytes:
        return self.whole_body()

    def whole_body(self) -> bytes:
        assert isinstance(self._content, bytes), "who reads a body whole is given it whole"
        return self._content

    async def pieces(self) -> AsyncIterator[bytes]:
        if isinstance(self._content, bytes):
            yield self._content
            return
        async for piece in self._content():
            yield piece

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self._beneath.respond(status, [*headers, *self._fields], body)
        self._end()

    def start(self, status: int, headers: HeaderList) -> None:
        self._beneath.start(status, [*headers, *self._fields])

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
