"""Messages that are still to be delivered, and to whom; shared by all workers, and kept over a restart.

A message goes to each of its endpoints on its own.  Who delivers one takes it first, for :data:`TAKEN_FOR` seconds:
so no two workers deliver the same at once, and what a killed worker had taken is delivered by another.
Whoever receives a message twice knows it by its ``webhook-id``.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from penstock.database import Database
from penstock.sqlite_files import Kind

TAKEN_FOR = 60.0  # seconds; longer than a delivery may take
MAX_WAITING = 100_000  # deliveries of all tenants; past it the oldest of whoever has the most make room

PART = 8  # of the room that was counted, this part is filled before it is counted again: other workers fill it, too
TIDIED = 600.0  # seconds between two looks for what may be forgotten, which is a walk through all of it

_SCHEMA = (
    """
CREATE TABLE deliveries (
  message TEXT NOT NULL,
  url TEXT NOT NULL,
  tenant TEXT NOT NULL,
  body BLOB NOT NULL,
  created REAL NOT NULL,
  attempts INTEGER NOT NULL,
  due REAL,
  PRIMARY KEY (message, url)
)""",
    "CREATE INDEX deliveries_due ON deliveries (due) WHERE due IS NOT NULL",
)
# Of each endpoint so many that are due, those first that have been for the longest.
_FIRST_OF_EACH = """
SELECT id, url FROM (
  SELECT rowid AS id, url, due, row_number() OVER (PARTITION BY url ORDER BY due) AS place
  FROM deliveries WHERE due <= ?
) WHERE place <= ? ORDER BY due"""
_WAITING = "SELECT count(*) FROM deliveries WHERE due IS NOT NULL"
# Of the tenant with the most waiting deliveries, the endpoint with the most: its receiver is the one that is not there.
_FULLEST = """
SELECT tenant, url, sum(waiting) OVER (PARTITION BY tenant) AS of_tenant, waiting FROM (
  SELECT tenant, url, count(*) AS waiting FROM deliveries WHERE due IS NOT NULL GROUP BY tenant, url
) ORDER BY of_tenant DESC, tenant, waiting DESC LIMIT 1"""
_PUSH_OUT = """
DELETE FROM deliveries WHERE rowid IN (
  SELECT rowid FROM deliveries WHERE due IS NOT NULL AND tenant = ? AND url = ? ORDER BY created LIMIT ?
)"""


class Delivery(msgspec.Struct, frozen=True):
    """One message on its way to one endpoint; ``attempts`` have been made before.

    ``until`` (Unix seconds) nobody else gets it; it also tells who has it, as each of several has another.
    """

    message: str
    url: str
    tenant: str
    body: bytes
    created: float  # Unix seconds
    attempts: int
    until: float


class Outbox:
    """:param path: the file; its directory must exist"""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, application_id=Kind.WEBHOOKS, schema=_SCHEMA)
        self._room = 0  # deliveries that may be entered before those that wait are counted again
        self._tidied = -math.inf  # Unix seconds

    def __repr__(self) -> str:
        return f"<Outbox {self._database.path}>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the file cannot be used"""
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def put(self, message: str, tenant: str, urls: list[str], body: bytes, now: float) -> Counter[str]:
        """Enter a message; one that was entered before is not entered again.

        :returns: how many deliveries had to make room, by whose they were: the silence of one tenant's receiver does
            not push out what others wait for
        """

        def insert(db: sqlite3.Connection) -> Counter[str]:
            rows = [(message, url, tenant, body, now, 0, now) for url in urls]
            db.executemany("INSERT OR IGNORE INTO deliveries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            if not 0.0 <= now - self._tidied < TIDIED:
                # What was delivered stays for a while without its body, so that it is not entered again.
                db.execute("DELETE FROM deliveries WHERE due IS NULL AND created < ?", (now - 86_400.0,))
                self._tidied = now
            pushed_out: Counter[str] = Counter()
            self._room -= len(rows)
            if self._room >= 0:
                return pushed_out
            (waiting,) = db.execute(_WAITING).fetchone()
            while waiting > MAX_WAITING:
                fullest, url, _, its = db.execute(_FULLEST).fetchone()
                # Some more than is needed: to find who has the most takes a tenth of a second.
                most = max(waiting - MAX_WAITING, min(MAX_WAITING // 1_000, its // 2))
                gone = db.execute(_PUSH_OUT, (fullest, url, most)).rowcount
                waiting -= gone
                pushed_out[fullest] += gone
            self._room = (MAX_WAITING - waiting) // PART
            return pushed_out

        return await self._database.write(insert)

    async def take(self, now: float, limit: int, busy: Mapping[str, int], most: int) -> list[Delivery]:
        """Deliveries that are due; nobody else gets them for :data:`TAKEN_FOR` seconds.

        :param busy: how many are under way to an endpoint
        :param most: so many there may be, so that one that says nothing does not hold up the others
        """

        def due(db: sqlite3.Connection) -> list[int]:
            rows = db.execute(
                "SELECT rowid, url FROM deliveries WHERE due <= ? ORDER BY due LIMIT ?", (now, limit)
            ).fetchall()
            found = _with_room(rows, busy, most)
            if len(found) < len(rows):  # behind those of a busy endpoint there may be others
                rows = db.execute(_FIRST_OF_EACH, (now, most)).fetchall()
                found = _with_room(rows, busy, most)[:limit]
            return found

        if not await self._database.read(due):
            return []  # the usual case costs no write

        def take(db: sqlite3.Connection) -> list[Delivery]:
            taken = []
            for row in due(db):
                found = db.execute(
                    "UPDATE deliveries SET due = ? WHERE rowid = ?"
                    " RETURNING message, url, tenant, body, created, attempts, due",
                    (now + TAKEN_FOR, row),
                ).fetchone()
                taken.append(Delivery(*found))
            return taken

        return await self._database.write(take)

    async def settle(self, delivery: Delivery, due: float | None) -> None:
        """After an attempt: when the next one is due; None: there will be none.

        Who was asleep for longer than he had it decides nothing about another attempt: another has it, or has
        delivered it already.
        """
        await self._database.write(
            lambda db: db.execute(
                "UPDATE deliveries SET attempts = attempts + 1, due = ?, body = iif(? IS NULL, x'', body)"
                " WHERE message = ? AND url = ? AND (? IS NULL OR due = ?)",
                (due, due, delivery.message, delivery.url, due, delivery.until),
            ),
            frees=True,
        )

    async def waiting(self) -> int:
        """How many deliveries are still to be made."""
        (count,) = await self._database.read(lambda db: db.execute(_WAITING).fetchone())
        return int(count)


def _with_room(rows: Iterable[tuple[int, str]], busy: Mapping[str, int], most: int) -> list[int]:
    """Those that go to an endpoint which has room for them."""
    going = Counter(busy)
    found = []
    for row, url in rows:
        if going[url] < most:
            going[url] += 1
            found.append(row)
    return found
