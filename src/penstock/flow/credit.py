"""Units of small limits (requests, tokens) that several processes share: what a call needs is granted to one of them.

A share of a small limit is a call or two, or less than one, and whoever goes by what he last heard of the others lets in
too many.  So a call that the limit holds few of is not begun before its units have been granted, in one exchange:

* A member tells what it *holds* of what it was granted and has not taken, what its waiting calls *want* beyond that, and
  the *least* that would be of use to one of them.
* It is granted what it wants, as far as the bucket has that and nobody else holds it; less than the least, not at all.
* What it was granted and needs no longer (the call was refused by another limit, or its caller has left) it gives back by
  telling that it holds less.  What a member held that has died is free.
* A pool that has lost its memory does not know yet what others took.  It grants nothing until those who live could say so,
  and every member goes on by the share that it had (:data:`NOT_YET`).

``_sharing_script`` has the same in Lua.
"""

from __future__ import annotations

import msgspec

NOT_YET = -1.0  # is leased where the pool cannot grant anything yet
ROUNDING = 1e-6  # units: levels are sums of many figures


class Use(msgspec.Struct, frozen=True, array_like=True):
    """Of one bucket: its limit per minute, what was taken of it, and how full it is.

    :param total: all that this member has ever taken: a report that arrives twice, or whose answer is lost, does no harm
    :param taken: of that, what no answer has acknowledged; counts where the pool does not know the member
    :param level: what is left, as far as a member can know that has been leased before; counts where the pool knows
        nothing, and after an outage
    :param number: grows with each report: one that was overtaken by a later one is granted nothing
    :param held: of what was granted, not taken yet
    :param wants: granted beyond that, for calls that wait
    :param least: of both together, that one of these calls could begin with
    """

    limit: float
    total: float
    taken: float
    level: float | None
    number: int = 0
    held: float = 0.0
    wants: float = 0.0
    least: float = 0.0


class Credit(msgspec.Struct, frozen=True):
    """What the pool knows of a member's.

    :param number: of the report that it is from
    """

    held: float = 0.0
    number: int = -1


NOTHING = Credit()


def granted(free: float, use: Use, known: Credit) -> Credit:
    """What a member may hold; as before, if a later report has been there already.

    :param free: left of the bucket, and held by none of the others
    """
    if use.number <= known.number:
        return known
    more = min(use.wants, max(0.0, free - use.held))
    if use.held + more < use.least - ROUNDING:
        more = 0.0
    return Credit(use.held + more, use.number)
