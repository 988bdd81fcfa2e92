"""Whose request it is that has come through a proxy.

Every proxy adds, at the end of ``X-Forwarded-For``, the address that it got the request from (RFC 7239 tells the same in
another field).  What a caller has written there itself stands before that, so the field is read from its end, and only as
far as those who wrote it are trusted: the last address that is none of our proxies' is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


class Proxies:
    """The proxies in front of a listener.

    :param networks: where they are, such as ``10.0.0.0/8``
    :raises ValueError: one is no address or network
    """

    __slots__ = ("_networks",)

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = tuple(map(ip_network, networks))

    def __repr__(self) -> str:
        return f"<Proxies in {', '.join(map(str, self._networks))}>"

    def trusts(self, address: str) -> bool:
        """Whether a connection from there is one of theirs."""
        found = _address(address) if self._networks else None
        return found is not None and self._has(found)

    def caller(self, proxy: str, headers: Mapping[bytes, bytes]) -> str:
        """Whose request it is, as far as the proxy at this address can be believed."""
        forwarded = headers.get(b"x-forwarded-for")
        return self._caller(proxy, forwarded) if forwarded is not None else proxy

    def caller_of(self, proxy: str, segment: bytes) -> str:
        """The same of a request that has not been read."""
        values = []
        for line in segment.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"x-forwarded-for":
                values.append(value)
        return self._caller(proxy, b",".join(values))

    def _caller(self, proxy: str, forwarded: bytes) -> str:
        caller = proxy
        for word in reversed(forwarded.decode("latin-1").split(",")):
            found = _address(word.strip())
            if found is None:
                break
            caller = str(found)
            if not self._has(found):
                break
        return caller

    def _has(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _address(word: str) -> IPv4Address | IPv6Address | None:
    """An address, which some proxies write with a port."""
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        found = ip_address(word)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
