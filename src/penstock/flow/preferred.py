"""Candidates of which some are preferred, as long as they have room: cheap capacity before dear, near before far.

Whoever is preferred gets a call if it would have its turn there at once; if not, the call spills over to the next that
has room.  Where nobody has, it waits where it would have liked to go most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import msgspec

from penstock.flow.choose import drawn


class Choice(msgspec.Struct, frozen=True):
    """One who could be asked.

    :param preferred: spot capacity, or of our own region
    :param has_room: whether the call would have its turn at once
    :param cost: what decides among those who are preferred alike: a price, seconds; None: it is not known
    """

    weight: float
    preferred: bool
    has_room: bool
    cost: float | None = None


def by_preference(choices: Sequence[Choice], rand: Callable[[], float]) -> list[int]:
    """Indices; who is alike in everything in the order of :func:`penstock.flow.choose.drawn`."""

    def rank(i: int) -> tuple[bool, bool, float]:
        choice = choices[i]
        return not choice.has_room, not choice.preferred, inf if choice.cost is None else choice.cost

    return sorted(drawn([choice.weight for choice in choices], rand), key=rank)
