"""The sockets that a gateway listens on.

The supervisor binds, not the workers: a port in use is told before anything is started, and a worker
that dies leaves its accept queue behind for its replacement.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import NamedTuple

from penstock.config.address import split_address
from penstock.errors import ConfigError

BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn


class Address(NamedTuple):
    """``host`` is empty for every interface; ``port`` 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = self.host or "0.0.0.0"  # noqa: S104 - how the wildcard is shown
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def reachable(self) -> str:
        """Host and port as a client on this machine writes them."""
        if self.host in ("", "0.0.0.0"):  # noqa: S104
            return f"127.0.0.1:{self.port}"
        if self.host == "::":
            return f"[::1]:{self.port}"
        return str(self)


def parse_address(text: str, key: str = "listen") -> Address:
    """:raises penstock.errors.ConfigError: it is not ``host:port``"""
    try:
        return Address(*split_address(text))
    except ValueError as error:
        raise ConfigError(f"{key}: {text!r}: {error}") from error


def bind_exclusively(address: Address, key: str) -> socket.socket:
    """A listening socket that nobody shares.

    :raises penstock.errors.ConfigError: the port is in use, or may not be bound
    """
    return _bind(address, key, shared=False, listening=True)


def bind_shared(address: Address, count: int, *, listening: bool = True) -> list[socket.socket]:
    """``count`` sockets on one port (SO_REUSEPORT); the kernel spreads connections over them.

    SO_REUSEPORT would also let a second supervisor in, and two gateways would silently halve each
    other's traffic.  So the port is first bound without it, which fails if anybody listens there.

    :param listening: False only reserves the port, for a server that listens on sockets of its own
    :raises penstock.errors.ConfigError: the port is in use, or may not be bound
    """
    probe = _bind(address, "listen", shared=False, listening=True)
    address = Address(address.host, probe.getsockname()[1])  # the same port for all where 0 was asked for
    probe.close()
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(_bind(address, "listen", shared=True, listening=listening))  # noqa: PERF401
    except ConfigError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind(address: Address, key: str, *, shared: bool, listening: bool) -> socket.socket:
    try:
        family, kind, proto, _, sockaddr = socket.getaddrinfo(
            address.host or None,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
            family=socket.AF_UNSPEC if address.host else socket.AF_INET,
        )[0]
    except socket.gaierror as error:
        raise ConfigError(f"{key}: {address.host!r} cannot be resolved ({error.strerror})") from error
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and address.host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # one socket for both families
        sock.bind(sockaddr)
        if listening:
            sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(_why(address, key, error)) from error
    return sock


def _why(address: Address, key: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{key}: {address} is in use by another process; stop it, or choose another address"
    if error.errno == errno.EACCES:
        return f"{key}: no permission to bind {address}; ports below 1024 need privileges"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{key}: {address.host} is not an address of this machine"
    return f"{key}: {address} cannot be bound ({os.strerror(error.errno or 0)})"
