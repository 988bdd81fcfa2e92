"""What happens to the calls of an upstream that goes away (``flow.departure``), and how that is heard of it itself."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from penstock.flow.departure import Departure, Departures, heard, seconds_in
from penstock.gateway.beside.probing import Probes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.gateway.pipeline import Pipeline
    from penstock.messages import Headers
    from penstock.metrics import Registry
    from penstock.net.clock import Clock
    from penstock.upstream.http import HTTPUpstream


class Leaving:
    """Has the upstreams of one process left, and their answers moved.

    :ivar on_heard: told what an upstream has said of itself: its name, in how many seconds it goes (None: some time),
        and how long that holds; None: nobody is to be told
    :ivar on_back: told the name of one that is there again
    """

    def __init__(self, clock: Clock, metrics: Registry) -> None:
        self.on_heard: Callable[[str, float | None, float], None] | None = None
        self.on_back: Callable[[str], None] | None = None
        self._departures = Departures()
        self._upstreams: Mapping[str, HTTPUpstream] = {}
        self._pipeline: Pipeline | None = None
        self._probes = Probes(clock)
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
            moved.value = self._departures.moved
            for name, upstream in self._upstreams.items():
                leaving.labels(name).set(int(upstream.departure is not None))

        metrics.before_collecting(collect)

    def __repr__(self) -> str:
        return f"<Leaving, {self._departures}>"

    def use(self, upstreams: Mapping[str, HTTPUpstream]) -> None:
        """These are the upstreams from now on; what was announced of them holds."""
        self._upstreams = upstreams
        for name, upstream in upstreams.items():
            upstream.departure = self._departures.of(name)
            if upstream.config.departure is not None and upstream.herald is None:
                upstream.herald = Herald(upstream, self)
        self._probes.use(upstreams.values())

    def follow(self, pipeline: Pipeline) -> None:
        """Move the answers that are produced there."""
        self._pipeline = pipeline
        self._clock.add(self)

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._probes.close()

    # ---- from outside ----

    def announce(self, name: str, seconds: float | None, holds: float | None = None) -> None:
        """The upstream goes away in so many seconds; None: some time.  One that is not known yet may be soon.

        :param holds: as for :meth:`penstock.flow.departure.Departure.within`
        """
        self._announce(name, Departure.within(seconds, self._clock.now(), holds))

    def _announce(self, name: str, departure: Departure) -> None:
        self._departures.announce(name, departure)
        upstream = self._upstreams.get(name)
        if upstream is not None:
            upstream.departure = departure
            if upstream.gate is not None:
                upstream.gate.send_away(departure.refusal(name, self._clock.now()))

    def take_back(self, name: str) -> None:
        """It stays."""
        self._departures.take_back(name)
        upstream = self._upstreams.get(name)
        if upstream is not None:
            upstream.departure = None

    # ---- from the upstream itself ----

    def heard(self, name: str, seconds: float | None, holds: float) -> None:
        """The upstream says that it goes away."""
        found = heard(self._departures.of(name), seconds, self._clock.now(), holds)
        if found is not None:
            self._announce(name, found)
            if self.on_heard is not None:
                self.on_heard(name, seconds, holds)

    def back(self, name: str, asked_at: float) -> None:
        """The upstream says that it is there, as it was asked then.

        What it said before counts no more, if it told no moment, or that has passed: it is another server then.
        """
        departure = self._departures.of(name)
        if departure is None or not departure.is_its_own or departure.announced >= asked_at:
            return
        if self._clock.now() < departure.at < inf:
            return
        self.take_back(name)
        if self.on_back is not None:
            self.on_back(name)

    # ---- time ----

    def sweep(self, now: float) -> None:
        """Move what still runs where nobody will answer soon, and forget what lapses."""
        if not self._departures:
            return
        for name in self._departures.lapsed(now):
            self.take_back(name)
        names = self._departures.moving(now)
        if names and self._pipeline is not None:
            gone = self._departures.gone(now)
            for production in list(self._pipeline.productions):
                self._departures.moved += production.move(names, gone)


class Herald:
    """Hears of one upstream's answers whether it goes away (:class:`penstock.upstream.job.Herald`)."""

    __slots__ = ("_field", "_holds", "_leaving", "_name", "is_asked_soon")

    def __init__(self, upstream: HTTPUpstream, leaving: Leaving) -> None:
        config = upstream.config.departure
        assert config is not None, "whose configuration says how it is heard"
        self._name = upstream.name
        self._field = config.header.lower().encode()
        self._holds = config.holds
        self._leaving = leaving
        self.is_asked_soon = False  # where there is something to be asked: it may be going

    def __repr__(self) -> str:
        return f"<Herald of {self._name}, {self._field.decode()}>"

    def on_head(self, status: int, headers: Headers) -> bool:
        """The head of an answer is there; whether it says that the upstream goes."""
        value = headers.get(self._field)
        if value is not None:
            leaves, seconds = seconds_in(value)
            if leaves:
                self._leaving.heard(self._name, seconds, self._holds)
                return True
        self.is_asked_soon |= status == 503
        return False

    def on_probe(self, status: int, headers: Headers, asked_at: float) -> None:
        """What it was asked for that tells how it is."""
        if self.on_head(status, headers):
            return
        if status == 503:
            self._leaving.heard(self._name, None, self._holds)
        elif 200 <= status < 300:
            self._leaving.back(self._name, asked_at)
