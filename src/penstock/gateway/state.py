"""What a gateway shows of the calls that it has, and has had."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.gateway.stages.trace import trace_id_of

if TYPE_CHECKING:
    from penstock.gateway.pipeline import Pipeline
    from penstock.ledger.ledger import Ledger


def generations(pipeline: Pipeline, now: float) -> list[dict[str, Any]]:
    """Those that are being produced; ``trace``: of the call that asked first, empty where that told of none."""
    traces = {one.generation.id: trace_id_of(one.call) for one in pipeline.productions}
    return [
        {
            "id": generation.id,
            "tenant": generation.tenant,
            "endpoint": generation.endpoint.label,
            "model": generation.model,
            "stream": generation.stream,
            "upstream": generation.served_by[0],
            "age": now - generation.started,
            "events": len(generation.events),
            "bytes": generation.size,
            "readers": len(generation.readers),
            "attempts": generation.attempts,
            "trace": traces.get(generation.id, ""),
            "cost": generation.cost,  # of attempts that have ended, in 1e-12 US dollars
        }
        for generation in pipeline.in_flight()
    ]


def pools(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """The connections to each upstream, by its name."""
    return {
        name: msgspec.to_builtins(upstream.pool.statistics())
        for name, upstream in pipeline.snapshot.upstreams.items()
    }


def totals(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """What the ledger has added up, by outcome."""
    return {
        outcome.value: msgspec.to_builtins(total)
        for outcome, total in ledger.totals().items()
        if total.attempts
    }


def held(pipeline: Pipeline) -> dict[str, int]:
    """What calls in flight hold; without any, all of it must come back to nothing but the idle tasks."""
    return {
        "calls": pipeline.admission.in_progress,
        "readings": len(pipeline.readings),
        "productions": len(pipeline.productions),
        "generations": len(pipeline.registry),
        "log_bytes": pipeline.registry.account.held,
        "open_attempts": pipeline.recorder.ledger.statistics().open,
        "tasks": len(asyncio.all_tasks()),
    }
