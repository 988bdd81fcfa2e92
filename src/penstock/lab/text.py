"""The simulator's prose: token ``i`` of an answer is a function of the prompt's digest and of ``i``.

So whoever knows the prompt knows the text, and an answer that lost a token, got one twice or took one
from another call shows it.  The first :data:`SPELT` tokens spell the digest, twelve bits each: prompts
with different openings have different texts.  The rest is a stretch of one long ring of words that is
made once, so that any number of tokens is a list slice and costs next to nothing.

Words have two to seven characters, all of them letters; one in 32 is not ASCII, so that a cut inside
of a UTF-8 sequence shows as well.  Nothing in them needs escaping in JSON.
"""

from __future__ import annotations

import functools

SPELT = 4
_RING_BITS = 16
_RING = 1 << _RING_BITS
_MASK = _RING - 1
_SYLLABLES = tuple(a + b for a in "bdfghklmnprstvwz" for b in "aeio")
_ENDINGS = ("", "n", "s", "ren", "t", "lin", "l", "um")


def _vocabulary() -> list[str]:
    words = []
    for i in range(4096):
        stem = _SYLLABLES[i >> 6] + _SYLLABLES[i & 63]
        word = stem + _ENDINGS[(i * 5 + (i >> 6)) & 7]
        if i % 32 == 9:
            word = word.replace("a", "ä").replace("e", "é").replace("o", "ø").replace("i", "ï")
        words.append(word)
    return words


@functools.cache
def _tables() -> tuple[list[bytes], list[bytes]]:
    """The vocabulary, and the ring (words with the space before them), as UTF-8."""
    vocabulary = [word.encode() for word in _vocabulary()]
    spaced = [b" " + word for word in vocabulary]
    ring = []
    state = 20_240_611
    for _ in range(_RING):
        state = (state * 1_103_515_245 + 12_345) & 0x7FFFFFFF  # a full-period LCG: the same on every machine
        ring.append(spaced[state >> 16 & 4095])
    return vocabulary, ring


@functools.cache
def vocabulary() -> frozenset[str]:
    """The words that an answer may begin with."""
    return frozenset(_vocabulary())


def tokens(digest: int, start: int, stop: int) -> list[bytes]:
    """Tokens ``start`` to ``stop`` (excluded) of the answer to a prompt, UTF-8.

    :param digest: 64 bits that stand for the whole prompt
    """
    vocabulary, ring = _tables()
    if start >= SPELT:
        return _from_ring(ring, (digest >> 48) + start, stop - start)
    spelt = [
        vocabulary[digest & 4095],
        b" " + vocabulary[digest >> 12 & 4095],
        b" " + vocabulary[digest >> 24 & 4095],
        b" " + vocabulary[digest >> 36 & 4095],
    ][start:stop]
    if stop > SPELT:
        spelt += _from_ring(ring, (digest >> 48) + SPELT, stop - SPELT)
    return spelt


def _from_ring(ring: list[bytes], start: int, count: int) -> list[bytes]:
    start &= _MASK
    part = ring[start : start + count]
    while len(part) < count:
        part += ring[: count - len(part)]
    return part


def salted(digest: int, salt: int) -> int:
    """Another digest for another text to the same prompt (further choices, thinking)."""
    if salt == 0:
        return digest
    return (digest ^ (salt * 0x9E3779B97F4A7C15)) & 0xFFFFFFFFFFFFFFFF
