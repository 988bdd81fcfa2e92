"""Where batches are kept: their records in a database, their lines in plain files beside it.

Several workers share both.  Exactly one runs a batch: who holds the lock of its file (``flock``), which the kernel
takes back when a process ends, in whatever way, and not a moment before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from penstock.batches.batch import ENDED, Batch, Status
from penstock.batches.provider_batch import ProviderBatch
from penstock.batches.repeated import RECENT, Naming
from penstock.database import Database
from penstock.errors import KeyReused, NotFound
from penstock.sqlite_files import Kind
from penstock.upload.files import ORPHANED

# ``open``: there is still something to do for it.
_SCHEMA = (
    """
CREATE TABLE batches (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  created REAL NOT NULL,
  open INTEGER NOT NULL,
  record BLOB NOT NULL
)""",
    "CREATE INDEX batches_of_tenant ON batches (tenant, created, id)",
    "CREATE INDEX batches_open ON batches (created) WHERE open",
)

# Beside the schema, for files that were made without it.
_NAMES = """
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, batch TEXT NOT NULL, fingerprint TEXT NOT NULL) WITHOUT ROWID"""

_PROVIDERS = """
CREATE TABLE IF NOT EXISTS provider_batches (
  batch TEXT NOT NULL, number INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (batch, number)
) WITHOUT ROWID"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Batch).decode
_decode_provider = msgspec.json.Decoder(ProviderBatch).decode


class BatchStore:
    """The batches of all tenants.

    :param directory: must exist
    """

    def __init__(self, directory: Path) -> None:
        self.lines = directory / "batches"
        self._database = Database(directory / "batches.sqlite", application_id=Kind.BATCHES, schema=_SCHEMA)

    def __repr__(self) -> str:
        return f"<BatchStore {self._database.path}>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the directory cannot be used"""
        with contextlib.suppress(OSError):  # the database will say what is wrong
            self.lines.mkdir(mode=0o700, exist_ok=True)
        await self._database.open()
        await self._database.read(lambda db: [db.execute(_NAMES), db.execute(_PROVIDERS)])

    async def close(self) -> None:
        await self._database.close()

    async def add(self, batch: Batch, naming: Naming | None = None) -> Batch:
        """Enter a new batch, unless it was made already; the one that is there then.

        Without a key a request leads to the batch of its SDK's retry, too, where that was entered first.

        :raises KeyReused: the key belongs to a batch that was asked for in other words
        """

        def add(db: sqlite3.Connection) -> Batch:
            if naming is not None:
                if (present := _named(db, naming, batch.created)) is not None:
                    return present
                names = (naming.name, naming.overtaken) if naming.is_retry else (naming.name,)
                rows = [(name, batch.id, naming.fingerprint) for name in names]
                db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", rows)
            db.execute(
                "INSERT INTO batches VALUES (?, ?, ?, 1, ?)",
                (batch.id, batch.tenant, batch.created, _encode(batch)),
            )
            return batch

        return await self._database.write(add)

    async def named(self, naming: Naming | None, now: float) -> Batch | None:
        """The batch that is asked for once more.

        :raises KeyReused: as :meth:`add`
        """
        if naming is None or not naming.may_repeat:
            return None
        return await self._database.read(lambda db: _named(db, naming, now))

    async def get(self, tenant: str, kind: str, batch_id: str) -> Batch:
        """:raises NotFound: this tenant has no such batch of this kind"""
        found = await self._database.read(lambda db: _find(db, batch_id))
        if found is None or found.tenant != tenant or not batch_id.startswith(kind):
            raise NotFound(f"you have no batch {batch_id[:100]!r}", param="batch_id", code="batch_not_found")
        return found

    async def change(self, batch_id: str, change: Callable[[Batch], Batch]) -> Batch:
        """Replace a record by what ``change`` makes of the present one, and return that."""

        def replace(db: sqlite3.Connection) -> Batch:
            present = _find(db, batch_id)
            assert present is not None, "records are never removed while their batch is open"
            batch = change(present)
            if batch != present:
                is_open = batch.status not in ENDED or not batch.announced
                db.execute(
                    "UPDATE batches SET open = ?, record = ? WHERE id = ?",
                    (is_open, _encode(batch), batch_id),
                )
            return batch

        return await self._database.write(replace)

    async def cancel(self, batch_id: str, now: float) -> Batch:
        """Let nothing more be begun of a batch that is there; one that is past its lines stays as it is."""

        def cancel(batch: Batch) -> Batch:
            if batch.status in {Status.VALIDATING, Status.IN_PROGRESS}:
                return msgspec.structs.replace(batch, status=Status.CANCELLING, cancelling=now)
            return batch

        return await self.change(batch_id, cancel)

    async def remove(self, tenant: str, batch_id: str) -> None:
        """Forget a batch for which there is nothing more to do."""
        statement = "DELETE FROM batches WHERE NOT open AND id = ? AND tenant = ?"
        await self._database.write(lambda db: db.execute(statement, (batch_id, tenant)))

    async def page(
        self, tenant: str, kind: str, *, after: str = "", before: str = "", limit: int = 20
    ) -> tuple[list[Batch], bool]:
        """A page of a tenant's batches, newest first, and whether there are more.

        :param kind: with what their ids begin
        :param after: the id of one: those that are older
        :param before: the same in its stead: those that are newer, and of them the oldest
        """
        where, values = "tenant = ? AND substr(id, 1, ?) = ?", [tenant, len(kind), kind]
        if after or before:
            sign = "<" if after else ">"
            where += (
                f" AND (created, id) {sign} (SELECT created, id FROM batches WHERE id = ? AND tenant = ?)"  # noqa: S608 - only signs
            )
            values += [after or before, tenant]
        order = "ASC" if before else "DESC"
        statement = f"SELECT record FROM batches WHERE {where} ORDER BY created {order}, id {order} LIMIT ?"  # noqa: S608 - only names
        rows = await self._database.read(lambda db: db.execute(statement, (*values, limit + 1)).fetchall())
        found = [_decode(record) for (record,) in rows[:limit]]
        return found[::-1] if before else found, len(rows) > limit

    async def open_batches(self) -> list[Batch]:
        """Those for which there is something to do, oldest first."""
        rows = await self._database.read(
            lambda db: db.execute("SELECT record FROM batches WHERE open ORDER BY created").fetchall()
        )
        return [_decode(record) for (record,) in rows]

    async def open_of(self, tenant: str) -> int:
        """How many of a tenant's batches have not ended."""
        statement = "SELECT count(*) FROM batches WHERE open AND tenant = ?"
        (count,) = await self._database.read(lambda db: db.execute(statement, (tenant,)).fetchone())
        return int(count)

    async def current(self, batch_id: str) -> Batch:
        """The record of a batch that is there, whoever's it is."""
        found = await self._database.read(lambda db: _find(db, batch_id))
        assert found is not None, "records are never removed while their batch is open"
        return found

    async def forget(self, before: float) -> None:
        """Remove the records of batches that have ended and were created before a time, and what no record knows."""

        def forget(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM batches WHERE NOT open AND created < ?", (before,))
            db.execute("DELETE FROM names WHERE batch NOT IN (SELECT id FROM batches)")
            db.execute("DELETE FROM provider_batches WHERE batch NOT IN (SELECT id FROM batches)")

        await self._database.write(forget, frees=True)
        await self._database.read(self._remove_orphans)

    def _remove_orphans(self, db: sqlite3.Connection) -> None:
        """Of a process that was killed between linking an input and entering its batch."""
        long_ago = time.time() - ORPHANED
        with os.scandir(self.lines) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the batch that it belonged to has just ended
                    if entry.stat().st_ctime < long_ago:
                        known = db.execute(
                            "SELECT 1 FROM batches WHERE open AND id = ?", (entry.name.partition(".")[0],)
                        )
                        if known.fetchone() is None:
                            Path(entry.path).unlink()

    # ---- what providers have of a batch ----

    async def divide(self, batch_id: str, records: Sequence[ProviderBatch]) -> Batch:
        """Enter which lines go to providers; from here on it stays so."""
        rows = [(record.batch, record.number, _encode(record)) for record in records]

        def divide(db: sqlite3.Connection) -> Batch:
            batch = _find(db, batch_id)
            assert batch is not None, "records are never removed while their batch is open"
            batch = msgspec.structs.replace(batch, divided=True)
            db.execute("UPDATE batches SET record = ? WHERE id = ?", (_encode(batch), batch_id))
            db.executemany("INSERT INTO provider_batches VALUES (?, ?, ?)", rows)
            return batch

        return await self._database.write(divide)

    async def provider_batches(self, batch_id: str) -> list[ProviderBatch]:
        """Those that have lines of this batch."""
        statement = "SELECT record FROM provider_batches WHERE batch = ? ORDER BY number"
        rows = await self._database.read(lambda db: db.execute(statement, (batch_id,)).fetchall())
        return [_decode_provider(record) for (record,) in rows]

    async def known_at_providers(self) -> set[str]:
        """The ids of all that providers run, or have run, for batches that are known here."""
        rows = await self._database.read(
            lambda db: db.execute("SELECT record FROM provider_batches").fetchall()
        )
        return {_decode_provider(record).id for (record,) in rows}

    async def note(self, record: ProviderBatch) -> None:
        """It has come so far; on the disk when this returns."""
        statement = "UPDATE provider_batches SET record = ? WHERE batch = ? AND number = ?"
        row = (_encode(record), record.batch, record.number)
        await self._database.write(lambda db: db.execute(statement, row))

    # ---- the files of a batch ----

    def input_of(self, batch: Batch) -> Path:
        """Its input: another name of the tenant's file, so that deleting that one does no harm."""
        return self.lines / f"{batch.id}.input"

    def results_of(self, batch: Batch) -> Path:
        """What its lines were answered with 2xx, as far as it has come."""
        return self.lines / f"{batch.id}.output"

    def errors_of(self, batch: Batch) -> Path:
        """What became of its other lines."""
        return self.lines / f"{batch.id}.errors"

    def sent_of(self, batch_id: str, number: int) -> Path:
        """The requests that a provider gets together, as it gets them."""
        return self.lines / f"{batch_id}.{number}.sent"

    def come_of(self, batch_id: str, number: int) -> Path:
        """What it made of them, as it said it."""
        return self.lines / f"{batch_id}.{number}.come"

    def lock(self, batch: Batch) -> int | None:
        """Become the one who runs it: a descriptor, to be closed when that is over; None: somebody else does.

        Whoever gets it reads the record again: the batch may have ended a moment before.
        """
        descriptor = os.open(self._lock_of(batch), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def remove_files(self, batch: Batch) -> None:
        for path in (
            *self.lines.glob(f"{batch.id}.*.sent"),
            *self.lines.glob(f"{batch.id}.*.come"),
            self.results_of(batch),
            self.errors_of(batch),
            self.input_of(batch),
            self._lock_of(batch),
        ):
            path.unlink(missing_ok=True)

    def _lock_of(self, batch: Batch) -> Path:
        return self.lines / f"{batch.id}.lock"


def _find(db: sqlite3.Connection, batch_id: str) -> Batch | None:
    row = db.execute("SELECT record FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return _decode(row[0]) if row else None


def _named(db: sqlite3.Connection, naming: Naming, now: float) -> Batch | None:
    """:raises KeyReused: the key belongs to a batch that was asked for in other words"""
    name = naming.name if naming.may_repeat else naming.overtaken
    row = db.execute("SELECT batch, fingerprint FROM names WHERE name = ?", (name,)).fetchone()
    found = _find(db, row[0]) if row else None
    if found is None:
        return None
    if naming.is_key:
        if row[1] != naming.fingerprint:
            raise KeyReused("this Idempotency-Key belongs to a batch that was created with another body")
        return found
    if naming.is_retry:
        return found if now - found.created < RECENT else None
    return found if found.created > now else None  # of a retry that came later, and was quicker
