"""An index in one SQLite database, shared by all workers of a machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.database import Database
from penstock.errors import Conflict, KeyReused
from penstock.sqlite_files import Kind
from penstock.upload.asked import Concat
from penstock.upload.index import (
    MAX_SEGMENTS,
    Addition,
    Limits,
    Sealed,
    Upload,
    charge,
    checked_size,
    gone,
    joined,
    no_part,
    quota,
    superseded,
    too_many,
    too_many_segments,
    unknown,
)
from penstock.upload.offsets import Phase

_SCHEMA = (
    """
CREATE TABLE uploads (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  dialect TEXT NOT NULL,
  target BLOB NOT NULL,
  created REAL NOT NULL,
  expires REAL NOT NULL,
  max_size INTEGER NOT NULL,
  length INTEGER,
  "offset" INTEGER NOT NULL,
  phase INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  name TEXT,
  fingerprint TEXT NOT NULL,
  concat TEXT NOT NULL,
  parts TEXT NOT NULL,
  parent TEXT NOT NULL,
  answer BLOB
)""",
    "CREATE UNIQUE INDEX uploads_by_name ON uploads (owner, name) WHERE name IS NOT NULL",
    "CREATE INDEX uploads_expire ON uploads (expires)",
    "CREATE INDEX uploads_of_owner ON uploads (owner, phase)",
    "CREATE INDEX uploads_of_parent ON uploads (parent) WHERE parent <> ''",
    """
CREATE TABLE segments (
  upload TEXT NOT NULL,
  position INTEGER NOT NULL,
  digest BLOB NOT NULL,
  size INTEGER NOT NULL,
  owner TEXT NOT NULL,
  PRIMARY KEY (upload, position)
) WITHOUT ROWID""",
    "CREATE INDEX segments_of_block ON segments (owner, digest)",
    """
CREATE TABLE blocks (
  owner TEXT NOT NULL,
  digest BLOB NOT NULL,
  size INTEGER NOT NULL,
  charged INTEGER NOT NULL,
  file TEXT NOT NULL,
  used REAL NOT NULL,
  PRIMARY KEY (owner, digest)
) WITHOUT ROWID""",
    "CREATE INDEX blocks_by_use ON blocks (used)",
    "CREATE INDEX blocks_by_file ON blocks (file)",
)
_COLUMNS = (
    'id, owner, dialect, target, created, expires, max_size, length, "offset", phase, epoch, name, fingerprint,'
    " concat, parts, parent, answer"
)
_UNUSED = "NOT EXISTS (SELECT 1 FROM segments s WHERE s.owner = b.owner AND s.digest = b.digest)"


class SQLiteIndex:
    """An :class:`~penstock.upload.index.Index` in a file."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._limits = limits
        self._database = Database(path, application_id=Kind.UPLOADS, schema=_SCHEMA)

    def __repr__(self) -> str:
        return f"<SQLiteIndex {self._database.path}>"

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    # ---- one upload ----

    async def create(self, upload: Upload) -> tuple[Upload, bool]:
        return await self._database.write(lambda db: self._create(db, upload))

    def _create(self, db: sqlite3.Connection, upload: Upload) -> tuple[Upload, bool]:
        found = self._named(db, upload)
        if found is not None:
            return found, False
        if upload.phase is Phase.OPEN:
            (count,) = db.execute(
                "SELECT count(*) FROM uploads WHERE owner = ? AND phase = ?", (upload.owner, Phase.OPEN)
            ).fetchone()
            if count >= self._limits.max_open:
                raise too_many(count)
        self._insert(db, upload)
        return upload, True

    def _named(self, db: sqlite3.Connection, upload: Upload) -> Upload | None:
        """The upload of the same name, if there is one; the name of one that has ended is free."""
        if upload.name is None:
            return None
        row = db.execute(
            f"SELECT {_COLUMNS} FROM uploads WHERE owner = ? AND name = ?",  # noqa: S608 - only names
            (upload.owner, upload.name),
        ).fetchone()
        if row is None:
            return None
        found = _upload(row)
        if found.phase is Phase.GONE or found.expires <= self._limits.now():
            db.execute("UPDATE uploads SET name = NULL WHERE id = ?", (found.id,))
            return None
        if found.fingerprint != upload.fingerprint:
            raise KeyReused("this Idempotency-Key belongs to another upload")
        return found

    def _insert(self, db: sqlite3.Connection, upload: Upload) -> None:
        db.execute(
            f"INSERT INTO uploads ({_COLUMNS}) VALUES ({', '.join('?' * len(upload.__struct_fields__))})",  # noqa: S608 - only names
            msgspec.structs.astuple(upload),
        )

    async def get(self, owner: str, upload_id: str) -> Upload:
        return await self._database.read(lambda db: self._get(db, owner, upload_id))

    def _get(self, db: sqlite3.Connection, owner: str, upload_id: str) -> Upload:
        row = db.execute(
            f"SELECT {_COLUMNS} FROM uploads WHERE id = ? AND owner = ?",  # noqa: S608 - only names
            (upload_id, owner),
        ).fetchone()
        if row is None:
            raise unknown(upload_id)
        upload = _upload(row)
        if upload.phase is Phase.GONE or upload.expires <= self._limits.now():
            raise gone()
        return upload

    async def end_epoch(self, owner: str, upload_id: str) -> Upload:
        def end(db: sqlite3.Connection) -> Upload:
            upload = self._get(db, owner, upload_id)
            if upload.phase is Phase.OPEN:
                db.execute("UPDATE uploads SET epoch = epoch + 1 WHERE id = ?", (upload_id,))
            return upload

        # On a full disk as well: it tells the caller where to go on when there is room again.
        return await self._database.write(end, frees=True)

    async def enter(self, addition: Addition, sealed: Sequence[Sealed]) -> list[str]:
        return await self._database.write(lambda db: self._enter(db, addition, sealed))

    def _enter(self, db: sqlite3.Connection, addition: Addition, sealed: Sequence[Sealed]) -> list[str]:
        now = self._limits.now()
        after = addition.offset + sum(block.size for block in sealed)
        length = after if addition.complete else addition.length
        statement = 'UPDATE uploads SET "offset" = ?, length = ?, phase = ?, epoch = epoch + 1'
        values: list[object] = [after, length, Phase.COMPLETE if addition.complete else Phase.OPEN]
        if addition.complete:
            statement += ", expires = min(expires, ?)"
            values.append(now + self._limits.completed_kept_for)
        statement += ' WHERE id = ? AND epoch = ? AND "offset" = ? AND phase = ? AND expires > ?'
        values += [addition.upload, addition.epoch, addition.offset, Phase.OPEN, now]
        if not db.execute(statement, values).rowcount:
            raise superseded()
        going = self._add(db, addition.owner, sealed, now)
        position = addition.offset
        for block in sealed:
            db.execute(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?)",
                (addition.upload, position, block.digest, block.size, addition.owner),
            )
            position += block.size
        (count,) = db.execute("SELECT count(*) FROM segments WHERE upload = ?", (addition.upload,)).fetchone()
        if count > MAX_SEGMENTS:
            raise too_many_segments()
        return going

    async def add(self, owner: str, sealed: Sealed) -> list[str]:
        return await self._database.write(lambda db: self._add(db, owner, [sealed], self._limits.now()))

    def _add(self, db: sqlite3.Connection, owner: str, sealed: Sequence[Sealed], now: float) -> list[str]:
        """Enter blocks; returns the files that nobody needs any more.

        :raises Forbidden: the owner would keep more than it may
        """
        going = []
        for block in sealed:
            new = db.execute(
                "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?, ?)",
                (owner, block.digest, block.size, charge(block.size), block.file, now),
            ).rowcount
            if not new:  # sent before
                going.append(block.file)
                db.execute(
                    "UPDATE blocks SET used = ? WHERE owner = ? AND digest = ?", (now, owner, block.digest)
                )
        if len(going) < len(sealed):
            going += self._make_room(db, owner, {block.digest for block in sealed})
        return going

    def _make_room(self, db: sqlite3.Connection, owner: str, wanted: set[bytes]) -> list[str]:
        """Let old blocks go that no upload has, if the owner has too many; returns their files.

        :raises Forbidden: there are not enough of those
        """
        (used,) = db.execute("SELECT total(charged) FROM blocks WHERE owner = ?", (owner,)).fetchone()
        over = int(used) - self._limits.tenant_bytes
        if over <= 0:
            return []
        old = db.execute(
            f"SELECT digest, charged, file FROM blocks b WHERE owner = ? AND {_UNUSED} ORDER BY used",  # noqa: S608 - only names
            (owner,),
        ).fetchall()
        going = []
        for digest, charged, file in old:
            if over <= 0:
                break
            if digest not in wanted:
                db.execute("DELETE FROM blocks WHERE owner = ? AND digest = ?", (owner, digest))
                going.append(file)
                over -= charged
        if over > 0:
            raise quota(self._limits)
        return going

    async def find(self, owner: str, digests: Sequence[bytes]) -> dict[bytes, tuple[str, int]]:
        def find(db: sqlite3.Connection) -> dict[bytes, tuple[str, int]]:
            found: dict[bytes, tuple[str, int]] = {}
            now = self._limits.now()
            for digest in digests:
                row = db.execute(
                    "UPDATE blocks SET used = ? WHERE owner = ? AND digest = ? RETURNING file, size",
                    (now, owner, digest),
                ).fetchone()
                if row is not None:
                    found[digest] = row
            return found

        return await self._database.write(find)

    async def held(self, owner: str) -> int:
        def held(db: sqlite3.Connection) -> int:
            (used,) = db.execute(
                "SELECT total(size) FROM (SELECT DISTINCT digest, size FROM segments WHERE owner = ?)",
                (owner,),
            ).fetchone()
            return int(used)

        return await self._database.read(held)

    async def complete(self, upload: Upload) -> bool:
        def note(db: sqlite3.Connection) -> bool:
            until = self._limits.now() + self._limits.completed_kept_for
            return bool(
                db.execute(
                    'UPDATE uploads SET phase = ?, length = "offset", epoch = epoch + 1, expires = min(expires, ?)'
                    " WHERE id = ? AND epoch = ? AND phase = ?",
                    (Phase.COMPLETE, until, upload.id, upload.epoch, Phase.OPEN),
                ).rowcount
            )

        return await self._database.write(note)

    async def remember(self, upload_id: str, answer: bytes) -> None:
        await self._database.write(
            lambda db: db.execute("UPDATE uploads SET answer = ? WHERE id = ?", (answer, upload_id))
        )

    async def give_up(self, owner: str, upload_id: str) -> None:
        def end(db: sqlite3.Connection) -> None:
            self._get(db, owner, upload_id)
            parts = db.execute("SELECT id FROM uploads WHERE parent = ?", (upload_id,)).fetchall()
            for name in (upload_id, *(part for (part,) in parts)):
                self._forget(db, name)

        await self._database.write(end, frees=True)

    def _forget(self, db: sqlite3.Connection, upload_id: str) -> None:
        """Only the name of the upload stays, for a while."""
        now = self._limits.now()
        db.execute(
            "UPDATE blocks SET used = ? WHERE (owner, digest) IN (SELECT owner, digest FROM segments WHERE upload = ?)",
            (now, upload_id),
        )
        db.execute("DELETE FROM segments WHERE upload = ?", (upload_id,))
        db.execute(
            "UPDATE uploads SET phase = ?, epoch = epoch + 1, answer = NULL, name = NULL, parent = '', expires = ?"
            " WHERE id = ?",
            (Phase.GONE, now + self._limits.kept_for, upload_id),
        )

    async def concatenate(self, upload: Upload, part_ids: Sequence[str], parent: str) -> Upload:
        def join(db: sqlite3.Connection) -> Upload:
            if parent:
                if self._get(db, upload.owner, upload.id).phase is not Phase.OPEN:
                    raise Conflict("this upload has ended", code="upload_ended")
            elif (found := self._named(db, upload)) is not None:
                return found
            position = 0
            rows: list[tuple[str, int, bytes, int, str]] = []
            for part_id in part_ids:
                part = self._get(db, upload.owner, part_id)
                if (
                    part.phase is not Phase.COMPLETE
                    or part.parent != parent
                    or part.concat is not Concat.PARTIAL
                ):
                    raise no_part(part_id)
                for digest, size in db.execute(
                    "SELECT digest, size FROM segments WHERE upload = ? ORDER BY position", (part_id,)
                ):
                    rows.append((upload.id, position, digest, size, upload.owner))
                    position += size
            checked_size(upload, position, len(rows))
            whole = joined(upload, part_ids, position, self._limits)
            if parent:
                db.execute("DELETE FROM uploads WHERE id = ?", (upload.id,))
            self._insert(db, whole)
            db.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", rows)
            return whole

        return await self._database.write(join)

    async def files(self, upload_id: str) -> list[str]:
        statement = (
            "SELECT b.file FROM segments s JOIN blocks b ON b.owner = s.owner AND b.digest = s.digest"
            " WHERE s.upload = ? ORDER BY s.position"
        )
        rows = await self._database.read(lambda db: db.execute(statement, (upload_id,)).fetchall())
        return [name for (name,) in rows]

    # ---- what is to go ----

    async def expire(self) -> list[str]:
        def forget(db: sqlite3.Connection) -> list[str]:
            now = self._limits.now()
            rows = db.execute(
                "SELECT id, phase FROM uploads WHERE expires <= ? LIMIT 1000", (now,)
            ).fetchall()
            for upload_id, phase in rows:
                if phase == Phase.GONE:
                    db.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
                else:
                    self._forget(db, upload_id)
            old = db.execute(
                f"SELECT owner, digest, file FROM blocks b WHERE used <= ? AND {_UNUSED} LIMIT 10000",  # noqa: S608 - only names
                (now - self._limits.blocks_kept_for,),
            ).fetchall()
            db.executemany(
                "DELETE FROM blocks WHERE owner = ? AND digest = ?", [(owner, name) for owner, name, _ in old]
            )
            return [file for _, _, file in old]

        return await self._database.write(forget, frees=True)

    async def unknown(self, files: Sequence[str]) -> list[str]:
        return await self._database.read(
            lambda db: [
                name
                for name in files
                if db.execute("SELECT 1 FROM blocks WHERE file = ?", (name,)).fetchone() is None
            ]
        )


def _upload(row: tuple[object, ...]) -> Upload:
    return msgspec.convert(dict(zip(Upload.__struct_fields__, row, strict=True)), Upload)
