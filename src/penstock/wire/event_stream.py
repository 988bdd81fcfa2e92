"""Amazon's event stream, in which Bedrock streams answers: messages with a length and checksums, not lines.

A message is cut out and made the frame of server-sent events that it stands for, as Anthropic's own API would have
sent it, so that all that reads streams reads these, too.  (Of Converse's events: ``wire.converse.message``.)

::

    length of all | length of the headers | CRC-32 of these two | headers | payload | CRC-32 of all before it

Source: https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html (the encoding), and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ResponseStream.html (what Bedrock puts into it).
"""

from __future__ import annotations

import re
import struct
from zlib import crc32

import msgspec

from penstock.errors import UpstreamBroken
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON

MEDIA_TYPE = b"application/vnd.amazon.eventstream"
_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_LEAST = _PRELUDE.size + _CHECKSUM.size
_STRING = 7
_WIDTHS = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # of a header's value, by its type
_NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
_SIZED = frozenset({6, _STRING})  # bytes and text: two bytes say how long
# What goes wrong in mid-stream, as Anthropic's own events call it.
_ERRORS = {
    "throttlingException": "rate_limit_error",
    "validationException": "invalid_request_error",
    "serviceUnavailableException": "overloaded_error",
    "modelTimeoutException": "timeout_error",
}


class _Chunk(msgspec.Struct):
    event: bytes = msgspec.field(name="bytes")  # in base64


class _Typed(msgspec.Struct):
    type: str = ""


class _Told(msgspec.Struct):
    message: str = ""


_chunk = msgspec.json.Decoder(_Chunk).decode
_typed = msgspec.json.Decoder(_Typed).decode
_told = msgspec.json.Decoder(_Told).decode


class EventStream:
    """Cuts a stream of bytes into messages; :meth:`feed` is :meth:`penstock.wire.sse.Splitter.feed`."""

    __slots__ = ("_broken", "_max_frame_bytes", "_tail")

    def __init__(self, max_frame_bytes: int = sse.MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._tail = bytearray()
        self._broken: UpstreamBroken | None = None

    def __repr__(self) -> str:
        return f"<EventStream {len(self._tail)} bytes waiting>"

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that this chunk completes.

        :raises UpstreamBroken: a message is longer than ``max_frame_bytes``, or damaged; what came before it in the
            same chunk is given first, and this is raised when more comes
        """
        if self._broken is not None:
            raise self._broken
        tail = self._tail
        tail += data
        frames: list[bytes] = []
        begin = 0
        try:
            while length := self._next(begin):
                frames += self._frames(bytes(tail[begin : begin + length]))
                begin += length
        except UpstreamBroken as error:
            if not frames:
                raise
            self._broken = error
        del tail[:begin]
        return frames

    def _next(self, begin: int) -> int:
        """The length of the message that begins here; 0: it is not whole."""
        tail = self._tail
        if len(tail) - begin < _PRELUDE.size:
            return 0
        length, of_headers, checksum = _PRELUDE.unpack_from(tail, begin)
        if crc32(tail[begin : begin + 8]) != checksum or length < _LEAST + of_headers:
            raise UpstreamBroken("the upstream's stream of events is damaged")
        if length > self._max_frame_bytes:
            raise UpstreamBroken(f"the upstream sent an event of more than {self._max_frame_bytes} bytes")
        return int(length) if len(tail) - begin >= length else 0

    def _frames(self, message: bytes) -> list[bytes]:
        """The frames that a message stands for; none: it says nothing that belongs to the answer."""
        if crc32(message[:-4]) != _CHECKSUM.unpack_from(message, len(message) - 4)[0]:
            raise UpstreamBroken("an event of the upstream's is damaged")
        begin = _PRELUDE.size + _PRELUDE.unpack_from(message)[1]
        headers, payload = _headers(message[_PRELUDE.size : begin]), message[begin:-4]
        kind = headers.get(":message-type", "event")
        try:
            if kind == "event":
                return self._event(headers.get(":event-type", ""), payload)
            if kind == "exception":
                name, words = headers.get(":exception-type", ""), _told(payload).message
            else:
                name, words = headers.get(":error-code", ""), headers.get(":error-message", "")
        except NOT_JSON:
            raise UpstreamBroken("an event of the upstream's is not what it should be") from None
        error = {"type": _ERRORS.get(name, "api_error"), "message": words or name}
        return [sse.encode(msgspec.json.encode({"type": "error", "error": error}), "error")]

    def _event(self, name: str, payload: bytes) -> list[bytes]:
        """The frames of an event of this type; of those that came later than this was written: none."""
        if name != "chunk":
            return []
        data = _chunk(payload).event
        try:
            kind = _typed(data).type
        except NOT_JSON:
            kind = ""  # whoever reads it finds that out, and keeps what came before
        return [sse.encode(data, kind if _NAME.fullmatch(kind) else "")]


def _headers(block: bytes) -> dict[str, str]:
    """The header fields that are text; the others say nothing that anybody asks for here."""
    found: dict[str, str] = {}
    place = 0
    try:
        while place < len(block):
            end = place + 1 + block[place]
            name, kind = block[place + 1 : end].decode(), block[end]
            place = end + 1
            if kind in _SIZED:
                size = int.from_bytes(block[place : place + 2])
                place += 2
            else:
                size = _WIDTHS[kind]
            if place + size > len(block):
                raise UpstreamBroken("an event of the upstream's has headers that end too late")
            if kind == _STRING:
                found[name] = block[place : place + size].decode()
            place += size
    except (IndexError, KeyError, UnicodeDecodeError):
        raise UpstreamBroken("an event of the upstream's has headers that nobody understands") from None
    return found
