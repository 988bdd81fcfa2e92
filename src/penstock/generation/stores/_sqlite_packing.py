"""How pieces, batches and requests lie in the file of a SQLite store: as MessagePack, and what is large is compressed.

The events of a stream say the same again and again (35 KB of a hundred of OpenAI's become 3 KB), and every page that is
not written costs neither the writer nor the checkpoint: two calls of the operating system's and a checksum each.  What
fits into a page is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar

import msgspec
import zstandard

from penstock.generation.store import Record, StoreUnavailable
from penstock.messages import Event


class Batch(msgspec.Struct, array_like=True, frozen=True):
    """What one transaction added: columns of equal length, and the generations that ended with it.

    Of a generation that ended the events are in pieces, and not here.
    """

    numbers: list[int]
    firsts: list[int]  # the index of its first event
    events: list[msgspec.Raw]  # a list of them
    ended: list[int]


Columns: TypeAlias = "tuple[list[int], list[int], list[list[Event]], Sequence[int]]"
"""A :class:`Batch` that is about to be written."""

Unpacked = TypeVar("Unpacked")

_LEVEL: Final = -3  # 16 µs for 35 KB; the better ones take twice as long and more for a page less
_LARGE: Final = 4_096  # a page
# Of a zstd frame (RFC 8878, 3.1.1); neither a list nor a map in MessagePack.
_MAGIC: Final = b"\x28\xb5\x2f\xfd"

_encode = msgspec.msgpack.Encoder().encode
decode_events = msgspec.msgpack.Decoder(list[Event]).decode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode


class Packing:
    """Writes and reads rows; belongs to one thread, as what compresses does."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._decompressor = zstandard.ZstdDecompressor()

    def __repr__(self) -> str:
        return "<Packing>"

    def pack(self, what: list[Event] | Record | Columns) -> bytes:
        packed = _encode(what)
        return packed if len(packed) <= _LARGE else self._compressor.compress(packed)

    def events(self, packed: bytes) -> list[Event]:
        """:raises StoreUnavailable: it is damaged"""
        return self._unpacked(packed, decode_events)

    def record(self, packed: bytes) -> Record:
        """:raises StoreUnavailable: it is damaged"""
        return self._unpacked(packed, _decode_record)

    def batch(self, packed: bytes) -> Batch:
        """:raises StoreUnavailable: it is damaged"""
        return self._unpacked(packed, _decode_batch)

    def _unpacked(self, packed: bytes, decode: Callable[[bytes], Unpacked]) -> Unpacked:
        try:
            return decode(self._decompressor.decompress(packed) if packed.startswith(_MAGIC) else packed)
        except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeError) as error:
            raise StoreUnavailable(f"what is kept of this answer is damaged: {error}") from error
