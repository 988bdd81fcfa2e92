"""What the cache says of itself among the metrics."""

from __future__ import annotations

from penstock.cache.cache import Cache
from penstock.cache.claims import Claims
from penstock.metrics import Registry


def measure(registry: Registry, cache: Cache, claims: Claims | None) -> None:
    """Declare the cache's metrics; they are read when metrics are collected, and cost nothing in between."""
    hits = registry.counter("penstock_cache_hits_total", "Look-ups that found an entry.", labels=("tier",))
    misses = registry.counter("penstock_cache_misses_total", "Look-ups that found no answer.").labels()
    stored = registry.counter("penstock_cache_stored_total", "Answers that were kept.").labels()
    too_large = registry.counter(
        "penstock_cache_too_large_total", "Answers that were not kept, being larger than max_entry_bytes."
    ).labels()
    purged = registry.counter(
        "penstock_cache_purged_total", "Entries that were found, but had been purged."
    ).labels()
    unusable = registry.counter(
        "penstock_cache_unusable_total",
        "Entries that were damaged, tampered with or of another version: misses.",
        labels=("reason",),
    )
    waits = registry.counter(
        "penstock_cache_waits_total",
        "Calls that waited for an answer that another worker or machine was fetching.",
        labels=("outcome",),
    )
    answered, taken_over, tired = map(waits.labels, ("answered", "taken_over", "tired"))
    entries = registry.gauge("penstock_cache_memory_entries", "Entries in the workers' memory.").labels()
    held = registry.gauge("penstock_cache_memory_bytes", "Bytes in the workers' memory.").labels()
    disk = registry.gauge(
        "penstock_cache_disk_bytes", "Bytes in the file that the workers share.", merge="max"
    ).labels()
    evicted = registry.counter(
        "penstock_cache_evicted_total", "Entries that made room for others.", labels=("tier",)
    )
    dropped = registry.counter(
        "penstock_cache_dropped_total", "What could not be written to a tier.", labels=("tier",)
    )
    late = registry.counter(
        "penstock_cache_late_total",
        "Look-ups for which a tier took longer than its budget.",
        labels=("tier",),
    )
    errors = registry.counter("penstock_cache_errors_total", "Errors of a tier.", labels=("tier",))
    skipped = registry.counter(
        "penstock_cache_skipped_total", "Look-ups that left out a tier in trouble.", labels=("tier",)
    )
    opened = registry.gauge(
        "penstock_cache_tier_left_alone", "1: the tier is in trouble and is left alone.", labels=("tier",)
    )

    def collect() -> None:
        misses.value = cache.misses
        stored.value = cache.stored
        too_large.value = cache.too_large
        purged.value = cache.purged
        for reason, count in cache.unusable.items():
            unusable.labels(reason).value = count
        if claims is not None:
            answered.value = claims.answered
            taken_over.value = claims.taken_over
            tired.value = claims.tired
        for tier in cache.figures():
            name, own = tier.name, tier.own
            hits.labels(name).value = tier.hits
            if name == "memory":
                entries.set(own.entries)
                held.set(own.held)
            elif name == "disk":
                disk.set(max(own.held, 0))
            evicted.labels(name).value = own.evicted
            dropped.labels(name).value = own.dropped
            late.labels(name).value = tier.late
            errors.labels(name).value = own.errors + tier.failed
            skipped.labels(name).value = tier.skipped
            opened.labels(name).set(1 if tier.open else 0)

    registry.before_collecting(collect)
