"""Where an upstream listens: scheme, host and port, parted from the path that its base URL carries."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import msgspec

from penstock.errors import ConfigError

DEFAULT_PORTS = {"http": 80, "https": 443}

# The path goes into request lines as it stands: visible ASCII only (RFC 3986 leaves nothing else).
_PATH = re.compile(r"(?:/[!-~]*)?")
_CREDENTIALS = re.compile(r"[^/?#]*//[^/?#]*@")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")


class Origin(msgspec.Struct, frozen=True):
    """One server: connections to it are interchangeable.  ``host`` of an IPv6 literal has no brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> tuple[Origin, str]:
        """The origin of a base URL, and its path without the slash at the end.

        :raises ConfigError: not an absolute http or https URL, or one with parts that a base URL
            cannot have (credentials, query, fragment)
        """
        if _CREDENTIALS.match(url):
            # Before anything else, and without the URL: it holds a password.
            raise ConfigError("a base URL cannot carry a user name or password; use api_key or headers")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is not a URL: {error}") from error
        if url != url.strip() or any(ord(character) < 33 for character in url):
            raise ConfigError(f"{url!r} is not a URL: it has white space or control characters in it")
        if parts.scheme not in DEFAULT_PORTS:
            raise ConfigError(f"{url!r} must begin with http:// or https://")
        if parts.query or parts.fragment or url.endswith(("?", "#")):
            raise ConfigError(f"{url!r}: a base URL has no query and no fragment")
        if port == 0:
            raise ConfigError(f"{url!r}: port 0 cannot be connected to")
        if parts.netloc.endswith(":"):
            raise ConfigError(f"{url!r}: the port is missing after the colon")
        if not _PATH.fullmatch(parts.path):
            raise ConfigError(f"{url!r}: percent-encode what is not visible ASCII in the path")
        host = _host(url, parts.hostname or "", bracketed="[" in parts.netloc)
        return cls(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme]), parts.path.rstrip("/")

    @property
    def address(self) -> str:
        """``host:port``, as messages name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def authority(self) -> str:
        """The value of a ``host`` header field: the port only where it is not the scheme's own."""
        if self.port == DEFAULT_PORTS.get(self.scheme):
            return f"[{self.host}]" if ":" in self.host else self.host
        return self.address

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def _host(url: str, host: str, *, bracketed: bool) -> str:
    if not host:
        raise ConfigError(f"{url!r} names no host")
    if bracketed:
        if "%" in host:
            raise ConfigError(f"{url!r}: an address with a zone means nothing to anybody else")
        try:
            return ipaddress.IPv6Address(host).compressed
        except ValueError as error:
            raise ConfigError(f"{url!r}: {host!r} is not an IPv6 address") from error
    try:
        name = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError as error:
        raise ConfigError(f"{url!r}: {host!r} is not a host name") from error
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ConfigError(f"{url!r}: {host!r} is not a host name")
    return name
