"""A body cut where its content says so, so that what is inserted moves no cut but those beside it: without I/O.

Theory of operation
-------------------
A place is a cut if a hash of the bytes just before it has some value: wherever these bytes stand, they cut there.
Python cannot look at each byte by itself, so the hash is made of many places at once, in arithmetic of long integers:
a table makes each byte another one, and each step adds to every place what two places before it have, turned by some
bits.  After three steps a byte is a sum over the thirty before it, and two of them that are zero are looked for by
``bytes.find``: one place in 65,536.  Of these one in eight cuts.

Each step is a sum of three terms, and no byte becomes zero: so of a long run of one byte no place is a cut, where with
two terms all of them would be.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator

LEAST, MOST = 262_144, 2_097_152  # bytes of a block; the last may be shorter.  In the mean they have 600,000
_EACH = 8  # places of 65,536 bytes in the mean
_STEP = 65_536  # bytes that are one integer
_WINDOW = 34  # bytes by which a place is judged, and by which a sum is longer than its terms
_SCATTER = bytes(random.Random(7).choices(range(1, 256), k=256))


def blocks(body: bytes | mmap.mmap) -> Iterator[bytes]:
    """The pieces of a body, in their order, each as soon as it is found."""
    size = len(body)
    begin = 0
    while size - begin > LEAST:
        end = _next(body, begin + LEAST, min(begin + MOST, size))
        yield body[begin:end]
        begin = end
    if begin < size:
        yield body[begin:]


def _next(body: bytes | mmap.mmap, first: int, most: int) -> int:
    """The first place from ``first`` on that is a cut; ``most``, if there is none before it."""
    for at in range(first, most, _STEP):
        begin = max(at - _WINDOW, 0)
        end = min(at + _STEP, most)
        sums = _sums(body[begin : end + 1])
        place = at - begin
        while (place := sums.find(b"\0\0", place, end - begin + 1)) >= 0:
            if sums[place - 1] % _EACH == 0:
                return begin + place
            place += 1
    return most


def _sums(piece: bytes) -> bytes:
    """The hash of each place."""
    every = int.from_bytes(piece.translate(_SCATTER), "little")
    every ^= every << 9 ^ every << 18
    every ^= every << 27 ^ every << 54
    every ^= every << 81 ^ every << 162
    return every.to_bytes(len(piece) + _WINDOW, "little")
