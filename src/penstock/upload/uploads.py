"""Uploads under way, and the blocks that they consist of: rows in one database, contents in plain files.

Theory of operation
-------------------
A **block** is a content of at most :data:`MAX_BLOCK` bytes that some owner has sent, named by its SHA-256.  Its
file has a random name, is written once, synced, and only then entered; whatever the database knows is whole, and
a file that it does not know is nobody's, and goes after a while.  An **upload** is a list of blocks, by their
positions; several uploads may have the same block.

Who appends reads the upload's ``epoch`` first and enters what has come in one transaction, which asks that the
epoch still is that one.  So of two who append at once, in whichever processes, one is told that it was superseded,
and has changed nothing: there is no lock to wait for, and none to be left behind by a process that was killed.
Asking for the offset ends the epoch as well: what was told is then true.

Disk work runs in threads, the database's in its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from penstock.database import Database
from penstock.errors import (
    BadRequest,
    BlocksLacking,
    BodyTooLarge,
    Conflict,
    Forbidden,
    Gone,
    KeyReused,
    NotFound,
    PenstockError,
    RateLimited,
)
from penstock.uninterrupted import uninterrupted
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.files import LEAST_CHARGE, ORPHANED, BlockReader, storage_error, sync_directory
from penstock.upload.offsets import Offsets, Phase
from penstock.upload.writer import Sealed, Writer

MAX_BLOCK = 8_388_608  # bytes
MAX_SEGMENTS = 65_536  # blocks of one upload; with the smallest ones that are sensible, 1 GiB
READ = 262_144  # bytes of a block that are read at a time
EXPIRE_EVERY = 60.0  # seconds
QUIET = 0.5  # seconds without a byte after which what has come of an append is confirmed

_APPLICATION_ID = 0x50455550  # "PEUP"
_VERSION = 1
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

_T = TypeVar("_T")

log = logging.getLogger("penstock.uploads")


class Upload(msgspec.Struct, frozen=True):
    """What is known of an upload; times in Unix seconds."""

    id: str
    owner: str
    dialect: UploadDialect
    target: bytes  # what its maker wants done with it; the store does not look into it
    created: float
    expires: float
    max_size: int
    length: int | None
    offset: int
    phase: Phase
    epoch: int
    name: str | None  # by which its creation, sent once more, finds it
    fingerprint: str  # what must be the same then
    concat: Concat
    parts: str  # ids of the uploads that a final one was put together from, with spaces between them
    parent: str  # the upload that this is a part of; empty: none
    answer: bytes | None = None  # what its completion was answered with, where that cannot be done twice

    def offsets(self) -> Offsets:
        return Offsets(max_size=self.max_size, offset=self.offset, length=self.length, phase=self.phase)


def new_upload_id() -> str:
    """``upload_`` and 128 random bits, the form that OpenAI's have."""
    return "upload_" + secrets.token_hex(16)


class UploadStore:
    """The uploads and blocks of all owners, in one directory.

    Every method raises :class:`~penstock.errors.StorageUnavailable` where the disk does not answer, and
    :class:`~penstock.errors.StorageFull` where it has no room.

    :param directory: shared by all workers; made if it is missing
    :param tenant_bytes: what the blocks of one owner may take
    :param max_open: uploads of one owner that have not ended
    :param completed_kept_for: seconds for which a complete upload can be asked for its answer
    :param blocks_kept_for: seconds since its last use for which a block is kept that no upload has
    """

    def __init__(
        self,
        directory: Path,
        *,
        tenant_bytes: int,
        max_open: int,
        kept_for: float,
        completed_kept_for: float,
        blocks_kept_for: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.kept_for = kept_for
        self.now = now
        self._tenant_bytes = tenant_bytes
        self._max_open = max_open
        self._completed_kept_for = completed_kept_for
        self._blocks_kept_for = blocks_kept_for
        self._files = directory / "blocks"
        self._database = Database(
            directory / "uploads.sqlite", application_id=_APPLICATION_ID, version=_VERSION, schema=_SCHEMA
        )
        self._threads = ThreadPoolExecutor(4, "penstock-uploads")
        self._writers: dict[str, Writer] = {}  # by upload
        self._settling: set[asyncio.Task[None]] = set()
        self._expires_next = 0.0

    def __repr__(self) -> str:
        return f"<UploadStore {self.directory}, {len(self._writers)} appends>"

    async def start(self) -> None:
        """:raises penstock.errors.ConfigError: the directory cannot be used"""
        with contextlib.suppress(OSError):  # the database will say what is wrong
            for directory in (self.directory, self._files):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._database.open()

    async def close(self) -> None:
        if self._settling:
            await asyncio.wait(self._settling)
        await self._database.close()
        self._threads.shutdown(wait=False)

    # ---- one upload ----

    async def create(self, upload: Upload) -> tuple[Upload, bool]:
        """Enter a new upload, or find the one of the same name; whether it is new.

        :raises KeyReused: the name belongs to an upload with another fingerprint
        :raises RateLimited: the owner has as many as it may
        """
        return await self._database.write(lambda db: self._create(db, upload))

    def _create(self, db: sqlite3.Connection, upload: Upload) -> tuple[Upload, bool]:
        found = self._named(db, upload)
        if found is not None:
            return found, False
        if upload.phase is Phase.OPEN:
            (count,) = db.execute(
                "SELECT count(*) FROM uploads WHERE owner = ? AND phase = ?", (upload.owner, Phase.OPEN)
            ).fetchone()
            if count >= self._max_open:
                raise RateLimited(
                    f"{count} of your uploads have not ended; end some, or give them up",
                    code="too_many_uploads",
                )
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
        if found.phase is Phase.GONE or found.expires <= self.now():
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
        """:raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        return await self._database.read(lambda db: self._get(db, owner, upload_id))

    def _get(self, db: sqlite3.Connection, owner: str, upload_id: str) -> Upload:
        row = db.execute(
            f"SELECT {_COLUMNS} FROM uploads WHERE id = ? AND owner = ?",  # noqa: S608 - only names
            (upload_id, owner),
        ).fetchone()
        if row is None:
            raise unknown(upload_id)
        upload = _upload(row)
        if upload.phase is Phase.GONE or upload.expires <= self.now():
            raise Gone("this upload was given up, or its time is over")
        return upload

    async def settle(self, owner: str, upload_id: str) -> Upload:
        """The upload with nobody appending to it: whoever did has kept what had come, and cannot go on.

        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        await self._interrupt(owner, upload_id)

        def end_epoch(db: sqlite3.Connection) -> Upload:
            upload = self._get(db, owner, upload_id)
            if upload.phase is Phase.OPEN:
                db.execute("UPDATE uploads SET epoch = epoch + 1 WHERE id = ?", (upload_id,))
            return upload

        return await self._database.write(end_epoch)

    async def _interrupt(self, owner: str, upload_id: str) -> None:
        """End the append that this process has under way."""
        while (writer := self._writers.get(upload_id)) is not None and writer.owner == owner:
            writer.supersede()
            await writer.wait_ended()

    async def append(self, owner: str, upload_id: str, cut: Callable[[], None]) -> tuple[Upload, Writer]:
        """Begin to append; whoever was appending is ended.  The writer must be closed.

        :param cut: ends this append's request, if a later one comes
        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        while True:
            await self._interrupt(owner, upload_id)
            upload = await self.get(owner, upload_id)
            if upload_id not in self._writers:
                break
        writer = Writer(self, upload.id, owner, upload.offsets(), upload.epoch, cut)
        self._writers[upload.id] = writer
        return upload, writer

    def release(self, writer: Writer) -> None:
        """An append has ended."""
        if self._writers.get(writer.upload) is writer:
            del self._writers[writer.upload]

    async def enter(self, writer: Writer, sealed: Sequence[Sealed], *, complete: bool) -> None:
        """Make an append's blocks a part of its upload; nothing has changed if this raises.

        :raises Conflict: a later request for the upload came
        :raises Forbidden: the owner would keep more than it may
        :raises BodyTooLarge: the upload consists of too many pieces
        """
        going = await self._database.write(lambda db: self._enter(db, writer, sealed, complete=complete))
        await self._unlink(going)

    def _enter(
        self, db: sqlite3.Connection, writer: Writer, sealed: Sequence[Sealed], *, complete: bool
    ) -> list[str]:
        offsets = writer.offsets
        now = self.now()
        after = offsets.offset + sum(block.size for block in sealed)
        length = after if complete else offsets.length
        statement = 'UPDATE uploads SET "offset" = ?, length = ?, phase = ?, epoch = epoch + 1'
        values: list[object] = [after, length, Phase.COMPLETE if complete else Phase.OPEN]
        if complete:
            statement += ", expires = min(expires, ?)"
            values.append(now + self._completed_kept_for)
        statement += ' WHERE id = ? AND epoch = ? AND "offset" = ? AND phase = ? AND expires > ?'
        values += [writer.upload, writer.epoch, offsets.offset, Phase.OPEN, now]
        if not db.execute(statement, values).rowcount:
            raise Conflict("a later request for this upload came", code="superseded")
        going = self._add(db, writer.owner, sealed, now)
        position = offsets.offset
        for block in sealed:
            db.execute(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?)",
                (writer.upload, position, block.digest, block.size, writer.owner),
            )
            position += block.size
        (count,) = db.execute("SELECT count(*) FROM segments WHERE upload = ?", (writer.upload,)).fetchone()
        if count > MAX_SEGMENTS:
            raise BodyTooLarge(f"an upload may consist of {MAX_SEGMENTS} chunks; send larger ones")
        return going

    def _add(self, db: sqlite3.Connection, owner: str, sealed: Sequence[Sealed], now: float) -> list[str]:
        """Enter blocks; returns the files that nobody needs any more.

        :raises Forbidden: the owner would keep more than it may
        """
        going = []
        for block in sealed:
            new = db.execute(
                "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?, ?)",
                (owner, block.digest, block.size, max(block.size, LEAST_CHARGE), block.file, now),
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
        over = int(used) - self._tenant_bytes
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
            raise self.quota()
        return going

    async def check_room(self, owner: str, size: int) -> None:
        """Before so many bytes are read.

        :raises Forbidden: they could never be kept
        """

        def held(db: sqlite3.Connection) -> int:
            (used,) = db.execute(
                "SELECT total(size) FROM (SELECT DISTINCT digest, size FROM segments WHERE owner = ?)",
                (owner,),
            ).fetchone()
            return int(used)

        if size > self._tenant_bytes or size + await self._database.read(held) > self._tenant_bytes:
            raise self.quota()

    async def complete(self, upload: Upload) -> None:
        """Note that an open upload is complete as it is.

        :raises Conflict: a later request for the upload came
        """

        def note(db: sqlite3.Connection) -> bool:
            now = self.now()
            return bool(
                db.execute(
                    'UPDATE uploads SET phase = ?, length = "offset", epoch = epoch + 1, expires = min(expires, ?)'
                    " WHERE id = ? AND epoch = ? AND phase = ?",
                    (Phase.COMPLETE, now + self._completed_kept_for, upload.id, upload.epoch, Phase.OPEN),
                ).rowcount
            )

        if not await self._database.write(note):
            raise Conflict("a later request for this upload came", code="superseded")

    async def remember(self, upload_id: str, answer: bytes) -> None:
        """Keep what the completion of an upload was answered with."""
        await self._database.write(
            lambda db: db.execute("UPDATE uploads SET answer = ? WHERE id = ?", (answer, upload_id))
        )

    async def give_up(self, owner: str, upload_id: str) -> None:
        """End an upload, and all its parts.

        :raises NotFound: this owner has no such upload
        :raises Gone: it had
        """
        await self._interrupt(owner, upload_id)

        def end(db: sqlite3.Connection) -> None:
            self._get(db, owner, upload_id)
            parts = db.execute("SELECT id FROM uploads WHERE parent = ?", (upload_id,)).fetchall()
            for name in (upload_id, *(part for (part,) in parts)):
                self._forget(db, name)

        await self._database.write(end)

    def _forget(self, db: sqlite3.Connection, upload_id: str) -> None:
        """Only the name of the upload stays, for a while."""
        now = self.now()
        db.execute(
            "UPDATE blocks SET used = ? WHERE (owner, digest) IN (SELECT owner, digest FROM segments WHERE upload = ?)",
            (now, upload_id),
        )
        db.execute("DELETE FROM segments WHERE upload = ?", (upload_id,))
        db.execute(
            "UPDATE uploads SET phase = ?, epoch = epoch + 1, answer = NULL, name = NULL, parent = '', expires = ?"
            " WHERE id = ?",
            (Phase.GONE, now + self.kept_for, upload_id),
        )

    async def concatenate(self, upload: Upload, part_ids: Sequence[str], *, parent: str = "") -> Upload:
        """Enter an upload that consists of others, in this order; their bytes are not copied.

        :param upload: open and empty; entered already if it has parts by ``parent``, else found by its name if there
            is one of it
        :raises NotFound: this owner has no such part
        :raises Conflict: a part is not complete
        :raises BodyTooLarge: together they are too long
        """

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
                    raise Conflict(f"{part_id[:100]} is no part that is complete", code="incomplete_part")
                for digest, size in db.execute(
                    "SELECT digest, size FROM segments WHERE upload = ? ORDER BY position", (part_id,)
                ):
                    rows.append((upload.id, position, digest, size, upload.owner))
                    position += size
            if position > upload.max_size or len(rows) > MAX_SEGMENTS:
                raise BodyTooLarge(f"an upload may hold {upload.max_size} bytes here")
            if upload.length is not None and position != upload.length:
                raise Conflict(
                    f"the parts hold {position} bytes together, and {upload.length} were announced",
                    code="inconsistent_length",
                )
            whole = msgspec.structs.replace(
                upload,
                offset=position,
                length=position,
                phase=Phase.COMPLETE,
                expires=min(upload.expires, self.now() + self._completed_kept_for),
                parts=" ".join(part_ids),
            )
            if parent:
                db.execute("DELETE FROM uploads WHERE id = ?", (upload.id,))
            self._insert(db, whole)
            db.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", rows)
            return whole

        return await self._database.write(join)

    # ---- contents ----

    async def pieces(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """The content of an upload, by :data:`READ` bytes."""
        for path in await self._paths(upload_id):
            source = BlockReader(path, READ)
            try:
                while piece := await self.run(source.read):
                    yield piece
            finally:
                source.close()

    async def whole(self, upload_id: str) -> bytes:
        """The content of an upload that is short enough to be a request's body."""
        paths = await self._paths(upload_id)
        return await self.run(lambda: b"".join([path.read_bytes() for path in paths]))

    async def _paths(self, upload_id: str) -> list[Path]:
        statement = (
            "SELECT b.file FROM segments s JOIN blocks b ON b.owner = s.owner AND b.digest = s.digest"
            " WHERE s.upload = ? ORDER BY s.position"
        )
        rows = await self._database.read(lambda db: db.execute(statement, (upload_id,)).fetchall())
        return [self._files / name for (name,) in rows]

    # ---- blocks ----

    async def put_block(self, owner: str, sealed: Sealed) -> bool:
        """Enter a block that is part of no upload yet; whether it is new.  If this raises, its file is gone.

        :raises Forbidden: the owner would keep more than it may
        """
        return await uninterrupted(self._put_block(owner, sealed))

    async def _put_block(self, owner: str, sealed: Sealed) -> bool:
        try:
            going = await self._database.write(lambda db: self._add(db, owner, [sealed], self.now()))
        except PenstockError:
            await self._unlink([sealed.file])
            raise
        await self._unlink(going)
        return sealed.file not in going

    async def blocks(self, owner: str, wanted: Sequence[tuple[bytes, int]]) -> bytes:
        """The contents of these blocks, one after the other; each digest with the size that it should have.

        Those that are here count as used now, also if others are lacking: they will be asked for again.

        :raises BlocksLacking: some are not here
        :raises BadRequest: one has another size
        """

        def find(db: sqlite3.Connection) -> dict[bytes, tuple[str, int]]:
            found: dict[bytes, tuple[str, int]] = {}
            now = self.now()
            for digest in dict.fromkeys(digest for digest, _ in wanted):
                row = db.execute(
                    "UPDATE blocks SET used = ? WHERE owner = ? AND digest = ? RETURNING file, size",
                    (now, owner, digest),
                ).fetchone()
                if row is not None:
                    found[digest] = row
            return found

        found = await self._database.write(find)
        lacking = dict.fromkeys(digest.hex() for digest, _ in wanted if digest not in found)
        if lacking:
            raise BlocksLacking(list(lacking))
        for digest, size in wanted:
            if found[digest][1] != size:
                message = f"block {digest.hex()} has {found[digest][1]} bytes, not {size}"
                raise BadRequest(message, param="blocks")
        paths = [self._files / found[digest][0] for digest, _ in wanted]
        return await self.run(lambda: b"".join([path.read_bytes() for path in paths]))

    def new_file(self) -> Path:
        """Where a block that comes now is written."""
        return self._files / secrets.token_hex(16)

    # ---- what is to go ----

    def sweep(self, now: float) -> None:
        """Confirm what has come of appends that are silent: they may never go on."""
        for writer in list(self._writers.values()):
            if writer.is_quiet(now, QUIET):
                self._begin(writer.settle())
        if now >= self._expires_next:
            self._expires_next = now + EXPIRE_EVERY
            self._begin(self._expire_quietly())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _expire_quietly(self) -> None:
        try:
            await self.expire()
        except PenstockError:  # logged where it was met; the next time comes
            pass

    async def expire(self) -> int:
        """Remove what is past its time, and what no database knows; returns how many files there were."""

        def forget(db: sqlite3.Connection) -> list[str]:
            now = self.now()
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
                (now - self._blocks_kept_for,),
            ).fetchall()
            db.executemany(
                "DELETE FROM blocks WHERE owner = ? AND digest = ?", [(owner, name) for owner, name, _ in old]
            )
            return [file for _, _, file in old]

        going = await self._database.write(forget)
        candidates = await self.run(self._old)
        going += await self._database.read(
            lambda db: [
                name
                for name in candidates
                if db.execute("SELECT 1 FROM blocks WHERE file = ?", (name,)).fetchone() is None
            ]
        )
        await self._unlink(going)
        return len(set(going))

    def _old(self) -> list[str]:
        """The names of all files that nobody has written to for a while."""
        before = time.time() - ORPHANED  # by the file system's clock, whatever ours says
        old = []
        with os.scandir(self._files) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    if entry.stat().st_mtime < before:
                        old.append(entry.name)
        return old

    async def _unlink(self, names: Sequence[str]) -> None:
        def unlink() -> None:
            for name in names:
                (self._files / name).unlink(missing_ok=True)

        if names:
            await self.run(unlink)

    # ---- the disk ----

    async def run(self, work: Callable[[], _T]) -> _T:
        """Work on the disk, in a thread of the store's; waited for to its end, also by who is cancelled meanwhile.

        :raises StorageFull: there is no room
        :raises StorageUnavailable: anything else that a disk may say
        """
        try:
            return await uninterrupted(asyncio.get_running_loop().run_in_executor(self._threads, work))
        except OSError as error:
            log.warning("%s: %s", self.directory, error)
            raise storage_error(error) from error

    def path_of(self, sealed: Sealed) -> Path:
        return self._files / sealed.file

    def sync_names(self) -> None:
        """Make the names of new blocks survive a power cut."""
        sync_directory(self._files)

    def quota(self) -> Forbidden:
        return Forbidden(
            f"your uploads may take {self._tenant_bytes} bytes together; give some up",
            code="storage_quota_exceeded",
        )


def _upload(row: tuple[object, ...]) -> Upload:
    return msgspec.convert(dict(zip(Upload.__struct_fields__, row, strict=True)), Upload)


def unknown(upload_id: str) -> NotFound:
    return NotFound(f"you have no upload {upload_id[:100]!r}", param="upload_id", code="upload_not_found")
