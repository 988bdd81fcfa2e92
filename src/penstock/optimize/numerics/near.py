"""Texts that say nearly the same, found without comparing each with each.

Of every text's shingles (runs of words) the least value under each of many hash functions is kept; two texts agree in
as large a share of these as their shingles overlap (MinHash: Broder, On the resemblance and containment of documents,
1997).  Only texts that agree in all values of one band are compared (Leskovec, Rajaraman, Ullman: Mining of Massive
Datasets, section 3.4).
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from blake3 import blake3

_WORDS = re.compile(r"\w+")
_SHINGLE = 3  # words
_BANDS, _ROWS = 32, 4  # a pair that overlaps by 0.8 is missed in 5 of 100 million cases, one by 0.5 in 1 of 8
_PRIME = (1 << 31) - 1  # products of two values below it fit into 64 bits

_Values = npt.NDArray[np.uint64]


class Near:
    """Remembers texts.

    :param similar: the share of shingles in common from which two texts are the same
    """

    def __init__(self, similar: float, *, seed: int = 1) -> None:
        draws = np.random.default_rng(seed)
        count = _BANDS * _ROWS
        self._factors: _Values = draws.integers(1, _PRIME, count, dtype=np.uint64)
        self._offsets: _Values = draws.integers(0, _PRIME, count, dtype=np.uint64)
        self._similar = similar
        self._signatures: list[_Values] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def __repr__(self) -> str:
        return f"<Near of {len(self._signatures)} texts>"

    def is_new(self, text: str) -> bool:
        """Whether nothing like it was seen before; then it is remembered."""
        signature = self._signature(text)
        bands = [(band, signature[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)]
        candidates = {number for band in bands for number in self._bands.get(band, ())}
        if any(np.mean(self._signatures[each] == signature) >= self._similar for each in candidates):
            return False
        for band in bands:
            self._bands.setdefault(band, []).append(len(self._signatures))
        self._signatures.append(signature)
        return True

    def _signature(self, text: str) -> _Values:
        words = _WORDS.findall(text.lower())
        shingles = {" ".join(words[at : at + _SHINGLE]) for at in range(max(1, len(words) - _SHINGLE + 1))}
        hashes = np.fromiter(
            (int.from_bytes(blake3(each.encode()).digest(length=8), "big") % _PRIME for each in shingles),
            dtype=np.uint64,
        )
        values = (hashes[:, None] * self._factors + self._offsets) % np.uint64(_PRIME)
        least: _Values = values.min(axis=0)
        return least
