"""What time it is for all who share a cache in Redis: the server's time, whatever their machines' clocks say.

Theory of operation
-------------------
A look-up must not wait for a round trip, so the server is asked for its time with each new connection and every two
seconds, and a process counts on from there by its own monotonic clock.  What the server said was true at some moment
between the question and its answer: so each hearing bounds the server's time from both sides, and all hearings together
bound it more closely than the best of them.

An entry is dated by the earlier bound and a purge by the later one.  Whatever was asked before a purge is therefore dated
before it, whichever machines asked and purged; what was asked within a round trip after it may count as purged, too.

Time never goes back: where the server's does (its clock was set, or a replica that is behind took its place), those who
have heard the old time go on from it, and write down beside the purges by how much the server's time is to be advanced,
for all who come later.

Until the server has been heard the machine's own clock counts, as it stood when the process began.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds a second by which two clocks part at most, each of them adjusted by NTP (RFC 5905, MAXFREQ).
_DRIFT = 2 * 500e-6


class SharedClock:
    """See the module's text.

    :param own: seconds since 1970, of this machine
    :param monotonic: seconds
    """

    __slots__ = ("_earliest", "_heard_at", "_latest", "agreed", "known", "monotonic")

    def __init__(
        self, own: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.monotonic = monotonic
        self.known = False  # whether there is nothing better to be waited for than what it says
        self.agreed: Callable[[float, bool], None] = _nobody
        """Is told once, when the server has been heard: how much too early moments noted before that may be, and whether some
        are too late."""
        # What is to be added to the monotonic clock, at least and at most.
        self._earliest = self._latest = own() - monotonic()
        self._heard_at: float | None = None

    def __repr__(self) -> str:
        return f"<SharedClock {self.now():.3f}, {'its own' if self._heard_at is None else 'the server'}'s>"

    def now(self) -> float:
        """Seconds since 1970, not later than it is."""
        return self.monotonic() + self._earliest

    def latest(self) -> float:
        """Seconds since 1970, not earlier than it is for anybody."""
        now = self.monotonic()
        drifted = 0.0 if self._heard_at is None else (now - self._heard_at) * _DRIFT
        return now + self._latest + drifted

    def heard(self, server: float, sent: float, received: float, advanced: float) -> float:
        """The server has told its time.

        :param server: seconds since 1970
        :param sent: when it was asked, in monotonic seconds, and ``received`` when it had answered
        :param advanced: seconds by which all advance what it says
        :returns: the same as it has to be from now on, so that time does not go back
        """
        earliest, latest = server + advanced - received, server + advanced - sent
        latest += (received - sent) * _DRIFT
        if self._heard_at is None:
            early, late = latest - self._latest, self._earliest > latest
            self._earliest, self._latest = earliest, latest
            self._heard_at, self.known = received, True
            self.agreed(max(early, 0.0), late)
            return advanced
        drifted = (received - self._heard_at) * _DRIFT
        self._heard_at = received
        self._latest += drifted
        if latest < self._earliest - drifted:
            return advanced + self._earliest - earliest
        if earliest > self._latest:
            self._earliest, self._latest = earliest, latest
        else:
            self._earliest = max(earliest, self._earliest - drifted)
            self._latest = min(latest, self._latest)
        return advanced

    def refused(self) -> None:
        """The server does not tell us its time: each machine goes by its own."""
        self.known = True


def _nobody(_early: float, _late: bool) -> None:
    """Nothing has been noted."""
