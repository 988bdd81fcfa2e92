"""What keeps a tier in trouble from being a trouble for callers: a budget, and a breaker.

A look-up has a few milliseconds; then it is a miss.  A tier that has not answered anything for five
budgets, or was late :data:`LATE` times in a row, or failed :data:`FAILED` times, is left alone for a while that
doubles from 1 to 30 s; then a single look-up is the probe.

A late answer alone is no failure: when the event loop is busy for a moment, every answer that waits in a
socket's buffer looks late.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from penstock.cache.tiers.tier import Tier

SILENT = 5  # budgets
LATE = 20
FAILED = 3
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds
_RESOLUTION = 0.001  # seconds, of the event loop's timers

_T = TypeVar("_T")


class Guard:
    """Looks up in one tier, within ``budget`` seconds, or not at all while the tier is in trouble.

    :param now: monotonic seconds
    """

    __slots__ = (
        "_failures",
        "_judging",
        "_late",
        "_looks_at",
        "_loop",
        "_now",
        "_open_until",
        "_pause",
        "_probing",
        "_under_way",
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: deque[_Asked] = deque()  # in the order in which their budgets run out
        self._looks_at = math.inf  # when somebody looks whose budget is used up

    def __repr__(self) -> str:
        return f"<Guard of {self.tier!r}, {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether the tier is left alone, now or until a probe has been answered."""
        return self._open_until > 0

    @property
    def is_late(self) -> bool:
        """Whether the last of what was asked that has come to an end got no answer in time."""
        return self._late > 0

    @property
    def in_trouble(self) -> bool:
        """Whether it is left alone, or its last answer was late or an error: what it does not say, it may have."""
        return self._open_until > 0 or self._late > 0 or self._failures > 0

    def get(self, key: bytes, then: Callable[[bytes | None], None]) -> None:
        """What the tier has, if it says so in time, else None, goes to ``then``: once, now or later."""
        asked = self._begin(then)
        if asked is not None:
            self.tier.get(key, asked)

    async def ask(self, begin: Callable[[], asyncio.Future[_T]]) -> _T | None:
        """What the tier answers, if it does so in time; else None.

        :param begin: asks; not called while the tier is left alone
        """
        told: asyncio.Future[_T | None] = asyncio.get_running_loop().create_future()
        asked = self._begin(partial(_tell, told))
        if asked is not None:
            begin().add_done_callback(partial(_pass_on, asked))
        return await told

    def _begin(self, then: Callable[[Any], None]) -> _Asked | None:
        """Whoever answers calls what this gives; None: the tier is left alone, and ``then`` knows it."""
        if self._open_until:
            if self._probing or self._now() < self._open_until:
                self.skipped += 1
                then(None)
                return None
            self._probing = True
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        asked = _Asked(self, then, loop.time() + self.budget)
        self._under_way.append(asked)
        if asked.deadline < self._looks_at:
            self._looks_at = asked.deadline
            loop.call_later(self.budget, self._run_out)
        return asked

    def _run_out(self) -> None:
        """Those whose budget is used up get no answer.  One timer does for all."""
        assert self._loop is not None
        now = self._loop.time() + _RESOLUTION
        self._looks_at = math.inf
        under_way = self._under_way
        while under_way and (under_way[0].then is None or under_way[0].deadline <= now):
            under_way.popleft().run_out()
        if under_way and under_way[0].deadline < self._looks_at:
            self._looks_at = under_way[0].deadline
            self._loop.call_later(self._looks_at - now + _RESOLUTION, self._run_out)

    def answered(self, answer: Any) -> Any:
        """What counts of an answer that came in time."""
        under_way = self._under_way
        while under_way and under_way[0].then is None:
            under_way.popleft()
        if isinstance(answer, OSError):
            self.failed += 1
            self._failures += 1
            if self._probing or self._failures >= FAILED:
                self._open()
            answer = None
        else:
            self._late = self._failures = 0
            if self._open_until:
                self._open_until = 0.0
                self._pause = FIRST_PAUSE
        self._probing = False
        return answer

    def was_late(self) -> None:
        self.late += 1
        self._late += 1
        if self._probing or self._late >= LATE:
            self._open()
            self._probing = False
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


class _Asked:
    """Something that the tier was asked: is called with the answer, unless its budget is used up before."""

    __slots__ = ("_guard", "deadline", "then")

    def __init__(self, guard: Guard, then: Callable[[Any], None], deadline: float) -> None:
        self._guard = guard
        self.deadline = deadline  # of the event loop's clock
        self.then: Callable[[Any], None] | None = then  # None: it has been told

    def __call__(self, answer: Any) -> None:
        then = self.then
        if then is not None:
            self.then = None
            then(self._guard.answered(answer))

    def run_out(self) -> None:
        then = self.then
        if then is not None:
            self.then = None
            self._guard.was_late()
            then(None)


def _tell(told: asyncio.Future[Any], answer: Any) -> None:
    if not told.done():
        told.set_result(answer)


def _pass_on(asked: _Asked, found: asyncio.Future[Any]) -> None:
    asked(found.exception() or found.result())
