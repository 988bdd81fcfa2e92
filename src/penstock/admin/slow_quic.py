"""hypercorn's answers over HTTP/3, which wait where the client takes nothing.

hypercorn's own hands all that is written to aioquic, which keeps it until the client has acknowledged it.  So a client
that opens no window (RFC 9000, 4.1), or acknowledges nothing, would have each of its answers whole in memory.  And where a
connection ends, hypercorn tells nobody who still writes to it.
"""

from __future__ import annotations

import asyncio

from aioquic.quic.connection import QuicConnection, QuicConnectionState
from hypercorn.protocol import events, h3

HIGH_WATER = 262_144  # bytes of one answer that are sent and not acknowledged, or not sent yet
_SOONEST, _LATEST = 0.005, 0.1  # seconds between two looks, the first and the longest
_ENDED = frozenset(
    {QuicConnectionState.CLOSING, QuicConnectionState.DRAINING, QuicConnectionState.TERMINATED}
)


class WaitingProtocol(h3.H3Protocol):
    """Lets whoever writes go on when the client has taken enough of what was written before."""

    async def stream_send(self, event: events.Event) -> None:
        if isinstance(event, events.Body | events.Data):
            connection: QuicConnection = self.connection._quic  # noqa: SLF001 - there is no other way
            wait = _SOONEST
            while unacknowledged(connection, event.stream_id) > HIGH_WATER and not has_ended(connection):
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LATEST)
            if has_ended(connection):
                if (stream := self.streams.get(event.stream_id)) is not None:
                    await stream.handle(events.StreamClosed(stream_id=event.stream_id))
                return
        await super().stream_send(event)


def unacknowledged(connection: QuicConnection, stream_id: int) -> int:
    """Bytes of a stream that the connection keeps."""
    stream = connection._streams.get(stream_id)  # noqa: SLF001 - as above
    return 0 if stream is None else len(stream.sender._buffer)  # noqa: SLF001


def has_ended(connection: QuicConnection) -> bool:
    return connection._state in _ENDED  # noqa: SLF001 - as above
