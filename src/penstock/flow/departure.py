"""An upstream that has been announced as going away: a spot machine that is taken back, a server before its upgrade.

From the announcement on it gets no new calls, and those that wait for it go elsewhere.  What runs there goes on while
there is time.  Where the announcement says when the upstream goes, answers that have not ended shortly before
(:attr:`Departure.moves_at`) are moved: broken off here, and gone on with elsewhere by their logs, as after any other
break.  Those that cannot be gone on with, or have not begun, stay to the end.  Without a moment, whatever runs when the upstream goes breaks
then, and is gone on with in the same way.

An announcement holds until it is taken back, also over a reload.
"""

from __future__ import annotations

from math import inf, isfinite

import msgspec

from penstock.errors import Overloaded

LEAD = 5.0  # seconds before it goes that answers are moved: enough to ask elsewhere, and for a second try
LEAST_STAY = 0.5  # of a short notice, which is passed before they are


class Departure(msgspec.Struct, frozen=True):
    """``at``: when it goes, monotonic seconds; ``inf``: it is not known."""

    announced: float
    at: float = inf

    @property
    def moves_at(self) -> float:
        """When what still runs there is moved."""
        return max(self.at - LEAD, self.announced + LEAST_STAY * (self.at - self.announced))

    def told(self, now: float) -> str:
        """In words."""
        if not isfinite(self.at):
            return "it is going away"
        return f"it goes away in {self.at - now:.1f} s" if now < self.at else "it has gone away"

    def refusal(self, upstream: str, now: float) -> Overloaded:
        """For a call that would go there."""
        return Overloaded(
            f"{upstream} gets no calls: {self.told(now)}", code="upstream_leaving", retry_after=1.0
        )


class Departures:
    """The upstreams of one process that are going away, by name.

    :ivar moved: answers that were broken off to go on elsewhere
    """

    def __init__(self) -> None:
        self._departures: dict[str, Departure] = {}
        self.moved = 0

    def __len__(self) -> int:
        return len(self._departures)

    def announce(self, upstream: str, seconds: float | None, now: float) -> Departure:
        """It goes in so many seconds; None: some time."""
        departure = Departure(now, inf if seconds is None else now + seconds)
        self._departures[upstream] = departure
        return departure

    def take_back(self, upstream: str) -> None:
        """It stays."""
        self._departures.pop(upstream, None)

    def of(self, upstream: str) -> Departure | None:
        return self._departures.get(upstream)

    def moving(self, now: float) -> set[str]:
        """The upstreams whose answers are to be moved now."""
        return {name for name, departure in self._departures.items() if now >= departure.moves_at}

    def gone(self, now: float) -> set[str]:
        """Those whose time has passed."""
        return {name for name, departure in self._departures.items() if now >= departure.at}

    def __repr__(self) -> str:
        return f"<Departures of {', '.join(self._departures) or 'nobody'}, {self.moved} answers moved>"
