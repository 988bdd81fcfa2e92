"""A call's body in the form in which each peer takes it: as what is new in it, compressed, or as it is; without I/O."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.client import _cutting
from penstock.client._blocks import MOST_BLOCKS, Blocks
from penstock.client._peers import Peer
from penstock.client._uploading import LEAST_CUT
from penstock.client.statistics import Counters
from penstock.messages import Endpoint
from penstock.wire import codings

_WORTH_COMPRESSING = 4_096  # bytes of a body, below which it goes in a few packets anyhow
_LEVEL = 3  # of zstd: 113 MB/s for prompts, a quarter of their length
# Of blocks, which know nothing of each other and so would be 5 % longer than one stream; now they are 1 % shorter, for
# 3 µs of CPU more for each KB, over several threads.  Below some 100 Mbit/s that is less than the bytes take.
_LEVEL_OF_BLOCKS = 5
_PAYS = 0.9
_SAMPLE = 65_536  # bytes by which is judged how short a body becomes
_EVERY_GATEWAYS = frozenset({"zstd"})
_CONVERSATIONS = frozenset({Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES})


class Sent(msgspec.Struct, frozen=True):
    """A body as it goes to one peer."""

    body: bytes
    coding: str = ""  # empty: none
    asks_to_keep: bool = False  # whether it may be the next one's dictionary, and which codings there are
    dictionary: bytes | None = None
    cuts: tuple[int, ...] = ()  # bytes of the blocks of which it consists; empty: it is too short


class CodedBody:
    """The body of one call.

    :param endpoint: None: the request is no call, and its body goes as it is
    :param most: bytes from which on a body is uploaded, and no difference to another
    """

    def __init__(
        self,
        body: bytes,
        endpoint: Endpoint | None,
        headers: Mapping[str, str],
        most: int,
        counters: Counters,
    ) -> None:
        self.body = body
        self._as_it_is = len(body) < _WORTH_COMPRESSING or endpoint is None or "content-encoding" in headers
        self._is_conversation = endpoint in _CONVERSATIONS
        # Whose it is: no body is the dictionary of another key's.
        self._owner = f"{headers.get('authorization')} {headers.get('x-api-key')}"
        self._most = most
        self._counters = counters
        self.plain = self._encoded = Sent(body)  # as the application gave it
        self._encoded_for: Peer | None = None
        self._compressed: bytes | None = None
        self._cuts: tuple[int, ...] = ()
        self._blocks: Blocks | None = None
        self._without_dictionary = False

    def __repr__(self) -> str:
        return f"<CodedBody {len(self.body)} bytes for {self._encoded_for!r}>"

    def to(self, peer: Peer, now: float) -> Sent:
        """As it goes to this peer; the same object until something is heard of the peer."""
        if not self._as_it_is and self._encoded_for is not peer:
            self._encoded = self._encode(peer, now)
            self._encoded_for = peer
        return self._encoded

    def _encode(self, peer: Peer, now: float) -> Sent:
        body, known = self.body, peer.codings
        asks = peer.is_gateway and peer.dictionaries.takes(body, now)
        if known is None:
            if not peer.is_gateway:
                return Sent(body)
            known = _EVERY_GATEWAYS
        else:
            asks = asks and "dcz" in known and self._is_conversation
        if asks and not self._without_dictionary:
            found = peer.dictionaries.encoded(self._owner, body, now)
            if found is not None and len(found[0]) < min(len(body) * _PAYS, self._most):
                self._counters.add(bytes_saved=len(body) - len(found[0]))
                return Sent(found[0], "dcz", asks, found[1])
        if "zstd" in known:
            if self._compressed is None:
                self._compressed = self._in_zstd(peer, asks=asks)
                self._counters.add(bytes_saved=max(len(body) - len(self._compressed), 0))
            if len(self._compressed) < len(body) * _PAYS:
                return Sent(self._compressed, "zstd", asks, cuts=() if asks else self._cuts)
        return Sent(body, asks_to_keep=asks)

    def _in_zstd(self, peer: Peer, *, asks: bool) -> bytes:
        """As a whole, or in blocks, if it will be uploaded, and is too large to be the next one's dictionary."""
        body, begin = self.body, len(self.body) // 2
        if peer.is_gateway and not asks and peer.link.offers_uploads is not False and len(body) >= self._most:
            sample = body[begin : begin + _SAMPLE]
            if len(codings.in_zstd(sample, _LEVEL)) * len(body) >= self._most * len(sample):
                frames = codings.each_in_zstd(_cutting.blocks(body), _LEVEL_OF_BLOCKS)
                self._cuts = _together(frames)
                return b"".join(frames)
        return codings.in_zstd(body, _LEVEL)

    def blocks(self, sent: Sent) -> Blocks | None:
        """What the body is told in, where a gateway has most of it; None: it is not in blocks."""
        if not sent.cuts:
            return None
        if self._blocks is None:
            self._blocks = Blocks(sent.body, sent.cuts, sent.coding, self._owner)
        return self._blocks

    def heard(self, peer: Peer, sent: Sent, status: int, headers: Mapping[str, str], now: float) -> bool:
        """What an answer tells of codings; whether the request is to be sent once more, without some."""
        told = headers.get("accept-encoding")
        if told is not None:  # RFC 7694: of bodies
            peer.codings = frozenset(each.partition(";")[0].strip() for each in told.split(","))
        elif sent.asks_to_keep and peer.codings is None and peer.is_gateway:
            peer.codings = frozenset()
        if sent.asks_to_keep and "penstock-dictionary" in headers:
            peer.dictionaries.kept(self._owner, self.body, sent.dictionary)
        if status == 415 and sent.coding:
            peer.codings = frozenset()
            self._encoded_for = None
            return True
        if status == 409 and sent.dictionary is not None:
            peer.dictionaries.lacking(self._owner, sent.dictionary, now)
            self.without_dictionary()
            return True
        return False

    def without_dictionary(self) -> None:
        """From now on: whoever has lost one, or the log, may have lost others as well."""
        self._without_dictionary = True
        self._encoded_for = None


def _together(frames: list[bytes]) -> tuple[int, ...]:
    """Sizes of blocks, none of which but the last is too short to be kept by itself; empty: there are too many."""
    sizes: list[int] = []
    for frame in frames:
        if sizes and sizes[-1] < LEAST_CUT:
            sizes[-1] += len(frame)
        else:
            sizes.append(len(frame))
    return tuple(sizes) if len(sizes) <= MOST_BLOCKS else ()
