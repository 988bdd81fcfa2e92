"""Money that several processes share: what may be spent is leased to one of them at a time.

What was spent cannot be made good.  So a member begins no call beyond what it has been leased, but where there is plenty
(``leased_budget``), and the sum of what was spent and what is leased never exceeds the budget.

* A member tells what it has *spent* in this period (day or month), ever; what it *holds* of what it was leased and has
  not spent; what it *needs* for calls under way, and what it *wants* for one that there is not enough for.
* It is leased what it needs and wants, if that is there, and something ahead: a part of what nobody needs or wants, by
  what it is asked for, so less and less as the end comes near.  What is not enough for a call would be of no use to
  anybody: who cannot get all that it wants gives back what it does not need.
* What was spent before the pool's time, or by processes that never told, their ledger knows: a *book*, which the
  members of one machine have together.  Who is the first of its book here tells what it says, and that counts beside
  what members tell.  Whoever comes later and had spent something before is in it already.
* What a member has told stays when it dies; what it held is free.

``_sharing_script`` has the same in Lua.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import msgspec

AHEAD = 0.125  # of what nobody needs: leased ahead.  What lies idle at one process is had by others a second later


class Funds(msgspec.Struct, frozen=True, array_like=True):
    """What a member tells of one budget of one account; money in 1e-12 US dollars.

    :param period: which day or month; of an earlier one than the pool's nothing is leased, and none begins before
        it does by Redis' clock
    :param number: grows with each report: one that was overtaken by a later one does not count
    :param spent: by this member in this period
    :param held: of what it was leased, not spent yet
    :param needs: for calls under way
    :param wants: for the dearest of those that there was not enough for
    :param known: spent by all processes of its book in this period, as far as this member knows
    :param book: names the ledger
    """

    limit: int
    period: int
    number: int
    spent: int
    held: int
    needs: int
    wants: int
    known: int
    book: str


class Purse(msgspec.Struct, frozen=True):
    """What the pool knows of a member's."""

    held: int = 0
    asked: int = 0  # needed or wanted
    number: int = -1


_EMPTY = Purse()


class Fund:
    """What the pool knows of one budget, in one period."""

    __slots__ = ("_books", "_purses", "_spent", "period")

    def __init__(self, period: int) -> None:
        self.period = period
        self._books: dict[str, int] = {}  # spent, beside what members have told
        self._spent: dict[str, int] = {}  # by member, dead ones too
        self._purses: dict[str, Purse] = {}

    def lease(
        self, member: str, told: Funds, share: float, others: Collection[str], *, recovers: bool
    ) -> tuple[int, int]:
        """Enter what a member tells.

        :param share: of what is asked for
        :param others: the other members that live
        :param recovers: others may hold something that is not known here
        :returns: how much it may hold, and what nobody holds
        """
        self._enter(member, told)
        left = told.limit - sum(self._books.values()) - sum(self._spent.values())
        own = self._purses.get(member, _EMPTY)
        elsewhere = [self._purses[name] for name in others if name in self._purses]
        grant = own.held
        if told.number > own.number:
            grant = granted(left, told, share, elsewhere, recovers=recovers)
            own = Purse(max(told.held, grant), told.needs + told.wants, told.number)
        self._purses[member] = own
        return grant, left - own.held - sum(other.held for other in elsewhere)

    def _enter(self, member: str, told: Funds) -> None:
        before = self._spent.get(member)
        self._spent[member] = told.spent
        if told.book not in self._books:
            self._books[told.book] = max(0, told.known - told.spent)
        elif before is None:
            self._books[told.book] = max(0, self._books[told.book] - told.spent)

    def __repr__(self) -> str:
        return f"<Fund of period {self.period}, {len(self._purses)} members>"


def granted(left: int, told: Funds, share: float, others: Sequence[Purse], *, recovers: bool) -> int:
    """How much a member may hold.

    :param left: of the budget, not spent
    """
    free = max(0, left - told.held - sum(other.held for other in others))
    most = told.held if recovers else told.held + free
    asked = told.needs + told.wants
    if asked > most:
        return min(told.needs, most)
    rest = left - asked - sum(other.asked for other in others)
    return min(most, asked + max(0, math.floor(rest * share * AHEAD)))


def current(fund: Fund | None, told: Funds, begun: int) -> Fund | None:
    """The fund that the report is about, which may be a new one; None: its period is over.

    :param begun: the latest period that may have begun: a fund of a later one is of this one, and who began it was wrong
    """
    if fund is None or told.period > fund.period:
        return Fund(told.period)
    if told.period < fund.period and begun < fund.period:
        fund.period = told.period
    return fund if told.period == fund.period else None
