"""What happened: a ledger row per attempt, metrics, one log line per request.

Wraps both halves, so that refusals, disconnects and failed attempts are seen too.  Which metrics there are says
:mod:`penstock.gateway.measures`.
"""

from __future__ import annotations

import datetime as dt
import logging
import time

import msgspec

from penstock.cache.entry import Entry
from penstock.errors import PenstockError
from penstock.flow.gate import REFUSALS
from penstock.gateway.measures import Measures
from penstock.gateway.stages import trace
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.label import label_of
from penstock.gateway.tracing import Tracer
from penstock.generation.bill import left
from penstock.generation.log import TOO_LARGE, Generation, State
from penstock.generation.store import Record
from penstock.ledger.ledger import Ledger
from penstock.ledger.template import RowTemplate
from penstock.logs import RepeatedLine, RequestLine, RequestLog
from penstock.messages import (
    DIED_ELSEWHERE,
    PROCESS_DIED,
    Attempt,
    Call,
    Endpoint,
    Event,
    Headers,
    Outcome,
    Tenant,
    Usage,
)
from penstock.metrics import Counter, Histogram, Registry
from penstock.net.clock import Clock
from penstock.net.exchange import Exchange
from penstock.traces.spans import MOST_PATH
from penstock.upstream.ladder import How
from penstock.upstream.prompt_cache import PromptCare
from penstock.wire import boundary, counting, problems
from penstock.wire.prompt_left import Left
from penstock.wire.usage import usage_in

PICO = 1e-12
_NOTHING = Usage()
_COMPLETED = Outcome.COMPLETED
_FINISHED = State.FINISHED.value
MAX_BOUND = 4_096
MOST_METHOD = 20  # characters, of a request that anybody can have refused
MOST_REQUEST_ID = 128  # characters
# What is there with a nought from the first request to an endpoint, or attempt at an upstream, on: a rate does not see
# with which value a counter begins.
WATCHED = ("429", "500", "502", "503", "504")
WATCHED_FAILURES = (
    ("failed", "upstream_unreachable"),
    ("failed", "upstream_timeout"),
    ("failed", "upstream_failed"),
    ("partial", "upstream_broken"),
)
WORD_INTERVAL = 60.0  # seconds between two warnings of one upstream's figures

log = logging.getLogger("penstock.ledger")

# How a call came by an answer that was made for another, and what its row says.  An answer that was asked for by its
# id is only read on, and one that was kept has its row from the cache.
_SHARED = {"joined": Outcome.JOINED, "attached": Outcome.ATTACHED, "replayed": Outcome.ATTACHED}


def _codes(kind: type[PenstockError]) -> set[str]:
    return {kind.code}.union(*map(_codes, kind.__subclasses__()))


# What an attempt's error is called in metrics: upstreams' own codes are no bounded set.
_KNOWN_ERRORS = frozenset(
    {"", "cancelled", TOO_LARGE, boundary.Mismatch.code, *problems.CODES, *REFUSALS, *_codes(PenstockError)}
)
_OTHER_ERROR = "other"
_UNITS = {endpoint.label: endpoint.unit for endpoint in Endpoint}


class _Cells:
    """The metric cells of one way that attempts go: bound once, then only added to."""

    __slots__ = ("between", "completed", "cost", "first_token", "input", "output")

    def __init__(self, measures: Measures, upstream: str, route: str) -> None:
        self.completed: Counter = measures.attempts.labels(upstream, Outcome.COMPLETED.value, "")
        self.input: Counter = measures.tokens.labels(upstream, route, "input")
        self.output: Counter = measures.tokens.labels(upstream, route, "output")
        self.cost: Counter = measures.cost.labels(upstream, route)
        self.first_token: Histogram = measures.first_token.labels(upstream)
        self.between: Histogram = measures.between.labels(upstream)


class Repetitions:
    """What is told of one request whenever memory answers it without its being read: bound once, then only added to."""

    __slots__ = ("_call", "_durations", "_entry", "_line", "_recorder", "_requests", "_row")

    def __init__(self, recorder: Recorder, call: Call, entry: Entry) -> None:
        label, tenant = call.endpoint.label, call.tenant
        self._recorder = recorder
        self._call = call
        self._row = RowTemplate(_row_of_hit(call, entry, 1))
        self._entry = entry
        self._requests = recorder.requests_cell(label, 200)
        self._durations = recorder.durations_cell(label)
        self._line = RepeatedLine(
            tenant=tenant.name,
            key=tenant.key_name,
            endpoint=label,
            model=call.model,
            upstream=entry.upstream,
            upstream_model=entry.upstream_model,
            status=200,
            outcome=_FINISHED,
            stream=call.stream,
            ttft_ms=0.0,
            duration_ms=0.0,
            read="cached",
        )

    def add(self, generation: str, peer: str) -> None:
        """One more answer, which has this id."""
        recorder = self._recorder
        recorder.ledger.repeat(self._row, generation)
        recorder.count_saved(self._entry)
        self._requests.value += 1
        self._durations.counts[0] += 1  # of no seconds
        if recorder.log is not None:
            recorder.log.write_again(self._line, generation, peer)
        if recorder.tracer is not None:
            recorder.tracer.hit(self._call, self._entry, generation, 0.0)


class Recorder:
    """Ledger, metrics and log of one worker."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: Registry,
        log: RequestLog | None,
        clock: Clock,
        *,
        request_ids: bool = False,
    ) -> None:
        self._request_ids = request_ids  # whether the log has those of the proxies in front
        self.ledger = ledger
        self.clock = clock
        self.log = log
        self.tracer: Tracer | None = None  # None: nothing is traced
        self.measures = measures = Measures(metrics)
        self.saved_input = measures.saved_tokens.labels("input")
        self.saved_output = measures.saved_tokens.labels("output")
        self.saved_cost = measures.saved_cost.labels()
        self._left_out = {
            what: measures.left_out.labels(what) for what in ("whitespace", "duplicates", "history")
        }
        self._cells: dict[tuple[str, str], _Cells] = {}  # by upstream and route, of which there are few
        self._request_cells: dict[tuple[str, int], Counter] = {}
        self._duration_cells: dict[str, Histogram] = {}
        self._next_word: dict[str, float] = {}  # when an upstream's figures may be warned of again

    # ---- the back half: attempts ----

    def opened(self, attempt: Attempt) -> None:
        """Before a byte leaves."""
        self.ledger.open(attempt)

    def noted(self, attempt: Attempt, answer: str) -> None:
        """The attempt's answer has this id at its upstream, which tells afterwards what it has cost."""
        self.ledger.note(attempt, answer)

    def settled(self, attempt: Attempt, candidate: Candidate, *, stream: bool) -> None:
        """The attempt has ended; its row is complete but for what it has cost, and what its prompt's cache was worth."""
        if candidate.care is not None:
            self._cared(attempt, candidate.care)
        self.ledger.settle(attempt)
        cells = self._cells.get((attempt.upstream, candidate.route))
        if cells is None:
            cells = self._bind(attempt.upstream, candidate.route)
        assert attempt.outcome is not None
        if attempt.outcome is not _COMPLETED:
            error = attempt.error if attempt.error in _KNOWN_ERRORS else _OTHER_ERROR
            self.measures.attempts.labels(attempt.upstream, attempt.outcome.value, error).add()
        else:
            cells.completed.value += 1
        usage = attempt.usage
        cells.input.value += usage.input_tokens
        cells.output.value += usage.output_tokens
        if usage.units:
            self._used_units(attempt, candidate.route)
        if attempt.cost:
            cells.cost.add(attempt.cost * PICO)
        if attempt.first_token is not None:
            cells.first_token.observe(attempt.first_token)
            if stream and usage.output_tokens > 1 and attempt.duration is not None:
                cells.between.observe((attempt.duration - attempt.first_token) / (usage.output_tokens - 1))

    def entered(self, attempt: Attempt, candidate: Candidate) -> None:
        """The same, of one that was part of a provider's own batch, and is heard of when all of that is over."""
        self.ledger.enter(attempt, batched=True)
        assert attempt.outcome is not None
        error = attempt.error if attempt.error in _KNOWN_ERRORS else _OTHER_ERROR
        self.measures.attempts.labels(attempt.upstream, attempt.outcome.value, error).add()
        cells = self._cells.get((attempt.upstream, candidate.route))
        if cells is None:
            cells = self._bind(attempt.upstream, candidate.route)
        cells.input.value += attempt.usage.input_tokens
        cells.output.value += attempt.usage.output_tokens
        cells.cost.add(attempt.cost * PICO)

    def overstated(self, attempt: Attempt, told: Usage) -> None:
        """The upstream has told of more than the attempt can have used: its row has the most that it can be."""
        upstream = attempt.upstream
        self.measures.overstated.labels(upstream).add()
        now = self.clock.now()
        if now >= self._next_word.get(upstream, now):
            self._next_word[upstream] = now + WORD_INTERVAL
            log.warning(
                "%s told a usage for %s that cannot be (%s): booked as %s; others like it in this minute are only counted",
                *(upstream, attempt.id, told, attempt.usage),
            )

    def _used_units(self, attempt: Attempt, route: str) -> None:
        unit, amount = _UNITS[attempt.endpoint], float(attempt.usage.units)
        if unit == "milliseconds":
            unit, amount = "seconds", amount / 1_000  # metrics are in base units
        self.measures.units.labels(attempt.upstream, route, unit).add(amount)

    def left_out(self, left: Left) -> None:
        """Something was left out of a prompt."""
        for what, tokens in left.tokens_by_kind.items():
            self._left_out[what].add(tokens)

    def _cared(self, attempt: Attempt, care: PromptCare) -> None:
        """How much of a prompt that had been sent before the provider's cache has kept."""
        usage = attempt.usage
        repeated = care.repeated(attempt.generation, usage.input_tokens)
        tokens, upstream = self.measures.prompt_tokens, attempt.upstream
        tokens.labels(upstream, "input").add(usage.input_tokens)
        tokens.labels(upstream, "repeated").add(repeated)
        tokens.labels(upstream, "cached").add(usage.cached_input_tokens)
        tokens.labels(upstream, "written").add(usage.cache_write_tokens)
        missed = repeated - usage.cached_input_tokens
        if missed > 0 and not usage.estimated:  # else nobody has told what was kept
            prices, model = self.ledger.prices, attempt.upstream_model
            attempt.cache_missed = prices.missed_by_cache(upstream, model, usage, missed)
        self.measures.prompt_missed.labels(upstream).add(attempt.cache_missed * PICO)

    def _bind(self, upstream: str, route: str) -> _Cells:
        if len(self._cells) >= MAX_BOUND:  # of configurations that have been replaced
            self._cells.clear()
        cells = self._cells[upstream, route] = _Cells(self.measures, upstream, route)
        self.measures.overstated.labels(upstream)
        for outcome, error in WATCHED_FAILURES:
            self.measures.attempts.labels(upstream, outcome, error)
        return cells

    def repetitions(self, call: Call, entry: Entry) -> Repetitions:
        """What to tell, again and again, of a request that memory answers without its being read.

        :param call: what the request asks; each time it gets another id
        """
        return Repetitions(self, call, entry)

    def repeated(self, call: Call, entry: Entry, peer: str, duration: float) -> None:
        """A request was answered from below memory without being read: all that there is to say of it.

        :param duration: seconds
        """
        self.saved(call, entry, number=1)
        label = call.endpoint.label
        self.counted(label, 200)
        self.durations_cell(label).observe(duration)
        if self.tracer is not None:
            self.tracer.hit(call, entry, call.id, duration)
        log = self.log
        if log is not None:
            tenant = call.tenant
            log.write(
                RequestLine(
                    dt.datetime.now(dt.UTC),
                    call.id,
                    tenant.name,
                    tenant.key_name,
                    label,
                    call.model,
                    entry.upstream,
                    entry.upstream_model,
                    200,
                    _FINISHED,
                    call.stream,
                    0,
                    0,
                    0,
                    _milliseconds(duration),
                    _milliseconds(duration),
                    0,
                    "",
                    peer,
                    "cached",
                )
            )

    def saved(self, call: Call, entry: Entry, *, number: int) -> None:
        """A call was answered by a kept answer: a row that costs nothing, and says what was not used."""
        self.ledger.enter(_row_of_hit(call, entry, number))
        self.count_saved(entry)

    def count_saved(self, entry: Entry) -> None:
        self.saved_input.value += entry.usage.input_tokens
        self.saved_output.value += entry.usage.output_tokens
        if entry.cost:
            self.saved_cost.add(entry.cost * PICO)

    def _shared(self, call: Call, generation: Generation, outcome: Outcome, *, error: str) -> None:
        """The same, by an answer that was made for another call.

        What it saved is known when it has the whole answer.  Its number is 0: of the upstream calls that were
        made for this answer, it is none.
        """
        attempt = _row_of(call, f"{call.id}/1", generation.id, 0, generation.served_by)
        attempt.outcome = outcome
        attempt.error = error
        if not error:
            attempt.left_out = call.left_out
            attempt.usage = generation.usage or _NOTHING
            attempt.saved = generation.cost
        attempt.duration = self.clock.now() - call.received
        self.ledger.enter(attempt)

    def died(
        self, call: Call, record: Record, events: list[Event], now: float, *, ledger: str = ""
    ) -> tuple[Attempt | None, int]:
        """The attempt that a process was making which is no more; what it had stored of the answer are these events.

        What the upstream sent beyond that is known to nobody, so the row is marked as estimated.

        :param ledger: of this process; the dead one's row may be in another
        :returns: what it has come to, and is to be entered, None if its process enters all of it; and all output
            tokens of the log
        """
        bill = record.bill
        known = usage_in(call.endpoint, events, lambda: counting.prompt_tokens(call.body))
        served_by = (record.upstream, record.upstream_model)
        if bill is not None and bill.row:
            served_by = (bill.upstream, bill.upstream_model)
        error = PROCESS_DIED
        if bill is None:
            usage: Usage | None = msgspec.structs.replace(known, estimated=True)
        elif bill.ledger == ledger:  # it knows its rows itself
            usage = left(known, sum(bill.booked.values()) - bill.booked.get(ledger, 0)) if bill.row else None
        else:
            usage = left(known, sum(bill.booked.values())) if bill.row else None
            error = DIED_ELSEWHERE
        if usage is None or not served_by[0]:
            return None, known.output_tokens
        attempt = _row_of(call, f"{record.id}/1 died", record.id, 1, served_by)
        attempt.started = record.created
        attempt.reserved = Usage(0, call.max_output_tokens or 0, estimated=True)
        attempt.outcome = Outcome.PARTIAL
        attempt.usage = usage
        attempt.error = error
        attempt.duration = max(0.0, now - record.created)  # until now it may have worked
        attempt.cost = self.ledger.prices.estimate(attempt.upstream, attempt.upstream_model, usage)
        return attempt, known.output_tokens

    def enter_died(self, attempt: Attempt) -> None:
        """What :meth:`died` has found."""
        self.ledger.enter(attempt)
        self.measures.attempts.labels(attempt.upstream, Outcome.PARTIAL.value, attempt.error).add()

    def retried(self, candidate: Candidate) -> None:
        self.measures.retries.labels(candidate.upstream.name).add()

    def hedged(self, candidate: Candidate, outcome: str) -> None:
        """A call of this candidate was late, and a second one ``won``, ``lost`` or ``failed``."""
        self.measures.hedges.labels(candidate.upstream.name, outcome).add()

    def batched(self, candidate: Candidate, calls: int) -> None:
        """So many calls go to this candidate in one request."""
        self.measures.shared_calls.labels(candidate.upstream.name).add(calls)
        self.measures.shared_requests.labels(candidate.upstream.name).add()

    def continued(self, how: How, outcome: str) -> None:
        """A broken stream was gone on with: ``rescued``, ``broken`` again, or why it was not."""
        self.measures.continuations.labels(how.value, outcome).add()

    # ---- the front half: requests ----

    def answered(
        self,
        call: Call,
        generation: Generation | None,
        *,
        status: int,
        error: str,
        peer: str,
        read: str = "",
    ) -> None:
        """The caller has its answer, or has left.

        :param read: how it came by the generation, if that was not made for it
        """
        label = call.endpoint.label
        received = call.received
        duration = self.clock.now() - received
        self.counted(label, status)
        self.durations_cell(label).observe(duration)
        shared = _SHARED.get(read)
        if shared is not None and generation is not None:
            self._shared(call, generation, shared, error=error)
        if call.trace is not None:
            what = (call, call.trace, generation, self.tracer)
            is_shared, at = shared is not None, received + duration
            call.trace.put(
                trace.ended(*what, status=status, error=error, read=read, shared=is_shared, now=at)
            )
        log = self.log
        if log is None:
            return
        now = dt.datetime.now(dt.UTC)
        tenant = call.tenant
        if generation is None:
            log.write(
                RequestLine(
                    now,
                    call.id,
                    tenant.name,
                    tenant.key_name,
                    label,
                    call.model,
                    status=status,
                    outcome="refused",
                    stream=call.stream,
                    duration_ms=_milliseconds(duration),
                    error=error,
                    peer=peer,
                    trace=trace.trace_id_of(call),
                    request_id=_request_id(call.headers) if self._request_ids else "",
                )
            )
            return
        usage = (generation.usage if not read else None) or _NOTHING
        upstream, upstream_model = generation.served_by
        first = generation.first_event
        log.write(
            RequestLine(  # by position: by name it takes four times as long
                now,
                generation.id,
                tenant.name,
                tenant.key_name,
                label,
                call.model,
                upstream,
                upstream_model,
                status,
                generation.state._value_,
                call.stream,
                usage.input_tokens,
                usage.output_tokens,
                generation.cost if not read else 0,
                _milliseconds(first - received) if first >= received else None,
                _milliseconds(duration),
                generation.attempts if not read else 0,
                error,
                peer,
                read,
                trace.trace_id_of(call) if call.trace is not None or b"traceparent" in call.headers else "",
                _request_id(call.headers) if self._request_ids else "",
            )
        )

    def durations_cell(self, endpoint: str) -> Histogram:
        """How long requests took."""
        cell = self._duration_cells.get(endpoint)
        if cell is None:
            cell = self._duration_cells[endpoint] = self.measures.durations.labels(endpoint)
        return cell

    def refused(
        self,
        exchange: Exchange,
        endpoint: str,
        tenant: Tenant | None,
        *,
        status: int,
        error: str,
        call: Call | None = None,
    ) -> None:
        """A request got an error.

        :param call: what it asked; None: it had not become a call
        """
        self.counted(endpoint, status)
        tracer = self.tracer
        if call is None:
            traced = trace.trace_id_in(exchange.headers)
            if tracer is not None:
                own = tracer.turned_away(exchange, endpoint, tenant, status=status, error=error)
                traced = own or traced
        else:
            traced = trace.trace_id_of(call)
            if tracer is not None and call.trace is not None:
                what, now = (call, call.trace, None, None), self.clock.now()
                tracer.refused(trace.ended(*what, status=status, error=error, read="", shared=False, now=now))
        if self.log is not None:
            self.log.write(
                RequestLine(
                    time=dt.datetime.now(dt.UTC),
                    tenant=tenant.name if tenant is not None else "",
                    key=tenant.key_name if tenant is not None else "",
                    endpoint=endpoint,
                    model=call.model if call is not None else "",
                    status=status,
                    outcome="refused",
                    error=error,
                    peer=exchange.peer,
                    trace=traced,
                    request_id=_request_id(exchange.headers) if self._request_ids else "",
                    method=exchange.method[:MOST_METHOD] if call is None else "",
                    path=exchange.path[:MOST_PATH] if call is None else "",
                )
            )

    def counted(self, endpoint: str, status: int) -> None:
        """A request was answered."""
        self.requests_cell(endpoint, status).value += 1

    def requests_cell(self, endpoint: str, status: int) -> Counter:
        """How many requests were answered."""
        cell = self._request_cells.get((endpoint, status))
        if cell is None:
            for watched in WATCHED:
                self.measures.requests.labels(endpoint, watched)
            cell = self._request_cells[endpoint, status] = self.measures.requests.labels(
                endpoint, str(status)
            )
        return cell


def _request_id(headers: Headers) -> str:
    return headers.get(b"x-request-id", b"")[:MOST_REQUEST_ID].decode("latin-1")


def _milliseconds(seconds: float) -> float:
    """To the microsecond; ``round`` goes through text for that, and takes three times as long."""
    return int(seconds * 1e6 + 0.5) / 1e3


def _row_of_hit(call: Call, entry: Entry, number: int) -> Attempt:
    attempt = _row_of(call, f"{call.id}/{number}", call.id, number, (entry.upstream, entry.upstream_model))
    attempt.outcome = Outcome.CACHED
    attempt.left_out = call.left_out
    attempt.usage = entry.usage
    attempt.saved = entry.cost
    attempt.duration = 0.0
    return attempt


def _row_of(
    call: Call, attempt_id: str, generation_id: str, number: int, served_by: tuple[str, str]
) -> Attempt:
    """A row of this call that begins now and has reserved nothing."""
    tenant = call.tenant
    return Attempt(
        attempt_id,
        generation_id,
        number,
        tenant.name,
        tenant.key_name,
        tenant.tier,
        call.endpoint.label,
        call.model,
        *served_by,
        time.time(),
        _NOTHING,
        label=label_of(call.headers),
    )
