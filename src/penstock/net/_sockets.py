"""What the event loop does not tell about a socket: asked of the kernel, by the sweep, where it matters."""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios
from typing import Any

_GONE_EVENTS = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_OUTQ = getattr(termios, "TIOCOUTQ", 0)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _socket(transport: asyncio.Transport) -> Any:
    return transport.get_extra_info("socket")


def _poll(transport: asyncio.Transport, events: int) -> bool:
    sock = _socket(transport)
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), events)
    return bool(poll.poll(0))


def untaken(transport: asyncio.Transport) -> int:
    """Bytes written that the client's machine has not acknowledged, as far as can be seen.

    The kernel's part counts: it asks for more only when a third of its buffer is free, which may be a
    megabyte, and to a slow client that takes longer than ``write_timeout``.
    """
    size = transport.get_write_buffer_size()
    sock = _socket(transport)
    if _OUTQ and sock is not None and sock.fileno() >= 0:
        try:
            size += int.from_bytes(fcntl.ioctl(sock.fileno(), _OUTQ, b"\0\0\0\0"), sys.byteorder)
        except OSError:
            pass
    return size


def hung_up(transport: asyncio.Transport) -> bool:
    """Whether the client has closed, behind bytes that we do not read at present."""
    return _poll(transport, _GONE_EVENTS)


def readable(transport: asyncio.Transport) -> bool:
    """Whether bytes are there that the event loop has not given us yet."""
    return _poll(transport, select.POLLIN)


def reset_on_close(transport: asyncio.Transport) -> None:
    """Make the next close a reset: what is still in the kernel is thrown away, and nothing looks complete."""
    sock = _socket(transport)
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            pass
