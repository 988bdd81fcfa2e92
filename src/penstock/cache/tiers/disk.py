"""The tier on the machine's disk: one SQLite file that all workers share.

Two threads do the work: one reads, so that an answer never waits behind a transaction, one writes behind
in batches.  Why SQLite and not the faster LMDB: ``benchmarks/cache/disk.py``, and the decision page; in
short, a damaged SQLite file raises an error, and a damaged LMDB file ends the process.

The file is bounded by ``max_page_count``.  Before it is full, the oldest entries go: what is asked for often
is answered from memory, so that the disk could not tell it from the rest anyhow.

Only what is recognisably a cache of ours is ever deleted: a damaged one is given up and begun anew, any
other file at its path is left alone, and this tier stays silent.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from penstock.cache import entry_table
from penstock.cache.entry_table import PAGE_BYTES
from penstock.cache.tiers.tier import Learn, Then, TierStatistics, forget
from penstock.sqlite_files import Foreign, Kind, Mark, create_private, log_ahead, transaction

MARK = Mark(Kind.CACHE, 1)

_BATCH = 64  # operations of one transaction, and look-ups that are delivered together
_MAX_WAITING_BYTES = 16 << 20
_BUSY_TIMEOUT = 1.0  # seconds that the writer waits for another worker's transaction
_WAL_BYTES = 8 << 20
_FULL = 0.95  # of the room: then the oldest go, until it is
_ROOMY = 0.9
_EVICTED_AT_ONCE = 0.02  # of the entries
_CLEANED_EVERY = 10.0  # seconds between two looks for what has expired
_LONGEST_CLOSE = 2.0  # seconds

_SCHEMA = (
    *entry_table.SCHEMA,
    "CREATE TABLE purges (tag TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID",
)
_PURGE = "INSERT INTO purges VALUES (?, ?) ON CONFLICT (tag) DO UPDATE SET at = max(at, excluded.at)"

_Answer: TypeAlias = "bytes | dict[str, float] | OSError | None"
_Wanted: TypeAlias = "tuple[bytes | None, Callable[[Any], None]]"
_Operation: TypeAlias = "tuple[str, tuple[object, ...], int]"  # SQL, its parameters, and the bytes that wait


class DiskTier:
    """Entries in a SQLite file; see the module's text.

    :param path: the file; it is made, its directory is not
    :param max_bytes: of the file, its journal of at most 8 MiB aside
    :param now: seconds since 1970
    """

    name = "disk"
    by_use = False

    def __init__(self, path: str | Path, max_bytes: int, now: Callable[[], float] = time.time) -> None:
        self.path = Path(path).absolute()
        self._pages = entry_table.pages(max_bytes)
        self._batch_bytes = self._pages * PAGE_BYTES // 8
        self._now = now
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[_Operation | asyncio.Future[None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.answered = 0
        self._waiting = 0  # bytes
        self._lock = threading.Lock()  # around what both threads count
        self._statistics = {"entries": -1, "held": -1, "evicted": 0, "written": 0, "dropped": 0, "errors": 0}
        self._trouble = ""
        self._begun_anew = 0  # how often another file stood at the path, or none

    def __repr__(self) -> str:
        return f"<DiskTier {self.path}, {self._trouble or 'well'}>"

    # ---- the event loop's side ----

    def start(self, learn: Learn = forget) -> None:
        self._loop = asyncio.get_running_loop()
        self._wanted.put((None, partial(_teach, learn)))
        self._threads = [
            threading.Thread(target=run, name=f"penstock-cache-{name}", daemon=True)
            for name, run in (("read", self._read), ("write", self._write))
        ]
        for thread in self._threads:
            thread.start()

    def get(self, key: bytes, then: Then) -> None:
        self._wanted.put((key, then))

    def purges(self) -> asyncio.Future[dict[str, float]]:
        assert self._loop is not None, "start() comes first"
        found: asyncio.Future[dict[str, float]] = self._loop.create_future()
        self._wanted.put((None, partial(_give, found)))
        return found

    def put(self, key: bytes, sealed: bytes, kept_until: float) -> None:
        self._tell(entry_table.PUT, (key, kept_until, sealed), len(sealed) + 100)

    def remove(self, key: bytes) -> None:
        self._tell("DELETE FROM entries WHERE key = ?", (key,), 100)

    def used(self, keys: Sequence[bytes]) -> None:
        """Does not matter here: the oldest go, used or not."""

    def purged(self, tag: str, at: float) -> None:
        self._tell(_PURGE, (tag, at), 100)

    def covered(self, tag: str, at: float) -> None:
        self._tell(_PURGE, (tag, at), 100)
        self._tell("DELETE FROM purges WHERE at <= ? AND tag != ?", (at, tag), 100)

    def _tell(self, sql: str, parameters: tuple[object, ...], size: int) -> None:
        with self._lock:
            if self._waiting + size > _MAX_WAITING_BYTES:
                self._statistics["dropped"] += 1
                return
            self._waiting += size
        self._told.put((sql, parameters, size))

    async def flush(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self._told.put(done)
        await done

    async def close(self) -> None:
        self._wanted.put(None)
        self._told.put(None)
        loop = asyncio.get_running_loop()
        for thread in self._threads:
            await loop.run_in_executor(None, thread.join, _LONGEST_CLOSE)

    def reset(self) -> None:
        """The threads open the file anew by themselves once it has failed."""

    def statistics(self) -> TierStatistics:
        with self._lock:
            return TierStatistics(**self._statistics, trouble=self._trouble)

    def _deliver(self, answers: list[tuple[_Wanted, _Answer]]) -> None:
        self.answered += len(answers)
        for (_, then), answer in answers:
            then(answer)

    # ---- the reader's thread ----

    def _read(self) -> None:
        file = _File(self.path, self._pages, "read")
        begun_anew = 0
        while (wanted := self._wanted.get()) is not None:
            if begun_anew != self._begun_anew:
                begun_anew = self._begun_anew
                file.close()
            answers = [(wanted, self._answer(file, wanted[0]))]
            while len(answers) < _BATCH and not self._wanted.empty():
                wanted = self._wanted.get()
                if wanted is None:
                    self._wanted.put(None)
                    break
                answers.append((wanted, self._answer(file, wanted[0])))
            try:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._deliver, answers)
            except RuntimeError:  # the loop has been closed: nobody waits any more
                break
        file.close()

    def _answer(self, file: _File, key: bytes | None) -> _Answer:
        try:
            database = file.database()
            if key is None:
                return dict(database.execute("SELECT tag, at FROM purges").fetchall())
            row = database.execute("SELECT kept_until, sealed FROM entries WHERE key = ?", (key,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            file.failed(error)
            return OSError(str(error))
        if row is None or not isinstance(row[1], bytes) or row[0] <= self._now():
            return None
        return row[1]

    # ---- the writer's thread ----

    def _write(self) -> None:
        file = _File(self.path, self._pages, "write")
        cleaned = 0.0
        stopping = False
        while not stopping:
            batch: list[_Operation] = []
            flushed: list[asyncio.Future[None]] = []
            size = 0
            try:
                told = self._told.get(timeout=_CLEANED_EVERY)
                while True:
                    if told is None:
                        stopping = True
                        break
                    if isinstance(told, asyncio.Future):
                        flushed.append(told)
                    else:
                        batch.append(told)
                        size += told[2]
                    if len(batch) >= _BATCH or size > self._batch_bytes or self._told.empty():
                        break
                    told = self._told.get()
            except queue.Empty:
                pass
            self._commit(file, batch)
            now = time.monotonic()
            if now - cleaned > _CLEANED_EVERY:
                cleaned = now
                self._clean(file)
            for each in flushed:
                self._call(each)
        file.close()

    def _call(self, flushed: asyncio.Future[None]) -> None:
        def done() -> None:
            if not flushed.done():
                flushed.set_result(None)

        try:
            flushed.get_loop().call_soon_threadsafe(done)
        except RuntimeError:
            pass

    def _commit(self, file: _File, batch: list[_Operation]) -> None:
        if not batch:
            return
        wanted = sum(size for _, _, size in batch) // PAGE_BYTES * 5 // 4 + len(batch)
        if file.is_elsewhere():
            file.close()
            self._begun_anew += 1
        try:
            database = file.database()
            evicted = self._make_room(database, wanted)
            _execute(database, batch)
            held = _pages_used(database) * PAGE_BYTES
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            file.failed(error)
            with self._lock:
                self._statistics["dropped"] += len(batch)
        else:
            with self._lock:
                self._statistics["written"] += len(batch)
                self._statistics["evicted"] += evicted
                self._statistics["held"] = held
                self._trouble = ""
        finally:
            with self._lock:
                self._waiting -= sum(size for _, _, size in batch)

    def _make_room(self, database: sqlite3.Connection, wanted: int) -> int:
        """Let the oldest entries go where the file has no room for so many pages more.

        :returns: how many went
        """
        evicted = 0
        if _pages_used(database) + wanted < self._pages * _FULL:
            return evicted
        while _pages_used(database) + wanted >= self._pages * _ROOMY:
            gone = entry_table.evict_oldest(database, _EVICTED_AT_ONCE)
            if not gone:
                break
            evicted += gone
        return evicted

    def _clean(self, file: _File) -> None:
        """Forget what has expired."""
        try:
            database = file.database()
            while database.execute(
                "DELETE FROM entries WHERE row IN (SELECT row FROM entries WHERE kept_until <= ? LIMIT 500)",
                (self._now(),),
            ).rowcount:
                pass
            (entries,) = database.execute("SELECT count(*) FROM entries").fetchone()
            held = _pages_used(database) * PAGE_BYTES
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            file.failed(error)
        else:
            with self._lock:
                self._statistics["entries"] = entries
                self._statistics["held"] = held

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._statistics["errors"] += 1
            self._trouble = str(error)


def _teach(learn: Learn, answer: Any) -> None:
    if isinstance(answer, dict):
        learn(answer)


def _give(found: asyncio.Future[dict[str, float]], answer: Any) -> None:
    if found.done():
        return
    if isinstance(answer, OSError):
        found.set_exception(answer)
    else:
        found.set_result(answer)


def _execute(database: sqlite3.Connection, batch: list[_Operation]) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        for sql, parameters, _ in batch:
            database.execute(sql, parameters)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk ends it by itself
            database.execute("ROLLBACK")
        raise


def _pages_used(database: sqlite3.Connection) -> int:
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free)


class _File:
    """One thread's connection to the file, opened when it is needed and again after it failed."""

    def __init__(self, path: Path, pages: int, role: str) -> None:
        self._path = path
        self._pages = pages
        self._role = role
        self._database: sqlite3.Connection | None = None
        self._inode = 0

    def __repr__(self) -> str:
        return f"<_File {self._path} to {self._role}, {'open' if self._database else 'closed'}>"

    def database(self) -> sqlite3.Connection:
        """:raises OSError: it cannot be opened
        :raises sqlite3.Error: the same, or it is damaged
        """
        if self._database is None:
            self._database = self._open()
        return self._database

    def _open(self) -> sqlite3.Connection:
        create_private(self._path)
        self._inode = self._path.stat().st_ino
        database = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        try:
            MARK.check(database)  # before anything is written to it
            database.execute(f"PRAGMA max_page_count = {self._pages}")
            log_ahead(database, patience=_BUSY_TIMEOUT)
            # A power cut may lose what is newest, nothing else.
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            if not MARK.is_on(database):
                with transaction(database):
                    MARK.adopt(database, _SCHEMA)
        except Foreign as error:  # no damage, which would be mended
            database.close()
            raise OSError(str(error)) from error
        except BaseException:
            database.close()
            raise
        return database

    def is_elsewhere(self) -> bool:
        """Whether what is open is not at the path any more: who comes after us would not find it."""
        if self._database is None:
            return False
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True
        except OSError:
            return False  # nobody can tell

    def failed(self, error: Exception) -> None:
        """Open it again next time; a damaged one is given up."""
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in {
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_BUSY,
        }:
            return
        self.close()
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        if damaged and self._role == "write":
            self._give_up()

    def _give_up(self) -> None:
        try:
            if self._path.stat().st_ino != self._inode:
                return  # another worker has begun anew already
            MARK.remove(self._path)
        except OSError:
            pass

    def close(self) -> None:
        if self._database is not None:
            try:
                self._database.close()
            except sqlite3.Error:
                pass
            self._database = None
