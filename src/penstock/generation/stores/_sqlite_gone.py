"""Traces of generations that are gone, in the file of a SQLite store: claims of a tenant that nobody can be."""

from __future__ import annotations

import sqlite3

from penstock.generation.store import GONE_FOR, MAX_GONE, trace_of

_WHOSE = "\x1fgone"

_TOO_MANY = f"""
DELETE FROM claims WHERE tenant = '{_WHOSE}' AND name IN (SELECT name FROM claims WHERE tenant = '{_WHOSE}'
ORDER BY expires_at LIMIT max((SELECT count(*) FROM claims WHERE tenant = '{_WHOSE}') - ?, 0))"""  # noqa: S608 - only a constant


def leave(db: sqlite3.Connection, generation_id: str, tenant: str, now: float) -> None:
    """Within a transaction."""
    values = (_WHOSE, trace_of(generation_id, tenant), "", b"", now + GONE_FOR)
    db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", values)


def was_there(db: sqlite3.Connection, generation_id: str, tenant: str, now: float) -> bool:
    found = db.execute(
        "SELECT 1 FROM claims WHERE tenant = ? AND name = ? AND expires_at > ?",
        (_WHOSE, trace_of(generation_id, tenant), now),
    )
    return found.fetchone() is not None


def bound(db: sqlite3.Connection) -> None:
    """Within a transaction: forget the oldest of too many."""
    db.execute(_TOO_MANY, (MAX_GONE,))
