"""Eviction policies for equal-sized objects, small enough to be read beside the papers.

``access(name) -> bool`` says whether it was a hit and admits what was not there.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from heapq import heappop, heappush


class FIFO:
    """First in, first out."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.kept: OrderedDict[object, None] = OrderedDict()

    def access(self, name: object) -> bool:
        if name in self.kept:
            return True
        if len(self.kept) >= self.capacity:
            self.kept.popitem(last=False)
        self.kept[name] = None
        return False


class LRU(FIFO):
    """Least recently used."""

    def access(self, name: object) -> bool:
        if name in self.kept:
            self.kept.move_to_end(name)
            return True
        return super().access(name)


class SIEVE:
    """Zhang et al., NSDI 2024: a queue that keeps its order, and a hand that passes what was asked for again.

    The hand goes from old to new; it is kept as the newest object that it has passed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.newer: dict[object, object] = {}
        self.older: dict[object, object] = {}
        self.visited: dict[object, bool] = {}
        self.oldest: object = None
        self.newest: object = None
        self.hand: object = None

    def access(self, name: object) -> bool:
        if name in self.visited:
            self.visited[name] = True
            return True
        if len(self.visited) >= self.capacity:
            self._evict()
        self.visited[name] = False
        self.older[name] = self.newest
        self.newer[name] = None
        if self.newest is not None:
            self.newer[self.newest] = name
        self.newest = name
        if self.oldest is None:
            self.oldest = name
        return False

    def _evict(self) -> None:
        at = self.hand if self.hand is not None else self.oldest
        while self.visited[at]:
            self.visited[at] = False
            at = self.newer[at] if self.newer[at] is not None else self.oldest
        self.hand = self.newer[at]
        older, newer = self.older.pop(at), self.newer.pop(at)
        if older is not None:
            self.newer[older] = newer
        else:
            self.oldest = newer
        if newer is not None:
            self.older[newer] = older
        else:
            self.newest = older
        del self.visited[at]


class S3FIFO:
    """Yang et al., SOSP 2023: a small queue on trial, a main one, and the names of those that failed the trial."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.on_trial = max(capacity // 10, 1)
        self.small: deque[object] = deque()
        self.main: deque[object] = deque()
        self.counts: dict[object, int] = {}
        self.ghosts: OrderedDict[object, None] = OrderedDict()

    def access(self, name: object) -> bool:
        count = self.counts.get(name)
        if count is not None:
            self.counts[name] = min(count + 1, 3)
            return True
        if len(self.counts) >= self.capacity:
            self._evict()
        self.counts[name] = 0
        if name in self.ghosts:
            del self.ghosts[name]
            self.main.append(name)
        else:
            self.small.append(name)
        return False

    def _evict(self) -> None:
        while self.small and (len(self.small) >= self.on_trial or not self.main):
            name = self.small.popleft()
            if self.counts[name] > 1:
                self.counts[name] = 0
                self.main.append(name)
            else:
                del self.counts[name]
                self.ghosts[name] = None
                if len(self.ghosts) > self.capacity:
                    self.ghosts.popitem(last=False)
                return
        while self.main:
            name = self.main.popleft()
            if self.counts[name]:
                self.counts[name] -= 1
                self.main.append(name)
            else:
                del self.counts[name]
                return


class TinyLFU:
    """W-TinyLFU, Einziger et al., ACM TOS 2017: a window of 1 %, then only what was asked for more often.

    The counts are exact here, which flatters it a little: a sketch would make some too high.
    """

    def __init__(self, capacity: int) -> None:
        self.window_size = max(capacity // 100, 1)
        self.protected_size = (capacity - self.window_size) * 4 // 5
        self.main_size = capacity - self.window_size
        self.window: OrderedDict[object, None] = OrderedDict()
        self.probation: OrderedDict[object, None] = OrderedDict()
        self.protected: OrderedDict[object, None] = OrderedDict()
        self.counts: dict[object, int] = {}
        self.since = 0
        self.sample = capacity * 10

    def _count(self, name: object) -> None:
        self.counts[name] = min(self.counts.get(name, 0) + 1, 15)
        self.since += 1
        if self.since >= self.sample:
            self.since //= 2
            self.counts = {name: count // 2 for name, count in self.counts.items() if count > 1}

    def access(self, name: object) -> bool:
        self._count(name)
        if name in self.window:
            self.window.move_to_end(name)
            return True
        if name in self.protected:
            self.protected.move_to_end(name)
            return True
        if name in self.probation:
            del self.probation[name]
            self.protected[name] = None
            if len(self.protected) > self.protected_size:
                self.probation[self.protected.popitem(last=False)[0]] = None
            return True
        self.window[name] = None
        if len(self.window) > self.window_size:
            self._admit(self.window.popitem(last=False)[0])
        return False

    def _admit(self, candidate: object) -> None:
        if len(self.probation) + len(self.protected) >= self.main_size:
            losers = self.probation or self.protected
            victim = next(iter(losers))
            if self.counts.get(candidate, 0) <= self.counts.get(victim, 0):
                return
            del losers[victim]
        self.probation[candidate] = None


POLICIES = {"FIFO": FIFO, "LRU": LRU, "SIEVE": SIEVE, "S3-FIFO": S3FIFO, "W-TinyLFU": TinyLFU}


def hits(policy: type, capacity: int, accesses: Sequence[object]) -> int:
    cache = policy(capacity)
    access = cache.access
    return sum(map(access, accesses))


def belady(capacity: int, accesses: Sequence[object]) -> int:
    """The optimum of whoever knows the future and need not admit what will not be asked for again soon."""
    never = len(accesses)
    following = [never] * never
    seen: dict[object, int] = {}
    for at in range(never - 1, -1, -1):
        following[at] = seen.get(accesses[at], never)
        seen[accesses[at]] = at
    due: dict[object, int] = {}
    farthest: list[tuple[int, int]] = []  # (-next access, index of the access that set it)
    found = 0
    for at, name in enumerate(accesses):
        if name in due:
            found += 1
        elif following[at] == never:
            continue
        due[name] = following[at]
        heappush(farthest, (-following[at], at))
        if len(due) > capacity:
            while True:
                when, index = heappop(farthest)
                victim = accesses[index]
                if due.get(victim) == -when:
                    del due[victim]
                    break
    return found
