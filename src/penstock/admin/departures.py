"""Which upstreams are announced as going away: kept by the supervisor, told to every worker, also to later ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.admin.process import WorkerProcess


class Departures:
    """By the upstreams' names.

    :param workers: the processes to be told
    :param now: monotonic seconds
    """

    def __init__(
        self, workers: Callable[[], Iterable[WorkerProcess]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._workers = workers
        self._now = now
        self._at: dict[str, float | None] = {}  # when; None: some time

    def announce(self, upstream: str, seconds: float | None) -> None:
        """It goes in so many seconds; None: some time.  The last announcement counts."""
        self._at[upstream] = None if seconds is None else self._now() + seconds
        for worker in self._workers():
            worker.depart(upstream, seconds)

    def take_back(self, upstream: str) -> bool:
        """It stays; whether it was going."""
        if upstream not in self._at:
            return False
        del self._at[upstream]
        for worker in self._workers():
            worker.stay(upstream)
        return True

    def tell(self, worker: WorkerProcess) -> None:
        """A worker that has just been started."""
        for upstream in self._at:
            worker.depart(upstream, self.left(upstream))

    def __contains__(self, upstream: str) -> bool:
        return upstream in self._at

    def left(self, upstream: str) -> float | None:
        """Seconds until it goes, 0 if it has gone; None: it is not known, or it stays."""
        at = self._at.get(upstream)
        return None if at is None else max(0.0, at - self._now())

    def __repr__(self) -> str:
        return f"<Departures of {', '.join(self._at) or 'nobody'}>"
