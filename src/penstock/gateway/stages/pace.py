"""Give a kept answer over time, as if it were being made, to who wants a stream of a model that is configured so.

A replay fills a log as a producer does that asks an upstream: its reader, who may be slow or leave, knows no difference.
The first event goes out at once, the last one at the end of the time, and the others at even distances in between.  All
replays share one timer, and none is woken oftener than every :data:`STEP` seconds: what has become due goes out together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.cache.entry import Entry
from penstock.config.model import PaceConfig
from penstock.generation.log import Generation
from penstock.messages import Event
from penstock.net.wheel import Wheel

STEP = 0.02  # seconds; a reader's eye sees no difference


def span(pace: PaceConfig, entry: Entry) -> float:
    """How long the answer takes to go out, in seconds; 0: it goes out at once."""
    if pace.tokens_per_second is None:
        seconds = entry.took
    else:
        seconds = entry.usage.output_tokens / pace.tokens_per_second
    return min(seconds, pace.longest)


class Pacing:
    """The replays of one worker.

    :param now: monotonic seconds
    """

    __slots__ = ("_now", "_replays", "wheel")

    def __init__(self, now: Callable[[], float]) -> None:
        self.wheel = Wheel(now)
        self._now = now
        self._replays: dict[_Replay, None] = {}

    def __repr__(self) -> str:
        return f"<Pacing of {len(self._replays)} replays>"

    def __len__(self) -> int:
        return len(self._replays)

    def begin(self, generation: Generation, events: Sequence[Event], seconds: float) -> None:
        """Fill a log with these events, and finish it, in so many seconds."""
        now = self._now()
        if seconds < STEP or len(events) < 2:
            generation.append(list(events), now)
            generation.finish()
            return
        replay = _Replay(self, generation, events, now, seconds)
        generation.producer = replay
        self._replays[replay] = None
        replay.wake(now)

    def left(self, replay: _Replay) -> None:
        """It has ended."""
        del self._replays[replay]

    def hurry(self) -> None:
        """Give at once what is left of all."""
        now = self._now()
        for replay in list(self._replays):
            replay.end(now)

    def close(self) -> None:
        self.hurry()
        self.wheel.close()


class _Replay:
    """One answer that goes out."""

    __slots__ = ("_began", "_events", "_generation", "_pacing", "_seconds", "_told")

    def __init__(
        self, pacing: Pacing, generation: Generation, events: Sequence[Event], began: float, seconds: float
    ) -> None:
        self._pacing = pacing
        self._generation: Generation | None = generation  # None: it has ended
        self._events = events
        self._began = began
        self._seconds = seconds
        self._told = 0

    def __repr__(self) -> str:
        return f"<_Replay at {self._told} of {len(self._events)}>"

    # ---- Sleeper ----

    def wake(self, now: float) -> None:
        generation = self._generation
        if generation is None:
            return
        events = self._events
        gap = self._seconds / (len(events) - 1)
        due = int((now - self._began) / gap) + 1
        if due >= len(events):
            self.end(now)
            return
        if due > self._told:
            some = list(events[self._told : due])
            self._told = due
            generation.append(some, now)
        # Who reads may have left by that.
        if self._generation is not None:
            self._pacing.wheel.at(max(self._began + self._told * gap, now + STEP), self)

    def end(self, now: float) -> None:
        """All that is left, and the end."""
        generation = self._generation
        if generation is not None:
            self._leave()
            generation.append(list(self._events[self._told :]), now)
            generation.finish()

    def _leave(self) -> None:
        self._generation = None
        self._pacing.left(self)

    # ---- Producer ----

    @property
    def complete(self) -> bool:
        return False  # what is all there has ended

    def abandon(self) -> None:
        if self._generation is not None:
            self._leave()

    def drained(self) -> None:
        """Does not matter: what waits for a slow reader is in memory anyhow."""
