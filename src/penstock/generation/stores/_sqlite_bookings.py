"""Word for other ledgers in the file of a SQLite store: claims of a tenant that nobody can be."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from penstock.generation.store import BOOKED_FOR, Booking

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Booking).decode


def _whose(ledger: str) -> str:
    return "\x1fledger " + ledger


def book(db: sqlite3.Connection, ledger: str, booking: Booking) -> bool:
    """Within a transaction; whether nobody had left word of the same attempt."""
    values = (_whose(ledger), booking.name, booking.generation, _encode(booking), booking.at + BOOKED_FOR)
    return db.execute("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?)", values).rowcount > 0


def bookings(db: sqlite3.Connection, ledger: str) -> list[Booking]:
    found = db.execute("SELECT fingerprint FROM claims WHERE tenant = ?", (_whose(ledger),))
    return [_decode(content) for (content,) in found.fetchall()]


def forget(db: sqlite3.Connection, ledger: str, done: Sequence[Booking]) -> None:
    """Within a transaction."""
    db.executemany(
        "DELETE FROM claims WHERE tenant = ? AND name = ?", [(_whose(ledger), one.name) for one in done]
    )
