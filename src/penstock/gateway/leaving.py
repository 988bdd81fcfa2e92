"""What happens to the calls of an upstream that is announced as going away (``flow.departure``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.flow.departure import Departures

if TYPE_CHECKING:
    from penstock.gateway.pipeline import Pipeline
    from penstock.metrics import Registry
    from penstock.net.clock import Clock
    from penstock.upstream.http import HTTPUpstream


class Leaving:
    """Has the upstreams of one process left, and their answers moved.

    :param departures: kept over reloads, beside the snapshots
    """

    def __init__(self, departures: Departures, pipeline: Pipeline, clock: Clock, metrics: Registry) -> None:
        self._departures = departures
        self._pipeline = pipeline
        self._clock = clock
        leaving = metrics.gauge(
            "penstock_upstream_leaving",
            "Whether an upstream is announced as going away and gets no new calls.",
            labels=("upstream",),
            merge="max",
        )
        moved = metrics.counter(
            "penstock_moved_total",
            "Answers that were broken off because their upstream was going away, to go on elsewhere.",
        ).labels()

        def collect() -> None:
            moved.value = departures.moved
            for name, upstream in pipeline.snapshot.upstreams.items():
                leaving.labels(name).set(int(upstream.departure is not None))

        metrics.before_snapshot(collect)
        clock.add(self)

    def announce(self, name: str, seconds: float | None) -> None:
        """The upstream goes away in so many seconds; None: some time.  One that is not known yet may be soon."""
        now = self._clock.now()
        departure = self._departures.announce(name, seconds, now)
        upstream = self._pipeline.snapshot.upstreams.get(name)
        if upstream is not None:
            upstream.departure = departure
            if upstream.gate is not None:
                upstream.gate.send_away(departure.refusal(name, now))

    def take_back(self, name: str) -> None:
        """It stays."""
        self._departures.take_back(name)
        upstream = self._pipeline.snapshot.upstreams.get(name)
        if upstream is not None:
            upstream.departure = None

    def sweep(self, now: float) -> None:
        """Move what still runs where nobody will answer soon."""
        if not self._departures:
            return
        names = self._departures.moving(now)
        if names:
            gone = self._departures.gone(now)
            for production in list(self._pipeline.productions):
                self._departures.moved += production.move(names, gone)


def mark(upstreams: dict[str, HTTPUpstream], departures: Departures) -> None:
    """Tell upstreams of a new configuration that they are going away."""
    for name, upstream in upstreams.items():
        upstream.departure = departures.of(name)
