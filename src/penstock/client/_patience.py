"""How long what was begun is taken up again: a stream, or a large body on its way.  Without I/O.

As long as there is progress.  That something came is none by itself: a server that brings each time what there was
already, or leaves out the same event, would be asked for ever, and as fast as it answers.  Of a stream progress is an
event that had not come before, or a connection that held for a while: a model that thinks for long says nothing new
over several of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock.client._breaks import Break
from penstock.client._clocks import Clocks
from penstock.config.model import RetryConfig
from penstock.flow.retry import delay

HELD: Final = 1.0  # seconds from asking until the last sign of life, of a connection that was worth having
_RESUMING: Final = RetryConfig(first_delay=0.1, max_delay=2.0)


class Patience:
    """That with one call; all times are monotonic seconds.

    :param resume_for: seconds without progress after which it is given up
    """

    __slots__ = (
        "_asked_at",
        "_broken_since",
        "_clocks",
        "_handed_over_at",
        "_handed_over_since",
        "_handovers",
        "_last",
        "_rand",
        "_resume_for",
        "_times",
    )

    def __init__(self, clocks: Clocks, resume_for: float, rand: Callable[[], float]) -> None:
        self._clocks = clocks
        self._resume_for = resume_for
        self._rand = rand
        self._times = 0  # that it was taken up since there was progress
        self._broken_since: float | None = None  # when the first break was noticed since then
        self._last: int | None = None  # the last event, when the stream broke before
        self._asked_at = clocks.began  # when the present connection was asked for it, or the last one broke
        self._handed_over_at: int | None = None  # the last event before a server went away
        self._handed_over_since = 0.0
        self._handovers = 0  # since that event

    def __repr__(self) -> str:
        return f"<Patience, {self._times} times in vain>"

    def asked(self, now: float) -> None:
        """A connection is asked for the rest.  It holds from then on: its head comes with the first sign of life."""
        self._asked_at = now

    def progressed(self) -> None:
        self._times = 0
        self._broken_since = None

    def stream_broke(self, last: int, now: float) -> None:
        """:param last: the id of the last event that came"""
        if last != self._last or self._clocks.progress - self._asked_at >= HELD:
            self.progressed()
        self._last, self._asked_at = last, now

    def again(self, kind: Break, now: float) -> float | None:
        """How long to wait before it goes on; None: it is given up."""
        # Since it broke, and not since something came: a silent connection has broken when its silence is over.
        if self._broken_since is None:
            self._broken_since = now
        since = self._clocks.counted_from(self._broken_since, self._resume_for)
        if kind is Break.FATAL or now - since > self._resume_for:
            return None
        self._times += 1
        return 0.0 if self._times == 1 else delay(_RESUMING, self._times - 1, self._rand)

    def after_handover(self, last: int, now: float, *, moved: bool) -> float | None:
        """As :meth:`again`, where a server said that it goes away: that is no progress, however often it is heard.

        :param moved: another server is asked next
        """
        if last != self._handed_over_at:
            self._handed_over_at, self._handed_over_since, self._handovers = last, now, 0
        elif now - self._handed_over_since > self._resume_for:
            return None
        self._handovers += 1
        if moved and self._handovers == 1:
            return 0.0
        return delay(_RESUMING, self._handovers, self._rand)
