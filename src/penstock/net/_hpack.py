"""Header fields as HTTP/2 packs them (RFC 7541), for one who asks.

Theory of operation.  What goes out refers to nothing that went before: fields of the static table, and literals that are
not indexed.  So a field is packed once and the bytes kept, as the fields of requests to one upstream hardly change;
:class:`Packer` begins with giving up its dynamic table, and what the other side allows for it is then of no matter.
What comes in is as the server likes it: :class:`Unpacker` has the dynamic table of the default size.  A server names most
fields by their index then, which is a look-up.  Huffman's code is hpack's.
"""

from __future__ import annotations

import re
from collections import deque

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

TABLE_SIZE = 4_096  # bytes of the dynamic table: what SETTINGS_HEADER_TABLE_SIZE is unless somebody says so
_OVERHEAD = 32  # bytes that an entry counts for beside its own (RFC 7541, 4.1)
_STATIC: tuple[tuple[bytes, bytes], ...] = tuple((name, value) for name, value in HeaderTable.STATIC_TABLE)
_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}
_WHOLE = {field: index for index, field in enumerate(_STATIC, 1)}
_KEPT = 512  # packed fields
# Never indexed by anybody (7.1.3).
_SECRET = frozenset({b"authorization", b"x-api-key", b"api-key", b"cookie"})
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")  # RFC 9113, 8.2.1
_VALUE = re.compile(rb"(?![ \t])[^\0\r\n]*(?<![ \t])")
_HUFFMAN = 0x80


class BadBlock(Exception):
    """What was sent is no header block, or names what a header may not be."""


class TooLarge(BadBlock):
    """It unpacks to more than is taken."""


def _integer(value: int, bits: int, first: int) -> bytes:
    """RFC 7541, 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    packed = bytearray((first | most,))
    value -= most
    while value > 127:
        packed.append(value & 127 | 128)
        value >>= 7
    packed.append(value)
    return bytes(packed)


def packed(name: bytes, value: bytes) -> bytes:
    """One field."""
    index = _WHOLE.get((name, value))
    if index is not None:
        return _integer(index, 7, 0x80)
    first = 0x10 if name in _SECRET else 0x00
    head = _integer(_NAMES.get(name, 0), 4, first)
    if name not in _NAMES:
        head += _integer(len(name), 7, 0) + name
    return head + _integer(len(value), 7, 0) + value


class Packer:
    """Packs what this side sends on one connection."""

    __slots__ = ("_kept", "_prefix")

    def __init__(self) -> None:
        self._prefix = _integer(0, 5, 0x20)  # the dynamic table has no size from now on (RFC 7541, 6.3)
        self._kept: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"<Packer, {len(self._kept)} kept>"

    def block(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        prefix, self._prefix = self._prefix, b""
        kept = self._kept
        parts = [prefix]
        for name, value in fields:
            key = name + b"\0" + value
            part = kept.get(key)
            if part is None:
                if len(kept) >= _KEPT:
                    kept.clear()
                part = kept[key] = packed(name, value)
            parts.append(part)
        return b"".join(parts)


class Unpacker:
    """Unpacks what the other side sends on one connection; of no further use after an error.

    :param most: bytes that a block may unpack to, as RFC 9113, 6.5.2, counts them
    """

    __slots__ = ("_entries", "_most", "_size", "_table_size")

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: deque[tuple[bytes, bytes]] = deque()  # the newest first
        self._size = 0
        self._table_size = TABLE_SIZE

    def __repr__(self) -> str:
        return f"<Unpacker, {len(self._entries)} entries of {self._size} bytes>"

    def fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """:raises BadBlock: see there"""
        found: list[tuple[bytes, bytes]] = []
        at, end, left = 0, len(block), self._most
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index, at = _read(block, at, 7)
                    field = self._entry(index)
                elif first & 0x60 == 0x20:
                    size, at = _read(block, at, 5)
                    if found or size > TABLE_SIZE:  # RFC 7541, 4.2, and 6.3
                        raise BadBlock("the table's size is not changed there, or not to that")
                    self._table_size = size
                    self._evict()
                    continue
                else:
                    indexed = first & 0x40
                    index, at = _read(block, at, 6 if indexed else 4)
                    if index:
                        name = self._entry(index)[0]
                    else:
                        name, at = _text(block, at)
                        if not _NAME.fullmatch(name):
                            raise BadBlock("a field has no name that one may have")
                    value, at = _text(block, at)
                    if not _VALUE.fullmatch(value):
                        raise BadBlock("a field has no value that one may have")
                    field = (name, value)
                    if indexed:
                        self._add(field)
                left -= len(field[0]) + len(field[1]) + _OVERHEAD
                if left < 0:
                    raise TooLarge(f"a head has more than {self._most} bytes")
                found.append(field)
        except IndexError:
            raise BadBlock("a header block ends too early") from None
        return found

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 0 < index <= 61:
            return _STATIC[index - 1]
        if not 0 < index - 61 <= len(self._entries):
            raise BadBlock("there is no such entry")
        return self._entries[index - 62]

    def _add(self, field: tuple[bytes, bytes]) -> None:
        self._size += len(field[0]) + len(field[1]) + _OVERHEAD
        self._entries.appendleft(field)
        self._evict()  # maybe itself, which is no mistake (RFC 7541, 4.4)

    def _evict(self) -> None:
        while self._size > self._table_size:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + _OVERHEAD


def _read(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer, and where what is behind it begins (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in (0, 7, 14, 21):
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if byte < 128:
            return value, at
    raise BadBlock("a number is too large")


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    """A string (RFC 7541, 5.2)."""
    coded = block[at] & _HUFFMAN
    size, at = _read(block, at, 7)
    end = at + size
    if end > len(block):
        raise BadBlock("a header block ends too early")
    text = block[at:end]
    if coded:
        try:
            text = decode_huffman(text)
        except HPACKDecodingError as error:
            raise BadBlock("a string is not what Huffman's code makes") from error
    return text, end
