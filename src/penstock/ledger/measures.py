"""What the ledger says of itself among the metrics."""

from __future__ import annotations

from penstock.ledger.ledger import Ledger
from penstock.ledger.sqlite import SQLiteStore
from penstock.metrics import Registry


def measure(registry: Registry, ledger: Ledger) -> None:
    """Declare the ledger's metrics; they are read when metrics are collected, and cost nothing in between."""
    attempts = registry.gauge("penstock_ledger_open_attempts", "Attempts that are under way.").labels()
    defects = registry.counter(
        "penstock_ledger_defects_total", "Rows opened or settled wrongly; each is a defect of ours."
    ).labels()
    unpriced = registry.counter(
        "penstock_ledger_unpriced_total",
        "Attempts recorded at no cost, since nobody knows the model's price.",
    ).labels()
    store = ledger.store
    if not isinstance(store, SQLiteStore):
        store = None
    else:
        waiting = registry.gauge(
            "penstock_ledger_waiting_rows", "Settled rows that are not in the file yet."
        ).labels()
        written = registry.counter("penstock_ledger_written_rows_total", "Settled rows written.").labels()
        errors = registry.counter(
            "penstock_ledger_errors_total", "Batches that could not be written."
        ).labels()
        folded = registry.counter(
            "penstock_ledger_folded_rows_total",
            "Rows kept as sums only: the file could not be written for long.",
        ).labels()
        recovered = registry.counter(
            "penstock_ledger_recovered_rows_total",
            "Settled rows that killed processes had left in their queues.",
        ).labels()
        unqueued = registry.counter(
            "penstock_ledger_unqueued_rows_total",
            "Rows opened or settled without a place in the queue that outlives a killed process.",
        ).labels()
        well = registry.gauge(
            "penstock_ledger_writable",
            "1: the file can be written, 0: it cannot; of several workers the sum.",
        ).labels()

    def collect() -> None:
        state = ledger.statistics()
        attempts.set(state.open)
        defects.value = state.defects
        unpriced.value = state.unpriced
        if store is not None:
            stored = store.statistics()
            waiting.set(stored.waiting)
            written.value = stored.written
            errors.value = stored.errors
            folded.value = stored.folded
            recovered.value = stored.recovered
            unqueued.value = stored.unqueued
            well.set(0 if stored.trouble else 1)

    registry.before_collecting(collect)
