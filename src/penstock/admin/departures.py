"""Which upstreams are announced as going away: kept by the supervisor, told to every worker, also to later ones."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from penstock.admin.process import WorkerProcess

log = logging.getLogger("penstock.admin")

_moments = msgspec.json.Decoder(dict[str, float | None]).decode


class Departures:
    """By the upstreams' names.

    :param workers: the processes to be told
    :param path: a file in which they are kept, so that they outlive this process; empty: they do not.  It holds the
        moments in Unix time; a file that cannot be read or written is told of in the log, and changes nothing else
    :param now: monotonic seconds
    :param unix_time: seconds since 1970
    """

    def __init__(
        self,
        workers: Callable[[], Iterable[WorkerProcess]],
        path: str = "",
        now: Callable[[], float] = time.monotonic,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self._path = Path(path) if path else None
        self._now = now
        self._unix_time = unix_time
        self._at: dict[str, float | None] = self._kept()  # when; None: some time

    def announce(self, upstream: str, seconds: float | None) -> None:
        """It goes in so many seconds; None: some time.  The last announcement counts."""
        self._at[upstream] = None if seconds is None else self._now() + seconds
        self._keep()
        for worker in self._workers():
            worker.depart(upstream, seconds)

    def take_back(self, upstream: str) -> bool:
        """It stays; whether it was going."""
        if upstream not in self._at:
            return False
        del self._at[upstream]
        self._keep()
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

    def _kept(self) -> dict[str, float | None]:
        if self._path is None:
            return {}
        try:
            since = self._unix_time() - self._now()
            moments = _moments(self._path.read_bytes())
            return {name: None if at is None else at - since for name, at in moments.items()}
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("who was announced as going away is not known any more: %s: %s", self._path, error)  # noqa: TRY400
            return {}

    def _keep(self) -> None:
        """In the file, or as it was: a half-written one is never seen."""
        if self._path is None:
            return
        since = self._unix_time() - self._now()
        moments = {name: None if at is None else at + since for name, at in self._at.items()}
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(moments))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            log.error("who is going away will be forgotten at a restart: %s", error)  # noqa: TRY400

    def __repr__(self) -> str:
        return f"<Departures of {', '.join(self._at) or 'nobody'}>"
