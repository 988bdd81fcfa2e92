"""Texts to vectors, off the event loop and many at once.

What is wanted while a batch is being made waits for the next one; so the more there is to do, the less each costs.
Nobody waits longer than the budget, and where too much waits already, the answer is None at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

MAX_BATCH = 16
MAX_WAITING = 256

Vector = npt.NDArray[np.float32]
log = logging.getLogger("penstock.cache")


class Encoder(Protocol):
    """What makes vectors of length 1, in any thread."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One row for each text."""


class Threaded:
    """Encodes in a thread of its own, in which the encoder is made as well, when it is first used."""

    def __init__(self, make: Callable[[], Encoder]) -> None:
        self._make = make
        self._encoder: Encoder | None = None
        self._pool = ThreadPoolExecutor(1, "embedding")

    def __repr__(self) -> str:
        return f"<Threaded {self._encoder!r}>"

    async def encode(self, texts: Sequence[str]) -> Vector:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._work, texts)

    def _work(self, texts: Sequence[str]) -> Vector:
        if self._encoder is None:
            self._encoder = self._make()
        return self._encoder.encode(texts)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Embedding:
    """Texts to vectors.

    :param encode: makes the vectors of some texts, without blocking; may raise what it likes
    :param budget: seconds that anybody waits for a vector
    """

    def __init__(self, encode: Callable[[Sequence[str]], Awaitable[Vector]], budget: float) -> None:
        self.budget = budget
        self.late = 0  # texts that nobody waits for any more
        self.failed = 0
        self._encode = encode
        self._waiting: list[tuple[str, asyncio.Future[Vector | None]]] = []
        self._working: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Embedding, {len(self._waiting)} waiting>"

    async def vector(self, text: str, budget: float | None = None) -> Vector | None:
        """The vector of a text; None: it is not to be had in time.

        :param budget: instead of the usual one, in seconds
        """
        if len(self._waiting) >= MAX_WAITING:
            self.late += 1
            return None
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Vector | None] = loop.create_future()
        self._waiting.append((text, made))
        if self._working is None:
            self._working = loop.create_task(self._work())
        timer = loop.call_later(self.budget if budget is None else budget, self._give_up, made)
        try:
            return await made
        finally:
            timer.cancel()

    def _give_up(self, made: asyncio.Future[Vector | None]) -> None:
        if not made.done():
            self.late += 1
            made.set_result(None)

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = [one for one in self._waiting[:MAX_BATCH] if not one[1].done()]
                del self._waiting[:MAX_BATCH]
                if not batch:
                    continue
                vectors = None
                try:
                    vectors = await self._encode([text for text, _ in batch])
                except Exception as error:  # noqa: BLE001 - whatever is wrong with the model, callers go on
                    self.failed += len(batch)
                    if self.failed == len(batch):
                        log.warning(
                            "questions in other words are not recognised, because nothing can be embedded: %r",
                            error,
                        )
                finally:  # also when it is cancelled: nobody shall wait for ever
                    for row, (_, made) in enumerate(batch):
                        if not made.done():
                            made.set_result(None if vectors is None else vectors[row])
        finally:
            self._working = None

    async def close(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        for _, made in self._waiting:
            if not made.done():
                made.set_result(None)
        self._waiting.clear()
