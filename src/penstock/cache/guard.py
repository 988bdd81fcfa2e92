"""What keeps a tier in trouble from being a trouble for callers: a budget, and a breaker.

A look-up has a few milliseconds; then it is a miss.  A tier that has not answered anything for five
budgets, or was late :data:`LATE` times in a row, or failed :data:`FAILED` times, is left alone for a while that
doubles from 1 to 30 s; then a single look-up is the probe.

A late answer alone is no failure: when the event loop is busy for a moment, every answer that waits in a
socket's buffer looks late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from penstock.cache.tiers.tier import Tier

SILENT = 5  # budgets
LATE = 20
FAILED = 3
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds


_T = TypeVar("_T")


class Late(Exception):
    """The budget is used up."""


class Guard:
    """Looks up in one tier, within ``budget`` seconds, or not at all while the tier is in trouble.

    :param now: monotonic seconds
    """

    __slots__ = (
        "_failures",
        "_judging",
        "_late",
        "_now",
        "_open_until",
        "_pause",
        "_probing",
        "budget",
        "failed",
        "late",
        "opened",
        "skipped",
        "tier",
    )

    def __init__(self, tier: Tier, budget: float, now: Callable[[], float]) -> None:
        self.tier = tier
        self.budget = budget
        self.late = self.failed = self.skipped = self.opened = 0  # since the start
        self._now = now
        self._late = self._failures = 0  # in a row
        self._judging = False
        self._probing = False
        self._pause = FIRST_PAUSE
        self._open_until = 0.0

    def __repr__(self) -> str:
        return f"<Guard of {self.tier!r}, {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether the tier is left alone, now or until a probe has been answered."""
        return self._open_until > 0

    async def get(self, key: bytes) -> bytes | None:
        """What the tier has, if it says so in time."""
        return await self.ask(lambda: self.tier.get(key))

    async def ask(self, begin: Callable[[], asyncio.Future[_T]]) -> _T | None:
        """What the tier answers, if it does so in time; else None.

        :param begin: asks; not called while the tier is left alone
        """
        if self._open_until:
            if self._probing or self._now() < self._open_until:
                self.skipped += 1
                return None
            self._probing = True
        found = begin()
        timer = None
        try:
            if not found.done():
                timer = found.get_loop().call_later(self.budget, self._run_out, found)
            answer = await found
        except Late:
            self._was_late()
            return None
        except OSError:
            self.failed += 1
            self._failures += 1
            if self._probing or self._failures >= FAILED:
                self._open()
            return None
        finally:
            self._probing = False
            if timer is not None:
                timer.cancel()
        self._late = self._failures = 0
        if self._open_until:
            self._open_until = 0.0
            self._pause = FIRST_PAUSE
        return answer

    @staticmethod
    def _run_out(found: asyncio.Future[Any]) -> None:
        if not found.done():
            found.set_exception(Late())

    def _was_late(self) -> None:
        self.late += 1
        self._late += 1
        if self._probing or self._late >= LATE:
            self._open()
        elif not self._judging:
            self._judging = True
            patience = self.budget * (SILENT - 1)
            asyncio.get_running_loop().call_later(patience, self._judge, self.tier.answered)

    def _judge(self, answered: int) -> None:
        self._judging = False
        if self.tier.answered == answered and self._late:
            self._open()

    def _open(self) -> None:
        self.opened += 1
        self._late = self._failures = 0
        if self._open_until:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._open_until = self._now() + self._pause
        self.tier.reset()
