"""A finished generation, as it is kept, and how it is sealed where others could touch it.

Sealed, an entry is::

    "P" version coding | length of the payload, 4 bytes | digest, 16 bytes | payload

The payload is the entry in MessagePack, compressed with zstd where that pays.  The digest is BLAKE3, keyed
with the secret, over the entry's key and all of the rest: so an entry that was damaged, cut short, made by
somebody else or moved to another key is recognised before anything in it is believed.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
import zstandard
from blake3 import blake3

from penstock.messages import Usage
from penstock.wire.cached_usage import as_cached

VERSION = 1
"""Changes with whatever :class:`Entry` holds, but for members at its end that may be absent; another version is a miss."""

_MAGIC = b"P"
_PLAIN, _ZSTD = 0, 1
_HEAD_BYTES = 3 + 4 + 16
_WORTH_TRYING = 1_024  # bytes below which zstd saves less than it costs
_PAYS = 0.8  # of the payload's length: above it, every later hit would decompress for little
_LEVEL = 1
_OVERHEAD = 1_000  # bytes that an entry's own objects take in memory, with key and place in a queue
_EVENT_OVERHEAD = 48  # an event's, object header and slot

Reason: TypeAlias = Literal["truncated", "version", "tampered", "undecodable"]


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One answer.  Times are seconds since 1970, ``cost`` is in 1e-12 US dollars.

    ``events`` are those of the generation's log, in the dialect of its endpoint: SSE frames if ``stream``,
    else the body.  ``include_usage`` and ``running_usage`` say which of the usage the frames tell.
    """

    endpoint: str
    model: str  # as the caller named it
    upstream: str
    upstream_model: str
    stream: bool
    include_usage: bool
    running_usage: bool
    headers: tuple[tuple[bytes, bytes], ...]  # of the upstream's answer, that the caller may see
    events: tuple[bytes, ...]
    usage: Usage
    cost: int
    asked: float  # when the question went out: what was purged since then is not answered by this
    stored: float
    fresh_until: float
    kept_until: float  # past its freshness it may still serve while it is renewed, or for want of another
    tags: tuple[str, ...]
    took: float = 0.0  # seconds: of a stream from its first event to its end, of a plain answer all of it
    says_cached: bool = False  # whether its events tell that the prompt came from a cache; ``usage`` does not

    @property
    def usage_told(self) -> Usage:
        """What a caller is told that it used, where the events do not tell."""
        return as_cached(self.usage) if self.says_cached else self.usage

    @property
    def size(self) -> int:
        """What it takes in memory, about, in bytes."""
        return _OVERHEAD + sum(map(len, self.events)) + _EVENT_OVERHEAD * len(self.events)


class Unusable(Exception):
    """What was found under a key is no entry of ours; ``reason`` is a label of metrics."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Sealer:
    """Makes entries into bytes that cannot be changed unnoticed, and back.

    :param secret: 32 bytes that all who share a cache know
    :param max_bytes: of a payload, decompressed
    """

    __slots__ = ("_compressor", "_decode", "_decompressor", "_max_bytes", "_secret")

    def __init__(self, secret: bytes, max_bytes: int) -> None:
        self._secret = secret
        self._max_bytes = max_bytes
        self._decode = msgspec.msgpack.Decoder(Entry).decode
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._decompressor = zstandard.ZstdDecompressor()

    def __repr__(self) -> str:
        return f"<Sealer of version {VERSION}, up to {self._max_bytes} bytes>"

    def seal(self, key: bytes, entry: Entry) -> bytes:
        return self._seal(key, entry, self._compressor)

    def seal_apart(self, key: bytes, entry: Entry) -> bytes:
        """As :meth:`seal`, in any thread: a compressor is nobody's but one thread's."""
        return self._seal(key, entry, zstandard.ZstdCompressor(level=_LEVEL))

    def _seal(self, key: bytes, entry: Entry, compressor: zstandard.ZstdCompressor) -> bytes:
        payload = msgspec.msgpack.encode(entry)
        coding = _PLAIN
        if len(payload) >= _WORTH_TRYING:
            compressed = compressor.compress(payload)
            if len(compressed) < len(payload) * _PAYS:
                payload, coding = compressed, _ZSTD
        head = b"%b%c%c%b" % (_MAGIC, VERSION, coding, len(payload).to_bytes(4, "big"))
        return head + self._digest(key, head, payload) + payload

    def open(self, key: bytes, sealed: bytes) -> Entry:
        """:raises Unusable: it is not what :meth:`seal` made for this key"""
        if len(sealed) < _HEAD_BYTES or not sealed.startswith(_MAGIC):
            raise Unusable("truncated" if _MAGIC.startswith(sealed[:1]) else "tampered")
        if sealed[1] != VERSION:
            raise Unusable("version")
        head, digest, payload = sealed[:7], sealed[7:_HEAD_BYTES], sealed[_HEAD_BYTES:]
        if len(payload) < int.from_bytes(head[3:], "big"):
            raise Unusable("truncated")
        if len(payload) > int.from_bytes(head[3:], "big") or self._digest(key, head, payload) != digest:
            raise Unusable("tampered")
        try:
            if head[2] == _ZSTD:
                if zstandard.frame_content_size(payload) > self._max_bytes:
                    raise Unusable("undecodable")
                payload = self._decompressor.decompress(payload)
            return self._decode(payload)
        except (msgspec.MsgspecError, UnicodeError, zstandard.ZstdError) as error:
            raise Unusable("undecodable") from error

    def _digest(self, key: bytes, head: bytes, payload: bytes) -> bytes:
        # All three lengths are fixed or told in the head, so nothing can be moved from one to the other.
        return blake3(key + head + payload, key=self._secret).digest(length=16)
