"""Who reads the logs here, from the first byte of an answer until it has ended or its caller has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from penstock.gateway.snapshot import Snapshot
from penstock.gateway.stages import attach
from penstock.gateway.stages.admit import Admission
from penstock.gateway.stages.read import CLIENT_GONE, Reading
from penstock.gateway.stages.read_adapted import open_reading
from penstock.gateway.stages.record import Recorder
from penstock.generation.log import Generation
from penstock.messages import Call
from penstock.net.exchange import Exchange


class Answering(Protocol):
    """Who answers calls from logs."""

    snapshot: Snapshot
    admission: Admission
    recorder: Recorder


class Readings:
    """Those of one worker."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._under_way: dict[Reading, None] = {}

    def __repr__(self) -> str:
        return f"<Readings, {len(self._under_way)} under way>"

    def __len__(self) -> int:
        return len(self._under_way)

    def __iter__(self) -> Iterator[Reading]:
        return iter(self._under_way)

    def begin(
        self, exchange: Exchange, call: Call, generation: Generation, status_name: bytes, start: int = 0
    ) -> None:
        """Read the log to this caller, who has been admitted, from an offset on, as it is and as it goes on."""
        reading = open_reading(call, generation, exchange, status_name, self._answered, start)
        self._under_way[reading] = None
        generation.join(reading)
        if not reading.done:
            exchange.watch(reading)

    def begin_again(self, exchange: Exchange, call: Call, generation: Generation, start: int) -> None:
        """The same of a log that is there already; ``call`` is what the reader is like, and asks nothing."""
        self._answering.admission.enter()
        self.begin(exchange, call, generation, b"resumed", start)

    def _answered(self, reading: Reading) -> None:
        """The answer has ended, or its caller has left; runs once."""
        reading.exchange.watch(None)
        generation = reading.generation
        if reading.status == CLIENT_GONE:
            generation.grace = max(generation.grace, self._grace(reading))
        else:
            generation.delivered = True
        generation.leave(reading)
        del self._under_way[reading]
        call, answering = reading.call, self._answering
        answering.admission.settle(call)
        answering.recorder.answered(
            call,
            generation,
            status=reading.status,
            error=reading.error,
            peer=reading.exchange.peer,
            read=_elsewhere(reading.status_name),
        )

    def _grace(self, reading: Reading) -> float:
        """How long to wait for a caller who has left, in seconds."""
        grace = self._answering.snapshot.router.grace(reading.call.model)
        return attach.grace(reading.call, started=reading.exchange.started) if grace is None else grace

    def keep_alive(self, now: float) -> None:
        """Signs of life for streams that are silent."""
        for reading in list(self._under_way):
            reading.keep_alive(now)


def _elsewhere(status_name: bytes) -> str:
    """How a caller came by a generation that was not made for it; empty: it was."""
    return "" if status_name == b"created" else status_name.decode()
