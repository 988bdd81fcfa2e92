"""The frames of one connection of HTTP/2 (RFC 9113), for the side that asks.  No I/O: bytes in, calls out, bytes out.

Theory of operation.  :class:`Frames` has what both sides must agree on: which streams there are, how much may be sent on
each (windows, and the largest frame), and what header fields stand for.  :meth:`Frames.receive` takes what came as far as
it holds whole frames, and tells a :class:`Hearer` what they mean, in their order; what is to be sent gathers in
``out``.  Data of one stream that come in frames next to each other are told at once.

*Mistakes* of one stream reset it, and are told as if the other side had; those of a connection raise
:class:`Http2Error`, after which it takes nothing any more.  Which is which, the paragraph at each says.  A stream that
has ended here may still be spoken of by a server that does not know yet: that is heard, counted against the connection's
window, and told to nobody.

*Floods.*  A frame costs its sender nothing.  Whatever brings nothing (PING, SETTINGS, PRIORITY, empty DATA, windows,
frames of streams that have ended) is counted until something comes or is asked; past :data:`MOST_IDLE` it is a mistake.
A header block has a limit as it comes, and another one for what it unpacks to.
"""

from __future__ import annotations

import enum
from typing import Protocol

from penstock.net._hpack import BadBlock, Packer, TooLarge, Unpacker

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_SIZE = 16_384  # bytes: the largest frame that may be sent to who has not said otherwise, as we do not
WINDOW = 65_535  # bytes: each window's first size
MOST_IDLE = 10_000  # frames
_MOST = (1 << 31) - 1

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE = range(9)
_CONTINUATION = 9
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_WITH_PRIORITY = 0x20
_ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME_SIZE, _MAX_HEADER_LIST = 2, 3, 4, 5, 6


class Code(enum.IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Http2Error(Exception):
    """The other side has made a mistake that ends the connection."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


class Hearer(Protocol):
    """Who is told what came."""

    def on_head(self, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        """The final head of an answer; fields of any order and number."""

    def on_data(self, number: int, data: bytes, credit: int) -> None:
        """A piece of it, which took ``credit`` bytes of the windows."""

    def on_end(self, number: int) -> None:
        """It is complete."""

    def on_reset(self, number: int, code: int) -> None:
        """The other side has ended the stream before that."""

    def on_mistake(self, number: int, why: str) -> None:
        """It was ended here, because of what came."""

    def on_room(self) -> None:
        """More may be sent, on some stream."""

    def on_going_away(self, last: int, code: int) -> None:
        """Streams after the last one will not be looked at."""


class _Stream:
    """What is known of one.  ``expected``: bytes of data that are still to come, if that was said."""

    __slots__ = ("answered", "bodyless", "expected", "sent_all", "to_receive", "to_send")

    def __init__(self, to_send: int, to_receive: int, *, bodyless: bool, sent_all: bool) -> None:
        self.to_send = to_send
        self.to_receive = to_receive
        self.bodyless = bodyless  # whatever length the answer's head tells
        self.sent_all = sent_all
        self.answered = False
        self.expected: int | None = None

    def __repr__(self) -> str:
        return f"<_Stream, {self.to_send} to send, {self.to_receive} to receive>"


class Frames:
    """One connection's.

    :param stream_window: bytes of one answer that may be on their way
    :param connection_window: the same of all
    :param most_head: bytes of a head
    """

    def __init__(self, hearer: Hearer, *, stream_window: int, connection_window: int, most_head: int) -> None:
        self.out = bytearray()
        self.max_streams = _MOST
        self._hearer = hearer
        self._stream_window = stream_window
        self._most_head = most_head
        self._streams: dict[int, _Stream] = {}
        self._last = -1
        self._to_send = WINDOW
        self._to_receive = connection_window
        self._first_window = WINDOW  # of streams, for what is sent
        self._largest = FRAME_SIZE
        self._packer = Packer()
        self._unpacker = Unpacker(most_head)
        self._rest = b""
        self._greeted = False
        self._idle = 0
        self._block: bytearray | None = None  # of a head that goes on
        self._block_of = (0, 0)  # its stream, and flags
        self._pieces: list[bytes] = []  # data that are not told yet
        self._pieces_of = self._credit = 0
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW, stream_window), (_MAX_HEADER_LIST, most_head))
        payload = b"".join([key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings])
        self.out += PREFACE
        self._frame(_SETTINGS, 0, 0, payload)
        self.widen(0, 0, connection_window - WINDOW)

    def __repr__(self) -> str:
        return f"<Frames of {len(self._streams)} streams, {self._to_send} to send>"

    # ---- what is sent ------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether there are no numbers left for streams."""
        return self._last >= _MOST

    def ask(self, fields: list[tuple[bytes, bytes]], *, end: bool) -> int:
        """Begin a stream; its number.

        :param fields: ``:method`` first
        """
        self._last = number = self._last + 2
        self._idle = 0
        bodyless = fields[0][1] == b"HEAD"
        self._streams[number] = _Stream(
            self._first_window, self._stream_window, bodyless=bodyless, sent_all=end
        )
        block = self._packer.block(fields)
        largest = self._largest
        flags = _END_STREAM if end else 0
        if len(block) <= largest:
            self._frame(_HEADERS, flags | _END_HEADERS, number, block)
            return number
        self._frame(_HEADERS, flags, number, block[:largest])
        for at in range(largest, len(block), largest):
            last = at + largest >= len(block)
            self._frame(_CONTINUATION, _END_HEADERS if last else 0, number, block[at : at + largest])
        return number

    def room(self, number: int) -> int:
        """Bytes that one frame of data may have now; 0: none, also of a stream that has ended."""
        stream = self._streams.get(number)
        return 0 if stream is None else max(0, min(stream.to_send, self._to_send, self._largest))

    def send(self, number: int, data: memoryview, *, end: bool) -> None:
        """Not more than there is :meth:`room` for."""
        stream = self._streams[number]
        stream.to_send -= len(data)
        self._to_send -= len(data)
        stream.sent_all = end
        self._idle = 0
        self._frame(_DATA, _END_STREAM if end else 0, number, data)

    def reset(self, number: int, code: Code) -> None:
        """End a stream, unless it has ended."""
        if self._streams.pop(number, None) is not None:
            self._frame(_RST_STREAM, 0, number, code.to_bytes(4, "big"))

    def widen(self, number: int, taken: int, more: int = 0) -> None:
        """Open a window again by what was taken of it; 0 is the connection's.

        :param more: what the other side does not count on yet
        """
        stream = self._streams.get(number)
        if stream is not None:
            stream.to_receive += taken
        elif number:
            return
        else:
            self._to_receive += taken
        if taken + more:
            self._frame(_WINDOW_UPDATE, 0, number, (taken + more).to_bytes(4, "big"))

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._frame(_PING, 0, 0, bytes(8))

    def leave(self, code: Code) -> None:
        """Say that the connection ends, and why; nothing was done for any stream of theirs, as they have none."""
        self._frame(_GOAWAY, 0, 0, bytes(4) + code.to_bytes(4, "big"))

    def _frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        self.out += len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big")
        self.out += payload

    # ---- what comes --------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """:raises Http2Error: it is none of what HTTP/2 knows"""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 9:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if size > FRAME_SIZE:  # 4.2
                raise Http2Error(Code.FRAME_SIZE_ERROR, "a frame is too large")
            after = at + 9 + size
            if after > end:
                break
            number = int.from_bytes(data[at + 5 : at + 9], "big") & _MOST
            self._take(data[at + 3], data[at + 4], number, data[at + 9 : after])
            at = after
        self._rest = data[at:]
        self._tell_data()

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None:
            if kind != _CONTINUATION or number != self._block_of[0]:  # 6.10
                raise Http2Error(Code.PROTOCOL_ERROR, "a head does not end")
            self._on_continuation(flags, payload)
            return
        if kind == _DATA:
            self._on_data(flags, number, payload)
            return
        self._tell_data()
        if kind == _HEADERS:
            self._on_headers(flags, number, payload)
            return
        self._count()
        if not self._greeted and kind != _SETTINGS:  # 3.4
            raise Http2Error(Code.PROTOCOL_ERROR, "it does not begin with SETTINGS")
        if kind == _WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == _RST_STREAM:
            self._on_rst_stream(number, payload)
        elif kind == _SETTINGS:
            self._on_settings(flags, number, payload)
        elif kind == _PING:
            if number or len(payload) != 8:  # 6.7
                raise Http2Error(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "that is no PING")
            if not flags & _ACK:
                self._frame(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            if number or len(payload) < 8:  # 6.8
                raise Http2Error(
                    Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "that is no GOAWAY"
                )
            last = int.from_bytes(payload[:4], "big") & _MOST
            self._hearer.on_going_away(last, int.from_bytes(payload[4:8], "big"))
        elif kind == _PUSH_PROMISE:  # 6.6: it was told that there shall be none
            raise Http2Error(Code.PROTOCOL_ERROR, "it pushes, and was told not to")
        elif kind == _CONTINUATION:
            raise Http2Error(Code.PROTOCOL_ERROR, "it goes on with a head that has ended")
        elif kind == _PRIORITY and not number:  # 6.3; else it says nothing that anybody wants
            raise Http2Error(Code.PROTOCOL_ERROR, "it prefers no stream")
        # 5.5: what nobody knows is not looked at

    def _count(self) -> None:
        """A frame that brings nothing has come."""
        self._idle += 1
        if self._idle > MOST_IDLE:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, "it sends frames that bring nothing, and no end of them")

    def _known(self, number: int, what: str) -> _Stream | None:
        """A stream that is open; None: it has ended, and there is nobody to tell."""
        stream = self._streams.get(number)
        if stream is None:
            if not number & 1 or number > self._last:  # 5.1, idle; 5.1.1
                raise Http2Error(Code.PROTOCOL_ERROR, f"{what} of a stream that nobody has opened")
            self._count()
        return stream

    def _unpadded(self, flags: int, payload: bytes) -> bytes:
        if not flags & _PADDED:
            return payload
        if not payload or payload[0] >= len(payload):  # 6.1
            raise Http2Error(Code.PROTOCOL_ERROR, "there is more padding than frame")
        return payload[1 : len(payload) - payload[0]]

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        credit = len(payload)
        self._to_receive -= credit
        if self._to_receive < 0:  # 6.9.1
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "it sends more than the connection's window holds")
        data = self._unpadded(flags, payload)
        stream = self._known(number, "DATA")
        if self._credit and self._pieces_of != number:
            self._tell_data()
        if stream is None:
            self._hearer.on_data(number, b"", credit)  # for the connection's window
            return
        stream.to_receive -= credit
        if stream.to_receive < 0:
            self._refuse(number, Code.FLOW_CONTROL_ERROR, "more than the window holds", credit)
            return
        if not stream.answered:  # 8.1
            self._refuse(number, Code.PROTOCOL_ERROR, "an answer without a head", credit)
            return
        if stream.expected is not None:
            stream.expected -= len(data)
            if stream.expected < 0:  # 8.1.1
                self._refuse(number, Code.PROTOCOL_ERROR, "more than its content-length", credit)
                return
        if data:
            self._idle = 0
            self._pieces.append(data)
        else:
            self._count()
        self._pieces_of = number
        self._credit += credit
        if flags & _END_STREAM:
            self._tell_data()
            self._ended(number, stream)

    def _tell_data(self) -> None:
        if self._pieces or self._credit:
            pieces, self._pieces = self._pieces, []
            credit, self._credit = self._credit, 0
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._hearer.on_data(self._pieces_of, data, credit)

    def _refuse(self, number: int, code: Code, why: str, credit: int = 0) -> None:
        """A mistake of one stream (5.4.2)."""
        self._tell_data()
        if credit:
            self._hearer.on_data(0, b"", credit)
        self.reset(number, code)
        self._hearer.on_mistake(number, why)

    def _ended(self, number: int, stream: _Stream) -> None:
        if stream.expected:  # 8.1.1
            self._refuse(number, Code.PROTOCOL_ERROR, "less than its content-length")
            return
        if stream.sent_all:
            self._streams.pop(number, None)
        self._hearer.on_end(number)  # who has not sent all of the question resets it

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not self._greeted:
            raise Http2Error(Code.PROTOCOL_ERROR, "it does not begin with SETTINGS")
        payload = self._unpadded(flags, payload)
        if flags & _WITH_PRIORITY:
            if len(payload) < 5:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "a head is too short for what it says")
            payload = payload[5:]
        self._known(number, "a head")
        if flags & _END_HEADERS:
            self._on_block(flags, number, payload)
        else:
            self._block, self._block_of = bytearray(payload), (number, flags)

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        assert self._block is not None
        if not payload:
            self._count()
        self._block += payload
        if len(self._block) > self._most_head:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, "a head is too large")
        if flags & _END_HEADERS:
            block, self._block = bytes(self._block), None
            number, first = self._block_of
            self._on_block(first, number, block)

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        try:
            # Also of a stream that has ended: it changes the table (4.3).
            fields = self._unpacker.fields(block)
        except TooLarge as error:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, str(error)) from error
        except BadBlock as error:
            raise Http2Error(Code.COMPRESSION_ERROR, str(error)) from error
        stream = self._streams.get(number)
        if stream is None:
            return
        end = bool(flags & _END_STREAM)
        if stream.answered:  # trailers (8.1), of which nobody here wants to know
            if not end:
                self._refuse(number, Code.PROTOCOL_ERROR, "a second head")
            else:
                self._ended(number, stream)
            return
        status = [value for name, value in fields if name == b":status"]
        if len(status) == 1 and len(status[0]) == 3 and status[0].startswith(b"1"):
            self._count()  # an interim answer; a stream may have any number
            if end or status[0] == b"101":  # 8.1, 8.6
                self._refuse(number, Code.PROTOCOL_ERROR, "an interim answer that ends it")
            return
        if not _is_answer(fields, status):
            self._refuse(number, Code.PROTOCOL_ERROR, "an answer without a status")
            return
        stream.answered = True
        self._idle = 0
        lengths = {value for name, value in fields if name == b"content-length"}
        if lengths and not stream.bodyless and status[0] != b"204" and status[0] != b"304":
            if len(lengths) > 1 or not (length := lengths.pop()).isdigit() or len(length) > 18:
                self._refuse(number, Code.PROTOCOL_ERROR, "a content-length that is none")
                return
            stream.expected = int(length)
        self._hearer.on_head(number, fields)
        if end and number in self._streams:
            self._ended(number, stream)

    def _on_rst_stream(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:  # 6.4
            raise Http2Error(Code.FRAME_SIZE_ERROR, "that is no RST_STREAM")
        if self._known(number, "RST_STREAM") is not None:
            del self._streams[number]
            self._hearer.on_reset(number, int.from_bytes(payload, "big"))

    def _on_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:  # 6.9
            raise Http2Error(Code.FRAME_SIZE_ERROR, "that is no WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & _MOST
        if not number:
            self._to_send += more
            if not more or self._to_send > _MOST:  # 6.9.1
                raise Http2Error(
                    Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR, "no window has that size"
                )
        elif (stream := self._known(number, "WINDOW_UPDATE")) is not None:
            stream.to_send += more
            if not more or stream.to_send > _MOST:
                code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
                self._refuse(number, code, "a window that is none")
                return
        self._hearer.on_room()

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:  # 6.5
            raise Http2Error(Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % 6 or (flags & _ACK and payload):
            raise Http2Error(Code.FRAME_SIZE_ERROR, "that is no SETTINGS")
        if flags & _ACK:
            return
        self._greeted = True
        before = self._first_window
        for at in range(0, len(payload), 6):
            key = int.from_bytes(payload[at : at + 2], "big")
            self._set(key, int.from_bytes(payload[at + 2 : at + 6], "big"))
        if change := self._first_window - before:  # once, however often one frame sets it
            for stream in self._streams.values():  # 6.9.2: some may be negative then
                stream.to_send += change
                if stream.to_send > _MOST:
                    raise Http2Error(Code.FLOW_CONTROL_ERROR, "no window has that size")
        self._frame(_SETTINGS, _ACK, 0, b"")
        self._hearer.on_room()

    def _set(self, key: int, value: int) -> None:
        """RFC 9113, 6.5.2; of the table's size and the largest head nothing follows here."""
        if key == _INITIAL_WINDOW:
            if value > _MOST:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "no window has that size")
            self._first_window = value
        elif key == _MAX_FRAME_SIZE:
            if not FRAME_SIZE <= value < 1 << 24:
                raise Http2Error(Code.PROTOCOL_ERROR, "no frame has that size")
            self._largest = min(value, 1 << 18)  # a larger one holds up the others
        elif key == _MAX_STREAMS:
            self.max_streams = value
        elif key == _ENABLE_PUSH and value:
            raise Http2Error(Code.PROTOCOL_ERROR, "servers do not allow to push")


def _is_answer(fields: list[tuple[bytes, bytes]], status: list[bytes]) -> bool:
    """RFC 9113, 8.3: one status, before the other fields, and no other field of that kind."""
    if len(status) != 1 or len(status[0]) != 3 or not status[0].isdigit():
        return False
    return fields[0][0] == b":status" and not any(name.startswith(b":") for name, _ in fields[1:])
