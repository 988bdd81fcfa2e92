"""The tier in the worker's own memory: S3-FIFO, bounded in bytes, answers at once.

Theory of operation
-------------------
S3-FIFO (Yang et al., SOSP 2023): a new entry is on trial in a small queue, a tenth of the room.  If it was
asked for again more than once by the time it reaches the queue's end, it moves to the main queue, else it goes,
and only its name is remembered for a while: whoever comes back by then goes to the main queue at once.
In the main queue an entry that was asked for since it came round last goes round again.  A hit only
counts up to 3 and moves nothing.  Why this policy: ``benchmarks/cache/hit_ratio.py``, and the decision page.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from penstock.cache.entry import Entry
from penstock.cache.tiers.tier import TierStatistics

_TRIAL_SHARE = 10  # one part in so many is the small queue's
_MOST_COUNTED = 3
_GHOST_BYTES = 180  # a name that is remembered: 32 bytes, their object, and its place in the table
_LARGEST_SHARE = 4  # one entry may take one part in so many of the room


class _Node:
    __slots__ = ("count", "entry", "size")

    def __init__(self, entry: Entry, size: int) -> None:
        self.entry = entry
        self.size = size
        self.count = 0


class MemoryTier:
    """Entries by key.

    :param max_bytes: of all entries together, as :attr:`Entry.size` counts them
    :param now: seconds since 1970
    """

    name = "memory"

    __slots__ = ("_ghosts", "_held", "_main", "_now", "_on_trial", "_small", "evicted", "max_bytes")

    def __init__(self, max_bytes: int, now: Callable[[], float] = time.time) -> None:
        self.max_bytes = max_bytes
        self.evicted = 0
        self._now = now
        self._small: OrderedDict[bytes, _Node] = OrderedDict()
        self._main: OrderedDict[bytes, _Node] = OrderedDict()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()
        self._on_trial = 0  # bytes in the small queue
        self._held = 0

    def __repr__(self) -> str:
        return f"<MemoryTier {len(self)} entries, {self._held} of {self.max_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def get(self, key: bytes) -> Entry | None:
        node = self._main.get(key) or self._small.get(key)
        if node is None:
            return None
        if node.entry.kept_until <= self._now():
            self.remove(key)
            return None
        if node.count < _MOST_COUNTED:
            node.count += 1
        return node.entry

    def peek(self, key: bytes) -> Entry | None:
        """As :meth:`get`, but nobody asked for it."""
        node = self._main.get(key) or self._small.get(key)
        return node.entry if node is not None and node.entry.kept_until > self._now() else None

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, instead of the one that has its key; one that is too large is not kept."""
        count = self.remove(key)
        size = entry.size
        if size > self.max_bytes // _LARGEST_SHARE:
            return
        node = _Node(entry, size)
        self._held += size
        if count is not None:  # renewed: it has proved itself already
            node.count = count
            self._main[key] = node
        elif key in self._ghosts:
            self._forget(key)
            self._main[key] = node
        else:
            self._small[key] = node
            self._on_trial += size
        while self._held > self.max_bytes:
            self._evict()

    def remove(self, key: bytes) -> int | None:
        """:returns: how often it was asked for, 3 at most; None: it was not there"""
        node = self._small.pop(key, None)
        if node is not None:
            self._on_trial -= node.size
        else:
            node = self._main.pop(key, None)
            if node is None:
                return None
        self._held -= node.size
        return node.count

    def clear(self) -> None:
        self._small.clear()
        self._main.clear()
        self._ghosts.clear()
        self._held = self._on_trial = 0

    def statistics(self) -> TierStatistics:
        return TierStatistics(entries=len(self), held=self._held, evicted=self.evicted)

    def _evict(self) -> None:
        """Make room: one entry goes, or an entry moves on."""
        if self._small and (self._on_trial * _TRIAL_SHARE >= self.max_bytes or not self._main):
            key, node = self._small.popitem(last=False)
            self._on_trial -= node.size
            if node.count > 1:
                node.count = 0
                self._main[key] = node
                return
            self._ghosts[key] = None
            self._held += _GHOST_BYTES
        elif self._main:
            key, node = self._main.popitem(last=False)
            if node.count:
                node.count -= 1
                self._main[key] = node
                return
        else:
            self._forget(next(iter(self._ghosts)))
            return
        self._held -= node.size
        self.evicted += 1
        while len(self._ghosts) > max(len(self), 1):
            self._forget(next(iter(self._ghosts)))

    def _forget(self, ghost: bytes) -> None:
        del self._ghosts[ghost]
        self._held -= _GHOST_BYTES
