"""Which trace a call belongs to: told to upstreams, and what became of it recorded as spans.

A call that is traced has a span for itself and one for each attempt; an attempt's is the parent that its upstream is
told.  Of a call that is not, the upstream is told the parent that the caller has told.
"""

from __future__ import annotations

import time

import msgspec

from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.tracing import Tracer
from penstock.generation.log import Generation
from penstock.messages import Attempt, Call, Event, Headers, Trace
from penstock.traces.spans import AttemptEnded, CallEnded, Link, Server, Why, asked
from penstock.upstream.transfer import Transfer
from penstock.wire import sse, trace_context
from penstock.wire.not_json import NOT_JSON

READ_BYTES = 65_536  # of an answer's first event, in which its model is looked for


class _Named(msgspec.Struct):
    id: str = ""
    model: str = ""


class _Answer(_Named):
    """Where each of the dialects says who answers: at the top, or in the message or response that begins."""

    message: _Named | None = None
    response: _Named | None = None


_answer = msgspec.json.Decoder(_Answer).decode


def trace_id_of(call: Call) -> str:
    """Of the trace that it belongs to, recorded here or not; empty: of none that is known."""
    return call.trace.trace_id if call.trace is not None else trace_id_in(call.headers)


def trace_id_in(headers: Headers) -> str:
    """The same, as the caller tells of it."""
    parent = trace_context.parent_in(headers)
    return "" if parent is None else parent.trace_id


# ---- attempts ----


class AttemptTrace:
    """What is to be recorded of an attempt that is under way."""

    __slots__ = ("_link", "_trace", "_why", "span_id")

    def __init__(self, trace: Trace, span_id: str, why: Why, link: Link | None) -> None:
        self._trace = trace
        self.span_id = span_id
        self._why = why
        self._link = link

    def __repr__(self) -> str:
        return f"<AttemptTrace {self.span_id}, {self._why}>"

    def settle(
        self, attempt: Attempt, candidate: Candidate, transfer: Transfer, generation: Generation
    ) -> None:
        """Its row is settled."""
        trace, job, upstream = self._trace, transfer.job, candidate.upstream
        answer = None
        if generation.events and not transfer.lost and self._why != "continuation":
            answer = _named(generation.events[0], stream=generation.stream)
        trace.put(
            AttemptEnded(
                trace,
                self.span_id,
                self._why,
                self._link,
                attempt,
                job.call.endpoint,
                Server(upstream.config.kind, upstream.origin.host, upstream.origin.port),
                job.call.stream,
                job.call.max_output_tokens,
                job.shared,
                answer.model if answer is not None else "",
                answer.id if answer is not None else "",
            )
        )


def begin(
    call: Call, attempt: Attempt, transfer: Transfer, *, continues: bool, beside: bool
) -> AttemptTrace | None:
    """Let the upstream know of the trace; None: nothing is recorded.

    :param continues: the attempt goes on with an answer that broke
    :param beside: another attempt, which is late, is under way
    """
    trace = call.trace
    if trace is None:
        transfer.job.trace = trace_context.passed_on(call.headers)
        return None
    span_id = trace.new_id()
    transfer.job.trace = trace_context.sampled(trace.trace_id, span_id, trace.state)
    before, trace.last = trace.last, (span_id, attempt.upstream, attempt.upstream_model)
    why: Why = "first"
    link = None
    if continues:
        why = "continuation"
        link = Link(trace.trace_id, before[0], "continues") if before[0] else None
    elif beside:
        why = "hedge"
    elif before[0]:
        why = "retry" if before[1:] == trace.last[1:] else "fallback"
    return AttemptTrace(trace, span_id, why, link)


def _named(event: Event, *, stream: bool) -> _Named | None:
    """Who answers, and under which id; None: it does not say so."""
    if len(event) > READ_BYTES:
        return None
    try:
        answer = _answer(sse.data_of(event) if stream else event)
    except (*NOT_JSON, IndexError):
        return None
    return answer.message or answer.response or answer


# ---- the call itself ----


def ended(
    call: Call,
    trace: Trace,
    generation: Generation | None,
    tracer: Tracer | None,
    *,
    status: int,
    error: str,
    read: str,
    shared: bool,
    now: float,
) -> CallEnded:
    """What is to be recorded of a call whose caller has its answer, or has left.

    :param generation: None: there is none, because the call was refused
    :param tracer: knows for whom an answer was made that is another call's, too
    :param read: how it came by the generation, if that was not made for it
    :param shared: it was made for another call that was under way, or lately
    :param now: monotonic seconds
    """
    link, first, saved = None, None, 0
    if generation is not None:
        if shared and tracer is not None:
            link = tracer.maker_of(generation.id)
        first = generation.first_event - call.received
        saved = generation.cost if shared else 0
    own = generation if not read else None
    return CallEnded(
        trace,
        *asked(call),
        generation.id if generation is not None else call.id,
        "refused" if generation is None else read or "created",
        status,
        error,
        time.time(),
        now - call.received,
        first if first is not None and first >= 0 else None,
        own.attempts if own is not None else 0,
        own.seams if own is not None else 0,
        own.cost if own is not None else 0,
        saved,
        link,
    )
