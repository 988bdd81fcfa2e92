"""Two sides of the same account: what the gateway's ledger says, and what the simulator charged."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass

from penstock.messages import SAVING

DEADLINE = 60.0  # seconds that anything may take to come about


@dataclass(frozen=True)
class Row:
    """One attempt."""

    generation: str
    upstream_model: str
    endpoint: str
    outcome: str
    status: int
    error: str
    input_tokens: int
    output_tokens: int
    estimated: bool


def ledger_rows(path):
    """All rows of a ledger's file; only whole rows count, so sums of rows that were given up fail the test."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM folded").fetchone() == (0,)
        rows = database.execute(
            "SELECT generation, upstream_model, endpoint, outcome, status, error, input_tokens, output_tokens,"
            " estimated FROM attempts_and_savings ORDER BY started, row"
        ).fetchall()
    return [Row(*row[:-1], bool(row[-1])) for row in rows]


def asked(rows):
    """The rows of the calls that upstreams got."""
    saving = {outcome.value for outcome in SAVING}
    return [row for row in rows if row.outcome not in saving]


def tokens(rows):
    return sum(row.input_tokens for row in rows), sum(row.output_tokens for row in rows)


def billed(bill):
    return bill["input_tokens"], bill["output_tokens"]


def by_model(rows):
    """Tokens by the upstream's model, as the bill has them."""
    return {
        name: tokens([row for row in rows if row.upstream_model == name])
        for name in {row.upstream_model for row in rows}
    }


def billed_by_model(bill):
    return {name: billed(total) for name, total in bill["by_model"].items()}


def wait_until(condition, *, seconds=DEADLINE, what=""):
    """The condition's first value that is true; processes tell nobody when they get there, so it is asked for."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what or condition
        time.sleep(0.02)
    return value


def settled_bill(simulator):
    """The bill, once nothing is under way any more."""
    return wait_until(lambda: (bill := simulator.bill())["in_flight"] == 0 and bill, what="calls in flight")
