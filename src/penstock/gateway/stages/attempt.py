"""One attempt at one candidate: entered before a byte leaves, and settled once, however it ends.

Part of the stage *call*.  What is entered is its row in the ledger, what it takes of limits, and that a call is under
way at the candidate; what is settled with it is its turn (``gateway.stages.queue``), and what its end tells of the
upstream.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time

import msgspec

from penstock.errors import InternalError, PenstockError
from penstock.flow.choose import Standing
from penstock.flow.gate import Turn
from penstock.flow.reservation import CallReservation
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.hedge import learn
from penstock.gateway.stages.learnt import count_in, count_out, count_sample
from penstock.gateway.stages.queue import settle_turn
from penstock.gateway.stages.record import Recorder
from penstock.messages import Attempt, Outcome, Usage
from penstock.upstream.job import Lookup
from penstock.upstream.transfer import Transfer

log = logging.getLogger("penstock.gateway")

_COMPLETED = Outcome.COMPLETED


class Entry(msgspec.Struct, eq=False):
    """An attempt's row, and what is held for it until it has ended."""

    row: Attempt
    candidate: Candidate
    recorder: Recorder
    allotted: CallReservation | None
    standing: Standing | None
    turn: Turn | None = None

    def settle(self, transfer: Transfer, failure: BaseException | None, *, continues: bool) -> None:
        """The attempt has ended; runs once.

        :param transfer: the last one, if the upstream's own run was read on
        :param failure: why there is no answer of it
        :param continues: whether it went on with an answer that was there
        """
        row, candidate, recorder = self.row, self.candidate, self.recorder
        call, generation, upstream = transfer.job.call, transfer.generation, candidate.upstream
        _describe(row, transfer, failure, continues=continues)
        if not transfer.lost:
            generation.usage = transfer.of_the_whole(row.usage)
            generation.served_by = (upstream.name, candidate.model)
        recorder.settled(row, candidate, stream=call.stream)
        if transfer.overstated is not None:
            recorder.overstated(row, transfer.overstated)
        generation.cost += row.cost
        if self.allotted is not None:
            self.allotted.settle(row.usage, row.cost)
            self.allotted.release()
        if self.turn is not None:
            settle_turn(self.turn, transfer, row, failure)
        if self.standing is not None:
            count_out(self.standing, transfer, row, failure)
        if candidate.sample is not None:
            count_sample(candidate.sample, transfer, row, failure, recorder.ledger.prices)
        if upstream.hedging is not None and call.stream and not continues:
            learn(upstream.hedging, candidate.model, transfer)


def enter(
    candidate: Candidate, transfer: Transfer, recorder: Recorder, allotted: CallReservation | None
) -> Entry:
    """Begin an attempt, the next one of its generation; what it may use is reserved.

    :param allotted: what it has taken of the candidate's limits
    """
    call, generation, upstream = transfer.job.call, transfer.generation, candidate.upstream
    generation.attempts += 1
    generation.served_by = (upstream.name, candidate.model)
    tenant = call.tenant
    row = Attempt(
        f"{generation.id}/{generation.attempts}",
        generation.id,
        generation.attempts,
        tenant.name,
        tenant.key_name,
        tenant.tier,
        call.endpoint.label,
        call.model,
        upstream.name,
        candidate.model,
        time.time(),
        Usage(transfer.job.prompt_tokens, call.max_output_tokens or 0, estimated=True),
    )
    recorder.opened(row)
    # What was asked with a caller's own key, it alone can ask for.
    if upstream.usage_lookup is not None and not transfer.job.callers_key:
        transfer.lookup = Lookup(upstream.usage_lookup, functools.partial(recorder.noted, row))
    return Entry(row, candidate, recorder, allotted, count_in(candidate))


def _describe(row: Attempt, transfer: Transfer, failure: BaseException | None, *, continues: bool) -> None:
    """Write into the row how the attempt ended."""
    row.status = transfer.status
    row.duration = transfer.now() - transfer.started
    if transfer.seen:
        row.first_token = transfer.seen - transfer.started
    try:
        row.usage = transfer.used()
        if transfer.lookup is not None and row.usage.estimated and not row.answer:
            transfer.look_for_id()
    except Exception:  # whatever is wrong with an answer, its row must be settled
        log.exception("defect while counting %s", row.id)
    if transfer.lost:
        row.outcome = Outcome.HEDGED_AWAY
    elif transfer.cancelled or isinstance(failure, asyncio.CancelledError):
        row.outcome = Outcome.CANCELLED
        row.error = "cancelled"
    elif failure is None:
        row.outcome = Outcome.CONTINUED if continues else _COMPLETED
    else:
        came = transfer.seen or row.usage.output_tokens
        row.outcome = Outcome.PARTIAL if came else Outcome.FAILED
        row.error = failure.code if isinstance(failure, PenstockError) else InternalError.code
