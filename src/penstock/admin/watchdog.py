"""Which workers hang: they live, but their event loops give no sign of life."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from penstock.admin.process import WorkerProcess

MAX_INTERVAL = 5.0  # seconds between two looks


class Watchdog:
    """Looks at the workers again and again."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._looked = now()

    @staticmethod
    def interval(limit: float) -> float:
        """Seconds between two looks, where a worker may be silent for ``limit``; 0: for ever."""
        return min(MAX_INTERVAL, limit / 4) if limit else MAX_INTERVAL

    def hanging(self, workers: Iterable[WorkerProcess], limit: float) -> list[WorkerProcess]:
        """One look: the workers that have owed a sign of life for ``limit`` seconds; 0: none ever."""
        before, self._looked = self._looked, self._now()
        # Where this process stood still as well (a machine that slept), nobody can be blamed for it.
        passed = min(self._looked - before, 2 * self.interval(limit))
        return [worker for worker in workers if limit and worker.silence(passed) >= limit]

    def __repr__(self) -> str:
        return f"<Watchdog that looked {self._now() - self._looked:.1f} s ago>"
