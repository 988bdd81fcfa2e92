"""The head of a request, from bytes to fields.  No I/O.

Theory of operation
-------------------
Nobody stands in front of this server, so a head is either exactly what RFC 9112 says or it is refused:
two parsers that read one head differently are how requests are smuggled.  General parsers forgive a bare
LF, a repeated ``Host``, a ``Content-Length`` beside a ``Transfer-Encoding``, or drop the body of a request
that asks for an upgrade; guarding one of them by a scan before it costs as much as reading the head here.

What makes that cheap: clients send the same lines again and again, so a line that was found valid is
remembered with what it means, and costs one dictionary look-up.  Only fields whose names are in
:data:`_COMMON` are remembered, never one that carries credentials, and the memory is emptied when full.
A head that comes again as a whole is not even read (``net._precedent``).

A fault is judged by **where it lies**, not by how the bytes were cut into segments: of a bare LF, a target
that is too long and a head that is too big, the one that comes first in the stream is the one that counts,
and it is found as soon as it is there.  So a byte-at-a-time client gets the answer that a fast one gets.
"""

from __future__ import annotations

import re

import msgspec

from penstock.config.model import ListenerConfig

CHUNKED = -1  # in place of a length

_END = b"\r\n\r\n"
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TARGET = bytes(range(0x21, 0x7F)).replace(b"#", b"")
_HOST = b"-._~%!$&'()*+,;=:[]0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUE = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_FAULT = re.compile(rb"[^\t\r\n\x20-\x7e\x80-\xff]|(?<!\r)\n|\r(?=[^\n])")  # what no head may hold
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_ABSOLUTE = re.compile(rb"https?://[^/?]*", re.IGNORECASE)

_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding"))  # a second one changes the framing
MAX_DIGITS = 18  # of Content-Length
_LINE_SLACK = 64  # bytes of a request line beside its target: method, version, spaces
_REMEMBERED_LINES = 2_048
_REMEMBERED_BYTES = 200

_COMMON = frozenset(
    (
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"anthropic-beta",
        b"anthropic-version",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"openai-beta",
        b"origin",
        b"referer",
        b"sec-fetch-mode",
        b"te",
        b"transfer-encoding",
        b"tus-resumable",
        b"upload-complete",
        b"upload-draft-interop-version",
        b"user-agent",
        b"x-stainless-arch",
        b"x-stainless-async",
        b"x-stainless-helper-method",
        b"x-stainless-lang",
        b"x-stainless-os",
        b"x-stainless-package-version",
        b"x-stainless-poll-helper",
        b"x-stainless-raw-response",
        b"x-stainless-read-timeout",
        b"x-stainless-retry-count",
        b"x-stainless-runtime",
        b"x-stainless-runtime-version",
        b"x-stainless-stream-helper",
        b"x-stainless-timeout",
    )
)


class Refusal(Exception):
    """The request breaks the protocol or a limit; the connection ends with this answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class RequestHead(msgspec.Struct, gc=False):
    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    http10: bool
    keep_alive: bool
    length: int  # of the body, or CHUNKED
    expects_continue: bool
    meaning: object = None  # what the application has made of it, for the next one that says the same

    def of_length(self, digits: bytes) -> RequestHead:
        """One that says the same of a body of another length."""
        headers = self.headers.copy()
        headers[b"content-length"] = digits
        return RequestHead(
            self.method,
            self.path,
            self.query,
            headers,
            self.http10,
            self.keep_alive,
            int(digits),
            self.expects_continue,
            self.meaning,
        )

    def __repr__(self) -> str:  # without what the fields hold: credentials
        return f"<RequestHead {self.method} {self.path}, {len(self.headers)} fields>"


class _Fields(dict[bytes, tuple[bytes, bytes]]):
    """Header lines that were found valid, with name and value; a line that is not there is judged."""

    def __missing__(self, line: bytes) -> tuple[bytes, bytes]:
        name, colon, value = line.partition(b":")
        # A space or tab in front of the name (obs-fold, RFC 9112 5.2) or of the colon (5.1) is no token.
        if not colon or not name or name.translate(None, _TOKEN):
            raise Refusal(400, "bad_header", "A header field has no valid name.")
        if value.translate(None, _VALUE):
            raise Refusal(400, "bad_header", "A header field holds a control character.")
        field = name.lower(), value.strip(b" \t")
        if field[0] == b"host" and field[1].translate(None, _HOST):
            raise Refusal(400, "bad_host", "The field host is not a host name.")
        if field[0] in _COMMON and len(line) <= _REMEMBERED_BYTES:
            if len(self) >= _REMEMBERED_LINES:
                self.clear()
            self[line] = field
        return field


class _RequestLines(dict[bytes, tuple[str, str, str, bool]]):
    """Request lines that were found valid: method, path, query, whether HTTP/1.0; others are judged."""

    def __init__(self, max_target: int) -> None:
        super().__init__()
        self._max_target = max_target

    def __missing__(self, line: bytes) -> tuple[str, str, str, bool]:
        words = line.split(b" ")
        if len(words) != 3:
            raise Refusal(400, "bad_request_line", "The request line is not 'method target version'.")
        verb, target, version = words
        if not verb or verb.translate(None, _TOKEN):
            raise Refusal(400, "bad_request_line", "The method is not a token.")
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            if _VERSION.fullmatch(version):
                raise Refusal(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
            raise Refusal(400, "bad_request_line", "The request line has no HTTP version.")
        if verb == b"CONNECT":
            raise Refusal(405, "method_not_allowed", "CONNECT is not served here.")
        if len(target) > self._max_target:
            raise Refusal(414, "target_too_long", "The request target is too long.")
        if target.translate(None, _TARGET):
            raise Refusal(400, "bad_target", "The request target holds a character that must be encoded.")
        if target[:1] != b"/":
            target = _origin_form(verb, target)
        path, _, query = target.decode("ascii").partition("?")
        meaning = verb.decode("ascii"), path, query, version == b"HTTP/1.0"
        if not query and len(line) <= _REMEMBERED_BYTES:
            if len(self) >= _REMEMBERED_LINES:
                self.clear()
            self[line] = meaning
        return meaning


class HeadParser:
    """Reads heads for one listener; what it remembers between them is only which lines are valid."""

    def __init__(self, config: ListenerConfig) -> None:
        self._max_bytes = config.max_header_bytes
        self._max_fields = config.max_headers
        self._max_line = config.max_target_bytes + _LINE_SLACK
        self._request_lines = _RequestLines(config.max_target_bytes)
        self._fields = _Fields()

    def parse(self, head: bytes) -> RequestHead:
        """Read a head.

        :param head: everything up to the blank line, without the line ends before and after that
        :raises Refusal: it must not be served
        """
        lines = head.split(b"\r\n")
        request_line = lines.pop(0)
        if len(head) + 4 > self._max_bytes or len(request_line) > self._max_line:
            self.check(head + _END, 0)
        try:
            if len(lines) > self._max_fields:
                raise Refusal(431, "too_many_headers", "The request has too many header fields.")  # noqa: TRY301
            headers = dict(map(self._fields.__getitem__, lines))
            if len(headers) != len(lines):
                headers = self._joined(lines)
            return self._assemble(request_line, headers)
        except Refusal:
            self.check(head + _END, 0)  # a bare line end before it is the fault that counts
            raise

    def _joined(self, lines: list[bytes]) -> dict[bytes, bytes]:
        """The fields, where some are repeated."""
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, value = self._fields[line]
            if name in headers:
                if name in _ONCE:
                    raise Refusal(400, "repeated_header", f"The field {name.decode()} is repeated.")
                value = headers[name] + b", " + value
            headers[name] = value
        return headers

    def check(self, data: bytes | bytearray, start: int) -> None:
        """Judge a head that has not ended yet, or one that is at fault for where its fault lies.

        :param start: up to where ``data`` has been checked before
        :raises Refusal: what has come can no longer become a head
        """
        fault = _FAULT.search(data, max(0, start - 1))
        fault_at = fault.start() if fault else len(data) + 1
        end = data.find(_END)
        size = len(data) if end < 0 else end + 4
        line_end = data.find(b"\r\n", 0, self._max_line + 2)
        # Whether a CR as the last byte is a fault is known with the next one: it is too late to be one.
        if line_end < 0 and size >= self._max_line + 2 and fault_at >= self._max_line + 1:
            raise Refusal(414, "target_too_long", "The request target is too long.")
        too_big = size > self._max_bytes if end >= 0 else size >= self._max_bytes
        if too_big and fault_at >= self._max_bytes - 1:
            raise Refusal(431, "header_too_large", "The request header is too large.")
        if fault_at < size:
            raise Refusal(
                400, "bad_header", "The request header holds a control character or a bare CR or LF."
            )

    def _assemble(self, request_line: bytes, headers: dict[bytes, bytes]) -> RequestHead:
        method, path, query, http10 = self._request_lines[request_line]
        if not http10 and b"host" not in headers:
            raise Refusal(400, "missing_host", "HTTP/1.1 requires the field host.")  # RFC 9112 3.2

        connection = headers.get(b"connection")
        keep_alive = not http10
        if connection is not None and connection != b"keep-alive":
            options = [option.strip() for option in connection.lower().split(b",")]
            keep_alive = b"close" not in options and (not http10 or b"keep-alive" in options)
        elif http10:
            keep_alive = connection is not None

        if b"transfer-encoding" in headers or b"content-length" in headers:
            length = self._length(headers, http10)
        else:
            length = 0
        expects_continue = False
        if b"expect" in headers and not http10:
            if headers[b"expect"].lower() != b"100-continue":
                raise Refusal(
                    417, "expectation_failed", "The only expectation that can be met is 100-continue."
                )
            expects_continue = length != 0
        return RequestHead(method, path, query, headers, http10, keep_alive, length, expects_continue)

    @staticmethod
    def _length(headers: dict[bytes, bytes], http10: bool) -> int:
        """RFC 9112 6.3, without its leniencies."""
        length = headers.get(b"content-length")
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if length is not None or http10:
                raise Refusal(400, "bad_framing", "Transfer-Encoding cannot be combined with this request.")
            if coding.lower() != b"chunked":
                raise Refusal(400, "bad_framing", "The only transfer coding understood is chunked.")
            return CHUNKED
        assert length is not None
        if not length.isdigit() or len(length) > MAX_DIGITS:
            raise Refusal(400, "bad_framing", "Content-Length is not one decimal number.")
        return int(length)

    def __repr__(self) -> str:
        return f"<HeadParser remembering {len(self._request_lines) + len(self._fields)} lines>"


def _origin_form(method: bytes, target: bytes) -> bytes:
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise Refusal(400, "bad_target", "The request target is neither a path nor a URL.")
    rest = target[absolute.end() :]  # RFC 9112 3.2.2: a server must accept the absolute form
    return rest if rest[:1] == b"/" else b"/" + rest
