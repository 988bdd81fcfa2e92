"""What journals say of themselves among the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from penstock.generation.keeper import Keeper
from penstock.metrics import Registry


def measure(registry: Registry, keepers: Callable[[], Iterable[tuple[str, Keeper]]]) -> None:
    """Declare the metrics of all journals; they are read when metrics are collected."""
    label = ("durability",)
    unstored = registry.gauge(
        "penstock_generations_unstored", "Generations that are not stored to their end.", labels=label
    )
    behind = registry.gauge(
        "penstock_generations_behind",
        "Generations whose readers have more than the store: they would not outlive this process whole.",
        labels=label,
    )
    well = registry.gauge(
        "penstock_generations_store_well",
        "1: the store can be written, 0: it cannot; of several workers the sum.",
        labels=label,
    )
    events = registry.counter("penstock_generations_stored_events_total", "Events stored.", labels=label)
    errors = registry.counter(
        "penstock_generations_store_errors_total", "Batches that could not be stored.", labels=label
    )
    exposed = registry.counter(
        "penstock_generations_exposed_total", "Generations that were behind at least once.", labels=label
    )
    given_up = registry.counter(
        "penstock_generations_given_up_total", "Generations that will never be stored whole.", labels=label
    )
    fenced = registry.counter(
        "penstock_generations_fenced_total", "Generations that another process took over.", labels=label
    )
    taken = registry.counter(
        "penstock_generations_taken_over_total", "Generations taken over from the dead.", labels=label
    )
    unclaimed = registry.counter(
        "penstock_generations_unclaimed_total",
        "Calls that were made though the store did not tell in time whether they had been made before.",
        labels=label,
    )

    def collect() -> None:
        for durability, keeper in keepers():
            state = keeper.journal.statistics()
            unstored.labels(durability).set(state.open)
            behind.labels(durability).set(state.behind)
            well.labels(durability).set(0 if state.trouble else 1)
            events.labels(durability).value = state.events
            errors.labels(durability).value = state.errors
            exposed.labels(durability).value = state.exposed
            given_up.labels(durability).value = state.given_up
            fenced.labels(durability).value = state.fenced
            taken.labels(durability).value = keeper.taken_over
            unclaimed.labels(durability).value = keeper.names.unclaimed

    registry.before_collecting(collect)
