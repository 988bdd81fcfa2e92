"""Who goes next to an upstream?

The contract: tier, deadline and fairness decide; what cannot make its deadline is refused at
once with an honest Retry-After; a caller that waits is kept alive.

An upstream with ``concurrency`` or ``breaker`` in its configuration has a gate (``flow.gate``).  A call asks it
for a turn, waits for it if need be, and settles it when the call has ended, whatever became of it.  Every
call, with a gate or without, then takes a free connection or waits for one in the pool's line, first come,
first served, which is bounded by ``pool.max_waiting``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf

import msgspec

from penstock.errors import DeadlinePassed, PenstockError, UpstreamError, UpstreamFailed, UpstreamLeaving
from penstock.flow.deadline import deadline_of
from penstock.flow.gate import Asked, Gate, Outcome, Ticket, Turn
from penstock.gateway.stages.candidate import Candidate
from penstock.generation.log import TOO_LARGE
from penstock.messages import Attempt, Call
from penstock.messages import Outcome as Ending
from penstock.net import tasks
from penstock.net.connection import Connection
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.transfer import Transfer
from penstock.wire import problems
from penstock.wire.boundary import Mismatch

_SOON = 1.0  # seconds to come back in: with another deadline it may be in time
OUTPUT_TOKENS = 1_000  # that a provider is taken to count for a call that sets no limit to its answer
_COMPLETED = Ending.COMPLETED


async def take_turn(upstream: HTTPUpstream, transfer: Transfer) -> Connection:
    """A connection to the upstream, in one's turn; it goes back to the pool by itself.

    The upstream is not to blame for the time in the line: its clock for the first token starts after it.  Here a call
    is seen off for the last time, so here its deadline is looked at, unless a part of its answer is there already:
    the rest is never too late.

    :raises penstock.errors.DeadlinePassed: it has, or did in the line
    :raises penstock.errors.Overloaded: the line is full, or the call's whole time went by in it
    :raises penstock.errors.UpstreamError: no connection could be made
    """
    # At its first attempt no SDK has waited for too long yet.  (By identity: that is the default, and costs least.)
    if transfer.job.call.deadline is not inf or transfer.generation.attempts > 1:
        turn = transfer.turn
        if turn is None or turn.waited or turn.gate.limit is None:  # else its queue has looked just now
            _left(transfer)
    connection = upstream.pool.acquire_nowait()
    if connection is None:
        connection = await _wait_connection(upstream, transfer)
        transfer.sent = transfer.now()
    return connection


def _left(transfer: Transfer) -> float:
    """Seconds until the deadline of a call that nobody has begun to answer.

    :raises penstock.errors.DeadlinePassed: there are none
    """
    if transfer.generation.events:
        return inf
    left = deadline_of(transfer.job.call) - transfer.now()
    if left <= 0.0:
        raise _too_late(transfer)
    return left


async def _wait_connection(upstream: HTTPUpstream, transfer: Transfer) -> Connection:
    left = _left(transfer)
    total = transfer.job.timeouts.total
    if left >= (total or inf):
        return await upstream.acquire(total)
    await tasks.own_task()
    try:
        async with asyncio.timeout(left):
            return await upstream.acquire(total)
    except TimeoutError:
        raise _too_late(transfer) from None


def _too_late(transfer: Transfer) -> DeadlinePassed:
    call = transfer.job.call
    waited = transfer.now() - call.received
    return DeadlinePassed(
        f"the call's deadline has passed, {waited:.1f} s after it came, and nobody has begun to answer",
        retry_after=_SOON,
    )


# ---- the gate ----


def by_health(candidates: Sequence[Candidate], now: float) -> Sequence[Candidate]:
    """The candidates in their order, but first those that are well and not left in peace; then the soonest to be asked."""
    if len(candidates) < 2 or all(
        candidate.upstream.gate is None
        and candidate.upstream.departure is None
        and candidate.upstream.health is None
        for candidate in candidates
    ):
        return candidates
    return sorted(candidates, key=lambda candidate: _open_for(candidate, now))


def _open_for(candidate: Candidate, now: float) -> float:
    if candidate.upstream.departure is not None:
        return inf
    health, gate = candidate.upstream.health, candidate.upstream.gate
    behind = 0.0 if health is None else health.behind(now)
    return behind if gate is None else max(behind, gate.open_for(candidate.model, now))


def asked_of(call: Call, model: str, prompt_tokens: int, deadline: float) -> Asked:
    """What a gate is told of a call that is sent with a key of ours."""
    tenant, most = call.tenant, call.max_output_tokens
    return Asked(  # by position: by name it takes twice as long
        model,
        tenant.name,
        tenant.tier,
        call.stream,
        deadline,
        prompt_tokens,
        prompt_tokens + (most or OUTPUT_TOKENS),
        most,
    )


def ask_turn(gate: Gate, transfer: Transfer, candidate: Candidate) -> Turn | Ticket:
    """The right to send a call, to be given back with :func:`settle_turn`; or a ticket for :func:`wait_turn`.

    :raises penstock.errors.Overloaded: refused; the code says why
    """
    job, clock, generation = transfer.job, transfer.now, transfer.generation
    call, now = job.call, clock()
    # The rest of an answer that has begun is never too late.
    deadline = inf if generation.events else deadline_of(call)
    asked = asked_of(call, candidate.model, job.prompt_tokens, deadline)
    if job.callers_key:
        asked = msgspec.structs.replace(asked, callers_key=True)
    # By health the first candidate is one that may be asked; if it may not, none may, and it is the last standing.
    return gate.ask(asked, now, last=candidate.sole or generation.attempts <= 1)


async def wait_turn(gate: Gate, transfer: Transfer, ticket: Ticket) -> Turn:
    """The turn for which the call has a ticket.

    The clocks of the call start with it: nobody but us is to blame for the time before.

    :raises penstock.errors.Overloaded: refused after all, or evicted; the code says why
    """
    turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()

    def called(answer: Turn | PenstockError) -> None:
        if isinstance(answer, Turn):
            if turn.done():  # the caller has left in this turn of the loop
                answer.settle(Outcome("nobody"), transfer.now())
            else:
                turn.set_result(answer)
        elif not turn.done():
            turn.set_exception(answer)

    ticket.called = called
    try:
        given = await turn
    except asyncio.CancelledError:
        gate.leave(ticket)
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().settle(Outcome("nobody"), transfer.now())
        raise
    transfer.started = transfer.sent = transfer.now()
    call = transfer.job.call
    if call.on_wait is not None:
        call.on_wait(call)
    return given


def settle_turn(turn: Turn, transfer: Transfer, attempt: Attempt, failure: BaseException | None) -> None:
    """Its call has ended: give the turn back, with what was learnt of the upstream."""
    clock = transfer.now
    now, tokens = clock(), attempt.usage.output_tokens
    first_token = pace = None
    if transfer.job.call.stream and transfer.seen:
        first_token = transfer.seen - transfer.sent
        took = now - transfer.seen
        if tokens > 1 and took > 0:
            pace = (tokens - 1) / took
    blames, retry_after = "", None
    if failure is not None or attempt.outcome is not _COMPLETED:
        blames = _blames(turn, transfer, attempt, failure)
        retry_after = failure.retry_after if isinstance(failure, PenstockError) else None
    turn.settle(Outcome(blames, first_token, pace, tokens, retry_after), now)


def _blames(turn: Turn, transfer: Transfer, attempt: Attempt, failure: BaseException | None) -> str:
    """Whose fault it was; see :class:`penstock.flow.gate.Outcome`."""
    if attempt.outcome in {Ending.CANCELLED, Ending.HEDGED_AWAY}:
        return "nobody"
    if failure is None:
        return ""
    if not isinstance(failure, UpstreamError) or isinstance(failure, Mismatch | UpstreamLeaving):
        return "nobody"
    if failure.code == TOO_LARGE or transfer.is_callers_own(failure):
        return "nobody"
    if isinstance(failure, UpstreamFailed) and failure.code in problems.OF_THE_ACCOUNT:
        return "nobody" if transfer.job.keyless else "key"
    if transfer.status == 429:
        return "overload" if _is_overload(turn, transfer, failure) else "rate"
    return "overload" if transfer.status in {503, 529} else "upstream"


def _is_overload(turn: Turn, transfer: Transfer, failure: UpstreamError) -> bool:
    """Some say 429 when they mean that they have too much to do; a bucket that has room is not the reason."""
    if problems.says_overload(failure):
        return True
    return failure.retry_after is None and turn.has_room(transfer.now())
