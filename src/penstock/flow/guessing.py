"""The rate of a provider that tells nothing of it, guessed by several processes together.

Each follows the rule of ``penstock.flow.remote`` with what it sees, and spends its share of the whole: a rate of its own
in each would be raised by each until the provider says 429, so that four of them would be refused four times as often,
and who was refused less often would end with a larger part, whatever his callers ask for.  What a process makes of the
whole, as against what it was last told of it, is its opinion, and one pool adds them up.  ``_sharing_script`` has
:func:`heard` in Lua.
"""

from __future__ import annotations

import msgspec

QUIET = 1.0  # seconds in which a second 429, elsewhere, says nothing new


class Guess(msgspec.Struct, frozen=True, array_like=True):
    """What a process makes of both rates of one account, in units per second of all processes together.

    :param requests: now; 0: it has no opinion
    :param requests_told: as it was last told; 0: it was not, or has forgotten
    """

    requests: float = 0.0
    requests_told: float = 0.0
    tokens: float = 0.0
    tokens_told: float = 0.0


class Heard(msgspec.Struct, frozen=True):
    """What the pool knows of one rate; 0: nothing."""

    rate: float = 0.0
    quiet_until: float = 0.0


NOTHING = Heard()


def heard(known: Heard, rate: float, told: float, now: float) -> Heard:
    """Enter an opinion.  The first one counts as it is; of others, what has changed since they were told.

    All grow by their share of what one alone would grow by, so growth adds up; a 429 lessens the whole.  An answer that
    is lost makes a step count twice, which the next 429 mends.
    """
    if not rate:
        return known
    if not known.rate:
        return Heard(rate, known.quiet_until)
    if not told:
        return known
    if rate >= told:
        return Heard(known.rate + rate - told, known.quiet_until)
    if 0.0 < known.quiet_until - now <= QUIET:
        return known
    return Heard(known.rate * rate / told, now + QUIET)
