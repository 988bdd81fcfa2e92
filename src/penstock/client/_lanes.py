"""Blocks of one body over several connections, where one alone does not fill the link: decided here, without I/O.

Theory of operation
-------------------
TCP takes every lost packet for a full link, and slows down.  Where a link is far and loses packets by itself, one
connection comes to a small part of it, however wide it is, and several come to several times as much; where the link is
what is narrow, they come to no more than one.  Nobody can tell the two apart but by trying.  So a body begins as one
append.  If that crawls, it is cut, what has come of it is kept in its blocks, and what is lacking goes side by side: in
four lanes at first.  If these carry no more than the one did, the rest goes in one; if they carry so much more that more
of them may help, in eight.  What was found is remembered of the server for a while: a body that follows begins so, or is
never cut.

A lane carries one block after the other, and waits a round trip for each; the list of all, which is the request, follows
when they are there (``_blocks``).  What breaks a link breaks all that goes over it: lanes that were under way when one
broke, and break too, tell nothing new.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

FIRST, MOST = 4, 8  # lanes
LOOK = 3.0  # seconds of one append after which it is judged
WORTH = 5.0  # seconds that the rest of it would take, from which on several lanes are tried
IN_KERNEL = 200_000  # bytes that have gone out, and are still under way or wait in the kernel
SETTLES, NEAR = 2.0, 2.0  # seconds that these are waited for at most, and that a block's end is
GAIN = 1.25  # times as much as before, from which on they pay
REMEMBERED_FOR = 600.0  # seconds
LEAST_BLOCKS = 4  # that are lacking of a body; fewer go one after the other


class Width:
    """How many lanes the way to one server takes, as far as that has been tried."""

    __slots__ = ("_found", "_until")

    def __init__(self) -> None:
        self._found = 0
        self._until = 0.0

    def __repr__(self) -> str:
        return f"<Width {self._found or 'not known'}>"

    def at(self, now: float) -> int:
        """Lanes; 0: nobody knows."""
        return self._found if now < self._until else 0

    def found(self, lanes: int, now: float) -> None:
        self._found, self._until = lanes, now + REMEMBERED_FOR


class Crawling(Exception):
    """Lanes are to be tried in an append's place.

    :param rate: bytes a second that it carries
    """

    def __init__(self, rate: float) -> None:
        super().__init__(f"{rate:.0f} bytes a second")
        self.rate = rate
        self.settled_in = min(IN_KERNEL / rate, SETTLES)  # seconds until what has gone out has arrived


class Append:
    """One append on its way.

    :param blocks: sizes of the blocks in which it is kept; half of one would be sent in vain
    """

    __slots__ = ("_began", "_ends", "_left", "_sent")

    def __init__(self, blocks: Sequence[int], now: float) -> None:
        self._began = now
        self._ends = list(accumulate(blocks))
        self._left = sum(blocks)
        self._sent = 0

    def __repr__(self) -> str:
        return f"<Append {self._sent} bytes gone out, {self._left} left>"

    def went_out(self, size: int, now: float) -> None:
        """So many bytes of it have.

        :raises Crawling: so few that lanes are to be tried
        """
        before = self._sent
        self._sent += size
        self._left -= size
        seconds = now - self._began
        if seconds < LOOK or self._left * seconds < WORTH * self._sent:
            return
        rate = self._sent / seconds
        end = self._ends[bisect_left(self._ends, before)]  # of the block that has begun
        if end <= self._sent or end - self._sent > rate * NEAR:
            raise Crawling(rate)


class Taken(NamedTuple):
    """A block that a lane carries."""

    digest: bytes
    breaks: int  # that there had been when it was begun


class Lanes:
    """The lanes of one body.  They may be threads: who asks for something to do, or tells what became of it, holds ``lock``.

    :param lacking: digests of the blocks that are to be sent, the last one first
    :param width: of the way, which is told what is found
    :param alone: bytes a second of one connection; 0: it is not known, and nothing is judged
    """

    def __init__(self, lacking: Sequence[bytes], width: Width, alone: float, now: float) -> None:
        self.lock = threading.Lock()
        self.error: BaseException | None = None
        self.is_refused = False
        self._waiting = list(lacking)
        self._width = width
        self._wanted = width.at(now) or FIRST
        self._running = 0
        self._before, self._lanes_before = alone, 1
        self._judges = alone > 0
        self._began, self._sent, self._blocks = now, 0, 0
        self._breaks, self._wait = 0, 0.0  # that were counted, and seconds after the last of them

    def __repr__(self) -> str:
        return f"<Lanes {self._running} of {self._wanted}, {len(self._waiting)} blocks wait>"

    def more(self) -> int:
        """How many are to be begun now; they count as begun."""
        more = min(max(self._wanted - self._running, 0), len(self._waiting))
        if self._is_over:
            more = 0
        self._running += more
        return more

    def take(self) -> Taken | None:
        """The next block of a lane; None: it ends."""
        if self._is_over or not self._waiting or self._running > self._wanted:
            self._running -= 1
            return None
        return Taken(self._waiting.pop(), self._breaks)

    def broke(self, taken: Taken, error: Exception, count: Callable[[Exception], float | None]) -> float:
        """A block has not arrived: how many seconds its lane waits.

        :param count: counts a break that is another one, and tells how long to wait; None: all lanes end
        """
        self._waiting.append(taken.digest)
        if self._is_over:
            return 0.0
        if taken.breaks != self._breaks:
            return self._wait
        self._breaks += 1
        wait = count(error)
        if wait is None:
            self.fail(error)
        self._wait = wait or 0.0
        return self._wait

    def arrived(self, size: int, now: float) -> None:
        """A block of so many bytes has.  What has only gone out may wait in the kernel, of each lane as much."""
        self._sent += size
        self._blocks += 1
        if self._judges and self._blocks >= self._wanted:
            self._judge(self._sent / max(now - self._began, 0.001), now)
            self._began, self._sent, self._blocks = now, 0, 0

    def _judge(self, rate: float, now: float) -> None:
        pays = rate >= self._before * GAIN
        if not pays:
            self._wanted = self._lanes_before
        self._width.found(self._wanted, now)
        self._judges = pays and self._wanted < MOST
        if self._judges:
            self._before, self._lanes_before = rate, self._wanted
            self._wanted = min(self._wanted * 2, MOST)

    def fail(self, error: BaseException) -> None:
        """All lanes end."""
        self.error = self.error or error

    def refuse(self) -> None:
        """The server does not take a block: all lanes end."""
        self.is_refused = True

    @property
    def _is_over(self) -> bool:
        return self.is_refused or self.error is not None
