"""May this call come in at all?  What is taken here is given back when the call has been answered.

The contract that this stage holds (and will hold when limits arrive): it refuses *before* anything is queued
or paid for, with 429 or 503 and an honest Retry-After; it reserves an estimate and settles with
the true figures, exactly once, whatever becomes of the call.

Today: permitted models, a bound on calls in progress that follows from ``listener.max_connections`` (one
call a connection), and nothing new while the process is going away.
"""

from __future__ import annotations

from penstock.errors import Draining
from penstock.gateway.stages.authenticate import permit
from penstock.messages import Call


class Admission:
    """Counts the calls in progress of one worker."""

    __slots__ = ("admitted_total", "draining", "in_progress")

    def __init__(self) -> None:
        self.in_progress = 0
        self.admitted_total = 0
        self.draining = False

    def __repr__(self) -> str:
        return f"<Admission {self.in_progress} in progress{', draining' if self.draining else ''}>"

    def acquire(self, call: Call) -> None:
        """:raises penstock.errors.PenstockError: the call is refused; there is nothing to settle"""
        if self.draining:
            raise Draining("this gateway is going away; try again", retry_after=1.0)
        permit(call)
        self.in_progress += 1
        self.admitted_total += 1

    def settle(self) -> None:
        """The call has been answered, one way or another."""
        self.in_progress -= 1
