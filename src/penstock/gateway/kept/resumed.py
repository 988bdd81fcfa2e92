"""A request that came in pieces, over several connections, as the pipeline sees it: whole, and on one.

Its head was sent when the upload was created, and is kept with it but for the caller's key; its body lies in the
upload store; its answer goes out on the connection that brought the last piece.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import msgspec

from penstock.gateway.over import OverExchange
from penstock.messages import Headers
from penstock.net.exchange import Exchange, HeaderList

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
    b"penstock-blocks",
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


class ResumedExchange(OverExchange):
    """The exchange over the one that brought the last piece.

    :param content: the body, or what yields its pieces
    :param fields: of the upload, put beside those of the answer
    :param key: the call's ``Idempotency-Key``, if it has none of its own
    """

    def __init__(
        self,
        beneath: Exchange,
        target: Target,
        content: bytes | Callable[[], AsyncGenerator[bytes, None]],
        length: int,
        fields: HeaderList,
        *,
        key: str = "",
    ) -> None:
        headers = dict(target.headers)
        if key and b"idempotency-key" not in headers:
            headers[b"idempotency-key"] = key.encode()
        headers[b"content-type"] = target.content_type
        headers[b"content-length"] = b"%d" % length
        for name in _KEYS:
            if name in beneath.headers:
                headers[name] = beneath.headers[name]
        super().__init__(beneath, "POST", target.path, target.query, headers)
        self._content = content
        self._fields = list(fields)

    def __repr__(self) -> str:
        return f"<ResumedExchange {self.path} over {self._beneath!r}>"

    def whole_body(self) -> bytes:
        assert isinstance(self._content, bytes), "who reads a body whole is given it whole"
        return self._content

    async def pieces(self) -> AsyncIterator[bytes]:
        if isinstance(self._content, bytes):
            yield self._content
            return
        async with aclosing(self._content()) as pieces:
            async for piece in pieces:
                yield piece

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        super().respond(status, [*headers, *self._fields], body)

    def start(self, status: int, headers: HeaderList) -> None:
        super().start(status, [*headers, *self._fields])
