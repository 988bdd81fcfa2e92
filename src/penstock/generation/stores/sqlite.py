"""A store in a SQLite file that the worker processes of a machine share.

What a transaction wrote is with the operating system when it is over, so a killed process loses nothing.
The disk has it some seconds later, or at once with ``fsync``; after a power cut the file is sound, and the
last moments may be missing.

Three threads of each process work on the file, each with a connection of its own: one changes it, one reads it, one
brings what was written to its place.  None waits for another, and the event loop waits for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from penstock.generation.store import (
    Bill,
    Booking,
    Claim,
    End,
    Naming,
    Record,
    Refusal,
    StoreStatistics,
    StoreUnavailable,
    Tail,
    Write,
)
from penstock.generation.stores._sqlite_file import (
    LOG_BYTES,
    SQLiteFile,
    is_corrupt,
    set_aside,
)
from penstock.generation.stores._sqlite_reader import SQLiteReader
from penstock.generation.stores._sqlite_writer import SQLiteWriter
from penstock.messages import Event
from penstock.reserve import lacks_room

BUSY_TIMEOUT = 1.0  # seconds that other processes' transactions may take
CLOSE_TIMEOUT = 5.0  # seconds until a thread that hangs in the disk is left behind

_CHECKPOINT_EVERY = 256  # batches of which the write-ahead log is brought to its place together
_COPY_NOW = 2 * LOG_BYTES  # from which size of the log on who copies it has the core as others have
_LOW = 15  # priority; a thirtieth of a busy core, about what copying takes where that writes all it can
_LOOK_EVERY = 0.05  # seconds between two looks whether the file was moved or removed
_REMOVED_AT_ONCE = 50  # generations in one transaction: others wait for it
_FORGOTTEN_AT_ONCE = 500  # claims, the same
_LOOKED_AT_ONCE = 10_000  # generations: who wants to read meanwhile waits for that, a millisecond or two


class SQLiteStore:
    """A :class:`~penstock.generation.store.Store` in a file.

    :param path: the file; it is made, its directory is not
    :param max_bytes: all generations together; more than that is there only between two :meth:`expire`, and
        the file never takes more than 1.25 times as much and 16 MiB
    :param fsync: a write is done when the disk has it
    """

    def __init__(
        self, path: str | Path, max_bytes: int, *, fsync: bool = False, busy_timeout: float = BUSY_TIMEOUT
    ) -> None:
        self.path = Path(path).absolute()
        self.max_bytes = max_bytes
        self._fsync = fsync
        self._busy_timeout = busy_timeout
        self._writer = _Side(
            "penstock-generations-write", self._open_file, SQLiteWriter, tell_of_new=True, on_moved=self._look
        )
        self._reader = _Side(
            "penstock-generations-read", self._open_file, SQLiteReader, tell_of_new=False, on_moved=self._look
        )
        self._copier = _Side(
            "penstock-generations-copy",
            *(self._open_file, SQLiteReader),
            tell_of_new=False,
            on_moved=self._look,
            in_background=True,
        )
        self._batches = 0
        self._dropped = 0
        self._checkpoint: asyncio.Task[None] | None = None
        self._log_bytes = 0  # after the last one

    def __repr__(self) -> str:
        return f"<SQLiteStore {self.path}>"

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def losses(self) -> int:
        return self._writer.anew

    def _open_file(self) -> SQLiteFile:
        return SQLiteFile(
            self.path, max_bytes=self.max_bytes, busy_timeout=self._busy_timeout, fsync=self._fsync
        )

    def _look(self) -> None:
        self._writer.look()
        self._reader.look()
        self._copier.look()

    async def start(self) -> None:
        await self._writer.do(lambda _: None)

    async def time(self) -> float:
        return time.time()  # of the one machine that has the file

    async def close(self) -> None:
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint], timeout=CLOSE_TIMEOUT)
        await self._copier.close()
        await self._reader.close()
        await self._writer.close()

    # ---- writing ----

    async def write(self, writes: Sequence[Write]) -> dict[str, Refusal]:
        try:
            refused = await self._writer.do(lambda writer: writer.write(writes))
        except _Full as error:
            if not await self._make_room():
                raise StoreUnavailable(str(error)) from error
            refused = await self._writer.do(lambda writer: writer.write(writes))
        self._batches += 1
        if self._batches % _CHECKPOINT_EVERY == 0 and self._checkpoint is None:
            self._checkpoint = asyncio.create_task(self._checkpointed())
        return refused

    async def _checkpointed(self) -> None:
        # Without the writer's own part, somebody who writes without a pause would never let the log begin anew.
        copier = self._copier if self._log_bytes <= _COPY_NOW else self._reader
        try:
            self._log_bytes = await copier.do(lambda reader: reader.checkpoint())
            if self._log_bytes > LOG_BYTES:
                await self._writer.do(lambda writer: writer.checkpoint())
        except StoreUnavailable:
            pass  # the next write tells
        finally:
            self._checkpoint = None

    async def _make_room(self) -> bool:
        """The file is as large as it may be: a tenth goes, if that much is finished."""
        return await self._drop(self.max_bytes * 9 // 10) > 0

    async def _drop(self, max_bytes: int) -> int:
        excess = (await self.statistics()).size - max_bytes
        ended = await self._reader.do(lambda reader: reader.too_much(excess))
        removed = await self._remove(ended, lambda writer, some: writer.remove_ended(some))
        self._dropped += removed
        return removed

    async def _remove(
        self, generation_ids: list[str], remove: Callable[[SQLiteWriter, list[str]], int]
    ) -> int:
        removed = 0
        for at in range(0, len(generation_ids), _REMOVED_AT_ONCE):
            some = generation_ids[at : at + _REMOVED_AT_ONCE]
            removed += await self._writer.do(lambda writer, some=some: remove(writer, some))  # type: ignore[misc]
        return removed

    # ---- reading ----

    async def load(self, generation_id: str) -> Record | None:
        return await self._reader.do(lambda reader: reader.load(generation_id))

    async def events(self, generation_id: str, start: int, limit: int) -> list[Event]:
        return await self._reader.do(lambda reader: reader.events(generation_id, start, limit))

    async def tail(self, wanted: Mapping[str, int]) -> dict[str, Tail]:
        return await self._reader.do(lambda reader: reader.tail(wanted))

    # ---- whose is it? ----

    async def claim(
        self,
        tenant: str,
        name: str,
        fingerprint: bytes,
        generation_id: str,
        *,
        now: float,
        until: float,
        instead_of: str = "",
    ) -> Claim:
        mine = Claim(generation_id, fingerprint, won=True)
        return await self._writer.do(
            lambda writer: writer.claim(tenant, name, mine, now=now, until=until, instead_of=instead_of)
        )

    async def take(self, naming: Naming, generation_id: str, instead_of: str = "") -> Claim:
        return await self._writer.do(lambda writer: writer.take(naming, generation_id, instead_of))

    async def renew(self, owner: str, until: float) -> None:
        await self._writer.do(lambda writer: writer.renew(owner, until))

    async def lease(self, owner: str) -> float:
        return await self._reader.do(lambda reader: reader.lease(owner))

    async def expired(self, now: float, limit: int) -> list[str]:
        return await self._reader.do(lambda reader: reader.expired(now, limit))

    async def take_over(self, generation_id: str, owner: str, now: float) -> Record | None:
        return await self._writer.do(lambda writer: writer.take_over(generation_id, owner, now))

    async def release(
        self, owner: str, generation_ids: Sequence[str], bills: Mapping[str, Bill] | None = None
    ) -> None:
        await self._writer.do(lambda writer: writer.release(owner, generation_ids, bills or {}))

    # ---- several ledgers ----

    async def book(self, ledger: str, booking: Booking) -> bool:
        return await self._writer.do(lambda writer: writer.book(ledger, booking))

    async def bookings(self, ledger: str) -> list[Booking]:
        return await self._reader.do(lambda reader: reader.bookings(ledger))

    async def forget_bookings(self, ledger: str, bookings: Sequence[Booking]) -> None:
        if bookings:
            await self._writer.do(lambda writer: writer.forget_bookings(ledger, bookings))

    # ---- letting go ----

    async def delete(self, generation_id: str) -> None:
        await self._writer.do(lambda writer: writer.delete(generation_id))

    async def cut(self, generation_id: str, end: End) -> bool:
        return await self._writer.do(lambda writer: writer.cut(generation_id, end))

    async def was_there(self, generation_id: str, tenant: str) -> bool:
        return await self._reader.do(lambda reader: reader.was_there(generation_id, tenant))

    async def expire(self, now: float) -> int:
        removed = 0
        while True:
            past = await self._reader.do(lambda reader: reader.past(now, _LOOKED_AT_ONCE))
            gone = await self._remove(past, lambda writer, some: writer.remove_past(some, now))
            removed += gone
            if not gone or len(past) < _LOOKED_AT_ONCE:
                break
        removed += await self._drop(self.max_bytes)
        while await self._writer.do(lambda writer: writer.forget_old(now, _FORGOTTEN_AT_ONCE)):
            pass
        return removed

    async def statistics(self) -> StoreStatistics:
        generations = running = size = 0
        after: int | None = 0
        while after is not None:
            found, after = await self._reader.do(
                lambda reader, after=after: reader.statistics(after, _LOOKED_AT_ONCE)  # type: ignore[misc]
            )
            generations += found.generations
            running += found.running
            size += found.size
        return StoreStatistics(generations, running, size, self._dropped)


# ---- threads ---------------------------------------------------------------------------------------------


class _Full(StoreUnavailable):
    """There is no room in the file, or on the disk."""


class _HasFile(Protocol):
    file: SQLiteFile


Side = TypeVar("Side", bound=_HasFile)
Result = TypeVar("Result")


class _Side(Generic[Side]):
    """A thread with a connection to the file, which it opens when it needs it, and anew when it was moved.

    :param tell_of_new: what was in a file that was moved is missing in the new one, so say so once
    :param on_moved: called in the thread when it has set a corrupt file aside
    :param in_background: nobody waits for it: others get the core first
    """

    def __init__(
        self,
        name: str,
        open_file: Callable[[], SQLiteFile],
        make: Callable[[SQLiteFile], Side],
        *,
        tell_of_new: bool,
        on_moved: Callable[[], None],
        in_background: bool = False,
    ) -> None:
        self._name = name
        self._in_background = in_background
        self._open_file = open_file
        self._make = make
        self._tell_of_new = tell_of_new
        self._on_moved = on_moved
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.anew = 0  # how often there was another file in the place of the one that was open
        # The thread's own.
        self._side: Side | None = None
        self._moved = False  # the file that was open is not there any more
        self._look_at = 0.0
        self._ended = False

    async def do(self, job: Callable[[Side], Result]) -> Result:
        """Let the thread do it.

        :raises StoreUnavailable: it cannot be done now
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._jobs.put(lambda: self._do(job, done, loop))
        return await done

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._jobs.put(self._end)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._thread.join, CLOSE_TIMEOUT)

    def look(self) -> None:
        """The file may have been moved: look before it is used once more.  May be called in any thread."""
        self._look_at = 0.0

    # ---- in the thread ----

    def _run(self) -> None:
        # Elsewhere than on Linux it would be the process that steps back.
        if self._in_background and sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW)
        while not self._ended:
            self._jobs.get()()

    def _end(self) -> None:
        self._ended = True
        self._shut()

    def _do(
        self, job: Callable[[Side], Result], done: asyncio.Future[Result], loop: asyncio.AbstractEventLoop
    ) -> None:
        try:
            result = job(self._opened())
        except (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
            self._tell(loop, _fail, done, error)  # what was asked for is wrong, not the file
        except sqlite3.Error as error:
            self._tell(loop, _fail, done, self._translated(error))
        except OSError as error:
            self._shut()
            self._tell(loop, _fail, done, StoreUnavailable(str(error)))
        except Exception as error:  # noqa: BLE001 - the thread lives on, whoever asked gets it
            self._tell(loop, _fail, done, error)
        else:
            self._tell(loop, _succeed, done, result)

    def _tell(self, loop: asyncio.AbstractEventLoop, how: Callable[..., None], *arguments: object) -> None:
        try:
            loop.call_soon_threadsafe(how, *arguments)
        except RuntimeError:  # the loop was closed meanwhile
            pass

    def _opened(self) -> Side:
        side = self._side
        if side is not None:
            now = time.monotonic()
            if now < self._look_at:
                return side
            self._look_at = now + _LOOK_EVERY
            if side.file.is_current():
                return side
            self._moved = True
            self._on_moved()
            self._shut()
        self._side = fresh = self._make(self._open_file())
        if fresh.file.replaced:
            self._on_moved()
        if self._moved or fresh.file.replaced:
            self._moved = False
            self.anew += 1
        if side is not None and self._tell_of_new:
            raise StoreUnavailable(f"{fresh.file.path} was moved or removed; a new one is begun")
        return fresh

    def _translated(self, error: sqlite3.Error) -> StoreUnavailable:
        side = self._side
        assert side is not None, "opening raises StoreUnavailable"
        path = side.file.path
        if lacks_room(error, path):
            return _Full(f"{path} has no room: {error}")
        if is_corrupt(error):
            self._moved = True
            self._shut()
            try:
                set_aside(path, side.file.identity)
            except StoreUnavailable as also:
                return also
            self._on_moved()
        return StoreUnavailable(f"{path} cannot be used: {error}")

    def _shut(self) -> None:
        if self._side is not None:
            self._side.file.close()
            self._side = None


def _succeed(done: asyncio.Future[Result], result: Result) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Result], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
