"""Who is fetching this answer?  What gateways that share a Redis say to each other, so that one of them asks.

Before a worker asks an upstream, it claims the question: a key of Redis that is set only if nobody else has.  Who
finds it claimed waits, and looks again and again whether the answer is there; or whether the claim has gone
without one, for then it may claim the question itself.  A claim holds for no longer than anybody waits, so one
whose worker has died does no harm; and where Redis does not answer in time, everybody asks for himself.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from penstock.cache.guard import Guard

FIRST_PAUSE, LONGEST_PAUSE, FACTOR = 0.01, 0.25, 1.5  # seconds between two looks, and how they grow


class Board(Protocol):
    """Where claims are put up."""

    def claim(self, key: bytes, token: bytes, lifetime: float) -> asyncio.Future[bool]:
        """Whether nobody else had claimed it.

        :param token: who claims it
        :param lifetime: seconds after which the claim does not hold any more
        """

    def release(self, key: bytes, token: bytes) -> None:
        """Take down a claim, soon, if it is still that of this token."""


class Claims:
    """The questions that this worker has claimed, and those that it waits for.

    :param guard: of the tier that is the board
    :param patience: seconds that a call waits for an answer that somebody else fetches
    """

    __slots__ = ("_board", "_guard", "_held", "answered", "patience", "taken_over", "tired")

    def __init__(self, board: Board, guard: Guard, patience: float) -> None:
        self.patience = patience
        self.answered = 0  # calls that waited and got the answer
        self.taken_over = 0  # calls that waited and had to ask themselves, as nobody did any more
        self.tired = 0  # calls that waited for too long
        self._board = board
        self._guard = guard
        self._held: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"<Claims, {len(self._held)} held>"

    async def claim(self, key: bytes) -> bool:
        """Whether this worker is to ask.  Whoever is told so calls :meth:`release` when it is done."""
        if key in self._held:
            return False
        token = os.urandom(12)
        free = await self._guard.ask(lambda: self._board.claim(key, token, self.patience))
        if free is None:  # nobody can say
            return True
        if free:
            self._held[key] = token
        return free

    def release(self, key: bytes) -> None:
        """The answer is kept, or there is none; nothing happens if this worker had not claimed it."""
        token = self._held.pop(key, None)
        if token is not None and not self._guard.is_open:
            self._board.release(key, token)
