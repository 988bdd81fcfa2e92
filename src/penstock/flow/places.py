"""Calls at once of a limit that several processes share: each place is leased to one of them at a time.

What buckets lack can be made good later; a call that is under way cannot.  So a process begins no call without a
place that it has been leased, and the sum of what is leased never exceeds the limit:

* A member tells what it *holds* and what it *needs* (calls under way and waiting).  The pool leases what is free, and
  says how many places the member shall have.  What a member has beyond that counts as its own until it has told
  that it gave it back.
* As long as there is enough, members also get some places ahead, by what they are asked for: so a call seldom has to
  wait for an exchange.  A part of what nobody needs (1 - :data:`AHEAD`) stays with the pool, for whoever comes next.
* When there is not enough, each may have what the others leave of it, where every other member may keep
  its share and one place at least.  Who has none is served first, and of those who has waited longest.
* A pool that has lost its memory leases nothing until those who live could say what they hold (:data:`RECOVERY`).

``_sharing_script`` has the same in Lua.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

AHEAD = 0.5  # of what nobody needs: leased ahead
RECOVERY = 3.0  # seconds: more than a member takes to find its server again and to report
_ROUNDING = 1e-6  # sums of shares differ in their last digits


class Places(msgspec.Struct, frozen=True, array_like=True):
    """What a member tells of the places of one account.

    :param number: grows with each report: one that was overtaken by a later one does not count
    :param held: places that it has, and uses or may use
    :param needs: calls under way, and those that wait for a place
    """

    limit: int
    number: int
    held: int
    needs: int


class Holding(msgspec.Struct, frozen=True):
    """What the pool knows of them.

    :param hungry_since: when the member, having none, was first seen to need one; None: it has, or needs none
    """

    held: int = 0
    needs: int = 0
    number: int = -1
    hungry_since: float | None = None


NOTHING = Holding()


def told(places: Places, known: Holding, now: float) -> Holding:
    """What is known after a report; the same as before, if a later one has been there already."""
    if places.number <= known.number:
        return known
    hungry = None
    if places.needs and not places.held:
        hungry = now if known.hungry_since is None else known.hungry_since
    return Holding(places.held, places.needs, places.number, hungry)


def granted(
    limit: int, own: Holding, share: float, others: Sequence[tuple[Holding, float]], *, recovers: bool
) -> int:
    """How many places a member shall have.

    :param share: of what is asked for; that of each of the others is beside what it holds
    """
    rest = limit - own.needs - sum(other.needs for other, _ in others)
    if rest >= 0:
        wanted = own.needs + _floor(rest * share * AHEAD)
    else:
        theirs = sum(min(other.needs, max(1, _floor(limit * part))) for other, part in others)
        wanted = min(own.needs, max(0, limit - theirs))
    if own.hungry_since is not None:
        wanted = max(wanted, 1)
    if wanted <= own.held:
        return wanted
    if recovers:
        return own.held
    free = limit - own.held - sum(other.held for other, _ in others)
    return own.held + min(wanted - own.held, max(0, free - _before(own, (other for other, _ in others))))


def kept(own: Holding, grant: int) -> Holding:
    """What the member may use from now on, until it tells that it has given some of it back."""
    return Holding(max(own.held, grant), own.needs, own.number, None if grant else own.hungry_since)


def _before(own: Holding, others: Iterable[Holding]) -> int:
    """How many get their first place before this one gets anything."""
    since = math.inf if own.hungry_since is None else own.hungry_since
    return sum(other.hungry_since is not None and other.hungry_since < since for other in others)


def _floor(number: float) -> int:
    return math.floor(number + _ROUNDING)
