"""Bodies that a gateway remembers, so that the next ones are sent as what is new in them (dcz): without I/O.

The next request of an agent is the last one and a little more.  Which earlier body that is, the beginnings tell: the
one that shares the longest with the new one is its dictionary.  A gateway forgets what it likes, and each of its
workers remembers by itself; one that has forgotten several times in a row is left alone with dictionaries for a
while, because each time costs a round trip.
"""

from __future__ import annotations

import threading

from penstock.wire import codings

WORTH = 4_096  # bytes of a body, below which it goes in a few packets anyhow
LACKS = 3  # dictionaries in a row that were not there any more
REST = 60.0  # seconds without any after that
_LEVEL = 7  # of zstd: what is new is little, so that trying harder costs little
_GOES_ON = 0.5  # of a body that its dictionary begins with: the rest need not be looked at
_SAMPLES, _SAMPLE = 6, 24  # places of the rest that are looked for in a dictionary, and bytes of each
_FOUND = 2  # of these, with fewer of which a dictionary costs ten times what it saves
_CONTAINED = 0.9  # of a dictionary that a body begins with: it is of no more use beside that body
_MOST_OF_ONE = 4  # a body may have this part of the whole room


class Dictionaries:
    """What one peer remembers, by whose it is; the oldest make room.  For any thread.

    :param most: bytes that all of them may have here
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._bodies: dict[tuple[str, bytes], None] = {}  # owner and body, the latest last
        self._lock = threading.Lock()
        self._lacks = 0
        self._rests_until = 0.0

    def __repr__(self) -> str:
        return f"<Dictionaries {len(self._bodies)}, {self._held} of {self._most} bytes>"

    def forked(self) -> None:
        """As :meth:`penstock.client._calls.Calls.forked`."""
        self._lock = threading.Lock()

    def takes(self, body: bytes, now: float) -> bool:
        """Whether the gateway is to be asked to remember this one."""
        return WORTH <= len(body) <= self._most // _MOST_OF_ONE and now >= self._rests_until

    def encoded(self, owner: str, body: bytes, now: float) -> tuple[bytes, bytes] | None:
        """A body in dcz, and its dictionary; None: there is none with which it has much in common."""
        if now < self._rests_until:
            return None
        with self._lock:
            known = [content for name, content in reversed(self._bodies) if name == owner]
        if not known:
            return None
        dictionary, longest = known[0], -1
        for content in known:
            if content[: longest + 1] == body[: longest + 1]:
                shared = _shared(content, body)
                if shared > longest:
                    dictionary, longest = content, shared
        if longest < len(body) * _GOES_ON and not _resemble(dictionary, body, longest):
            return None
        return codings.with_dictionary(body, dictionary, _LEVEL), dictionary

    def kept(self, owner: str, body: bytes, after: bytes | None) -> None:
        """The peer remembers it.

        :param after: the dictionary with which it was sent
        """
        with self._lock:
            if after is not None:
                self._lacks = 0
                if _shared(after, body) >= len(after) * _CONTAINED:
                    self._drop((owner, after))
            self._drop((owner, body))
            self._bodies[owner, body] = None
            self._held += len(body)
            while self._held > self._most:
                self._drop(next(iter(self._bodies)))

    def lacking(self, owner: str, dictionary: bytes, now: float) -> None:
        """The peer does not remember it any more."""
        with self._lock:
            self._drop((owner, dictionary))
            self._lacks += 1
            if self._lacks >= LACKS:
                self._lacks = 0
                self._rests_until = now + REST

    def _drop(self, name: tuple[str, bytes]) -> None:
        if name in self._bodies:
            del self._bodies[name]
            self._held -= len(name[1])


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes both begin with, found by halving: comparing is quick, counting is not."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _resemble(dictionary: bytes, body: bytes, start: int) -> bool:
    """Whether more of a body than its beginning stands in a dictionary, as in a history whose oldest turns were left out."""
    places = range(start, len(body) - _SAMPLE, max((len(body) - start) // _SAMPLES, _SAMPLE))
    return sum(body[place : place + _SAMPLE] in dictionary for place in places) >= _FOUND
