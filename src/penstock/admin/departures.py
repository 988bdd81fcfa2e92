"""Which upstreams go away: kept by the supervisor, told to every worker, also to later ones.

Somebody announces it here, an upstream says so itself to a worker, or gateways on other machines have heard of it
(``admin.elsewhere``).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Protocol

import msgspec

from penstock.flow.departure import Departure, heard

log = logging.getLogger("penstock.admin")

_moments = msgspec.json.Decoder(dict[str, float | None]).decode


class Told(Protocol):
    """A worker, which is told who goes."""

    def depart(self, upstream: str, seconds: float | None, holds: float | None = None) -> None: ...

    def stay(self, upstream: str) -> None: ...


class Departures:
    """By the upstreams' names.

    :param workers: the processes to be told
    :param path: a file in which those that were announced are kept, so that they outlive this process; empty: they do
        not.  It holds the moments in Unix time; a file that cannot be read or written is told of in the log, and
        changes nothing else
    :param now: monotonic seconds
    :param unix_time: seconds since 1970
    :ivar on_news: told the name of an upstream of which something has been heard here; None: nobody is to be told
    """

    def __init__(
        self,
        workers: Callable[[], Iterable[Told]],
        path: str = "",
        now: Callable[[], float] = time.monotonic,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self.on_news: Callable[[str], None] | None = None
        self.now = now
        self._workers = workers
        self._path = Path(path) if path else None
        self._unix_time = unix_time
        self._departures: dict[str, Departure] = self._kept()

    # ---- what is heard here ----

    def announce(self, upstream: str, seconds: float | None) -> None:
        """It goes in so many seconds; None: some time.  The last announcement counts."""
        self.adopt(upstream, Departure.within(seconds, self.now()))
        self._is_news(upstream)

    def take_back(self, upstream: str) -> bool:
        """It stays; whether it was going."""
        if self.of(upstream) is None:
            return False
        self.adopt(upstream, None)
        self._is_news(upstream)
        return True

    def heard(self, upstream: str, seconds: float | None, holds: float) -> None:
        """It has said itself that it goes in so many seconds; see :func:`penstock.flow.departure.heard`."""
        found = heard(self.of(upstream), seconds, self.now(), holds)
        if found is not None:
            log.info("%s says: %s", upstream, found.told(self.now()))
            self.adopt(upstream, found)
            self._is_news(upstream)

    def back(self, upstream: str) -> None:
        """It has said that it is there, after it had said that it goes."""
        departure = self.of(upstream)
        if departure is not None and departure.is_its_own:
            log.info("%s is there again", upstream)
            self.take_back(upstream)

    def _is_news(self, upstream: str) -> None:
        if self.on_news is not None:
            self.on_news(upstream)

    # ---- what is known ----

    def adopt(self, upstream: str, departure: Departure | None) -> None:
        """Take it for so, and tell all workers; None: it stays."""
        if departure is None:
            self._departures.pop(upstream, None)
        else:
            self._departures[upstream] = departure
        self._keep()
        for worker in self._workers():
            if departure is None:
                worker.stay(upstream)
            else:
                self._tell(worker, upstream, departure)

    def tell(self, worker: Told) -> None:
        """A worker that has just been started."""
        for upstream in list(self):
            if (departure := self.of(upstream)) is not None:
                self._tell(worker, upstream, departure)

    def of(self, upstream: str) -> Departure | None:
        departure = self._departures.get(upstream)
        if departure is not None and self.now() >= departure.until:
            del self._departures[upstream]  # as every worker does by itself
            return None
        return departure

    def __contains__(self, upstream: str) -> bool:
        return self.of(upstream) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._departures))

    def left(self, upstream: str) -> float | None:
        """Seconds until it goes, 0 if it has gone; None: it is not known, or it stays."""
        departure = self.of(upstream)
        return None if departure is None else self._seconds_to(departure.at)

    def _tell(self, worker: Told, upstream: str, departure: Departure) -> None:
        seconds = self._seconds_to(departure.at)
        holds = self._seconds_to(departure.until)
        worker.depart(upstream, seconds, None if holds is None else holds - (seconds or 0.0))

    def _seconds_to(self, moment: float) -> float | None:
        return max(0.0, moment - self.now()) if isfinite(moment) else None

    # ---- the file ----

    def _kept(self) -> dict[str, Departure]:
        if self._path is None:
            return {}
        try:
            now, unix_time = self.now(), self._unix_time()
            moments = _moments(self._path.read_bytes())
            return {
                name: Departure.within(None if at is None else at - unix_time, now)
                for name, at in moments.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("who was announced as going away is not known any more: %s: %s", self._path, error)  # noqa: TRY400
            return {}

    def _keep(self) -> None:
        """In the file, or as it was: a half-written one is never seen."""
        if self._path is None:
            return
        since = self._unix_time() - self.now()
        moments = {
            name: departure.at + since if isfinite(departure.at) else None
            for name, departure in self._departures.items()
            if not departure.is_its_own
        }
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
        return f"<Departures of {', '.join(self._departures) or 'nobody'}>"
