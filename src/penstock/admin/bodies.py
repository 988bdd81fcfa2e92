"""What the control port asks of a request before it reads any of its body: the key, and a size.

The application reads a body to its end, and into memory, before it looks at anything else.  So whoever reaches the port
could fill the supervisor's memory, with no key at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 65_536  # of all bodies but that of a caller's request, which is to be explained
_EXPLAIN = "/v1/explain"
_ESCAPED = 2  # times as long is a text as a string of JSON, where each of its characters is a quotation mark


class BodiesBounded:
    """An ASGI application in front of another.

    :param is_let_in: whether the value of an ``Authorization`` field has the key, where one is wanted
    :param most_explained: bytes of a caller's request, at most
    :param calls_go_to: the address of the other port
    """

    def __init__(
        self,
        application: ASGIApp,
        is_let_in: Callable[[bytes], bool],
        most_explained: Callable[[], int],
        calls_go_to: Callable[[], str],
    ) -> None:
        self._application = application
        self._is_let_in = is_let_in
        self._most_explained = most_explained
        self._calls_go_to = calls_go_to

    def __repr__(self) -> str:
        return f"<BodiesBounded of {self._application!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"]) if scope["type"] == "http" else {}
        length = headers.get(b"content-length", b"0")
        if length == b"0" and b"transfer-encoding" not in headers:
            await self._application(scope, receive, send)
            return
        if scope["path"].startswith("/v1/") and not self._is_let_in(headers.get(b"authorization", b"")):
            await self._unauthorized()(scope, receive, send)
            return
        most = MOST_BYTES
        if scope["path"] == _EXPLAIN:
            most += _ESCAPED * self._most_explained()
        if not length.isdigit() or int(length) > most:
            await _refused(scope, receive, send, most)
            return
        # A chunked body is read here, up to its bound; the application gets it in one piece.
        body = await _read(receive, most)
        if body is None:
            await _refused(scope, receive, send, most)
            return
        left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def read() -> Message:
            return left.pop() if left else await receive()

        await self._application(scope, read, send)

    def _unauthorized(self) -> JSONResponse:
        """A base URL may have the wrong one of the two ports: SDKs show what stands under ``error``."""
        detail = "the control key is missing or wrong"
        message = f"{detail}: this is the control port; calls go to {self._calls_go_to()}"
        return JSONResponse(
            {
                "detail": detail,
                "error": {"message": message, "type": "authentication_error", "code": "control_key"},
            },
            401,
            {"www-authenticate": "Bearer"},
        )


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body; None: it is larger, or does not come."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _refused(scope: Scope, receive: Receive, send: Send, most: int) -> None:
    answer = JSONResponse({"detail": f"the body is larger than {most} bytes"}, 413, {"connection": "close"})
    await answer(scope, receive, send)
