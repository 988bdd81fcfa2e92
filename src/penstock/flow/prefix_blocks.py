"""Prompts as servers that cache prefixes see them: cut into blocks, each known by all that stands up to its end.

vLLM, SGLang, TensorRT-LLM and llama.cpp keep what they have computed of a prompt, and compute of the next one only what
comes after the longest beginning that both have in common, in whole blocks of tokens.  Here a block is a stretch of bytes,
and known by the digest of the whole prompt up to its end, so whoever has one has all before it.  Nobody tells which blocks
a server has, but what it was sent is known: that is its :class:`Record`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf

import msgspec
from blake3 import blake3

BLOCK_BYTES = 1_024
TOKEN_BYTES = 4  # of a prompt, about
BLOCK_TOKENS = BLOCK_BYTES // TOKEN_BYTES
MAX_BLOCKS = 512  # of a prompt, that are looked at; nobody is taken to have what comes after them
MAX_BYTES = 4_194_304  # of a record
LIFETIME = 300.0  # seconds after which a block that was not sent again is taken to be gone
MANY = 3  # prompts that went on from a block in other ways than those before: it belongs to no single conversation

_BYTES_OF_BLOCK = 184  # of a record: key, moment, and their places in the table
_KEPT_BLOCKS = MAX_BYTES // _BYTES_OF_BLOCK * 7 // 8
_KEPT_PARTINGS = MAX_BYTES // _BYTES_OF_BLOCK // 8


class Prompt(msgspec.Struct, frozen=True, eq=False):
    """A prompt, cut into blocks.

    :ivar chain: of each whole block the digest of all up to its end
    :ivar end: the same of all that was looked at
    :ivar tokens: of the whole prompt, about
    """

    chain: tuple[int, ...]
    end: int
    tokens: float

    def after(self, blocks: int) -> int:
        """The digest that tells it from others that have so many blocks in common with it."""
        return self.chain[blocks] if blocks < len(self.chain) else self.end

    def beyond(self, blocks: int) -> float:
        """Tokens that come after so many blocks."""
        return self.tokens - blocks * BLOCK_TOKENS


def cut(pieces: Sequence[bytes | msgspec.Raw], seed: bytes) -> Prompt:
    """The blocks of a prompt, however long it is in the time that :data:`MAX_BLOCKS` take.

    :param pieces: its parts, in the order in which servers put them together
    :param seed: what two prompts must have in common besides, for what is computed of one to be of use to the other
    """
    views = [memoryview(piece) for piece in pieces]
    text = bytearray()
    for view in views:
        text += view[: BLOCK_BYTES * MAX_BLOCKS - len(text)]
    hasher = blake3(b"%d:%b" % (len(seed), seed))
    chain = []
    whole = len(text) - len(text) % BLOCK_BYTES
    for start in range(0, whole, BLOCK_BYTES):
        hasher.update(text[start : start + BLOCK_BYTES])
        chain.append(int.from_bytes(hasher.digest(8)))
    hasher.update(text[whole:])
    tokens = sum(view.nbytes for view in views) / TOKEN_BYTES
    return Prompt(tuple(chain), int.from_bytes(hasher.digest(8)), tokens)


class Record:
    """The blocks that a server was sent lately; :data:`MAX_BYTES` at most."""

    __slots__ = ("_partings", "_sent")

    def __init__(self) -> None:
        # When each was last sent.  Those of a prompt are entered from its last to its first, so the first stay longest.
        self._sent: OrderedDict[int, float] = OrderedDict()
        # After which blocks prompts went on in a way that was new here, and how often.
        self._partings: OrderedDict[int, int] = OrderedDict()

    def known(self, prompt: Prompt, now: float) -> int:
        """How many of a prompt's blocks the server has, as far as is known here.

        :param now: monotonic seconds, as of all moments here
        """
        sent, chain, oldest = self._sent, prompt.chain, now - LIFETIME
        least, most = 0, len(chain)
        while least < most:
            middle = (least + most) // 2
            if sent.get(chain[middle], -inf) >= oldest:
                least = middle + 1
            else:
                most = middle
        return least

    def common(self, prompt: Prompt, known: int) -> int:
        """How many of its first blocks are no single conversation's: a system prompt, or a document that many ask about.

        :param known: how many the server has
        """
        partings, chain = self._partings, prompt.chain
        while known and partings.get(chain[known - 1], 0) < MANY:
            known -= 1
        return known

    def enter(self, prompt: Prompt, now: float) -> None:
        """The server is sent a prompt."""
        known, chain = self.known(prompt, now), prompt.chain
        if 0 < known < len(chain):
            self._partings[chain[known - 1]] = self._partings.pop(chain[known - 1], 0) + 1
            if len(self._partings) > _KEPT_PARTINGS:
                self._partings.popitem(last=False)
        sent = self._sent
        for block in reversed(chain):
            sent[block] = now
            sent.move_to_end(block)
        while len(sent) > _KEPT_BLOCKS:
            sent.popitem(last=False)

    def remove(self, blocks: Sequence[int]) -> None:
        """What was sent came to nothing."""
        for block in blocks:
            self._sent.pop(block, None)

    def __repr__(self) -> str:
        return f"<Record of {len(self._sent)} blocks>"
