"""Where somebody listens (``127.0.0.1:8080``, ``[::1]:8080``, ``:8080`` for every interface), and base URLs."""

from __future__ import annotations

from urllib.parse import urlsplit

EVERY_INTERFACE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - recognised, not bound here


def split_address(text: str) -> tuple[str, int]:
    """Host and port of a listen address; the host is ``""`` for every interface, without brackets for IPv6.

    :raises ValueError: it is not ``host:port``, or the port is not one
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("expected host:port, such as 127.0.0.1:8080")
    if any(c.isspace() or c in "/@" for c in host):
        raise ValueError("expected host:port, without scheme or path")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError("only an IPv6 address stands in brackets")
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, such as [::1]:8080")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError("the port is a number from 0 to 65535 (0: any free one)")
    return host, int(port)


def overlap(one: str, other: str) -> bool:
    """Whether two listen addresses cannot both be bound.  Port 0 never collides."""
    host, port = split_address(one)
    other_host, other_port = split_address(other)
    if port != other_port or port == 0:
        return False
    return host == other_host or host in EVERY_INTERFACE or other_host in EVERY_INTERFACE


def check_base_url(url: str) -> None:
    """:raises ValueError: it is no base URL of an upstream; the message never shows it"""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("expected a URL that begins with http:// or https://")
    if not parts.hostname or any(c.isspace() for c in url) or not url.isascii():
        raise ValueError("expected a URL with a host, such as https://api.example.com/v1")
    if parts.username or parts.password:
        raise ValueError("holds a user or password; put keys into api_key or headers")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("must end with its path, without a query")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("its port is not a number from 0 to 65535") from None
