"""Which of several servers is asked next?

The first in the caller's order that is well.  One that could not be reached, or said that it has no room, is left
alone for a while, which doubles as long as it goes on so.  If none is well, it is the one whose while ends first:
a client never refuses by itself to try.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from penstock.client._blocks import Known
from penstock.client._dictionaries import Dictionaries
from penstock.client._uploading import Link

FIRST_REST = 1.0  # seconds
LONGEST_REST = 30.0
MOST_PEERS = 1_000  # origins remembered that nobody named as gateways
_PORTS = {"http": 80, "https": 443}


class Peer:
    """One server, by its origin.

    ``is_gateway``: it keeps answers and heeds ``Idempotency-Key``, because it was named as one or has shown it.
    """

    __slots__ = (
        "blocks",
        "codings",
        "dictionaries",
        "failures",
        "is_gateway",
        "link",
        "netloc",
        "rests_until",
        "scheme",
    )

    def __init__(self, scheme: str, netloc: str, dictionary_bytes: int, *, is_gateway: bool) -> None:
        self.scheme = scheme
        self.netloc = netloc
        self.is_gateway = is_gateway
        self.failures = 0
        self.rests_until = 0.0
        self.link = Link()
        self.codings: frozenset[str] | None = None  # of bodies, that it understands; None: it has not said
        self.dictionaries = Dictionaries(dictionary_bytes)
        self.blocks = Known()

    def __repr__(self) -> str:
        kind = "gateway" if self.is_gateway else "server"
        return f"<Peer {kind} {self.origin}, {self.failures} failures in a row>"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    def failed(self, now: float) -> None:
        if now >= self.rests_until:  # calls that began together fail together: that is one failure
            self.failures += 1
        rest: float = min(FIRST_REST * 2.0 ** min(self.failures - 1, 16), LONGEST_REST)
        self.rests_until = now + rest

    def well(self) -> None:
        if self.failures:
            self.failures = 0
            self.rests_until = 0.0


class Peers:
    """All servers that a client knows.

    :param gateways: URLs of gateways that serve the same
    :param dictionary_bytes: that bodies which one of them remembers may have here
    :raises ValueError: one is no http or https URL of a server
    """

    def __init__(self, gateways: Iterable[str] = (), dictionary_bytes: int = 0) -> None:
        self._dictionary_bytes = dictionary_bytes
        self._gateways: list[Peer] = []
        self._known: dict[tuple[str, str], Peer] = {}
        for url in gateways:
            parts = urlsplit(url)
            if parts.scheme not in _PORTS or not parts.hostname or parts.path.rstrip("/") not in ("", "/v1"):
                raise ValueError(f"{url!r} is no gateway's URL, such as http://host:8080")
            netloc = _netloc(parts.scheme, parts.netloc)
            peer = Peer(parts.scheme, netloc, dictionary_bytes, is_gateway=True)
            self._gateways.append(peer)
            self._known[peer.scheme, peer.netloc] = peer
        self._named = frozenset(self._known)

    def __repr__(self) -> str:
        return f"<Peers {self._gateways or 'as they come'}, {len(self._known)} known>"

    def forked(self) -> None:
        """As :meth:`penstock.client._calls.Calls.forked`."""
        for peer in (*self._gateways, *self._known.values()):
            peer.dictionaries.forked()
            peer.blocks.forked()

    def candidates(self, scheme: str, netloc: str) -> list[Peer]:
        """Who can be asked in the place of this server: itself, or all gateways if it is one of them."""
        name = scheme, _netloc(scheme, netloc)
        if name in self._named:
            return self._gateways
        peer = self._known.get(name)
        if peer is None:
            if len(self._known) >= MOST_PEERS:
                self._known = {(each.scheme, each.netloc): each for each in self._gateways}
            peer = self._known[name] = Peer(*name, self._dictionary_bytes, is_gateway=False)
        return [peer]


def best(candidates: list[Peer], now: float) -> Peer:
    """Whom to ask."""
    for peer in candidates:
        if peer.rests_until <= now:
            return peer
    return min(candidates, key=lambda peer: peer.rests_until)


def _netloc(scheme: str, netloc: str) -> str:
    """As httpx writes it: in lower case, without user and default port."""
    host = netloc.rpartition("@")[2].lower()
    return host.removesuffix(f":{_PORTS[scheme]}") if scheme in _PORTS else host
