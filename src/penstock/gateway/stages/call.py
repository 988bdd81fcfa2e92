"""Call upstreams until one has answered: attempts, retries, fallbacks, and a ledger row for each.

Before the first event has been read by anybody, a failed attempt may be repeated: at the same candidate
with full-jitter back-off as long as the retry budget lasts, then at the next one.  After it, the answer
has begun and a break is an error (continuation will have its place here).

:class:`Production` is the generation's producer: it belongs to the gateway, not to a connection, and ends
when the answer is complete, when every candidate has failed, or when the last reader has left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from penstock.config.model import RetryConfig
from penstock.errors import (
    InternalError,
    Overloaded,
    PenstockError,
    Untranslatable,
    UpstreamError,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUntrusted,
)
from penstock.flow import retry
from penstock.flow.gate import Turn
from penstock.gateway.stages.queue import settle_turn, take_turn, wait_turn
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Candidate
from penstock.generation.log import TOO_LARGE, Generation
from penstock.messages import Attempt, Call, Endpoint, Outcome, Usage
from penstock.upstream.transfer import Transfer
from penstock.wire.counting import estimated_input_tokens

log = logging.getLogger("penstock.gateway")

_OUR_ACCOUNT = frozenset({"upstream_authentication", "upstream_billing"})  # does not mend within seconds


class Abandoned(PenstockError):
    """The last reader has left; no caller ever sees this."""

    status = 499
    code = "cancelled"


class Production:
    """Fills one generation from upstreams."""

    __slots__ = ("_abandoned", "_begun", "_cancel_grace", "_transfer", "call", "generation", "task")

    def __init__(self, call: Call, generation: Generation) -> None:
        self.call = call
        self.generation = generation
        self.task: asyncio.Task[None] | None = None
        self._transfer: Transfer | None = None
        self._abandoned = False
        self._begun = False
        self._cancel_grace = 0.0
        generation.producer = self

    def __repr__(self) -> str:
        state = "abandoned" if self._abandoned else "sending" if self._transfer else "waiting"
        return f"<Production of {self.generation.id}, {state}>"

    # ---- Producer ----

    def abandon(self) -> None:
        """Hang up on the upstream at once; what is under way already is still received and counted."""
        if self._abandoned:
            return
        self._abandoned = True
        transfer = self._transfer
        if transfer is not None and transfer.connection is not None:
            transfer.hang_up(self._cancel_grace)
        elif (
            self.task is not None and self._begun
        ):  # a task cancelled before its first step never runs at all
            self.task.cancel()

    def drained(self) -> None:
        if self._transfer is not None:
            self._transfer.resume()

    # ---- the loop over candidates ----

    async def run(
        self,
        candidates: Sequence[Candidate],
        config: RetryConfig,
        budget: retry.RetryBudget,
        recorder: Recorder,
    ) -> None:
        """Call until answered.

        :raises PenstockError: the last failure
        """
        self._begun = True
        if self._abandoned:
            raise Abandoned("the last reader has left")
        error: PenstockError | None = None
        for candidate in candidates:
            if self.call.endpoint is Endpoint.COUNT_TOKENS and not candidate.upstream.has(self.call.endpoint):
                self._estimate(candidate, recorder.clock.now())
                return
            for number in range(1, config.attempts + 1):
                try:
                    await self._attempt(candidate, recorder)
                    return
                except Untranslatable as untranslatable:  # the next candidate may speak the caller's dialect
                    error = error or untranslatable
                    break
                except Overloaded as overloaded:  # no room at this candidate: the next may have some
                    error = overloaded
                    break
                except UpstreamError as failed:
                    error = failed
                    if self._abandoned or self.generation.events:
                        raise
                    if failed.code == TOO_LARGE:  # it is paid for, and the next one would be as long
                        raise
                    wait = _wait(failed, number, config)
                    if wait is None or number == config.attempts:
                        break
                    if not budget.withdraw(recorder.clock.now()):
                        break
                    recorder.retried(candidate)
                    await asyncio.sleep(wait)
        assert error is not None, "a route has at least one candidate"
        raise error

    def _estimate(self, candidate: Candidate, now: float) -> None:
        """Count the tokens ourselves, where the upstream has nothing to ask; it costs nothing."""
        generation = self.generation
        tokens = estimated_input_tokens(self.call.body)
        generation.headers = [(b"penstock-estimated", b"true")]
        generation.served_by = (candidate.upstream.name, candidate.model)
        generation.append([b'{"input_tokens":%d}' % tokens], now)

    async def _attempt(self, candidate: Candidate, recorder: Recorder) -> None:
        call, generation, upstream = self.call, self.generation, candidate.upstream
        transfer = upstream.transfer(call, generation, candidate.timeouts)
        head, body = upstream.encode(call, transfer, candidate.model)
        generation.attempts += 1
        attempt = _opened(call, generation, candidate, transfer)
        recorder.opened(attempt)
        turn: Turn | None = None
        failure: BaseException | None = None
        try:
            if upstream.gate is not None:
                turn = await wait_turn(upstream.gate, transfer, candidate)
            connection = await take_turn(upstream, transfer)
            self._transfer = transfer
            self._cancel_grace = upstream.config.cancel_grace
            await upstream.send(transfer, connection, head, body)
        except BaseException as error:
            failure = error
            raise
        finally:
            self._transfer = None
            _describe(attempt, transfer, failure)
            generation.usage = attempt.usage
            generation.served_by = (upstream.name, candidate.model)
            recorder.settled(attempt, candidate, stream=call.stream)
            generation.cost += attempt.cost
            if turn is not None:
                settle_turn(turn, transfer, attempt, failure)
        if transfer.cancelled:
            raise Abandoned("the last reader has left")


def _opened(call: Call, generation: Generation, candidate: Candidate, transfer: Transfer) -> Attempt:
    """The ledger row of an attempt that begins; what it may use is reserved."""
    tenant = call.tenant
    return Attempt(
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
    )


def _describe(attempt: Attempt, transfer: Transfer, failure: BaseException | None) -> None:
    """Write into the ledger row how the attempt ended."""
    attempt.status = transfer.status
    attempt.duration = transfer.now() - transfer.started
    if transfer.seen:
        attempt.first_token = transfer.seen - transfer.started
    try:
        attempt.usage = transfer.used()
    except Exception:  # whatever is wrong with an answer, its row must be settled
        log.exception("defect while counting %s", attempt.id)
    if transfer.cancelled or isinstance(failure, asyncio.CancelledError):
        attempt.outcome = Outcome.CANCELLED
        attempt.error = "cancelled"
    elif failure is None:
        attempt.outcome = Outcome.COMPLETED
    else:
        came = transfer.seen or attempt.usage.output_tokens
        attempt.outcome = Outcome.PARTIAL if came else Outcome.FAILED
        attempt.error = failure.code if isinstance(failure, PenstockError) else InternalError.code


def _wait(error: UpstreamError, attempt: int, config: RetryConfig) -> float | None:
    """Seconds until the same candidate may be tried again; None: not worth it."""
    if isinstance(error, UpstreamTimeout) and error.clock != "connect":
        return None  # it had its time; another candidate may be quicker
    if isinstance(error, UpstreamUntrusted) or (
        isinstance(error, UpstreamFailed) and error.code in _OUR_ACCOUNT
    ):
        return None
    wait = retry.delay(config, attempt)
    if error.retry_after is not None:
        if error.retry_after > config.max_retry_after:
            return None
        wait = max(wait, error.retry_after)
    return wait
