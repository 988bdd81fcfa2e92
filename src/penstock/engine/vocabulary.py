"""The bytes of token ids, where the text of several is that of each, one after the other: that is tried out."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

_PROBES = 64  # sequences that are tried
_PROBE_LENGTH = 16
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def are_all_of_it(
    pieces: Sequence[bytes], alone: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> bool:
    """Whether putting ``pieces`` together gives what ``decode`` says of ids.

    :param pieces: the bytes of each id
    :param alone: what ``decode`` says of each
    """
    letters = [token for token, text in enumerate(alone) if text and "\ufffd" not in text]
    chance = random.Random(1)
    for _ in range(_PROBES if letters else 0):
        before, *ids = chance.choices(letters, k=_PROBE_LENGTH)
        text = decode([before, *ids])[len(decode([before])) :]
        if b"".join(pieces[token] for token in ids) != text.encode():
            return False
    return True


def pieces_of(
    words: Sequence[str | None],
    alone: Sequence[str],
    decode: Callable[[Sequence[int]], str],
    vocabulary: int,
) -> list[bytes] | None:
    """The bytes of each id, from the words of a vocabulary as Hugging Face's tokenizers write them.

    :param alone: what ``decode`` says of each
    :param vocabulary: ids that the model knows, which may be more than have a word
    :returns: None, if putting them together is not what ``decode`` does
    """
    for read in (_of_byte_level(), _of_sentence_pieces):
        pieces = [
            read(word) if text and word is not None else b""  # what stands for no text has none
            for word, text in zip(words, alone, strict=True)
        ]
        if are_all_of_it(pieces, alone, decode):
            return pieces + [b""] * (vocabulary - len(pieces))
    return None


def _of_byte_level() -> Callable[[str], bytes]:
    """Words in which each letter is a byte, those that cannot be seen under a number from 256 on (GPT-2)."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    bytes_of = {chr(byte): byte for byte in seen} | {chr(256 + at): byte for at, byte in enumerate(hidden)}

    def read(word: str) -> bytes:
        if all(letter in bytes_of for letter in word):
            return bytes(bytes_of[letter] for letter in word)
        return word.encode()  # added to the vocabulary as it is

    return read


def _of_sentence_pieces(word: str) -> bytes:
    """Words with a sign for the space, and bytes by their numbers."""
    byte = _BYTE.fullmatch(word)
    return bytes([int(byte[1], 16)]) if byte else word.replace("▁", " ").encode()
