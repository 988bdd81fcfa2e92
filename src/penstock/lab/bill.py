"""What the simulator would charge: every token that it sent, and none that it did not.

A prompt is billed when the answer's first byte is written, an output token when its frame is.  What it comes to is told
in money, too, at the prices that the gateway's own table has for the simulator: half of them for a request of a batch.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

_MOST_MODELS = 1_000  # further names share one row
INPUT, OUTPUT = 1_000_000, 2_000_000  # what a token costs, in 1e-12 US dollars


class Item(msgspec.Struct, eq=False):
    """One request."""

    number: int
    endpoint: str
    model: str
    scenario: str = ""
    status: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    units: int = 0  # what is not charged by the token
    cost: int = 0  # of its tokens, in 1e-12 US dollars
    batched: bool = False  # one of a batch's, at half the price
    # Then completed, cancelled (the client left) or failed (by a scenario, or refused).
    state: str = "running"


class Total(msgspec.Struct, eq=False):
    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    units: int = 0
    cost: int = 0
    batched: int = 0  # of the requests, those of batches


class Bill:
    """All that was charged since the last reset."""

    def __init__(self, keep: int = 1_000) -> None:
        self._keep = keep
        self._running: dict[int, Item] = {}
        self.reset()

    def reset(self) -> None:
        """Begin anew.  Calls that are under way are billed on the new bill from here on."""
        self._total = Total()
        self._by_model: dict[str, Total] = {}
        self._recent: deque[Item] = deque(maxlen=self._keep)
        self._cancelled = 0
        self._failed = 0

    def open(self, item: Item) -> None:
        self._running[item.number] = item
        for row in (self._total, self._row(item)):
            row.requests += 1
            row.batched += item.batched

    def prompt(self, item: Item, tokens: int, cached: int = 0) -> None:
        item.input_tokens += tokens
        item.cached_input_tokens += cached
        for row in (self._total, self._row(item)):
            row.input_tokens += tokens
            row.cached_input_tokens += cached
        self._charge(item, tokens * INPUT)

    def output(self, item: Item, tokens: int) -> None:
        item.output_tokens += tokens
        self._total.output_tokens += tokens
        self._row(item).output_tokens += tokens
        self._charge(item, tokens * OUTPUT)

    def _charge(self, item: Item, cost: int) -> None:
        if item.batched:
            cost //= 2
        item.cost += cost
        self._total.cost += cost
        self._row(item).cost += cost

    def units(self, item: Item, units: int) -> None:
        """Images, milliseconds, characters or searches, as the endpoint has it."""
        item.units += units
        self._total.units += units
        self._row(item).units += units

    def close(self, item: Item, state: str) -> None:
        """Once for every item that was opened; again does nothing."""
        if self._running.pop(item.number, None) is None:
            return
        item.state = state
        if state == "cancelled":
            self._cancelled += 1
        elif state == "failed":
            self._failed += 1
        self._recent.append(item)

    def _row(self, item: Item) -> Total:
        row = self._by_model.get(item.model)
        if row is None:
            name = item.model if len(self._by_model) < _MOST_MODELS else "(others)"
            row = self._by_model.setdefault(name, Total())
        return row

    def report(self) -> dict[str, Any]:
        return {
            **msgspec.to_builtins(self._total),
            "in_flight": len(self._running),
            "cancelled": self._cancelled,
            "failed": self._failed,
            "by_model": msgspec.to_builtins(self._by_model),
            "by_request": msgspec.to_builtins([*self._recent, *self._running.values()]),
        }

    def __repr__(self) -> str:
        total = self._total
        return (
            f"<Bill {total.requests} requests, {total.input_tokens} in, {total.output_tokens} out, "
            f"{len(self._running)} running>"
        )
