"""The ledger against the bill."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from penstock.messages import SAVING


def books(ledger: Path, bill: dict[str, Any]) -> dict[str, Any]:
    """The ledger against the bill, by the upstream's model."""
    saving = [outcome.value for outcome in SAVING]  # rows of calls that no upstream got
    marks = ", ".join("?" * len(saving))
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        rows = database.execute(
            "SELECT upstream_model, count(*), sum(estimated), sum(input_tokens), sum(output_tokens),"
            f" sum(outcome = 'reserved') FROM attempts WHERE outcome NOT IN ({marks}) GROUP BY 1",
            saving,
        ).fetchall()
        outcomes = dict(
            database.execute("SELECT outcome, count(*) FROM attempts_and_savings GROUP BY 1").fetchall()
        )
        folded = database.execute("SELECT count(*) FROM folded").fetchone()[0]
    exact = estimated = 0
    wrong: list[str] = []
    apart: dict[str, Any] = {}
    for model, attempts, guessed, prompt, output, _ in rows:
        charged = bill["by_model"].get(model, {"input_tokens": 0, "output_tokens": 0})
        due = charged["input_tokens"], charged["output_tokens"]
        if not guessed:
            exact += output
            if (prompt, output) != due:
                wrong.append(f"{model}: {(prompt, output)} in the ledger, {due} on the bill, none estimated")
        else:
            estimated += output
            if (prompt, output) != due:
                apart[model] = {
                    "attempts": attempts,
                    "estimated": guessed,
                    "ledger": (prompt, output),
                    "bill": due,
                }
    return {
        "attempts": sum(row[1] for row in rows),
        "outcomes": outcomes,
        "open": sum(row[5] for row in rows),
        "folded": folded,
        "models": len(rows),
        "ledger": [sum(row[3] for row in rows), sum(row[4] for row in rows)],
        "bill": [bill["input_tokens"], bill["output_tokens"]],
        "output_tokens_of_exact_models": exact,
        "output_tokens_of_models_with_estimates": estimated,
        "wrong": wrong,
        "estimates_that_differ": apart,
    }
