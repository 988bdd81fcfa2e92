"""Ports for processes that cannot be given port 0: that are started anew where they were, or tell nobody theirs."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_FIRST = 15_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that the kernel gives to nobody who asks for any."""
    try:
        end = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        end = 0
    while True:
        port = _FIRST + secrets.randbelow(end - _FIRST) if end > _FIRST else 0
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = sock.getsockname()[1]
            return found
