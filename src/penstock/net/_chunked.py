"""Chunked request bodies (RFC 9112 7.1), from bytes to bytes.  No I/O.

Strict, for the same reason as the head: a size is hexadecimal digits and nothing else, lines end in CRLF.
Extensions are ignored, trailers are checked and dropped.
"""

from __future__ import annotations

import re

from penstock.net._request_head import Refusal

_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_MAX_SIZE_LINE = 256  # bytes; nobody sends extensions

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedDecoder:
    """Takes a chunked body apart; holds at most one unfinished line."""

    __slots__ = ("_left", "_line", "_state", "_trailer_room", "fault", "rest")

    def __init__(self, max_trailer_bytes: int) -> None:
        self._state = _SIZE
        self._left = 0  # of the current chunk
        self._line = b""
        self._trailer_room = max_trailer_bytes
        self.fault: Refusal | None = None  # why it cannot go on
        self.rest = b""  # what came after the body's end

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes) -> list[bytes]:
        """The payload in ``data``, in pieces.

        Where the coding is wrong, ``fault`` is set, and the pieces are those before it: whether a limit or
        the fault ends the request must not depend on how the bytes came.
        """
        pieces: list[bytes] = []
        try:
            self._take(data, pieces)
        except Refusal as fault:
            self.fault = fault
        return pieces

    def _take(self, data: bytes, pieces: list[bytes]) -> None:
        at = 0
        if self._line:
            data = self._line + data
            self._line = b""
        size = len(data)
        while at < size:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            if self._state == _DONE:
                self.rest = data[at:]
                break
            end = data.find(b"\r\n", at)
            if end < 0:
                self._keep(data[at:])
                break
            if self._state == _DATA_END:
                if end != at:
                    raise _malformed()
                self._state = _SIZE
            elif self._state == _SIZE:
                self._begin(data[at:end])
            else:
                self._trailer(data[at:end])
            at = end + 2

    def _keep(self, line: bytes) -> None:
        """Remember an unfinished line, unless it cannot become a right one."""
        if self._state == _DATA_END and line != b"\r":
            raise _malformed()
        if b"\n" in line or b"\r" in line[:-1]:
            raise _malformed()
        if self._state == _SIZE and len(line) > _MAX_SIZE_LINE + 1:
            raise _malformed()
        if self._state == _TRAILERS and len(line) > self._trailer_room + 1:
            raise _malformed()
        self._line = line

    def _begin(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None or len(line) > _MAX_SIZE_LINE:
            raise _malformed()
        self._left = int(match[1], 16)
        self._state = _DATA if self._left else _TRAILERS

    def _trailer(self, line: bytes) -> None:
        if not line:
            self._state = _DONE
            return
        self._trailer_room -= len(line) + 2
        if self._trailer_room < 0:
            raise _malformed()
        if _TRAILER.fullmatch(line) is None:
            raise _malformed()

    def __repr__(self) -> str:
        state = ("size", "data", "end of chunk", "trailers", "done")[self._state]
        return f"<ChunkedDecoder at {state}, {self._left} bytes of the chunk left>"


def _malformed() -> Refusal:
    return Refusal(400, "bad_chunk", "The body's chunked coding is not valid, or its lines are too long.")
