"""A SQLite store's write-ahead log is brought to its place beside who writes, and begins anew when it is large."""

import asyncio
import errno
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import asynccontextmanager

import pytest
from store_suite import LARGE, append, begin, record

from penstock.generation.store import StoreUnavailable
from penstock.generation.stores import _sqlite_file, _sqlite_reader, sqlite
from penstock.generation.stores.sqlite import SQLiteStore

SIZE = 20_000  # bytes of an event that cannot be compressed: some pages


@asynccontextmanager
async def opened(path):
    """A store, and a generation that runs in it."""
    store = SQLiteStore(path, 1 << 28)
    await store.start()
    one = record()
    await store.write([begin(one)])
    try:
        yield store, one
    finally:
        await store.close()


def event(number):
    return b"%d " % number + os.urandom(SIZE)


async def grow(store, one, start, count):
    for at in range(start, start + count):
        await store.write([append(one, at, event(at))])


def log_of(path):
    return path.with_name(path.name + "-wal").stat()


def visit(path):
    """Another process reads the database, and thinks that it was the last one if nobody else has a lock on it."""
    code = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT * FROM fence').fetchall(); d.close()"
    subprocess.run([sys.executable, "-c", code, path], check=True)


@pytest.fixture
def synced(monkeypatch):
    """The files that the disk was waited for, by their inodes."""
    found = []
    sync = os.fsync

    def fsync(descriptor):
        found.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(_sqlite_file.os, "fsync", fsync)
    return found


def test_the_disk_has_what_was_copied_before_the_writer_has_to_wait_for_it(tmp_path, synced):
    path = tmp_path / "g.db"

    async def test():
        async with opened(path) as (store, one):
            await grow(store, one, 0, 20)
            before = path.stat().st_size
            await store._copier.do(lambda reader: reader.checkpoint())
            assert path.stat().st_size > before + 20 * SIZE
            assert synced == [path.stat().st_ino]

    asyncio.run(test())


def test_the_log_begins_anew_when_it_is_large_though_who_copies_it_is_always_overtaken(tmp_path, monkeypatch):
    for module in (_sqlite_file, _sqlite_reader, sqlite):
        monkeypatch.setattr(module, "LOG_BYTES", 1 << 20)
    path = tmp_path / "g.db"
    checkpoint = _sqlite_reader.SQLiteReader.checkpoint

    def overtaken(copier):
        reader, writer = (sqlite3.connect(path, isolation_level=None) for _ in range(2))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM fence").fetchall()
        writer.execute("INSERT OR REPLACE INTO leases VALUES ('another', 1)")
        size = checkpoint(copier)  # not what came after the reader began
        reader.close()
        writer.close()
        return size

    monkeypatch.setattr(_sqlite_reader.SQLiteReader, "checkpoint", overtaken)

    async def test():
        async with opened(path) as (store, one):
            for at in range(0, 600, 4):  # 12 MB, and twice that in the log
                await grow(store, one, at, 4)
                await store._checkpointed()
            assert log_of(path).st_size < 4 << 20
            events = await store.events(one.id, 0, LARGE)
            assert [int(one.split(b" ", 1)[0]) for one in events] == list(range(600))

    asyncio.run(test())


def test_a_log_that_is_not_large_goes_on(tmp_path, monkeypatch):
    began = []
    monkeypatch.setattr(sqlite.SQLiteWriter, "checkpoint", lambda _: began.append(True))
    monkeypatch.setattr(sqlite, "_CHECKPOINT_EVERY", 8)

    async def test():
        async with opened(tmp_path / "g.db") as (store, one):
            await grow(store, one, 0, 40)

    asyncio.run(test())
    assert not began


def test_waiting_for_the_disk_gives_up_no_lock_of_the_process(tmp_path):
    path = tmp_path / "g.db"

    async def test():
        async with opened(path) as (store, one):
            await store._copier.do(lambda reader: reader.checkpoint())
            log = log_of(path).st_ino
            visit(path)  # would take it along, if it could
            assert log_of(path).st_ino == log
            assert await store.write([append(one, 0, b"0")]) == {}

    asyncio.run(test())
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_disk_that_fails_is_told_and_the_log_does_not_begin_anew(tmp_path, monkeypatch):
    began = []
    monkeypatch.setattr(sqlite.SQLiteWriter, "checkpoint", lambda _: began.append(True))
    monkeypatch.setattr(sqlite, "LOG_BYTES", 0)

    def fails(file):
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(_sqlite_file.SQLiteFile, "sync", fails)

    async def test():
        async with opened(tmp_path / "g.db") as (store, _):
            with pytest.raises(StoreUnavailable, match="the disk fails"):
                await store._copier.do(lambda reader: reader.checkpoint())
            await store._checkpointed()

    asyncio.run(test())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_only_who_copies_has_a_low_priority(tmp_path):
    def priority(_):
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def test():
        usual = priority(None)
        async with opened(tmp_path / "g.db") as (store, _):
            sides = [store._writer, store._reader, store._copier]
            assert [await side.do(priority) for side in sides] == [usual, usual, 15]
        assert priority(None) == usual

    asyncio.run(test())


def test_a_log_that_is_much_too_large_is_copied_with_the_usual_priority_until_it_is_not(
    tmp_path, monkeypatch
):
    copied = []
    checkpoint = _sqlite_reader.SQLiteReader.checkpoint

    def told(reader):
        copied.append(threading.current_thread().name.rsplit("-", 1)[1])
        return checkpoint(reader)

    monkeypatch.setattr(_sqlite_reader.SQLiteReader, "checkpoint", told)
    monkeypatch.setattr(sqlite, "_COPY_NOW", 1 << 20)

    async def test():
        async with opened(tmp_path / "g.db") as (store, one):
            await grow(store, one, 0, 10)
            await store._checkpointed()
            await grow(store, one, 10, 70)
            await store._checkpointed()  # only now it is seen how large the log is
            await store._checkpointed()
            monkeypatch.setattr(sqlite, "_COPY_NOW", 1 << 24)
            await store._checkpointed()
        assert copied == ["copy", "copy", "read", "copy"]

    asyncio.run(test())
