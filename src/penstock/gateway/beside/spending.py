"""Budgets outlive processes: now and then, look into the ledger for what others have spent.

Those who run at the same time are leased their parts (``flow.funds``); this tells of those who ran before.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable

from penstock.errors import ConfigError
from penstock.flow.limits import Limiter
from penstock.ledger.spending import OthersSpending
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import Spent
from penstock.net.clock import Clock

INTERVAL = 1.0  # seconds between two looks
_PATIENCE = 10.0  # seconds that a start waits for a ledger of an earlier version to be brought up to date

log = logging.getLogger("penstock.gateway")


class Spending:
    """Keeps a limiter told, also of the time.  Reads nothing where there is no ledger file, or no budget.

    Reads in a thread.  A ledger that cannot be read changes nothing: what was told last holds on.
    """

    def __init__(self, store: SQLiteStore | None, clock: Clock) -> None:
        self._store = store
        self._look = None if store is None else functools.partial(_spent, store, OthersSpending(store.path))
        self._told: list[Spent] | None = None  # what the limiter knows
        self._clock = clock
        self._limiter: Limiter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._next = 0.0
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Spending of {self._store!r}{', ' + self._trouble if self._trouble else ''}>"

    async def follow(self, limiter: Limiter | None) -> None:
        """Begin with this limiter, and return when it knows what was spent before."""
        if self._store is not None and limiter is not None and limiter.spends:
            # Its file may be of an earlier version, and what the dead have spent still in their queues: the writer
            # brings both in order as it opens the file.
            await self._store.wait_flushed(_PATIENCE)
        self.use(limiter)
        self.sweep(self._clock.now())
        if self._reading is not None:
            await self._reading

    def use(self, limiter: Limiter | None) -> None:
        """Tell this limiter from now on."""
        self._limiter = limiter
        self._told = None
        self._next = self._clock.now()

    def sweep(self, now: float) -> None:
        limiter, look = self._limiter, self._look
        if limiter is not None:
            limiter.look()
        if limiter is None or look is None or now < self._next or self._reading is not None:
            return
        self._next = now + INTERVAL
        if limiter.spends:
            self._reading = asyncio.get_running_loop().create_task(self._read(limiter, look))

    async def wait_idle(self) -> None:
        """Until nothing is being read."""
        if self._reading is not None:
            await self._reading

    async def _read(self, limiter: Limiter, look: Callable[[float, float], list[Spent]]) -> None:
        limiter.look()
        calendar = limiter.calendar
        month = calendar.month, calendar.day
        try:
            spent = await asyncio.to_thread(look, calendar.day_began, calendar.month_began)
        except ConfigError as error:
            self._say(error.message)
        else:
            limiter.look()
            # Else it is yesterday's news, or no news.
            if (calendar.month, calendar.day) == month and spent != self._told and limiter is self._limiter:
                limiter.credit(spent)
                self._told = spent
            self._say("")
        finally:
            self._reading = None

    def _say(self, trouble: str) -> None:
        """Once, not at every look."""
        if trouble and trouble != self._trouble:
            log.error("budgets do not know what other processes have spent: %s", trouble)
        self._trouble = trouble


def _spent(store: SQLiteStore, others: OthersSpending, day_began: float, month_began: float) -> list[Spent]:
    return others.read(store.token, day_began=day_began, month_began=month_began)
