"""The HTTP proxy on the way to an upstream, as the configuration names it or the environment does."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote, urlsplit

import msgspec

from penstock.config.secret import Secret

ENVIRONMENT = "environment"


class Proxy(msgspec.Struct, frozen=True):
    """Where it listens.  ``host`` of an IPv6 literal has no brackets."""

    secure: bool  # it is spoken to over TLS
    host: str
    port: int
    login: Secret | None = None  # user:password

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def parse(url: str) -> Proxy:
    """The proxy of a URL such as ``http://user:password@proxy.example:3128``.

    :raises ValueError: it is none; the message never shows it
    """
    if any(c.isspace() or not c.isprintable() for c in url) or not url.isascii():
        raise ValueError("holds white space, or what is not ASCII: percent-encode it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no URL, or its port is not a number from 1 to 65535") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if not host or not port or len(host) > 253:
        raise ValueError("must name a host and a port, such as http://proxy.example:3128")
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        raise ValueError("must end with its port: percent-encode what is special in a user or password")
    login = None
    if parts.username is not None:
        user = unquote(parts.username)
        if ":" in user:
            raise ValueError("has a colon in its user's name, and none may have one")  # RFC 7617, 2
        login = Secret(f"{user}:{unquote(parts.password or '')}")
    return Proxy(parts.scheme == "https", host, port, login)


def proxy_to(wanted: Secret | None, scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy by which a server is reached; None: directly, as everything on this machine is.

    :param wanted: as the configuration has it: a URL, or ``environment``
    :raises ValueError: what it names is no proxy; the message never shows it
    """
    if wanted is None or is_loopback(host):
        return None
    if wanted.reveal() != ENVIRONMENT:
        return parse(wanted.reveal())
    return _of_environment(scheme, host, port)


def is_loopback(host: str) -> bool:
    """Whether this name or address is this machine's for itself alone."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def _of_environment(scheme: str, host: str, port: int) -> Proxy | None:
    from urllib.request import getproxies_environment  # noqa: PLC0415 - most need it not

    found = getproxies_environment()
    variable = next((each for each in (scheme, "all") if found.get(each)), None)
    if variable is None or _is_excepted(host, port, found.get("no", "")):
        return None
    url = found[variable]
    try:
        return parse(url if "://" in url else f"http://{url}")
    except ValueError as error:
        raise ValueError(f"{variable.upper()}_PROXY of the environment {error}") from None


def _is_excepted(host: str, port: int, excepted: str) -> bool:
    """Whether ``NO_PROXY`` has it: by its name or a domain of it, with or without port, its address or a network."""
    name = host.lower().rstrip(".")
    for each in excepted.lower().replace(",", " ").split():
        if each == "*":
            return True
        entry = each if each.count(":") > 1 and "]" not in each else each.removesuffix(f":{port}").strip("[]")
        domain = entry.removeprefix("*").lstrip(".").rstrip(".")
        if (domain and (name == domain or name.endswith("." + domain))) or _is_in(name, entry):
            return True
    return False


def _is_in(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
