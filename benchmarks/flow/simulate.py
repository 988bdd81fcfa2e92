"""The events: arrivals, first tokens, ends, callers that lose patience."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from benchmarks.flow.workload import PLACES, TIERS, Arrival

from penstock.config.model import ConcurrencyConfig
from penstock.errors import PenstockError
from penstock.flow.gate import Asked, Gate, Outcome, Ticket, Turn
from penstock.metrics import Counter

SWEEP = 0.1  # seconds, as the gateway's clock


class Simulation:
    """Time, and what happens when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, moment: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()


class Upstream:
    """Works on ``places`` calls at a time; the others wait inside, in the order in which they came."""

    def __init__(self, simulation: Simulation, places: int = PLACES) -> None:
        self._simulation = simulation
        self._free = places
        self._line: deque[tuple[Arrival, Callable[[], None]]] = deque()

    def take(self, call: Arrival, ended: Callable[[], None]) -> None:
        self._line.append((call, ended))
        self._go_on()

    def _go_on(self) -> None:
        while self._free and self._line:
            call, ended = self._line.popleft()
            now = self._simulation.now
            if call.refused:  # its caller left while it waited in here: the gateway has cancelled it
                ended()
                continue
            self._free -= 1
            call.first_token = now + call.prefill
            self._simulation.at(now + call.work, self._end(ended))

    def _end(self, ended: Callable[[], None]) -> Callable[[], None]:
        def end() -> None:
            self._free += 1
            ended()
            self._go_on()

        return end


def fcfs(simulation: Simulation, upstream: Upstream) -> Callable[[Arrival], None]:
    """Everything goes to the upstream at once."""
    return lambda call: upstream.take(call, lambda: None)


def semaphore(simulation: Simulation, upstream: Upstream) -> Callable[[Arrival], None]:
    """As many at once as the upstream works on; the others wait in order."""
    line: deque[Arrival] = deque()
    free = PLACES

    def go_on() -> None:
        nonlocal free
        while free and line:
            call = line.popleft()
            if not call.refused:
                free -= 1
                upstream.take(call, ended)

    def ended() -> None:
        nonlocal free
        free += 1
        go_on()

    def arrive(call: Arrival) -> None:
        line.append(call)
        go_on()

    return arrive


def gate(*, adaptive: bool) -> Callable[[Simulation, Upstream], Callable[[Arrival], None]]:
    """The gate of ``penstock.flow``."""

    def build(simulation: Simulation, upstream: Upstream) -> Callable[[Arrival], None]:
        config = ConcurrencyConfig(
            limit=4 * PLACES if adaptive else PLACES, adaptive=adaptive, max_waiting=500, follow_headers=False
        )
        door = Gate("upstream", config, None, TIERS, lambda tier, outcome: Counter())

        def go(call: Arrival, turn: Turn) -> None:
            sent = simulation.now

            def ended() -> None:
                if call.first_token is None:
                    turn.settle(Outcome("nobody"), simulation.now)
                    return
                took = max(1e-9, simulation.now - call.first_token)
                outcome = Outcome("", call.first_token - sent, call.answer / took, call.answer)
                turn.settle(outcome, simulation.now)

            upstream.take(call, ended)

        def arrive(call: Arrival) -> None:
            def called(answer: Turn | PenstockError) -> None:
                if isinstance(answer, Turn):
                    go(call, answer)
                else:
                    call.refused = True

            asked = Asked(
                "m", call.tenant, call.tier, stream=True, deadline=call.deadline, prompt_tokens=call.prompt
            )
            try:
                place: Any = door.ask(asked, simulation.now, called)
            except PenstockError:
                call.refused = True
                return
            if not isinstance(place, Ticket):
                go(call, place)

        def sweep() -> None:
            door.sweep(simulation.now)
            simulation.at(simulation.now + SWEEP, sweep)

        sweep()
        return arrive

    return build


SYSTEMS: dict[str, Callable[[Simulation, Upstream], Callable[[Arrival], None]]] = {
    "fcfs": fcfs,
    "semaphore": semaphore,
    "gate": gate(adaptive=False),
    "gate, adaptive": gate(adaptive=True),
}


def run(system: str, arrivals: list[Arrival]) -> None:
    """Serve them all; callers leave at their deadline if no first token has come."""
    simulation = Simulation()
    arrive = SYSTEMS[system](simulation, Upstream(simulation))

    def lose_patience(call: Arrival) -> None:
        if call.first_token is None:
            call.refused = True

    for call in arrivals:
        simulation.at(call.at, lambda call=call: arrive(call))
        simulation.at(call.deadline, lambda call=call: lose_patience(call))
    simulation.run(arrivals[-1].at)
