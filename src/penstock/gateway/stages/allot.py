"""May this candidate be asked now?  What an attempt takes of the limits of its upstream and model is given back with it.

The contract: a candidate that is over its limit is passed over before anything is sent, and the next one is asked; only
where none is left does the caller get 429, with the time after which the first of them will have room.

Limits of what a call *names* are those of ``admit``.  These are of what it *reaches*: an upstream, and a model that is
asked as a fallback, by a cascade, or under another name.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from penstock.config.model import LimitsConfig
from penstock.config.patterns import resolve
from penstock.errors import LeaseWanted
from penstock.flow.limits import Limiter
from penstock.flow.reservation import CallReservation, Reached
from penstock.gateway.stages.admit import LEASE_WAIT
from penstock.messages import Call, Usage

MAX_REMEMBERED = 1_024  # candidates; callers invent names


class Allotment(msgspec.Struct, frozen=True, eq=False):
    """What may be limited at one candidate.

    :param limiter: whose the limits are; None: a configuration that came later has none
    """

    reached: Reached
    limiter: Callable[[], Limiter | None]

    async def take(self, call: Call) -> CallReservation | None:
        """What an attempt holds until it has ended; None: nothing limits it.

        What other processes may have to spare is waited for as in ``admit``.

        :raises penstock.errors.RateLimited: it is over its limit; nothing was taken
        """
        limiter = self.limiter()
        if limiter is None:
            return None
        until = limiter.now() + LEASE_WAIT
        while (left := until - limiter.now()) > 0:
            try:
                return limiter.reserve_at(call, self.reached, patient=True)
            except LeaseWanted:
                await limiter.wait_leased(call, left, self.reached)
        return limiter.reserve_at(call, self.reached)


class Allotments:
    """Those of one configuration.

    :param price: of a call at an upstream's model; None: it is not known
    :param limiter: see :class:`Allotment`
    """

    def __init__(
        self,
        limits: LimitsConfig,
        price: Callable[[str, str, Usage], int | None],
        limiter: Callable[[], Limiter | None],
    ) -> None:
        self._limits = limits
        self._price = price
        self._limiter = limiter
        self._made: dict[tuple[str, str, str], Allotment | None] = {}

    def __repr__(self) -> str:
        return f"<Allotments of {len(self._made)} candidates>"

    def of(self, upstream: str, name: str, model: str) -> Allotment | None:
        """What a model is limited in that is asked for by this name, and has that one at its upstream."""
        place = upstream, name, model
        if place in self._made:
            return self._made[place]
        limits, found = self._limits, None
        if (
            upstream in limits.upstreams
            or "*" in limits.upstreams
            or any(resolve(limits.models, either) is not None for either in (name, model))
        ):

            def price(usage: Usage) -> int:
                return self._price(upstream, model, usage) or 0

            found = Allotment(Reached(upstream, name, model, price), self._limiter)
        if len(self._made) >= MAX_REMEMBERED:
            self._made.clear()
        self._made[place] = found
        return found
