"""The ledger of this process, as those know it who take over its answers and have another one."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence

from penstock.gateway.beside.inquiries import Inquiries
from penstock.generation.store import Booking
from penstock.ledger.deductions import Deduction, Deductions
from penstock.ledger.sqlite import SQLiteStore

log = logging.getLogger("penstock.ledger")


class LedgerBooks:
    """:class:`~penstock.generation.bill.Books` of a worker whose ledger is a file.

    :param inquiries: puts the sums of this process right
    """

    def __init__(self, store: SQLiteStore, inquiries: Inquiries) -> None:
        self.ledger = ""
        self._store = store
        self._inquiries = inquiries

    def __repr__(self) -> str:
        return f"<LedgerBooks {self.ledger or 'of no name yet'}, {self._store!r}>"

    @property
    def process(self) -> str:
        return self._store.token

    async def open(self, patience: float = 0.0) -> None:
        if self.ledger:
            return
        if patience:
            await self._store.wait_flushed(patience)
        try:
            self.ledger = await asyncio.to_thread(self._deductions().ledger)
        except sqlite3.Error as error:
            log.warning("the ledger %s cannot be read: %s", self._store.path, error)

    async def deduct(self, bookings: Sequence[Booking]) -> list[Booking]:
        wanted = [Deduction(one.process, one.row, one.usage, one.cost) for one in bookings]
        try:
            done, changed = await asyncio.to_thread(self._deductions().make, wanted)
        except sqlite3.Error as error:
            log.warning("what other ledgers have of attempts in %s waits: %s", self._store.path, error)
            return []
        for one in changed:
            self._inquiries.put_right(one.row, one.usage, one.cost, one.cache_saved)
        return [booking for booking, deduction in zip(bookings, wanted, strict=True) if deduction in done]

    def _deductions(self) -> Deductions:
        return Deductions(self._store.path, self._store.token)
