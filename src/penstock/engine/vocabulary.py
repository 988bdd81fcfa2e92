"""Whether the text of several token ids is that of each, one after the other: that is tried out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_PROBES = 64  # sequences that are tried
_PROBE_LENGTH = 16


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
