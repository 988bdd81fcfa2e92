"""Heads of answers: status lines and dates rendered once, fields checked for injection."""

from __future__ import annotations

import http
import math
import time
from email.utils import formatdate

import msgspec

from penstock.errors import PenstockError
from penstock.net.exchange import HeaderList

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CLOSE = b"connection: close\r\n"
KEEP_ALIVE = b"connection: keep-alive\r\n"

_JSON = (b"content-type", b"application/json")


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def render_fields(headers: HeaderList) -> bytes:
    """Header fields as they go out.

    :raises ValueError: a name or value would end the line and begin another one
    """
    if not headers:
        return b""
    lines = [*map(b": ".join, headers)]
    text = b"".join(lines)
    if 10 in text or 13 in text or 0 in text:
        raise ValueError("a header field holds CR, LF or NUL")
    return b"\r\n".join(lines) + b"\r\n"


class Openings(dict[int, bytes]):
    """Status line and ``date`` field by status; the date is rendered once a second at most."""

    __slots__ = ("_date", "_until")

    def __init__(self) -> None:
        super().__init__()
        self._date = b""
        self._until = 0.0
        self.refresh()

    def refresh(self) -> None:
        """Note the time of day; called by whoever sweeps."""
        now = time.time()
        if not self._until - 1.0 <= now < self._until:
            self._until = float(int(now) + 1)
            self._date = b"date: %b\r\n" % formatdate(now, usegmt=True).encode()
            self.clear()

    def __missing__(self, status: int) -> bytes:
        line = STATUS_LINES.get(status) or _status_line(status)
        opening = self[status] = line + self._date
        return opening


def error_answer(code: str, message: str, kind: str) -> tuple[HeaderList, bytes]:
    """Fields and body of an error that no dialect is known for: the form that OpenAI's SDK reads."""
    body = msgspec.json.encode({"error": {"message": message, "type": kind, "code": code}})
    return (_JSON,), body


def last_error(opening: bytes, code: str, message: str, kind: str) -> bytes:
    """A whole answer to a client with whom the connection ends.

    :param opening: of :class:`Openings`
    """
    headers, body = error_answer(code, message, kind)
    fields = render_fields(headers)
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (opening, CLOSE, len(body), fields, body)


def internal_error() -> tuple[HeaderList, bytes]:
    return error_answer("internal_error", "internal error", "api_error")


def raised_error(error: PenstockError) -> tuple[HeaderList, bytes]:
    headers, body = error_answer(error.code, error.message, error.kind)
    if error.retry_after is not None:
        headers = (*headers, (b"retry-after", b"%d" % math.ceil(error.retry_after)))
    return headers, body
