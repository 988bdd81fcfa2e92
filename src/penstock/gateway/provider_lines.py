"""Lines of batches that go to providers' own batches: as their upstream is asked, and what it answered as any answer.

A line is prepared by the same functions that prepare a call (decode, what is left out of its prompt, its route, its
upstream's dialect), and its answer goes through the same receiver, which translates it and says what it used.  What a
call waits for in between (its turn, limits of a minute, a shared answer) is none of a provider's batch; what memory has an
answer to does not go there.
"""

from __future__ import annotations

import asyncio
import time

from penstock.batches.batch import Batch
from penstock.batches.provider_batch import ProviderBatch
from penstock.batches.providers import Aside, Prepared
from penstock.errors import PenstockError, UpstreamBroken, UpstreamFailed, UpstreamUnreachable, untraced
from penstock.flow.limits import most_used
from penstock.gateway.pipeline import Pipeline
from penstock.gateway.stages.attempt import describe, opened
from penstock.gateway.stages.authenticate import permit
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.decode import decode, tidy
from penstock.generation.log import Generation
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import BY_PATH, Call, Endpoint
from penstock.net.exchange import BATCH
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.job import Job
from penstock.upstream.provider_batches import ProviderBatches
from penstock.upstream.whole import PlainTransfer
from penstock.wire import merge, problems
from penstock.wire.batch import Line
from penstock.wire.provider_batch import Result
from penstock.wire.usage import estimate_tokens

_BATCHED = frozenset(
    {Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, Endpoint.RESPONSES, Endpoint.MESSAGES}
)
_OF_OTHERS = ("previous_response_id", "conversation")  # what a response may go on from, and is kept here
_JSON = b"application/json"


class _Free:
    """Nothing is kept where there is no budget."""

    def release(self) -> None:
        pass


class ProviderLines:
    """A :class:`penstock.batches.providers.Providers`.

    :param ledger: where rows outlive the process; None: nowhere
    """

    def __init__(self, pipeline: Pipeline, ledger: SQLiteStore | None) -> None:
        self._pipeline = pipeline
        self._ledger = ledger

    def __repr__(self) -> str:
        return f"<ProviderLines of {self._pipeline}>"

    @property
    def is_any(self) -> bool:
        upstreams = self._pipeline.snapshot.config.upstreams.values()
        return any(upstream.batches == "provider" for upstream in upstreams)

    # ---- on their way out ----

    def prepare(self, batch: Batch, endpoint: Endpoint, line: Line) -> Prepared | None:
        try:
            call = self._call(batch, endpoint, line)
            if any(name in call.fields for name in _OF_OTHERS):
                return None
            permit(call)
            candidate = self._candidate(call)
            if candidate is None or self._is_kept(call):
                return None
            upstream = candidate.upstream
            transfer = upstream.transfer(call, self._log(call), candidate.timeouts)
            own = transfer.job.endpoint
            if own not in _BATCHED or call.max_output_tokens == 0:  # which Anthropic takes in calls only
                return None
            _, body = upstream.encoder.encode(call, transfer, candidate.model, extra=candidate.extra)
            inputs = merge.count_inputs(call) if own is Endpoint.EMBEDDINGS else 1
        except PenstockError:
            return None  # called by itself, it is answered with what is wrong
        return Prepared(
            upstream.name, own, candidate.model, call.model, body, inputs, self._most(call, candidate)
        )

    def _call(self, batch: Batch, endpoint: Endpoint, line: Line) -> Call:
        pipeline = self._pipeline
        headers = {b"content-type": _JSON}
        if batch.betas:
            headers[b"anthropic-beta"] = batch.betas.encode("latin-1")
        router = pipeline.snapshot.router
        call = decode(endpoint, headers, line.body, batch.caller, pipeline.clock.now(), router)
        policy = router.tidying(call.model)
        if policy is not None:
            tidy(call, policy)
        return call

    def _candidate(self, call: Call) -> Candidate | None:
        """Of those who would be asked for this call, fallbacks aside, the first one that has batches."""
        snapshot = self._pipeline.snapshot
        candidates = snapshot.router.route(call)
        route = candidates[0].route
        if snapshot.config.models[route].cascade is not None:
            return None
        return next(
            (
                each
                for each in candidates
                if each.route == route
                and each.upstream.config.batches == "provider"
                and each.upstream.departure is None
            ),
            None,
        )

    def _is_kept(self, call: Call) -> bool:
        """Whether it costs nothing to call the line by itself."""
        lookup, snapshot = self._pipeline.lookup, self._pipeline.snapshot
        if lookup is None:
            return False
        return lookup.has(call, snapshot.router, open_to_all=snapshot.keyring.open)

    def _most(self, call: Call, candidate: Candidate) -> int:
        prices, name, model = self._pipeline.recorder.ledger.prices, candidate.upstream.name, candidate.model
        return prices.in_batch(name, model, prices.estimate(name, model, most_used(call)))

    def api(self, upstream: str, endpoint: str) -> ProviderBatches | None:
        found = self._pipeline.snapshot.upstreams.get(upstream)
        return None if found is None else ProviderBatches(found, BY_PATH[endpoint])

    async def set_aside(self, batch: Batch, record: ProviderBatch, *, bought: bool) -> Aside | None:
        limiter = self._pipeline.admission.limiter
        if limiter is None:
            return _Free()
        caller = batch.caller
        names = (caller.key_name, caller.name, caller.tier, record.named)
        served_by = record.upstream, record.model
        if bought:
            return limiter.set_aside(names, served_by, record.cost, is_spent=True)
        return await limiter.wait_set_aside(names, served_by, record.cost)

    # ---- on their way in ----

    def deliver(
        self,
        batch: Batch,
        record: ProviderBatch,
        line: Line,
        result: Result,
        generation: str,
        *,
        is_entered: bool,
    ) -> tuple[int, bytes]:
        pipeline = self._pipeline
        upstream = pipeline.snapshot.upstreams.get(record.upstream)
        if upstream is None:
            raise UpstreamUnreachable(
                f"the upstream {record.upstream} is not configured any more; its results wait for it"
            )
        call = self._call(batch, _endpoint_of(batch), line)
        call.id = generation
        log = self._log(call)
        log.attempts = 1
        log.served_by = (upstream.name, record.model)
        error = self._fill(call, log, upstream, record, result, is_entered=is_entered)
        status, answer = 200, b"".join(log.events)
        if error is not None:
            status, _, answer = problems.render(error, call.endpoint.dialect, call.id)
        pipeline.recorder.answered(
            call, log, status=status, error="" if error is None else error.code, peer=BATCH
        )
        return status, answer

    def _fill(
        self,
        call: Call,
        log: Generation,
        upstream: HTTPUpstream,
        record: ProviderBatch,
        result: Result,
        *,
        is_entered: bool,
    ) -> PenstockError | None:
        """Make an answer of a result, and a row of the ledger; what is wrong with it, if anything is."""
        if not result.status:
            why = f": {result.why}" if result.why else ""
            error: PenstockError = UpstreamFailed(
                f"{upstream.name} did not run this request in its batch{why}", upstream=upstream.name
            )
            log.fail(error)
            return error
        pipeline = self._pipeline
        route = pipeline.snapshot.router.route_name(call.model) or call.model
        timeouts = pipeline.snapshot.config.timeouts
        candidate = Candidate(upstream, record.model, route, "", 1.0, timeouts)
        other: PenstockError | None = None  # why it cannot be translated: the configuration has changed
        try:
            transfer = upstream.transfer(call, log, timeouts)
            if transfer.job.endpoint.path != record.endpoint:
                other = UpstreamFailed(f"{upstream.name} speaks another API now", upstream=upstream.name)
        except PenstockError as error:
            other = untraced(error)
        if other is not None:
            transfer = self._as_it_is(call, log, upstream, record)
        failure: PenstockError | None = None
        assert isinstance(transfer, PlainTransfer), "no line streams"
        headers = {b"content-type": _JSON}
        if result.request_id:
            headers[b"x-request-id"] = result.request_id.encode("latin-1", "replace")
        row = opened(call, log, candidate, transfer)
        row.started = record.asked
        transfer.on_head(result.status, headers)
        transfer.on_data(result.body)
        if result.is_unreadable:
            failure = _unreadable(upstream)
        else:
            try:
                transfer.conclude()
            except PenstockError as error:
                failure = untraced(error)
        describe(row, transfer, failure, continues=False)
        row.duration, row.first_token = max(0.0, time.time() - record.asked), None
        log.usage = row.usage
        if not is_entered:
            pipeline.recorder.entered(row, candidate)
            log.cost = row.cost
            self._spend(call, row.cost, log.served_by)
        failure = failure or other
        if failure is None:
            log.finish()
        else:
            log.fail(failure)
        return failure

    def _as_it_is(
        self, call: Call, log: Generation, upstream: HTTPUpstream, record: ProviderBatch
    ) -> PlainTransfer:
        """The receiver of an answer that cannot be translated: what it has used is counted."""
        endpoint, timeouts = BY_PATH[record.endpoint], self._pipeline.snapshot.config.timeouts
        job = Job(upstream.name, call, endpoint, None, estimate_tokens(len(call.body)), timeouts)
        return PlainTransfer(log, job, self._pipeline.clock.now)

    def _spend(self, call: Call, cost: int, served_by: tuple[str, str]) -> None:
        limiter, tenant = self._pipeline.admission.limiter, call.tenant
        if cost and limiter is not None:
            limiter.correct((tenant.key_name, tenant.name, tenant.tier, call.model), cost, served_by)

    async def entered(self, generations: set[str], since: float) -> set[str]:
        ledger = self._ledger
        if ledger is None:
            return set()
        return await asyncio.get_running_loop().run_in_executor(None, ledger.known, generations, since)

    async def flush(self) -> None:
        if self._ledger is not None:
            await self._ledger.wait_flushed()

    def _log(self, call: Call) -> Generation:
        config = self._pipeline.snapshot.config
        return Generation.of(call, started=call.received, max_bytes=config.max_answer_bytes)


def _unreadable(upstream: HTTPUpstream) -> UpstreamBroken:
    return UpstreamBroken(
        f"the result of this request in the batch of {upstream.name} cannot be read; it may have been billed",
        upstream=upstream.name,
    )


def _endpoint_of(batch: Batch) -> Endpoint:
    return BY_PATH[batch.endpoint]
