"""One process's part of the calls at once that it shares with others; see ``penstock.flow.places`` for the whole."""

from __future__ import annotations

import math

from penstock.flow.places import Places
from penstock.flow.sharing import FRESH, LIFE


class LeasedPlaces:
    """Calls at once, of which this process holds some places; see ``penstock.flow.places``.

    Without word from the others a process keeps what it held, or an even part if it was never leased any: a place at
    least, so that nobody is shut out, and only where there are fewer places than processes one too many.  One that had
    none just then takes one when its lease has ended, :data:`~penstock.flow.sharing.LIFE` seconds after it: that may be
    one too many, but its callers would wait for :data:`SHARE_HOLDS`.

    :param limit: of all processes
    :param even: this process's part, if there is no word from the others
    """

    __slots__ = ("_even", "_fresh_until", "_number", "_target", "_valid_until", "held", "limit", "others")

    def __init__(self, limit: int, even: float) -> None:
        self.limit = limit
        self.others = 0  # calls under way elsewhere, when they were last told
        self.held = 0
        self._target = 0  # what is held beyond this is given back when it is free
        self._even = even
        self._number = 0
        self._fresh_until = -math.inf
        self._valid_until = -math.inf

    def has_room(self, in_progress: int, now: float, *, alone: bool) -> bool:
        """Whether one more may begin."""
        if now >= self._valid_until:  # by now our places may be others'
            if not alone:
                return False
            if not self.held:
                self.take_part(self._even if self._valid_until == -math.inf else 0.0)
        return in_progress < self.held

    def in_use_elsewhere(self, now: float) -> int:
        """Calls under way elsewhere, as far as there is fresh word of them."""
        return self.others if now < self._fresh_until else 0

    def may_come(self, in_progress: int, now: float) -> bool:
        """Whether there is a place that nobody uses, as far as is known here."""
        return self.limit > 0 and not (now < self._fresh_until and in_progress + self.others >= self.limit)

    def reachable(self, now: float) -> int:
        """How many calls may be under way here, as far as is known: those places that nobody else uses, too."""
        if now < self._fresh_until:
            return max(self.held, self.limit - self.others)
        return max(self.held, 1, math.floor(self.limit * self._even))

    def is_short(self, in_progress: int) -> bool:
        """Whether so few places are left that each counts."""
        return in_progress >= self.held or in_progress + self.others >= self.limit - 2

    def told(self, in_progress: int, waiting: int) -> Places:
        """What is reported of it."""
        self._number += 1
        return Places(self.limit, self._number, self.held, min(in_progress + waiting, self.limit))

    def lease(self, places: int, others: int, in_progress: int, sent: float, now: float) -> bool:
        """So many places are ours from now on.

        :param sent: when that was asked for: the lease runs from then
        :returns: whether we gave some back, which the others do not know yet
        """
        self.others = others
        self._fresh_until = now + FRESH
        self._valid_until = sent + LIFE
        self._target = places
        if places >= self.held:
            self.held = places
            return False
        return self.give_back(in_progress)

    def give_back(self, in_progress: int) -> bool:
        """Whether there was something to give back."""
        held = max(self._target, in_progress)
        if held >= self.held:
            return False
        self.held = held
        return True

    def take_part(self, share: float) -> None:
        """There is no word from the others: this part of the limit is ours."""
        self.held = self._target = min(self.limit, max(1, math.floor(self.limit * share)))

    def let_go(self, share: float) -> None:
        """Nothing of it is ours any more."""
        self._even = share
        self.held = self._target = 0
        self._valid_until = self._fresh_until = -math.inf

    def __repr__(self) -> str:
        return f"<LeasedPlaces {self.held} of {self.limit}, {self.others} in use elsewhere>"
