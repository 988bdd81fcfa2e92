"""A SQLite file of ours: what is written is written, and what is not ours stays as it is."""

import asyncio
import contextlib
import errno
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from held import cancelled
from penstock import database as module
from penstock.database import MEMORY, Database
from penstock.errors import ConfigError, StorageFull, StorageUnavailable

SCHEMA = ("CREATE TABLE t (n INTEGER)",)


def a_database(path, **more):
    return Database(path, **{"application_id": 7, "schema": SCHEMA, **more})


async def numbers(database):
    return [n for (n,) in await database.read(lambda db: db.execute("SELECT n FROM t ORDER BY n").fetchall())]


def test_what_was_written_is_there_for_others_and_after_a_restart(tmp_path):
    async def main():
        one, two = a_database(tmp_path / "d"), a_database(tmp_path / "d")
        await one.open()
        assert (tmp_path / "d").stat().st_mode & 0o077 == 0
        await one.write(lambda db: db.execute("INSERT INTO t VALUES (1)"))
        assert await numbers(two) == [1]
        await asyncio.gather(
            *(
                each.write(lambda db, n=n: db.execute("INSERT INTO t VALUES (?)", (n,)))
                for n in (2, 3)
                for each in (one, two)
            )
        )
        await one.close()
        await two.close()
        again = a_database(tmp_path / "d")
        assert await numbers(again) == [1, 2, 2, 3, 3]
        await again.close()

    asyncio.run(main())


def test_to_close_it_once_more_does_nothing(tmp_path):
    async def main():
        database = a_database(tmp_path / "d")
        await database.open()
        await database.close()
        await database.close()

    asyncio.run(main())


def test_what_is_kept_in_memory_makes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        database = a_database(MEMORY)
        await database.write(lambda db: db.execute("INSERT INTO t VALUES (1)"))
        assert await numbers(database) == [1]
        await database.close()

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_two_may_begin_with_a_file_at_once(tmp_path, monkeypatch):
    """SQLite refuses at once, without waiting, whoever finds another in the middle of making the file."""
    other = sqlite3.connect(tmp_path / "d", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (n INTEGER)")
    other.execute("PRAGMA application_id = 7")
    other.execute("PRAGMA user_version = 1")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO t VALUES (1)")
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr(time, "sleep", sleep)

    async def main():
        database = a_database(tmp_path / "d")
        assert await numbers(database) == [1]
        await database.close()

    asyncio.run(main())
    assert len(waits) == 3
    other.close()
    # https://www.sqlite.org/fileformat.html, "file format version numbers": by way of a log.
    assert (tmp_path / "d").read_bytes()[18:20] == b"\x02\x02"


def test_who_begins_with_a_file_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUSY_TIMEOUT", 0.05)
    other = sqlite3.connect(tmp_path / "d", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def main():
        database = a_database(tmp_path / "d")
        with pytest.raises(ConfigError, match="locked"):
            await database.open()
        await database.close()

    asyncio.run(main())
    other.close()


def test_what_makes_room_gets_the_reserve_of_a_full_disk(tmp_path):
    reserve = tmp_path / "d-reserve"

    def insert(db):
        db.execute("INSERT INTO t VALUES (1)")
        if reserve.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error

    async def main():
        database = a_database(tmp_path / "d")
        await database.open()
        with pytest.raises(StorageFull):
            await database.write(insert)
        assert await numbers(database) == []
        await database.write(insert, frees=True)
        assert await numbers(database) == [1]
        assert reserve.exists()  # again: there is room
        await database.close()

    asyncio.run(main())


def test_a_start_on_a_full_disk_uses_the_reserve_and_without_one_says_where_room_is_wanted(
    tmp_path, monkeypatch
):
    reserve = tmp_path / "d-reserve"

    def log_ahead(*_, **__):
        if reserve.exists() or not is_large:
            raise OSError(errno.ENOSPC, "No space left on device")

    async def main():
        database = a_database(tmp_path / "d")
        await database.open()
        await database.close()

    monkeypatch.setattr(module, "log_ahead", log_ahead)
    is_large = True
    asyncio.run(main())
    reserve.write_bytes(b"")
    asyncio.run(main())
    is_large = False
    with pytest.raises(
        ConfigError, match=f"there is no room left on the disk of {tmp_path}: delete something"
    ):
        asyncio.run(main())


def test_a_write_that_fails_changes_nothing(tmp_path):
    def half(db):
        db.execute("INSERT INTO t VALUES (1)")
        raise LookupError

    async def main():
        database = a_database(tmp_path / "d")
        with pytest.raises(LookupError):
            await database.write(half)
        assert await numbers(database) == []
        with pytest.raises(StorageUnavailable):
            await database.write(lambda db: db.execute("INSERT INTO nothing VALUES (1)"))
        await database.write(lambda db: db.execute("INSERT INTO t VALUES (2)"))
        assert await numbers(database) == [2]
        await database.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda path: path.write_bytes(b"not a database at all" * 100), "not a database"),
        (
            lambda path: sqlite3.connect(path).execute("CREATE TABLE mine (x)").connection.close(),
            "somebody else",
        ),
        (lambda path: path.mkdir(), "unable to open"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_alone(prepare, why, tmp_path):
    path = tmp_path / "d"
    prepare(path)
    before = path.read_bytes() if path.is_file() else None

    async def main():
        database = a_database(path)
        with pytest.raises(ConfigError) as refused:
            await database.open()
        assert why in refused.value.message
        await database.close()

    asyncio.run(main())
    assert (path.read_bytes() if path.is_file() else None) == before


# The present schema has a second column, which came with the second version, and a view, with the third.
STEPS = (
    ("ALTER TABLE t ADD COLUMN twice INTEGER NOT NULL DEFAULT 0", "UPDATE t SET twice = 2 * n"),
    ("CREATE VIEW v AS SELECT n, twice FROM t",),
)
NEW = {"schema": ("CREATE TABLE t (n INTEGER, twice INTEGER NOT NULL DEFAULT 0)", *STEPS[1]), "steps": STEPS}
OLDER = [{}, {"schema": (*SCHEMA, *STEPS[0]), "steps": STEPS[:1]}]


async def fill(path, **layout):
    database = a_database(path, **layout)
    await database.write(lambda db: db.executemany("INSERT INTO t (n) VALUES (?)", [(1,), (2,)]))
    await database.close()


async def pairs(database):
    return await database.read(lambda db: db.execute("SELECT n, twice FROM v ORDER BY n").fetchall())


@pytest.mark.parametrize("layout", OLDER)
def test_a_file_of_an_earlier_version_takes_the_steps_that_it_has_not_taken(layout, tmp_path):
    async def main():
        await fill(tmp_path / "d", **layout)
        if layout:
            with contextlib.closing(sqlite3.connect(tmp_path / "d")) as other, other:
                other.execute("UPDATE t SET twice = 2 * n")
        for _ in range(2):
            database = a_database(tmp_path / "d", **NEW)
            assert await pairs(database) == [(1, 2), (2, 4)]
            await database.close()

    asyncio.run(main())


def test_of_many_who_begin_at_once_with_a_file_of_an_earlier_version_one_takes_the_steps(tmp_path):
    async def main():
        await fill(tmp_path / "d")
        databases = [a_database(tmp_path / "d", **NEW) for _ in range(8)]
        assert await asyncio.gather(*map(pairs, databases)) == [[(1, 2), (2, 4)]] * 8
        for database in databases:
            await database.close()

    asyncio.run(main())


def test_who_finds_a_file_of_an_earlier_version_waits_longer_for_whoever_rewrites_it(tmp_path, monkeypatch):
    patience = []
    begin = module.transaction

    def noted(connection):
        patience.append(connection.execute("PRAGMA busy_timeout").fetchone()[0] / 1_000)
        return begin(connection)

    async def main():
        await fill(tmp_path / "d")
        monkeypatch.setattr(module, "transaction", noted)
        await fill(tmp_path / "d", **NEW)
        await fill(tmp_path / "d", **NEW)

    asyncio.run(main())
    assert patience == [module.STEPS_TIMEOUT, *[module.BUSY_TIMEOUT] * 3]


def test_who_is_killed_between_two_statements_has_changed_nothing(tmp_path):
    asyncio.run(fill(tmp_path / "d"))
    killed = f"""
import os, sqlite3, sys
from pathlib import Path
from penstock.sqlite_files import Mark, transaction
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.create_function("die", 0, lambda: os.kill(os.getpid(), 9))
with transaction(db):
    Mark(7, 3).adopt(db, (), ({STEPS[0]!r}, ("CREATE TABLE half (n)", "SELECT die()")))
"""
    ended = subprocess.run([sys.executable, "-c", killed, tmp_path / "d"], check=False)
    assert ended.returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(tmp_path / "d")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT name, sql FROM sqlite_master").fetchall() == [("t", SCHEMA[0])]

    async def main():
        database = a_database(tmp_path / "d", **NEW)
        assert await pairs(database) == [(1, 2), (2, 4)]
        await database.close()

    asyncio.run(main())


def test_a_step_that_fails_changes_nothing(tmp_path):
    async def main():
        await fill(tmp_path / "d")
        before = (tmp_path / "d").read_bytes()
        broken = a_database(tmp_path / "d", steps=(*STEPS[:1], ("DROP TABLE missing",)))
        with pytest.raises(ConfigError, match="no such table"):
            await broken.open()
        await broken.close()
        assert (tmp_path / "d").read_bytes() == before

    asyncio.run(main())


def test_a_newer_version_is_refused_by_name_and_left_alone(tmp_path):
    async def main():
        await fill(tmp_path / "d", **NEW)
        before = (tmp_path / "d").read_bytes()
        old = a_database(tmp_path / "d")
        with pytest.raises(ConfigError, match="it has version 3, this program writes 1: a newer Penstock"):
            await old.open()
        await old.close()
        assert (tmp_path / "d").read_bytes() == before

    asyncio.run(main())


def test_who_has_a_file_open_that_becomes_one_of_a_newer_version_reads_and_writes_it_no_more(tmp_path):
    async def main():
        await fill(tmp_path / "d")
        old, new = a_database(tmp_path / "d"), a_database(tmp_path / "d", **NEW)
        assert await numbers(old) == [1, 2]
        assert await pairs(new) == [(1, 2), (2, 4)]
        with pytest.raises(StorageUnavailable):
            await old.write(lambda db: db.execute("INSERT INTO t (n) VALUES (3)"))
        with pytest.raises(StorageUnavailable):
            await numbers(old)
        await old.close()
        assert await pairs(new) == [(1, 2), (2, 4)]
        await new.close()

    asyncio.run(main())


def test_a_write_that_is_cancelled_is_waited_for_and_what_comes_next_finds_it_done(tmp_path):
    reached, go_on = threading.Event(), threading.Event()

    def slow(db):
        reached.set()
        assert go_on.wait(60)
        db.execute("INSERT INTO t VALUES (1)")

    async def main():
        database = a_database(tmp_path / "d")
        task = asyncio.create_task(database.write(slow))
        await cancelled(task, reached, go_on)
        assert await numbers(database) == [1]
        await database.close()

    asyncio.run(main())
