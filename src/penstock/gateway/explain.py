"""What would happen to a request now, and why: the order of ``gateway.pipeline``, asked and not done.

Nothing is taken, sent, counted or kept by the question.  Every figure is this worker's at this moment: another
worker has queues, breakers and a memory of its own.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.cache.keys import has_effects, is_deterministic
from penstock.errors import NotCached, NotFound, PenstockError
from penstock.flow.deadline import deadline_of
from penstock.flow.gate import Asked, Gate
from penstock.flow.prefix_blocks import BLOCK_TOKENS
from penstock.gateway.routes import RELAYED
from penstock.gateway.stages import attach, join
from penstock.gateway.stages.decode import decode, named, tidy
from penstock.gateway.stages.degrade import lessened, refusal
from penstock.gateway.stages.queue import asked_of, by_health
from penstock.gateway.stages.substitute import Substitutes, takes
from penstock.messages import Call, Endpoint, Headers, Usage
from penstock.wire import request
from penstock.wire.parameters import PUT
from penstock.wire.usage import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.config.model import ModelCacheConfig
    from penstock.gateway.pipeline import Pipeline
    from penstock.gateway.snapshot import Snapshot
    from penstock.gateway.stages.candidate import Candidate
    from penstock.wire.refusal_causes import Cause

LIKELY_OUTPUT = 1_000  # tokens of an answer whose length the call does not limit

Explained = dict[str, Any]
"""What can be written as JSON; ``outcome`` is one sentence, the other members are the stages in their order."""


_CAUSES: dict[Cause, str] = {
    "context_length": "if the prompt is longer than the ones before take",
    "content_filter": "if a filter of the ones before refuses the prompt",
}

# What there is no more of, where the limit's name does not say it.
_LIMITED = {"concurrent": "place", "day": "budget of this day", "month": "budget of this month"}


def explain(pipeline: Pipeline, path: str, headers: Headers, body: bytes) -> Explained:
    """What a request would come to.

    :param headers: names in lower case
    """
    found: Explained = {}
    try:
        found["outcome"] = _walk(pipeline, found, path, headers, body)
    except PenstockError as error:
        found["outcome"] = f"refused with {error.status} {error.code}: {error.message}"
        if error.retry_after is not None:
            found["retry_after"] = round(error.retry_after, 3)
    return found


def _walk(pipeline: Pipeline, found: Explained, path: str, headers: Headers, body: bytes) -> str:
    """Through the stages, as far as the request comes; each leaves what it found."""
    snapshot = pipeline.snapshot
    endpoint = _endpoint(path)
    tenant = snapshot.keyring.tenant(headers)
    found["caller"] = {"key": tenant.key_name, "tenant": tenant.name, "tier": tenant.tier}
    call = decode(endpoint, headers, body, tenant, pipeline.clock.now(), snapshot.router)
    policy = snapshot.router.tidying(call.model)
    if policy is not None:
        tidy(call, policy)
    found["call"] = {
        "endpoint": endpoint.label,
        "model": named(call.model, call.version),
        "stream": call.stream,
        "prompt_tokens": estimate_tokens(len(call.body)),
        "max_output_tokens": call.max_output_tokens,
    }
    if not endpoint.opaque and (put := _put(body, call)):
        found["parameters"] = put
    reduction = _ladder(snapshot, found, call)
    pipeline.admission.permit(call)
    limiter = pipeline.admission.limiter
    if limiter is not None:
        limits = found["limits"] = limiter.explain(call)
        if short := _short_of(limits):
            return f"refused with 429: {short}"
    again = attach.find(call, pipeline.registry, call.received)
    if again is not None:
        return f"answered from {again.id}, which this call repeats"
    answered = _cache(pipeline, found, call)
    if answered:
        return answered
    if reduction is not None and reduction.changes and snapshot.degradation is not None:
        call = lessened(call, reduction)
        found["reduced"] = {"model": call.model, "max_output_tokens": call.max_output_tokens}
        answered = _cache(pipeline, found, call)
        if answered:
            return answered
    name = join.name_of(call, snapshot.router.joining(call.model), open_to_all=snapshot.keyring.open)
    found["join"] = "not to be shared" if name is None else "nobody asks the same now"
    if name is not None and (same := join.find(name, pipeline.registry)) is not None:
        found["join"] = same.id
        return f"answered from {same.id}, which answers the same question just now"
    return _candidates(pipeline, found, call)


def _put(body: bytes, call: Call) -> Explained:
    """The members that the configuration has put into the body, or changed in it."""
    asked = request.members(body)
    return {
        name: msgspec.json.decode(value)
        for name, value in call.fields.items()
        if name in PUT and bytes(asked.get(name, b"")) != bytes(value)
    }


def _short_of(limits: list[dict[str, Any]]) -> str:
    """Which of these limits, the most pressing of which is the first, lets no call in; empty: none."""
    if not limits or limits[0]["wait"] == 0.0:
        return ""
    worst = limits[0]
    return (
        f"the {worst['scope']} {worst['name']!r} has no {_LIMITED.get(worst['limit'], worst['limit'])} left"
        + (f" for {worst['wait']:.1f} s" if worst["wait"] is not None else ", and gets none")
    )


def _endpoint(path: str) -> Endpoint:
    endpoint = RELAYED.get(path)
    if endpoint is None:
        known = ", ".join(sorted(RELAYED))
        raise NotFound(f"{path} is not answered by a model; {known} are")
    return endpoint


def _ladder(snapshot: Snapshot, found: Explained, call: Call) -> Any:
    degradation, router = snapshot.degradation, snapshot.router
    load = router.load(call.model, call.received)
    found["load"] = _number(load)
    seen = degradation.seen(call, router) if degradation is not None else None
    if degradation is None or seen is None:
        found["ladder"] = "the tier has none"
        return None
    steps = [name for name in ("stale", "smaller", "shorter", "refuse") if getattr(seen, name)]
    found["ladder"] = ", ".join(steps) or "full"
    if seen.refuse:
        raise refusal(call, router)
    return degradation.reduction(call, seen, router)


def _cache(pipeline: Pipeline, found: Explained, call: Call) -> str:
    """How the cache answers; empty: it does not."""
    snapshot, lookup = pipeline.snapshot, pipeline.lookup
    policy = snapshot.router.caching(call.model)
    if lookup is None or policy is None:
        found["cache"] = {"kept": False, "why": "no answer of this model is kept"}
        return ""
    question = lookup.question(call, snapshot.router, open_to_all=snapshot.keyring.open)
    if question is None:
        found["cache"] = {"kept": False, "why": _why_not(call, policy)}
        return ""
    if call.reduction is not None:
        question.lenient = call.reduction.stale
    entry = lookup.cache.memory.peek(question.key) if question.control.reads else None
    told = found["cache"] = {"kept": True, "key": question.key.hex(), "memory": "not found"}
    if entry is not None:
        told["memory"] = "fresh" if entry.fresh_until > question.asked else "stale"
        told["fresh_for"] = round(entry.fresh_until - question.asked, 3)
        judged = lookup.judged(question, entry)
        if judged is not None:
            return f"answered by the cache: {judged.status_name.decode()}"
    elif question.control.only and not lookup.waits(question):
        raise NotCached("no answer to this call is kept here")
    if lookup.waits(question):
        told["below"] = "disk, Redis or similar questions would be asked"
    return ""


def _why_not(call: Call, policy: ModelCacheConfig) -> str:
    if has_effects(call):
        return "the call does more than ask"
    if policy.calls == "deterministic" and not is_deterministic(call):
        return "only answers at temperature 0 or with a seed are kept"
    return "the caller wants neither a kept answer nor its own kept, or it is a background call"


def _not_kept(found: Explained) -> None:
    """As ``Lookup.keep`` has it: what a fallback says is no answer of this model."""
    if found["cache"]["kept"]:
        found["cache"] |= {
            "kept": False,
            "why": "another model would answer, and that is not kept as this one's",
        }


def _candidates(pipeline: Pipeline, found: Explained, call: Call) -> str:
    snapshot = pipeline.snapshot
    order = snapshot.router.route(call)
    substitutes = snapshot.router.substitutes
    found["candidates"] = [] if substitutes is None else _too_small(substitutes, call, order)
    if found["candidates"] and substitutes is not None:
        order = substitutes.fitting(call, order, substitutes.least(call, order))
    order = by_health(order, call.received)
    own = {id(each.upstream): each for each in snapshot.router.regular(call.model)}
    prices = pipeline.recorder.ledger.prices
    usage = Usage(estimate_tokens(len(call.body)), call.max_output_tokens or LIKELY_OUTPUT)
    found["strategy"] = snapshot.router.strategy(call.model)
    told = found["candidates"]
    outcome = ""
    last = limited = ""
    is_first = True  # of those that are asked: by health, if its breaker is open, so are all others'
    for candidate in order:
        price = None
        if prices.price(candidate.upstream.name, candidate.model) is not None:
            price = prices.estimate(candidate.upstream.name, candidate.model, usage) / 1e12
        told.append({**_candidate(candidate, call, last=is_first or candidate.sole), "usd_at_most": price})
        why = told[-1]["skipped"]
        over = _limits(told[-1], candidate, call)
        if over and candidate.upstream.departure is None:
            told[-1]["skipped"] = over
            limited = limited or over
            continue
        is_first = is_first and candidate.upstream.departure is not None
        if not why and not outcome:
            waits = told[-1].get("predicted_wait") or 0.0
            outcome = f"sent to {candidate.upstream.name} as {candidate.model!r}"
            if told[-1].get("position"):
                outcome += f" after about {waits:.1f} s in place {told[-1]['position']} of its queue"
            if not snapshot.router.own_candidate(call.model, candidate.upstream.name, candidate.model):
                _not_kept(found)
        elif not why:
            regular = id(candidate.upstream) in own
            told[-1]["why"] = "if the ones before fail" + ("" if regular else "; a fallback or reserve")
        last = why or last
    if substitutes is not None:
        told += _standing_in(substitutes, call, order)
    if not outcome and limited and not last:
        return f"refused with 429: {limited}"
    return outcome or f"refused with 503: {last or 'nobody answers this model'}"


def _too_small(substitutes: Substitutes, call: Call, order: Sequence[Candidate]) -> list[Explained]:
    """Those that are not asked because the prompt is surely longer than they take."""
    tokens = substitutes.least(call, order)
    return [
        {
            **_candidate(candidate, call),
            "skipped": f"the prompt has {tokens} tokens or more, and it takes {candidate.context_window}",
        }
        for candidate in order
        if not takes(candidate, tokens)
    ]


def _standing_in(substitutes: Substitutes, call: Call, order: Sequence[Candidate]) -> list[Explained]:
    """Those that would be asked if the ones before did not take the prompt."""
    places = {(each.upstream.name, each.model) for each in order}
    return [
        {**_candidate(candidate, call), "why": why}
        for cause, why in _CAUSES.items()
        for candidate in substitutes.named(call, cause)
        if (candidate.upstream.name, candidate.model) not in places
    ]


def _limits(told: Explained, candidate: Candidate, call: Call) -> str:
    """The limits of a candidate, and which of them lets no call in; empty: none."""
    allotment = candidate.allotment
    limiter = allotment.limiter() if allotment is not None else None
    if allotment is None or limiter is None:
        return ""
    limits = told["limits"] = limiter.explain(call, allotment.reached)
    return _short_of(limits)


def _candidate(candidate: Candidate, call: Call, *, last: bool = False) -> Explained:
    upstream = candidate.upstream
    told: Explained = {
        "upstream": upstream.name,
        "model": candidate.model,
        "version": candidate.version,
        "weight": candidate.weight,
        "skipped": "",
    }
    if candidate.extra:
        told["extra_body"] = list(candidate.extra)  # not their values, which may be secrets
    if upstream.config.capacity == "spot":
        told["capacity"] = "spot"
    if upstream.health is not None:
        told["well"] = upstream.health.well
    if upstream.config.region:
        told["region"] = upstream.config.region
    if candidate.prompt is not None and upstream.standings is not None:
        known = upstream.standings.record.known(candidate.prompt, call.received)
        told["prefix_tokens"] = known * BLOCK_TOKENS
    gate = upstream.gate
    if upstream.departure is not None:
        told["skipped"] = upstream.departure.told(call.received)
        return told
    if call.deadline <= call.received:
        told["skipped"] = "the deadline has passed"
        return told
    if gate is None:
        told["in_progress"] = upstream.pool.statistics().busy
        return told
    asked = asked_of(call, candidate.model, estimate_tokens(len(call.body)), deadline_of(call))
    _gate(told, gate, asked, call.received, last=last)
    return told


def _gate(told: Explained, gate: Gate, asked: Asked, now: float, *, last: bool) -> None:
    told["in_progress"] = gate.in_progress
    open_for = gate.open_for(asked.model, now)
    if not gate.permits(asked.model, now, last=last):
        told["skipped"] = (
            f"its breaker is open for {open_for:.1f} s" if open_for else "others try it just now"
        )
        return
    if open_for:
        told["breaker"] = f"open for {open_for:.1f} s; there is nobody else, so it is tried"
    if gate.limit is None:
        return
    told["concurrency"] = gate.capacity(now)
    told["waiting"] = len(gate.queue)
    wait = 0.0
    has_place = True
    if not gate.is_free(asked.tokens, now):
        wait = gate.predicted_wait(asked, now)
        higher, alike = gate.queue.ahead(asked.tier, asked.tenant)
        told["position"] = higher + alike + 1
        told["predicted_wait"] = _number(wait)
        has_place = gate.queue.has_place(asked.tier, asked.tenant)
    if now + wait + gate.needs(asked) > asked.deadline:
        left = asked.deadline - now
        told["skipped"] = f"the deadline, in {left:.1f} s, cannot be met"
    elif not has_place:
        told["skipped"] = "its queue is full, and nobody would have to make room"


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return round(value, 3) if isfinite(value) else None


__all__ = ["Explained", "explain"]
