"""What gates say of themselves among the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from penstock.flow.gate import Gate
from penstock.flow.lessee import Lessee
from penstock.metrics import Counter, Registry

MAX_CHILDREN = 5_000


def measure(registry: Registry, gates: Callable[[], Iterable[Gate]]) -> Callable[[str, str, str], Counter]:
    """Declare the metrics of all gates; gauges are read when metrics are collected.

    :returns: what counts calls, by their upstream, their tier, what became of them
    """
    turns = registry.counter(
        "penstock_turns_total",
        "Calls that asked for their turn at an upstream, by what became of them.",
        labels=("upstream", "tier", "outcome"),
        max_children=MAX_CHILDREN,
    )
    waiting = registry.gauge(
        "penstock_queue_waiting", "Calls that wait for an upstream.", labels=("upstream", "tier")
    )
    in_progress = registry.gauge(
        "penstock_upstream_in_progress", "Calls that an upstream has now.", labels=("upstream",)
    )
    limit = registry.gauge(
        "penstock_upstream_concurrency", "Calls that an upstream may have at once.", labels=("upstream",)
    )
    opened = registry.gauge(
        "penstock_breakers_open",
        "Breakers that are not closed, of models and of the key.",
        labels=("upstream",),
    )

    def collect() -> None:
        for gate in gates():
            most, lease = gate.limit, gate.lease
            in_progress.labels(gate.name).set(gate.in_progress)
            opened.labels(gate.name).set(gate.breakers_open)
            if most is not None:
                places = int(most.value) if lease is None else min(int(most.value), lease.held)
                limit.labels(gate.name).set(places)
                lengths = gate.queue.lengths()
                for tier in {*gate.tiers, *lengths}:
                    waiting.labels(gate.name, tier).set(lengths.get(tier, 0))

    registry.before_collecting(collect)
    return turns.labels


def measure_leases(registry: Registry, lessee: Callable[[], Lessee | None]) -> Callable[[str], None]:
    """Declare the metrics of limits that several processes share.

    :param lessee: None as long as nothing is shared
    :returns: what counts an exchange by how it went
    """
    exchanges = registry.counter(
        "penstock_limit_exchanges_total",
        "Times that a worker told what it took of shared limits, by how that went.",
        labels=("result",),
    )
    by_result = {result: exchanges.labels(result) for result in ("done", "failed", "late")}
    members = registry.gauge(
        "penstock_limit_processes",
        "Processes that share the limits, when they were last heard of.",
        merge="max",
    ).labels()
    alone = registry.gauge(
        "penstock_limit_alone",
        "Workers that have no word from the others, and keep to their part of the limits.",
    ).labels()

    def collect() -> None:
        found = lessee()
        if found is not None:
            members.set(found.members)
            alone.set(int(found.is_alone))

    registry.before_collecting(collect)
    return lambda result: by_result[result].add()
