"""How many values a MessagePack body holds, found out without making them.

https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations


def _sizes() -> tuple[list[int], list[int]]:
    """By first byte: how long a value's head is, with what has a fixed length; and how long its length is, if any."""
    fixed, width = [1] * 256, [0] * 256
    for number in range(0xA0, 0xC0):  # short texts
        fixed[number] = 1 + number - 0xA0
    # Numbers with and without fractions, and extensions of a fixed length with their type.
    of_numbers = {0xCA: (4, 8), 0xCC: (1, 2, 4, 8), 0xD0: (1, 2, 4, 8), 0xD4: (2, 3, 5, 9, 17)}
    for first, lengths in of_numbers.items():
        for number, length in enumerate(lengths, first):
            fixed[number] = 1 + length
    for first in (0xDC, 0xDE):  # lists and maps: what is in them counts by itself
        fixed[first], fixed[first + 1] = 3, 5
    for first, extra in ((0xC4, 0), (0xC7, 1), (0xD9, 0)):  # bytes, extensions with their type, texts
        for number, length in enumerate((1, 2, 4), first):
            fixed[number], width[number] = 1 + length + extra, length
    return fixed, width


_FIXED, _WIDTH = _sizes()


def holds_more(body: bytes, most: int) -> bool:
    """Whether there are more values than that, the keys of maps included; what is no MessagePack counts somehow."""
    at = count = 0
    end = len(body)
    while at < end:
        count += 1
        if count > most:
            return True
        head = body[at]
        width = _WIDTH[head]
        if width:
            at += int.from_bytes(body[at + 1 : at + 1 + width])
        at += _FIXED[head]
    return False
