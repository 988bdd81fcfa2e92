"""What a process leaves that is no more, or has lost an answer: that one's run at its upstream, and what it has cost.

Who takes an answer over gets both, and so does who ends what another process produces: nobody takes that over any more.
The run is ended there at once, for whoever receives it may be dead; who lives asks the store, before he asks an upstream
once more, whether the answer is still his (``Production``).  What it has cost he enters himself.  So that is inherited
only once his lease has run out (:meth:`Inheritance.inherit`), and it is never entered twice: see ``generation.bill``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Router
from penstock.gateway.stages.unfinished import TakenUp
from penstock.generation.bill import NOTHING_COUNTS
from penstock.generation.keeper import Keeper
from penstock.generation.log import Generation
from penstock.generation.store import Booking, Record, StoreUnavailable
from penstock.messages import Attempt, Call, Event
from penstock.upstream.streamed import StreamTransfer

_TRY_AGAIN = 1.0  # seconds between two tries to have a store do what has to be done

log = logging.getLogger("penstock.gateway")

Done = TypeVar("Done")


class Producing(Protocol):
    """What produces generations here."""

    recorder: Recorder

    @property
    def router(self) -> Router: ...

    def soon(self, doing: Coroutine[Any, Any, None]) -> None:
        """Begin what nobody waits for."""


class Inheritance:
    """What this process enters and ends in the place of others."""

    def __init__(self, producing: Producing) -> None:
        self._producing = producing
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Inheritance{', which closes' if self._closing.is_set() else ''}>"

    # ---- of what is taken over ----

    def taken_up(self, call: Call, generation: Generation, record: Record, keeper: Keeper) -> TakenUp | None:
        """The run that its upstream keeps of an answer which was taken over; None: there is none to read on."""
        kept = self._kept_run(call, generation, record)
        if kept is None:
            return None

        def enter_died() -> None:
            died, _ = self.died(call, record, generation.events, keeper)
            if died is not None:
                self._enter_soon(died, record, keeper)
                self.count(died, generation)

        return TakenUp(*kept, enter_died, partial(self._enter_whole, record, keeper))

    def died(
        self, call: Call, record: Record, events: list[Event], keeper: Keeper
    ) -> tuple[Attempt | None, int]:
        """What is to be entered of the attempt that a process was making which is no more, and all output tokens."""
        return self._producing.recorder.died(call, record, events, keeper.now(), ledger=keeper.ledger)

    @staticmethod
    def count(died: Attempt, generation: Generation) -> None:
        """It is a part of what the answer has cost."""
        generation.cost += died.cost
        if generation.journal is not None:
            generation.journal.settled(died)

    def enter_confirmed(self, died: Attempt, generation: Generation, record: Record, keeper: Keeper) -> None:
        """Enter what a process has left that is no more, once the store has heard that it is entered here.

        Else who takes the answer over from this process, taken for dead in its turn, would enter it as well.
        """
        self._producing.soon(self._enter_confirmed(died, generation, record, keeper))

    async def _enter_confirmed(
        self, died: Attempt, generation: Generation, record: Record, keeper: Keeper
    ) -> None:
        if generation.journal is None or await generation.journal.wait_confirmed():
            await self._enter(died, record, keeper)

    def _enter_soon(self, died: Attempt, record: Record, keeper: Keeper) -> None:
        self._producing.soon(self._enter(died, record, keeper))

    async def _enter(self, died: Attempt, record: Record, keeper: Keeper) -> None:
        bill, recorder = record.bill, self._producing.recorder
        if bill is None or bill.ledger == keeper.ledger:
            recorder.enter_died(died)
            return
        booking = Booking(bill.process, bill.row, died.generation, died.usage, died.cost, keeper.now())

        async def book() -> None:
            if await keeper.store.book(bill.ledger, booking):
                recorder.enter_died(died)

        await self.insist(
            book, f"what {died.generation} had cost in a process that died, {died.cost / 1e12:.6f} USD,"
        )

    def _enter_whole(self, record: Record, keeper: Keeper) -> None:
        """A row here has all of an upstream's run: the row of who read it before is to have nothing, if that one lives."""
        bill = record.bill
        assert bill is not None, "it tells that there is a run"
        booking = Booking(bill.process, bill.row, record.id, *NOTHING_COUNTS, keeper.now())

        async def leave_word() -> None:
            await self.insist(
                lambda: keeper.store.book(bill.ledger, booking),
                f"that nothing counts of what {bill.process} has of {record.id}",
            )

        self._producing.soon(leave_word())

    def _kept_run(
        self, call: Call, generation: Generation, record: Record
    ) -> tuple[Candidate, StreamTransfer] | None:
        """Where the rest of an answer is to be had from the run that its upstream keeps of it; None: nowhere."""
        bill = record.bill
        if bill is None or not bill.kept:
            return None
        candidate = self._producing.router.own_candidate(record.model, bill.upstream, bill.upstream_model)
        if candidate is None or candidate.upstream.departure is not None:
            return None
        transfer = candidate.upstream.taken_up(call, generation, candidate.timeouts)
        return (candidate, transfer) if transfer is not None else None

    # ---- of what is ended here, and produced elsewhere ----

    async def ended(
        self, call: Call, generation: Generation, record: Record, events: list[Event], keeper: Keeper
    ) -> None:
        """It was ended in the store: see to it that its producer hears of that, and to what he leaves if he is dead.

        :param events: all that the store had of it
        :raises StoreUnavailable: the store does not answer in time
        """
        kept = self._kept_run(call, generation, record) if generation.events else None
        if kept is not None:
            kept[0].upstream.end_run(kept[1])
        if record.owner:
            await keeper.bequeath(record, events)
        elif kept is not None:  # who has handed it over left his row empty, for who would go on
            self.inherit(call, record, events, keeper)

    def inherit(self, call: Call, record: Record, events: list[Event], keeper: Keeper) -> None:
        """Enter what a process has left that is no more, of an answer that nobody goes on with."""
        died, _ = self.died(call, record, events, keeper)
        if died is not None:
            self._enter_soon(died, record, keeper)

    # ---- whatever becomes of the store ----

    async def insist(self, do: Callable[[], Coroutine[Any, Any, Done]], what: str) -> Done | None:
        """Try until the store answers; once this process closes, a last time.

        :param what: is lost if it never does
        :returns: what `do` told; None: the store was away once, and may have done it at that try
        """
        trouble = ""
        while True:
            last = self._closing.is_set()
            try:
                done = await do()
                return None if trouble else done
            except StoreUnavailable as error:
                trouble = str(error)
            if last:
                log.error("%s is not stored: this process ends, and the store is away (%s)", what, trouble)
                return None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _TRY_AGAIN)

    def close(self) -> None:
        """Wait no longer for a store that is away."""
        self._closing.set()
