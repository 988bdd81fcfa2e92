"""One process's part of a budget that it shares with others; see ``penstock.flow.funds`` for the whole.

Between two exchanges a process spends what it was leased; a call that there is not enough for waits for an exchange.
Only where there is plenty, one may begin without (:data:`PLENTY`), so that nobody waits at an account that is new here.
So processes together spend more than the budget by what calls cost beyond their estimates, and at the very worst by one
call each.

Without word from the others a process goes on with what it was leased, and with an even part of what nobody held when it
last heard of them; if it never has, with an even part of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from penstock.flow.budget import Budget
from penstock.flow.funds import Funds

PLENTY = 10  # calls for each process: as long as so much is free, one may begin that was not leased its money


class LeasedBudget(Budget):
    """A :class:`~penstock.flow.budget.Budget` whose ``left`` is what is left as far as the ledger tells, of which this process
    may spend what it was leased.

    :param is_valid: whether what was leased is ours still
    :param alone: whether there is no word from the others
    :param even: this process's part, if there is none
    """

    __slots__ = (
        "_alone",
        "_book",
        "_even",
        "_free",
        "_has_part",
        "_is_valid",
        "_last",
        "_number",
        "_spent_then",
        "_wanted",
        "ceiling",
    )

    def __init__(
        self,
        limit: int,
        is_valid: Callable[[], bool],
        alone: Callable[[], bool],
        even: Callable[[], float],
        book: str,
    ) -> None:
        super().__init__(limit)
        self.ceiling = 0  # spent and reserved by this process in this period: so much at most
        self._is_valid = is_valid
        self._alone = alone
        self._even = even
        self._book = book
        self._free: int | None = None  # what nobody held when we were last leased something; None: not known
        self._last = 0  # what the last call may cost
        self._wanted = 0  # what the dearest may cost that there was not enough for, since the last report
        self._spent_then = 0  # at the last report
        self._number = 0
        self._has_part = False  # since there is no word from the others

    @property
    def used(self) -> int:
        """Spent and reserved, in this process."""
        return self.limit - self.others - self.left

    @property
    def known_left(self) -> int:
        left = super().known_left
        if self._free is None:
            return left
        return min(left, max(0, self._free) + max(0, self.ceiling - self.used))

    @property
    def is_wanted(self) -> bool:
        """Whether there was not enough for a call, since the last report."""
        return self._wanted > 0

    @property
    def is_short(self) -> bool:
        """Whether what we have is not enough for another call like the last one."""
        return self.ceiling - self.used < self._last

    def turn(self, period: int) -> None:
        before = self._period
        super().turn(period)
        if period > before:
            self.ceiling = 0
            self._free = None
            self._has_part = False

    def date(self, period: int) -> None:
        before = self.own
        super().date(period)
        self.ceiling += self.own - before

    def fits(self, cost: int) -> bool:
        if not super().fits(cost):
            return False
        cost = min(cost, self.limit)
        alone = self._alone()
        if alone and not self._has_part:
            self._take_part()
        room = self.ceiling - self.used
        if alone:
            return room >= cost
        if not self._is_valid() and self._free is not None:
            return False  # by now it may be others'
        if room >= cost:
            return True
        free = self.left if self._free is None else self._free
        return room >= 0 and free * self._even() >= PLENTY * cost

    def want(self, cost: int) -> None:
        """There was not enough for a call."""
        self._wanted = max(self._wanted, min(cost, self.limit))

    def took(self, cost: int) -> None:
        """A call has begun that may cost so much."""
        self._last = cost

    def may_come(self, cost: int) -> bool:
        """Whether others may have some to spare."""
        return super().fits(cost) and not self._alone()

    def told(self, *, waited_for: bool) -> Funds:
        """What is reported of it.

        :param waited_for: whether calls wait for money yet
        """
        self._number += 1
        self._spent_then = self.own
        held = max(0, self.ceiling - self.own)
        wants = self._wanted
        if not waited_for:
            self._wanted = 0
        return Funds(
            self.limit,
            self._period,
            self._number,
            self.own,
            held,
            max(0, self.reserved),
            wants,
            self.own + self.others,
            self._book,
        )

    def lease(self, period: int, granted: int, free: int) -> bool:
        """So much is ours, beyond what we had spent when we reported.

        :param period: that the report was about
        :returns: whether we gave some back, which the others do not know yet
        """
        if period != self._period:
            return False
        self._free = free
        self._has_part = False
        ceiling = self._spent_then + granted
        if ceiling < self.ceiling:
            ceiling = max(ceiling, min(self.used, self.ceiling))
        returned = ceiling < self.ceiling
        self.ceiling = ceiling
        return returned

    @property
    def period(self) -> int:
        return self._period

    def _take_part(self) -> None:
        """There is no word from the others: take an even part of what nobody had."""
        self._has_part = True
        if self._free is None:
            self.ceiling = max(self.ceiling, math.floor(self.limit * self._even()))
        else:
            self.ceiling = max(self.ceiling, self.used) + math.floor(max(0, self._free) * self._even())

    def let_go(self) -> None:
        """It is not used: what it was leased is free for others, if there is word from them."""
        if self._alone():
            return
        self.ceiling = self.own
        self._free = None
        self._last = 0
        self._has_part = False
