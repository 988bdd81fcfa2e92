"""A call whose first token is late is asked a second time; the quicker of the two answers is the answer.

Part of the stage *call*, for upstreams with ``hedge`` in their configuration (``flow.hedge`` decides when and how
often).  The first attempt runs in the production's own task, so that a call whose answer is not late pays for a
timer and no more.  The first of the two transfers that has an event writes the log from then on; the other is hung
up on, and what it cost is a row of the ledger like any other, ``hedged_away``.

Two attempts are never waited for longer than one of them answers: when the answer is complete, what is left of the
other is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from penstock.errors import UpstreamError
from penstock.flow.hedge import Hedging
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.record import Recorder
from penstock.net import tasks
from penstock.upstream.transfer import Transfer

ASK_AGAIN = 0.1  # of the time that a call has waited: so much later one that could not be hedged asks again
SOONEST = 0.001  # seconds; nor sooner than that

Ask: TypeAlias = "Callable[[Candidate, Hedge], Coroutine[Any, Any, None]]"


class Hedge:
    """One answer that may be asked for twice.

    :param ask: makes one attempt; it tells :meth:`entered` and :meth:`sent` of it
    :param candidates: of the call; the first of them that may be asked gets the second attempt
    :param won: told which transfer writes the log
    """

    __slots__ = (
        "_ask",
        "_candidates",
        "_first",
        "_hedging",
        "_recorder",
        "_second",
        "_timer",
        "_transfers",
        "_won",
        "winner",
    )

    def __init__(
        self,
        first: Candidate,
        hedging: Hedging,
        candidates: Sequence[Candidate],
        ask: Ask,
        won: Callable[[Transfer], None],
        recorder: Recorder,
    ) -> None:
        self._first = first
        self._hedging = hedging
        self._candidates = candidates
        self._ask = ask
        self._won = won
        self._recorder = recorder
        self._timer: asyncio.TimerHandle | None = None
        self._second: asyncio.Task[None] | None = None
        self._transfers: list[Transfer] = []  # the first, and the second once it has entered
        self.winner: Transfer | None = None

    def __repr__(self) -> str:
        state = "decided" if self.winner is not None else "open" if self._second is not None else "not begun"
        return f"<Hedge of {self._first.upstream.name}, {state}>"

    async def run(self) -> None:
        """Ask once, or twice, until there is an answer.

        :raises PenstockError: why there is none: of the attempt that had begun to answer, else of the first
        """
        failure: UpstreamError | None = None
        try:
            try:
                await self._ask(self._first, self)
            except UpstreamError as error:
                failure = error
            second = self._second
            if second is not None and (self._second_won or (failure is not None and self.winner is None)):
                await asyncio.wait([second])
                if self.winner is not None or second.exception() is None:
                    second.result()
                    return
            if failure is not None:
                raise failure
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._second is not None:
                await self._let_go(self._second)

    @property
    def entered_once(self) -> bool:
        """Whether an attempt is under way."""
        return bool(self._transfers)

    # ---- told by attempts ----

    def entered(self, transfer: Transfer) -> None:
        """An attempt begins; it may have to wait for its turn."""
        transfer.race = self
        self._transfers.append(transfer)

    def sent(self, transfer: Transfer) -> None:
        """It has had its turn, and goes out."""
        if transfer is not self._transfers[0]:
            return
        self._hedging.earn()
        after = self._hedging.late_after(self._first.model, transfer.job.prompt_tokens)
        if after is not None:
            self._timer = asyncio.get_running_loop().call_later(after, self._late)

    def first(self, transfer: Transfer) -> None:
        """As ``upstream.transfer.Race`` has it."""
        if self.winner is not None:
            return
        self.winner = transfer
        self._won(transfer)
        if self._second is None or self._second.done():
            return
        self._recorder.hedged(self._first, "won" if self._second_won else "lost")
        late = self._transfers[0]
        if late is not transfer and late.connection is not None:
            self._hedging.outlived(self._first.model, late.now() - late.sent, late.job.prompt_tokens)
        for other in self._transfers:
            if other is not transfer:
                waits = other.connection is None and other is not self._transfers[0]
                other.lose(self._grace(other))
                if waits:
                    self._second.cancel()

    # ---- the second attempt ----

    def _late(self) -> None:
        """No first token yet: ask again, if that may be."""
        if self.winner is not None or self._transfers[0].cancelled:
            return
        loop = asyncio.get_running_loop()
        candidate = self._another()
        if candidate is None or not self._hedging.withdraw():
            waited = self._transfers[0].now() - self._transfers[0].sent
            self._timer = loop.call_later(max(waited * ASK_AGAIN, SOONEST), self._late)
            return
        self._second = tasks.start(self._ask(candidate, self), loop)
        self._second.add_done_callback(self._second_ended)

    def _another(self) -> Candidate | None:
        """Who is to be asked: another candidate of the same model, else the same one; None: nobody has room."""
        first, now = self._first, self._transfers[0].now()
        others = [
            candidate
            for candidate in self._candidates
            if candidate is not first
            and candidate.route == first.route
            and candidate.version == first.version
            and candidate.weight > 0
            and candidate.upstream.departure is None
            and (candidate.upstream.health is None or candidate.upstream.health.well)
        ]
        for candidate in others or [first]:
            gate = candidate.upstream.gate
            if gate is None or gate.free(candidate.model, self._transfers[0].job.prompt_tokens, now):
                return candidate
        return None

    def _second_ended(self, second: asyncio.Task[None]) -> None:
        if second.cancelled() or second.exception() is not None:
            if self.winner is None:
                self._recorder.hedged(self._first, "failed")
        elif self._second_won:  # whole: nobody needs to wait for what is left of the first
            self._transfers[0].cut_short()

    async def _let_go(self, second: asyncio.Task[None]) -> None:
        """What is left of the second attempt is not needed; its row is settled when this returns."""
        if not second.done():
            second.cancel()
            await asyncio.wait([second])
        if not second.cancelled():
            second.exception()  # seen: it was counted, and makes no difference

    @property
    def _second_won(self) -> bool:
        return self.winner is not None and self.winner is not self._transfers[0]

    def _grace(self, transfer: Transfer) -> float:
        names = {candidate.upstream.name: candidate.upstream for candidate in self._candidates}
        return names[transfer.job.upstream].config.cancel_grace


def learn(hedging: Hedging, model: str, transfer: Transfer) -> None:
    """When did the first token come, or how long was it waited for in vain?"""
    prompt_tokens = transfer.job.prompt_tokens
    if transfer.lost:
        return  # what it says was noted when it lost
    if transfer.seen:
        hedging.observe(model, transfer.seen - transfer.sent, prompt_tokens)
    elif transfer.answer is not None:
        hedging.outlived(model, transfer.now() - transfer.sent, prompt_tokens)
