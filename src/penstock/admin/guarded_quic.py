"""hypercorn's HTTP/3 towards clients that mean no good: each can harm its own connection, and no more.

hypercorn's own and aioquic's bound too little.

* A field of aioquic's dynamic table takes one byte to name: 100 kB of a request's head become 400 MB.  So there is no
  such table here, and a head has an end.
* What nobody here reads any more, because the answer was quicker than the rest of the request, ended HTTP/3 for
  everybody, and so did a method that is no ASCII.  Whatever goes wrong with a connection ends it alone.
* A client that has stopped a stream, or reset it, has left: without being told, the gateway went on with its call.
* Every first packet makes a connection, with keys and buffers, whoever has sent it: past a bound they are dropped, and
  the client asks again, or over TCP.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aioquic._buffer import Buffer
from aioquic.h3.connection import ErrorCode, H3Connection, ProtocolError
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset
from aioquic.quic.packet import pull_quic_header
from hypercorn.events import Event, RawData
from hypercorn.protocol import events, h3, quic

from penstock.admin.slow_quic import WaitingProtocol

if TYPE_CHECKING:
    from aioquic.h3.events import H3Event

MAX_BLOCK = 16_384  # bytes of a head as it is sent; each can become 40 in memory, and takes some microseconds
WORD_INTERVAL = 60.0  # seconds
HALF_OPEN = 500  # connections of one worker whose handshake has not ended

log = logging.getLogger("penstock.admin")


class _ExcessiveLoad(ProtocolError):
    error_code = ErrorCode.H3_EXCESSIVE_LOAD


def _nothing() -> property:
    """An attribute that is 0, whatever is written to it."""
    return property(lambda _: 0, lambda *_: None)


class LimitedConnection(H3Connection):
    """aioquic's, without a dynamic table, and with an end to what must be there in one piece."""

    _max_table_capacity = _nothing()
    _blocked_streams = _nothing()

    def handle_event(self, event: QuicEvent) -> list[H3Event]:
        found = super().handle_event(event)
        if isinstance(event, StreamDataReceived):
            stream = self._stream.get(event.stream_id)
            if stream is not None and len(stream.buffer) > 2 * MAX_BLOCK:  # of a frame that is no data
                self._is_done = True
                self._quic.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="a frame is too long")
                return []
        return found

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> list[tuple[bytes, bytes]]:
        if frame_data is not None and len(frame_data) > MAX_BLOCK:
            raise _ExcessiveLoad(f"a head has more than {MAX_BLOCK} bytes")
        return super()._decode_headers(stream_id, frame_data)


class GuardedProtocol(WaitingProtocol):
    """Tells whoever answers that the client has left, and forgets what comes for streams that are over."""

    async def handle(self, quic_event: QuicEvent) -> None:
        if isinstance(quic_event, StreamReset | StopSendingReceived):
            stream = self.streams.get(quic_event.stream_id)
            if stream is not None:
                await stream.handle(events.StreamClosed(stream_id=quic_event.stream_id))
            return
        if isinstance(quic_event, StreamDataReceived) and self._is_over(quic_event.stream_id):
            return
        await super().handle(quic_event)

    def _is_over(self, stream_id: int) -> bool:
        """Whether a request of the client's (RFC 9000, 2.1) has been answered already."""
        known = self.connection._stream  # noqa: SLF001 - there is no other way
        return stream_id % 4 == 0 and stream_id not in self.streams and _has_begun(known.get(stream_id))


def _has_begun(stream: object) -> bool:
    """Whether aioquic has had the head of this stream."""
    state = getattr(stream, "headers_recv_state", None)
    return state is not None and state.value > 0


class GuardedQuic(quic.QuicProtocol):
    """Bounds connections, and lets none of them end the others."""

    most = 10_000  # connections of one worker

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*args, **named)  # type: ignore[arg-type] # as hypercorn has them
        self._next_word = 0.0  # when such an end is said again
        self._open: dict[int, quic._Connection] = {}
        self._half_open: dict[int, quic._Connection] = {}

    async def handle(self, event: Event) -> None:
        full = len(self._half_open) >= HALF_OPEN or len(self._open) >= self.most
        if isinstance(event, RawData) and full and self._is_new(event.data):
            return
        await super().handle(event)

    def _is_new(self, data: bytes) -> bool:
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=8)
        except ValueError:
            return True
        return header.destination_cid not in self.connections

    async def _handle_events(
        self, connection: quic._Connection, client: tuple[str, int] | None = None
    ) -> None:
        try:
            await super()._handle_events(connection, client)
        except Exception as error:  # noqa: BLE001 - most are not ours, and any client can bring them about
            if self.context.time() >= self._next_word:
                self._next_word = self.context.time() + WORD_INTERVAL
                log.warning("a connection of HTTP/3 was ended, because of %r", error)
            connection.quic.close(error_code=ErrorCode.H3_INTERNAL_ERROR)
            await self.send_all(connection)
        self._count(connection)

    def _count(self, connection: quic._Connection) -> None:
        name = id(connection)
        if not connection.cids:  # it has ended
            self._open.pop(name, None)
            self._half_open.pop(name, None)
            return
        self._open[name] = connection
        if not connection.quic._handshake_complete:  # noqa: SLF001 - as above
            self._half_open[name] = connection
        else:
            self._half_open.pop(name, None)


def guard(most: int) -> None:
    """Have hypercorn use these, in this process.

    :param most: connections of one worker
    """
    GuardedQuic.most = most
    h3.H3Connection = LimitedConnection  # type: ignore[attr-defined] # there is no other way to tell it
    quic.H3Protocol = GuardedProtocol  # type: ignore[attr-defined] # as above
    quic.QuicProtocol = GuardedQuic  # type: ignore[misc] # as above
