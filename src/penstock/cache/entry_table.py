"""The table of kept answers in a SQLite file: the gateway's tier on the disk has it, and the client's own file."""

from __future__ import annotations

import sqlite3

PAGE_BYTES = 4_096
LEAST_PAGES = 64  # below that there is no room for the schema and an answer

SCHEMA = (
    """
CREATE TABLE entries (
  row INTEGER PRIMARY KEY AUTOINCREMENT,
  key BLOB NOT NULL UNIQUE,
  kept_until REAL NOT NULL,
  sealed BLOB NOT NULL
)""",
    "CREATE INDEX entries_kept_until ON entries (kept_until)",
)
PUT = "INSERT OR REPLACE INTO entries (key, kept_until, sealed) VALUES (?, ?, ?)"


def pages(max_bytes: int) -> int:
    """How many a file of so many bytes may have."""
    return max(max_bytes // PAGE_BYTES, LEAST_PAGES)


def evict_oldest(database: sqlite3.Connection, share: float) -> int:
    """Let the entries go that were put first: of all numbers that are in use, this share.

    :returns: how many went, at least one unless there is none
    """
    (first, last) = database.execute("SELECT min(row), max(row) FROM entries").fetchone()
    if first is None:
        return 0
    until = first + int((last - first) * share)
    return database.execute("DELETE FROM entries WHERE row <= ?", (until,)).rowcount
