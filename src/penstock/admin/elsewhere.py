"""What gateways on other machines have heard of upstreams that go away, and what they are told."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING

from penstock.errors import ConfigError
from penstock.flow.departure import Departure
from penstock.installing import install_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.admin.departures import Departures
    from penstock.config.model import Config
    from penstock.flow.redis_departures import DepartureBoard, Note

EVERY = 1.0  # seconds between two exchanges; news are told at once
_OLDEST = 1e-6  # the stamp of what is known from before: any news are newer

log = logging.getLogger("penstock.admin")


class Elsewhere:
    """Shares the departures of those upstreams whose ``departure.shared`` says so.

    Where Redis does not answer, everybody keeps to what he knows.

    :param config: the present one
    :raises penstock.errors.ConfigError: an extra is missing
    """

    def __init__(self, departures: Departures, config: Callable[[], Config]) -> None:
        self._departures = departures
        self._config = config
        self._known: dict[str, tuple[float, Departure | None]] = {}  # as was last told there: with its stamp
        self._news: dict[str, None] = {}
        self._is_news = asyncio.Event()
        self._trouble = ""
        self._board: DepartureBoard | None = None
        redis = config().limits.redis
        if redis is not None:
            try:
                from penstock.flow.redis_departures import DepartureBoard  # noqa: PLC0415 - of an extra
            except ImportError as error:
                raise ConfigError(
                    f"limits.redis needs the extra redis: {install_command('redis')}"
                ) from error
            self._board = DepartureBoard(redis.reveal())
            departures.on_news = self._heard

    def __repr__(self) -> str:
        return f"<Elsewhere, {len(self._known)} known, {self._trouble or 'well'}>"

    async def run(self) -> None:
        """Until it is cancelled."""
        board = self._board
        if board is None:
            return
        try:
            while True:
                self._is_news.clear()
                if self._shares_any() or self._news:
                    await self.exchange(board)
                try:
                    async with asyncio.timeout(EVERY):
                        await self._is_news.wait()
                except TimeoutError:
                    continue
        finally:
            await board.close()

    async def exchange(self, board: DepartureBoard) -> None:
        """Tell what was heard here, and take what is newer there."""
        sent, notes = self._to_tell()
        try:
            answer = await board.exchange(notes)
        except ConnectionError as error:
            self._news = {**sent, **self._news}
            if not self._trouble:
                log.warning("other machines are not told who goes away, nor the other way round: %s", error)
            self._trouble = str(error) or "no answer"
            return
        if self._trouble:
            log.info("other machines are told who goes away again")
            self._trouble = ""
        now, before = self._departures.now(), self._known
        self._known = {}
        for name, note in answer.items():
            stamp = note.stamp or 0.0
            departure = _departure(note, now)
            self._known[name] = stamp, departure
            known = before.get(name)
            is_newer = known is None or stamp > known[0]
            if is_newer and name not in sent and name not in self._news and self._shares(name):
                if departure is not None or name in self._departures:
                    log.info("heard of another machine: %s", _told(name, departure, now))
                self._departures.adopt(name, departure)

    def _heard(self, upstream: str) -> None:
        if self._shares(upstream):
            self._news[upstream] = None
            self._is_news.set()

    def _to_tell(self) -> tuple[dict[str, None], dict[str, Note]]:
        """Whose news are told, and all that is."""
        now = self._departures.now()
        notes = {name: _note(stamp, departure, now) for name, (stamp, departure) in self._known.items()}
        for name in self._departures:
            if name not in notes and self._shares(name):
                notes[name] = _note(_OLDEST, self._departures.of(name), now)
        sent, self._news = self._news, {}
        for name in sent:
            notes[name] = _note(None, self._departures.of(name), now)
        return sent, notes

    def _shares(self, upstream: str) -> bool:
        config = self._config().upstreams.get(upstream)
        return config is not None and config.departure is not None and config.departure.shared == "machines"

    def _shares_any(self) -> bool:
        return any(map(self._shares, self._config().upstreams))


def _note(stamp: float | None, departure: Departure | None, now: float) -> Note:
    from penstock.flow.redis_departures import Note  # noqa: PLC0415 - of an extra

    if departure is None:
        return Note(stamp, leaves=False)
    seconds, until = departure.at - now, departure.until - now
    return Note(stamp, True, None if seconds == inf else seconds, None if until == inf else until)


def _departure(note: Note, now: float) -> Departure | None:
    if not note.leaves:
        return None
    at = inf if note.seconds is None else now + note.seconds
    return Departure(now, at, inf if note.until is None else now + note.until)


def _told(upstream: str, departure: Departure | None, now: float) -> str:
    return f"{upstream} stays" if departure is None else f"{upstream}: {departure.told(now)}"
