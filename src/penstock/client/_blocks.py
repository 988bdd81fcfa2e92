"""A body told as a list of blocks, of which a gateway is sent those that it lacks: without I/O.

Theory of operation
-------------------
The protocol is told in docs/topics/resumable-uploads.md.  A large body is cut where its content says so
(``_cutting``), and each block is compressed by itself, so that it comes to the same bytes wherever it stands.  The
first time the body goes as an upload like any other, which names the blocks' sizes; the gateway keeps them as such,
and says so (``Penstock-Blocks``).  Their digests are remembered here, and nothing else.  When a later body has many of
them, its other blocks are sent first, and then the list in the body's place.

A gateway may have let go of some: it names those, they are sent, and the list once more.  Where that does not come to
an end soon, and where so much is new that it would take many round trips, the body goes as an upload again.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Mapping, Sequence

import msgspec

from penstock.client._lanes import LEAST_BLOCKS
from penstock.client._uploading import OF_BODY, Link, Outcome, Step, of_appends
from penstock.wire.not_json import NOT_JSON

MEDIA_TYPE = "application/vnd.penstock.blocks+json"
MOST_REMEMBERED = 16_384  # blocks, of some 600 KB each
REMEMBERED_FOR = 3_000.0  # seconds; a gateway keeps them for an hour, if it is not told otherwise
MOST_SENT = 8  # blocks of one body by themselves, each of which takes a round trip
MOST_BLOCKS = 4_096  # that a list may have
LEAST_KNOWN = 0.5  # of a body's bytes, from which on its blocks are told
MOST_TOLD = 1_048_576  # bytes in which a gateway tells what it lacks


class Known:
    """The blocks that one gateway has, as far as it has said; the oldest go.  For any thread."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, bytes], float] = {}  # owner and digest: until when; the latest last
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Known {len(self._blocks)} blocks>"

    def forked(self) -> None:
        """As :meth:`penstock.client._calls.Calls.forked`."""
        self._lock = threading.Lock()

    def of(self, owner: str, digests: Sequence[bytes], now: float) -> set[bytes]:
        """Those of these that the gateway should have."""
        with self._lock:
            return {digest for digest in digests if self._blocks.get((owner, digest), now) > now}

    def add(self, owner: str, digests: Sequence[bytes], now: float) -> None:
        with self._lock:
            for digest in digests:
                self._blocks.pop((owner, digest), None)
                self._blocks[owner, digest] = now + REMEMBERED_FOR
            while len(self._blocks) > MOST_REMEMBERED:
                del self._blocks[next(iter(self._blocks))]

    def drop(self, owner: str, digests: Sequence[bytes]) -> None:
        with self._lock:
            for digest in digests:
                self._blocks.pop((owner, digest), None)


class Blocks:
    """A body's blocks, as they go out.

    :param body: with its coding
    :param sizes: of the blocks, in bytes, in their order
    :param coding: empty: none
    :param owner: whose they are: no block is known by another's key
    """

    def __init__(self, body: bytes | mmap.mmap, sizes: Sequence[int], coding: str, owner: str) -> None:
        self.body = body
        self.coding = coding
        self.owner = owner
        self.places: dict[bytes, tuple[int, int]] = {}  # of each digest: where it begins, and where it ends
        self.order: list[bytes] = []
        begin = 0
        with memoryview(body) as view:
            for size in sizes:
                with view[begin : begin + size] as block:
                    digest = hashlib.sha256(block).digest()
                self.order.append(digest)
                self.places[digest] = begin, begin + size
                begin += size

    def __repr__(self) -> str:
        return f"<Blocks {len(self.order)}, {len(self.body)} bytes>"

    def content(self, digest: bytes) -> bytes:
        begin, end = self.places[digest]
        return self.body[begin:end]

    def size(self, digest: bytes) -> int:
        begin, end = self.places[digest]
        return end - begin

    def listed(self, content_type: str) -> bytes:
        """The list that goes in the body's place."""
        blocks = [{"sha256": digest.hex(), "size": self.size(digest)} for digest in self.order]
        told = {"blocks": blocks, "content_type": content_type, "content_encoding": self.coding}
        return msgspec.json.encode(told)


class InBlocks:
    """One body on its way to one gateway that has most of it; used as :class:`penstock.client._uploading.Upload` is.

    :param prefix: what stands before the operation in the path, such as /v1
    :param lacking: what the gateway has not said that it has
    :param most: blocks that are sent by themselves
    :param alone: bytes a second that one connection carries; None: the blocks do not go side by side
    """

    def __init__(
        self,
        blocks: Blocks,
        headers: Mapping[str, str],
        prefix: str,
        known: Known,
        lacking: Sequence[bytes],
        link: Link,
        *,
        most: int = MOST_SENT,
        alone: float | None = None,
    ) -> None:
        self.blocks = blocks
        self.link = link
        self.alone = alone
        self.offset = 0  # bytes of blocks that it has confirmed
        self.sent = 0  # bytes that went out, again and again included
        self._headers = dict(headers)
        self._prefix = prefix
        self._known = known
        self._lacking = list(lacking)
        self._left = most

    def __repr__(self) -> str:
        return f"<InBlocks {self.blocks}, {len(self._lacking)} to be sent>"

    @property
    def saved(self) -> int:
        """Bytes that did not go out."""
        return max(len(self.blocks.body) - self.sent, 0)

    @property
    def left(self) -> int:
        """Bytes of the blocks that are still to be sent, as far as is known."""
        return sum(map(self.blocks.size, self._lacking))

    def step(self, _now: float) -> Step:
        """The next request."""
        if self._lacking:
            return self.put(self._lacking[-1])
        headers = {name: value for name, value in self._headers.items() if name.lower() not in _OF_CODED}
        headers["Content-Type"] = MEDIA_TYPE
        kind = self._headers.get("content-type", "application/json")
        step = Step("POST", None, headers, self.blocks.listed(kind))
        self.sent += len(step.content)
        return step

    def put(self, digest: bytes) -> Step:
        """The request that brings one block."""
        content = self.blocks.content(digest)
        headers = {**of_appends(self._headers), "Content-Type": "application/octet-stream"}
        self.sent += len(content)
        return Step("PUT", f"{self._prefix}/blocks/{digest.hex()}", headers, content)

    def side_by_side(self) -> Sequence[bytes]:
        """The blocks that are to be sent over several connections, the last one first; none: one after the other."""
        return self._lacking if self.alone is not None and len(self._lacking) >= LEAST_BLOCKS else ()

    def took(self, status: int, _headers: Mapping[str, str], now: float) -> Outcome:
        """An answer to the step."""
        if not self._lacking:
            if status < 400:
                self._known.add(self.blocks.owner, self.blocks.order, now)
            if status < 400 or status in (401, 403, 429) or status >= 500:
                return Outcome.ANSWER
            return Outcome.LACKING if status == 409 else Outcome.REFUSED
        return self.took_block(self._lacking[-1], status, now)

    def took_block(self, digest: bytes, status: int, now: float) -> Outcome:
        """An answer to what brought one block."""
        if status not in (201, 204):
            return Outcome.REFUSED
        self._lacking.remove(digest)
        self._known.add(self.blocks.owner, [digest], now)
        self._left -= 1
        self.offset += self.blocks.size(digest)
        return Outcome.ONWARD

    def lacks(self, told: bytes) -> Outcome:
        """What the gateway says that it lacks."""
        try:
            lacking = {bytes.fromhex(each) for each in _lacking(told).lacking}
        except (*NOT_JSON, ValueError):
            return Outcome.REFUSED
        self._lacking = [digest for digest in self.blocks.places if digest in lacking]
        self._known.drop(self.blocks.owner, self._lacking)
        if not 0 < len(self._lacking) <= self._left:
            return Outcome.REFUSED
        return Outcome.ONWARD

    def broke(self) -> None:
        """The connection broke: the same step again, which does no harm twice."""


class _Told(msgspec.Struct):
    lacking: list[str] = []


_lacking = msgspec.json.Decoder(_Told).decode
_OF_CODED = OF_BODY | {"content-encoding"}


def in_blocks(
    blocks: Blocks, headers: Mapping[str, str], prefix: str, known: Known, link: Link, now: float
) -> InBlocks | None:
    """A body on its way in blocks; None: so little of it is known that it had better go as a whole."""
    if len(blocks.order) > MOST_BLOCKS:
        return None
    found = known.of(blocks.owner, blocks.order, now)
    held = sum(blocks.size(digest) for digest in found)
    lacking = [digest for digest in blocks.places if digest not in found]
    if link.width.at(now) > 1 and len(lacking) >= LEAST_BLOCKS:
        most = len(blocks.places)
        return InBlocks(blocks, headers, prefix, known, lacking, link, most=most, alone=0.0)
    if held < len(blocks.body) * LEAST_KNOWN or len(lacking) > MOST_SENT:
        return None
    return InBlocks(blocks, headers, prefix, known, lacking, link)
