"""hypercorn's buffer of one HTTP/2 stream, which waits where the client's window is shut.

hypercorn's own lets whoever writes go on as soon as it has looked whether anything can be sent, though nothing was.
So a client that opens no window (RFC 9113, 6.9) would have each of its answers whole in memory, at no cost to itself.
"""

from __future__ import annotations

from hypercorn.protocol import h2


class WaitingBuffer(h2.StreamBuffer):
    async def pop(self, max_length: int) -> bytes:
        if self.buffer and not max_length:
            return b""
        return await super().pop(max_length)


def wait_at_shut_windows() -> None:
    """Have hypercorn use it, in this process."""
    h2.StreamBuffer = WaitingBuffer  # type: ignore[misc] # there is no other way to tell it
