"""An upstream that goes away: a spot machine that is taken back, a server before its upgrade.

From the announcement on it gets no new calls, and those that wait for it go elsewhere.  What runs there goes on while
there is time.  Where the announcement says when the upstream goes, answers that have not ended shortly before
(:attr:`Departure.moves_at`) are moved: broken off here, and gone on with elsewhere by their logs, as after any other
break.  Those that cannot be gone on with, or have not begun, stay to the end.  Without a moment, whatever runs when the upstream goes breaks
then, and is gone on with in the same way.

An operator's announcement holds until it is taken back, also over a reload.  What an upstream said itself lapses
(:attr:`Departure.until`): nobody else will say that it is back, and if it is not, it says so again.
"""

from __future__ import annotations

from math import inf, isfinite

import msgspec

from penstock.errors import Overloaded

LEAVING = "upstream_leaving"  # the code of a refusal
LEAD = 5.0  # seconds before it goes that answers are moved: enough to ask elsewhere, and for a second try
LEAST_STAY = 0.5  # of a short notice, which is passed before they are
LONGEST_NOTICE = 86_400.0  # seconds; what is told beyond is not believed


class Departure(msgspec.Struct, frozen=True):
    """``at``: when it goes, monotonic seconds; ``inf``: it is not known.

    ``until``: when it is forgotten, as it was the upstream that said so; ``inf``: when it is taken back.
    """

    announced: float
    at: float = inf
    until: float = inf

    @classmethod
    def within(cls, seconds: float | None, now: float, holds: float | None = None) -> Departure:
        """It goes in so many seconds; None: some time.

        :param holds: seconds after its moment, or from now on, that this is remembered; None: until it is taken back
        """
        at = inf if seconds is None else now + seconds
        return cls(now, at, inf if holds is None else holds + (at if isfinite(at) else now))

    @property
    def is_its_own(self) -> bool:
        """Whether the upstream said so, and no operator."""
        return isfinite(self.until)

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
        return Overloaded(f"{upstream} gets no calls: {self.told(now)}", code=LEAVING, retry_after=1.0)


def heard(present: Departure | None, seconds: float | None, now: float, holds: float) -> Departure | None:
    """What is known of an upstream after it has said that it goes; None: nothing that was not known.

    An operator's word counts more.  Of moments the first that was told counts, so that a server that says the same with
    each answer cannot put its end off for ever; a later word makes the memory of it last longer.
    """
    found = Departure.within(seconds, now, holds)
    if present is None:
        return found
    if not present.is_its_own:
        return None
    if found.at >= present.at - 1.0:
        if isfinite(present.at) or found.until - present.until < holds / 2:
            return None
        return Departure(present.announced, present.at, found.until)
    return Departure(present.announced, found.at, found.until)


def seconds_in(value: bytes) -> tuple[bool, float | None]:
    """Whether a header field says that its server goes away, and in how many seconds; None: some time."""
    if value.strip().lower() in {b"false", b"no"}:
        return False, None
    try:
        seconds = float(value)
    except ValueError:
        return True, None
    return True, min(max(0.0, seconds), LONGEST_NOTICE) if isfinite(seconds) else None


class Departures:
    """The upstreams of one process that are going away, by name.

    :ivar moved: answers that were broken off to go on elsewhere
    """

    def __init__(self) -> None:
        self._departures: dict[str, Departure] = {}
        self.moved = 0

    def __len__(self) -> int:
        return len(self._departures)

    def announce(self, upstream: str, departure: Departure) -> None:
        """The last announcement counts."""
        self._departures[upstream] = departure

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

    def lapsed(self, now: float) -> set[str]:
        """Those of whom it is to be forgotten."""
        return {name for name, departure in self._departures.items() if now >= departure.until}

    def __repr__(self) -> str:
        return f"<Departures of {', '.join(self._departures) or 'nobody'}, {self.moved} answers moved>"
