"""May this call come in at all?  What is taken here is given back when the call has been answered.

The contract that this stage holds: it refuses *before* anything is queued or paid for, with 429 or 503 and an
honest Retry-After; it reserves an estimate and settles with the true figures, exactly once, whatever becomes
of the call.

One thing is waited for, :data:`LEASE_WAIT` at most: what the call needs of a limit that processes share, where this one has
not been leased it (``flow.leased``).

Permitted models, the limits and budgets of ``penstock.flow.limits``, a bound on calls in progress that follows
from ``listener.max_connections`` (one call a connection), and nothing new while the process is going away.
"""

from __future__ import annotations

from penstock.errors import Draining, LeaseWanted
from penstock.flow.limits import Limiter
from penstock.gateway.stages.authenticate import permit
from penstock.generation.log import Generation
from penstock.messages import Call, Usage

LEASE_WAIT = 0.25  # seconds; those who have places to spare are heard of ten times a second


class Admission:
    """Counts the calls in progress of one worker.

    ``limiter`` is None where the configuration has no limits.
    """

    __slots__ = ("draining", "in_progress", "limiter")

    def __init__(self, limiter: Limiter | None = None) -> None:
        self.limiter = limiter
        self.in_progress = 0
        self.draining = False

    def __repr__(self) -> str:
        return f"<Admission {self.in_progress} in progress{', draining' if self.draining else ''}>"

    def acquire(self, call: Call, *, patient: bool = False) -> None:
        """Let the call in.

        :param patient: whether :meth:`acquire_late` is tried, where that may help
        :raises penstock.errors.LeaseWanted: it may help
        :raises penstock.errors.PenstockError: the call is refused; there is nothing to settle
        """
        self.permit(call)
        if self.limiter is not None:
            call.reservation = self.limiter.reserve(call, patient=patient)
        self.enter()

    def permit(self, call: Call) -> None:
        """Whether the call may come in, but for limits.

        :raises penstock.errors.PenstockError: it may not
        """
        if self.draining:
            raise Draining("this gateway is going away; try again", retry_after=1.0)
        permit(call)

    async def acquire_late(self, call: Call) -> None:
        """Wait until this process has been leased what the call needs; see :meth:`acquire`."""
        limiter = self.limiter
        assert limiter is not None, "a lease is wanted only where there are limits"
        until = limiter.now() + LEASE_WAIT
        while (left := until - limiter.now()) > 0:
            await limiter.wait_leased(call, left)
            try:
                self.acquire(call, patient=True)
            except LeaseWanted:
                continue
            return
        self.acquire(call)

    def enter(self) -> None:
        """Count a request that needs no permission: it reads what is there."""
        self.in_progress += 1

    def settle(self, call: Call) -> None:
        """The call has been answered, one way or another.

        What its answer used is settled by the producer of that answer, which may live longer.
        """
        self.in_progress -= 1
        if call.reservation is not None:
            call.reservation.release()

    def produced(self, call: Call, generation: Generation) -> None:
        """The producer of the call's answer has ended, however that was.

        Of what nobody was admitted for (an answer that is fetched in advance, or taken over from another process)
        budgets count what it has cost all the same.
        """
        if (reservation := call.reservation) is not None:
            if not reservation.settled:
                settle(call, generation)
            reservation.release()
        elif generation.cost and self.limiter is not None:
            tenant = call.tenant
            self.limiter.correct((tenant.key_name, tenant.name, tenant.tier, call.model), generation.cost)


def settle(call: Call, generation: Generation) -> None:
    """The call's answer has been produced, as far as it could be: what it used takes the estimate's place."""
    if call.reservation is not None:
        call.reservation.settle(generation.usage or Usage(), generation.cost)
