"""Server-sent events, by the rules of the WHATWG event stream.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

A **frame** is what stands between two blank lines, the closing blank line included: one event, or a
comment.  Frames are passed on byte for byte, because most are only relayed; who wants to know what is
in one asks ``fields``, or ``data_of`` where only the payload matters.

Bytes that are not UTF-8 do no harm here: payloads stay bytes, and names are decoded with replacement,
as the specification has it.
"""

from __future__ import annotations

import re

import msgspec

from penstock.errors import UpstreamBroken
from penstock.wire._json_values import check_answered

_BOM = b"\xef\xbb\xbf"
_LF = 10
_CR = 13
_LINE_END = re.compile(rb"\r\n|\r|\n")
# Atomic groups: what matched as CRLF must not be read again as CR and LF, which would be a blank line.
_BLANK_LINE = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")
_LONGEST_BLANK_LINE = 4
# Lines that end with LF, up to a blank one.  Possessive: of a text that ends with one, each byte is looked at once.
_FRAMES = re.compile(rb"(?:[^\n]++\n)++\n").findall

MAX_FRAME_BYTES = 8 * 1024 * 1024
# Of one frame: each takes a step of its own, and whoever reads it does nothing else meanwhile.
MAX_LINES = 16_384
# In one piece, of fewer than so many bytes each on average: no event of any API is so short.
MAX_FRAMES = 8_192
_SHORTEST = 24


class Splitter:
    """Cuts a stream of bytes into whole frames.

    Nearly all streams end their lines with LF alone: then a chunk costs one search.  The first CR
    switches to the general rules for the rest of the stream.
    """

    __slots__ = ("_after_cr", "_general", "_max_frame_bytes", "_scanned", "_started", "_suspect", "_tail")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._suspect = min(max_frame_bytes, MAX_LINES)  # a frame of fewer bytes breaks no limit
        self._tail = bytearray()
        self._scanned = 0  # bytes of the tail that are known to hold no blank line
        self._started = False  # past the place where a byte order mark may stand
        self._general = False
        self._after_cr = False  # the last frame ended with CR: an LF that follows belongs to it

    def __repr__(self) -> str:
        return f"<Splitter {len(self._tail)} bytes waiting{', CR seen' if self._general else ''}>"

    @property
    def rest(self) -> bytes:
        """What has come of a frame that is not complete; at the stream's end it is no event."""
        return bytes(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that this chunk completes.

        Blank lines in front of a frame are left out: they mean nothing, and a frame that began with
        one could not be given an ``id:`` line.

        :raises UpstreamBroken: a frame longer than ``max_frame_bytes``, or of more than :data:`MAX_LINES` lines or of
            too many values, or more than :data:`MAX_FRAMES` that hold next to nothing
        """
        if not self._started and not (data := self._without_mark(data)):
            return []
        if self._general or _CR in data:
            return self._feed_general(data)
        if self._tail:
            return self._feed_more(data)
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._keep(data)
            return []
        if end < len(data):
            self._keep(data[end:])
        frames: list[bytes] = _FRAMES(data, 0, end)
        if len(data) > self._suspect:
            self._check(frames)
        return frames

    def _feed_more(self, data: bytes) -> list[bytes]:
        tail = self._tail
        begin = max(self._scanned - 1, 0)
        tail += data
        end = tail.rfind(b"\n\n", begin)
        if end < 0:
            self._scanned = len(tail)
            self._check_tail()
            return []
        frames: list[bytes] = _FRAMES(bytes(tail[: end + 2]))
        del tail[: end + 2]
        self._scanned = len(tail)
        self._check(frames)
        self._check_tail()
        return frames

    def _feed_general(self, data: bytes) -> list[bytes]:
        self._general = True
        if self._after_cr:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        tail = self._tail
        begin = max(self._scanned - _LONGEST_BLANK_LINE + 1, 0)
        tail += data
        # Before a copy is made: a long frame may come in many pieces.
        if _BLANK_LINE.search(tail, begin) is None:
            self._scanned = len(tail)
            self._check_tail()
            return []
        frames = []
        start = 0
        buffer = bytes(tail)
        for found in _BLANK_LINE.finditer(buffer, begin):
            frame = buffer[start : found.end()].lstrip(b"\r\n")
            start = found.end()
            if frame:
                frames.append(frame)
        if start:
            self._after_cr = start == len(buffer) and buffer.endswith(b"\r")
            del tail[:start]
        self._scanned = len(tail)
        self._check(frames)
        self._check_tail()
        return frames

    def _without_mark(self, data: bytes) -> bytes:
        data = bytes(self._tail) + data
        self._tail.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._tail += data
            return b""
        self._started = True
        return data.removeprefix(_BOM)

    def _keep(self, tail: bytes) -> None:
        self._tail += tail
        self._scanned = len(tail)
        self._check_tail()

    def _check(self, frames: list[bytes]) -> None:
        if len(frames) > MAX_FRAMES and sum(map(len, frames)) < _SHORTEST * len(frames):
            raise UpstreamBroken(f"the upstream sent {len(frames)} events at once that hold next to nothing")
        for frame in frames:
            if len(frame) > self._suspect:
                if len(frame) > self._max_frame_bytes:
                    raise self._too_long()
                if max(frame.count(b"\n"), frame.count(b"\r")) > MAX_LINES:
                    raise UpstreamBroken(f"the upstream sent an event of more than {MAX_LINES} lines")
                check_answered(frame)

    def _check_tail(self) -> None:
        if len(self._tail) > self._max_frame_bytes:
            raise self._too_long()

    def _too_long(self) -> UpstreamBroken:
        return UpstreamBroken(f"the upstream sent an event of more than {self._max_frame_bytes} bytes")


class Frame(msgspec.Struct, frozen=True):
    """What a frame says; ``event`` is empty where the frame names none ("message", to a browser)."""

    event: str = ""
    data: bytes = b""
    id: str | None = None
    retry: int | None = None


def fields(frame: bytes) -> Frame:
    """Read a frame in full."""
    event = ""
    data: list[bytes] = []
    last_id: str | None = None
    retry: int | None = None
    for line in _LINE_END.split(frame):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 16:
            retry = int(value)
        # A comment has an empty name; any other name is ignored.
    return Frame(event, b"\n".join(data), last_id, retry)


def data_of(frame: bytes) -> bytes:
    """A frame's payload; empty for a comment."""
    # Searching for one byte by its number is three times as fast as for a byte string.
    if _CR not in frame:
        last = len(frame) - 2
        if frame[:6] == b"data: ":
            if frame.find(_LF) == last:
                return frame[6:last]
        elif frame[:6] == b"event:":
            start = frame.find(_LF) + 1
            if frame[start : start + 6] == b"data: " and frame.find(_LF, start) == last:
                return frame[start + 6 : last]
    return fields(frame).data


def without_id(frame: bytes) -> bytes:
    """The frame without an ``id`` field: the same bytes, if it has none."""
    found = fields(frame)
    return frame if found.id is None else encode(found.data, found.event)


def encode(data: bytes, event: str = "") -> bytes:
    """One frame.  ``event`` must not hold a line end."""
    if _LF in data or _CR in data:
        data = b"\ndata: ".join(_LINE_END.split(data))
    if event:
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    return b"data: %b\n\n" % data
