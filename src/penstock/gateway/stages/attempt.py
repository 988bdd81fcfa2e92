"""The ledger row of one attempt: filled in before a byte leaves, and told how the attempt ended.

Part of the stage *call*, which enters the row and settles it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from penstock.errors import InternalError, PenstockError
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.label import label_of
from penstock.generation.log import Generation
from penstock.messages import Attempt, Call, Outcome, Usage
from penstock.upstream.transfer import Transfer

log = logging.getLogger("penstock.gateway")

_COMPLETED = Outcome.COMPLETED


def opened(call: Call, generation: Generation, candidate: Candidate, transfer: Transfer) -> Attempt:
    """The ledger row of an attempt that begins; what it may use is reserved."""
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
        candidate.upstream.name,
        candidate.model,
        time.time(),
        Usage(transfer.job.prompt_tokens, call.max_output_tokens or 0, estimated=True),
        label=label_of(call.headers),
    )
    if call.left_out:
        row.left_out = call.left_out
    return row


def describe(row: Attempt, transfer: Transfer, failure: BaseException | None, *, continues: bool) -> None:
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
