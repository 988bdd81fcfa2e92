"""A clock that stands still until it is told."""

from __future__ import annotations

from penstock.net.clock import Clock


class FakeClock(Clock):
    """A :class:`~penstock.net.clock.Clock` for tests: time passes in :meth:`advance` only."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._time = start
        super().__init__(now=lambda: self._time)

    def advance(self, seconds: float) -> None:
        """Let time pass, and sweep once at its end, as a late sweep would."""
        self._time += seconds
        self.sweep()

    def __repr__(self) -> str:
        return f"<FakeClock at {self._time:.3f}>"
