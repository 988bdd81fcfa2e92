"""Many rows in few statements.

Each statement lets go of the interpreter's lock and has to get it back from the event loop, which costs more than
the statement; ``executemany`` does so for each row.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias

# Rows of one statement, at most 32: within the 999 parameters that every SQLite allows.  Few sizes, so that there are
# few different statements to be remembered; and every small one, since a batch has a handful of rows.
_SIZES = (32, 16, 8, 7, 6, 5, 4, 3, 2, 1)

Values: TypeAlias = "tuple[Any, ...]"


def write_rows(
    db: sqlite3.Connection, before: str, rows: Sequence[Values], after: str = "", values: Values = ()
) -> int:
    """Execute a statement in whose middle, after ``VALUES``, the rows stand; ``values`` are those of its end.

    :returns: how many rows it has written or changed
    :raises sqlite3.IntegrityError: one of them cannot be written
    """
    written = 0
    for some in _in_lots(rows):
        statement = _statement(before, len(some), len(some[0]), after)
        written += db.execute(statement, (*chain.from_iterable(some), *values)).rowcount
    return written


def _in_lots(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """The rows in few lots, of few different sizes."""
    at = 0
    for size in _SIZES:
        while size <= len(rows) - at:
            yield rows[at : at + size]
            at += size


@functools.cache
def _statement(before: str, rows: int, columns: int, after: str) -> str:
    marks = "(" + ",".join("?" * columns) + ")"
    return before + ",".join([marks] * rows) + after
