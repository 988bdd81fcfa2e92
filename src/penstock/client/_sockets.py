"""What a client asks of its sockets: to notice that the other side is gone, and how far a body has come."""

from __future__ import annotations

import socket

_WANTED = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_NODELAY", socket.IPPROTO_TCP, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 15),  # seconds of silence before the first probe
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 5),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 3),
    # Bytes that wait in the kernel to be sent.  Without it there are megabytes, and a body seems to be on its way that
    # the link has long stopped carrying; what is under way is not limited by it.
    ("TCP_NOTSENT_LOWAT", socket.IPPROTO_TCP, 131_072),
    ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, 30_000),  # milliseconds that what was sent may wait for its ack
)

KEEP_ALIVE = [
    (level, getattr(socket, name), value) for name, level, value in _WANTED if hasattr(socket, name)
]
"""A dead peer is noticed within half a minute, also while nothing is being said."""
