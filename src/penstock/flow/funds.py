"""Money that several processes share: what may be spent is leased to one of them at a time.

What was spent cannot be made good, so budgets are leased as places are (``places``), by the same rules: a member begins
no call beyond what it has been leased, but for one between two exchanges (``leased_budget``), and the sum of what was
spent and what is leased never exceeds the budget.  What is leased ahead is a part of what is left, so it gets less as
the end comes near.

* A member tells what it has *spent* in this period (day or month), ever; what it *holds* of what it was leased and has
  not spent; and what it *needs* for calls under way and for those that wait.
* What was spent before the pool's time, or by processes that never told, their ledger knows: a *book*, which the
  members of one machine have together.  Who is the first of its book here tells what it says, and that counts beside
  what members tell.  Whoever comes later and had spent something before is in it already.
* What a member has told stays when it dies; what it held is free.

``_sharing_script`` has the same in Lua.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.flow import places
from penstock.flow.places import Holding

AHEAD = 0.125  # of what nobody needs: leased ahead.  What lies idle at one process is had by others a second later


class Funds(msgspec.Struct, frozen=True, array_like=True):
    """What a member tells of one budget of one account; money in 1e-12 US dollars.

    :param period: which day or month; of an earlier one than the pool's nothing is leased
    :param number: grows with each report
    :param spent: by this member in this period
    :param held: of what it was leased, not spent yet
    :param needs: for calls under way, and for the dearest of those that there was not enough for
    :param known: spent by all processes of its book in this period, as far as this member knows
    :param book: names the ledger
    """

    limit: int
    period: int
    number: int
    spent: int
    held: int
    needs: int
    known: int
    book: str


class Fund:
    """What the pool knows of one budget, in one period."""

    __slots__ = ("_books", "_holdings", "_spent", "period")

    def __init__(self, period: int) -> None:
        self.period = period
        self._books: dict[str, int] = {}  # spent, beside what members have told
        self._spent: dict[str, int] = {}  # by member, dead ones too
        self._holdings: dict[str, Holding] = {}

    def lease(
        self,
        member: str,
        told: Funds,
        share: float,
        others: Mapping[str, float],
        now: float,
        *,
        recovers: bool,
    ) -> tuple[int, int]:
        """Enter what a member tells.

        :param others: the other members that live, and their shares
        :returns: how much it may hold, and what nobody holds
        """
        self._enter(member, told)
        left = told.limit - sum(self._books.values()) - sum(self._spent.values())
        known = self._holdings.get(member, places.NOTHING)
        held = places.told(places.Places(told.limit, told.number, told.held, told.needs), known, now)
        elsewhere = [(self._holdings[name], part) for name, part in others.items() if name in self._holdings]
        grant = held.held
        if held is not known:
            grant = places.granted(left, held, share, elsewhere, recovers=recovers, ahead=AHEAD)
            held = places.kept(held, grant)
        self._holdings[member] = held
        return grant, left - held.held - sum(other.held for other, _ in elsewhere)

    def _enter(self, member: str, told: Funds) -> None:
        before = self._spent.get(member)
        self._spent[member] = told.spent
        if told.book not in self._books:
            self._books[told.book] = max(0, told.known - told.spent)
        elif before is None:
            self._books[told.book] = max(0, self._books[told.book] - told.spent)

    def __repr__(self) -> str:
        return f"<Fund of period {self.period}, {len(self._holdings)} members>"


def current(fund: Fund | None, told: Funds) -> Fund | None:
    """The fund that the report is about, which may be a new one; None: its period is over."""
    if fund is None or told.period > fund.period:
        return Fund(told.period)
    return fund if told.period == fund.period else None
