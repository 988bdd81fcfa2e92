"""Questions by what they mean: in partitions, nearest first.

A partition holds the questions that agree in all but their last turn (the caller, the model, the parameters, the
system prompt, the turns before): only these can answer each other.  Partitions are small, so the nearest is
found by comparing with all of them, in one product of a matrix and a vector: 0.1 ms for 1,000 questions of 384
dimensions, exact, and nothing to be rebuilt when one goes.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from penstock.cache.semantic.confidence import Confidence
from penstock.cache.semantic.differences import Reading

Vector = npt.NDArray[np.float32]
_FIRST_ROOM = 8


class Known:
    """A question whose answer is kept, under its key in the cache."""

    __slots__ = ("confidence", "key", "partition", "reading", "row")

    def __init__(self, key: bytes, partition: bytes, reading: Reading, row: int) -> None:
        self.key = key
        self.partition = partition
        self.reading = reading
        self.row = row
        self.confidence = Confidence()

    def __repr__(self) -> str:
        return f"<Known {self.key.hex()[:12]}, {self.confidence!r}>"


class _Partition:
    __slots__ = ("known", "vectors")

    def __init__(self, dimensions: int) -> None:
        self.known: list[Known] = []
        self.vectors: Vector = np.empty((_FIRST_ROOM, dimensions), np.float32)

    def add(self, known: Known, vector: Vector) -> None:
        count = len(self.known)
        if count == len(self.vectors):
            self.vectors = np.concatenate((self.vectors, np.empty_like(self.vectors)))
        self.vectors[count] = vector
        known.row = count
        self.known.append(known)

    def remove(self, known: Known) -> None:
        last = self.known.pop()
        if last is not known:
            self.vectors[known.row] = self.vectors[last.row]
            self.known[known.row] = last
            last.row = known.row

    def nearest(self, vector: Vector, count: int) -> list[tuple[float, Known]]:
        similarities = self.vectors[: len(self.known)] @ vector
        best = np.argsort(similarities)[::-1][:count]
        return [(float(similarities[row]), self.known[row]) for row in best]


class Index:
    """All partitions, bounded together; the question that was found or added longest ago makes room.

    :param max_entries: questions
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self._partitions: dict[bytes, _Partition] = {}
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Index of {len(self._known)} questions in {len(self._partitions)} partitions>"

    def __len__(self) -> int:
        return len(self._known)

    def add(self, key: bytes, partition: bytes, reading: Reading, vector: Vector) -> None:
        """Remember a question; one that is known already stays as it is."""
        if key in self._known:
            self._known.move_to_end(key)
            return
        while len(self._known) >= self.max_entries:
            self.remove(next(iter(self._known.values())))
        room = self._partitions.get(partition)
        if room is None:
            room = self._partitions[partition] = _Partition(len(vector))
        known = self._known[key] = Known(key, partition, reading, 0)
        room.add(known, vector)

    def remove(self, known: Known) -> None:
        """Forget a question; nothing happens if it is forgotten already."""
        if self._known.get(known.key) is not known:
            return
        del self._known[known.key]
        room = self._partitions[known.partition]
        room.remove(known)
        if not room.known:
            del self._partitions[known.partition]

    def nearest(self, partition: bytes, vector: Vector, count: int) -> list[tuple[float, Known]]:
        """Cosine similarities and questions, the nearest first."""
        room = self._partitions.get(partition)
        return room.nearest(vector, count) if room is not None else []

    def used(self, known: Known) -> None:
        if known.key in self._known:
            self._known.move_to_end(known.key)
