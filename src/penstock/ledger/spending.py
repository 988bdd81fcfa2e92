"""What other processes have spent: for budgets, which hold for all of them together, and outlive each.

A process knows its own spending exactly, so its own rows are left out; what it reads here is what its
siblings and its predecessors wrote.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from penstock.errors import ConfigError
from penstock.ledger.report import open_ledger
from penstock.messages import Spent

# Costs are added in two parts, as in penstock.ledger.report.  Sums of folded rows name nobody: they are left out.
_QUERY = """
SELECT key_name, tenant, tier, model,
  sum((cost / 1000000) * (started >= ?2)), sum((cost % 1000000) * (started >= ?2)),
  sum(cost / 1000000), sum(cost % 1000000)
FROM attempts
WHERE started >= ?1 AND boot NOT IN (SELECT boot FROM boots WHERE token = ?3)
  AND outcome NOT IN ('cached', 'joined', 'attached')
GROUP BY key_name, tenant, tier, model"""


def read_spending(path: str | Path, token: str, *, day_began: float, month_began: float) -> list[Spent]:
    """What others than the process ``token`` have spent since these moments (Unix time).

    Reads the whole month's rows: for a thread, not for the event loop.

    :raises ConfigError: the ledger cannot be read
    """
    if not Path(path).is_file():  # nobody has written yet
        return []
    try:
        with contextlib.closing(open_ledger(Path(path))) as database:
            rows = database.execute(_QUERY, (month_began, day_began, token)).fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"the ledger {path} cannot be read: {error}") from error
    return [
        Spent(key, tenant, tier, model, day=high * 10**6 + low, month=all_high * 10**6 + all_low)
        for key, tenant, tier, model, high, low, all_high, all_low in rows
    ]
