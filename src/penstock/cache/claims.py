"""Who is fetching this answer?  What gateways that share a Redis say to each other, so that one of them asks.

Before a worker asks an upstream, it claims the question: a key of Redis that is set only if nobody else has.  Who
finds it claimed waits, and looks again and again whether the answer is there; or whether the claim has gone
without one, for then it may claim the question itself.  A claim holds for some seconds and is renewed while the
answer is being made, so one whose worker has died soon does no harm, and a long answer is still asked for once; and where Redis does not answer in time, everybody asks for himself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

import msgspec

from penstock.cache.guard import Guard

LIFETIME = 5.0  # seconds that a claim holds which is not renewed: its worker has died, or stands still
_RENEWED_AFTER = LIFETIME / 4  # seconds, so that one which is lost does no harm
FIRST_PAUSE, LONGEST_PAUSE, FACTOR = 0.01, 0.25, 1.5  # seconds between two looks, and how they grow


class Board(Protocol):
    """Where claims are put up."""

    def claim(self, key: bytes, token: bytes, lifetime: float) -> asyncio.Future[bool]:
        """Whether nobody else had claimed it.

        :param token: who claims it
        :param lifetime: seconds after which the claim does not hold any more
        """

    def renew(self, key: bytes, token: bytes, lifetime: float) -> None:
        """Let a claim hold for so many seconds from now, soon, if it is still that of this token."""

    def release(self, key: bytes, token: bytes) -> None:
        """Take down a claim, soon, if it is still that of this token."""


class _Held(msgspec.Struct, gc=False):
    token: bytes
    renew_at: float  # monotonic seconds
    until: float  # then it is not renewed any more: nobody who has waited since it began does so still


class Claims:
    """The questions that this worker has claimed, and those that it waits for.

    :param guard: of the tier that is the board
    :param patience: seconds that a call waits at most for an answer that somebody else fetches
    :param now: monotonic seconds
    """

    __slots__ = ("_board", "_guard", "_held", "_now", "answered", "patience", "taken_over", "tired")

    def __init__(self, board: Board, guard: Guard, patience: float, now: Callable[[], float]) -> None:
        self.patience = patience
        self.answered = 0  # calls that waited and got the answer
        self.taken_over = 0  # calls that waited and had to ask themselves, as nobody did any more
        self.tired = 0  # calls that waited for too long
        self._board = board
        self._guard = guard
        self._now = now
        self._held: dict[bytes, _Held] = {}

    def __repr__(self) -> str:
        return f"<Claims, {len(self._held)} held>"

    @property
    def is_late(self) -> bool:
        """Whether the board has just used up a caller's patience: nothing more is asked of it on that call's way."""
        return self._guard.is_late

    async def claim(self, key: bytes) -> bool:
        """Whether this worker is to ask.  Whoever is told so calls :meth:`release` when it is done."""
        if key in self._held:
            return False
        token = os.urandom(12)
        free = await self._guard.ask(lambda: self._board.claim(key, token, LIFETIME))
        if free is None:  # nobody can say
            return True
        if free:
            now = self._now()
            self._held[key] = _Held(token, now + _RENEWED_AFTER, now + self.patience)
        return free

    def sweep(self, now: float) -> None:
        """Renew what is held, where that is due."""
        for key, held in self._held.items():
            if held.renew_at <= now < held.until:
                held.renew_at = now + _RENEWED_AFTER
                if not self._guard.is_open:
                    self._board.renew(key, held.token, LIFETIME)

    def release(self, key: bytes) -> None:
        """The answer is kept, or there is none; nothing happens if this worker had not claimed it."""
        held = self._held.pop(key, None)
        if held is not None and not self._guard.is_open:
            self._board.release(key, held.token)
