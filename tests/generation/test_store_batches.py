"""What a SQLite store writes in one transaction."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from store_suite import LARGE, LATER, append, begin, end, record

from penstock.generation.store import Naming, Reason, StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore

MANY = 40  # generations of a batch: a lot of 32 rows, and one of 8
# Writes batches, and tells whether SQLite made a file meanwhile, where it makes those of a statement.
WRITING = """
import asyncio, os, sys, time
from pathlib import Path
from penstock.generation.store import Naming
from penstock.generation.stores.sqlite import SQLiteStore
from store_suite import append, begin, end, record

async def main(path):
    store = SQLiteStore(path, 1 << 28)
    await store.start()
    now = time.time()
    before = os.stat(os.environ["SQLITE_TMPDIR"]).st_mtime_ns
    for _ in range(5):
        begun = [record(body=os.urandom(2_000)) for _ in range(200)]
        names = [Naming("t", os.urandom(16).hex(), b"f", now, now + 300, 10.0) for _ in begun]
        half = list(zip(begun, names))
        writes = [begin(one, [os.urandom(2_000)], end(), name) for one, name in half[:100]]
        assert await store.write(writes + [begin(one, [b"first"], None, name) for one, name in half[100:]]) == {}
        assert await store.write([append(one, 1, os.urandom(2_000), end=end()) for one in begun[100:]]) == {}
    print(os.stat(os.environ["SQLITE_TMPDIR"]).st_mtime_ns == before)
    await store.close()

asyncio.run(main(Path(sys.argv[1])))
"""


def run(test):
    asyncio.run(test())


@contextlib.asynccontextmanager
async def opened(path):
    store = SQLiteStore(path, 1 << 28)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def chunk(number):
    said = f'{{"content":" word {number}"}},"logprobs":null,"finish_reason":null'
    return f'data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{{"delta":{said}}}]}}\n\n'.encode()


def named(name, generation, now):
    return Naming("t", name, generation.id.encode(), now, now + 300, 10.0)


def test_what_many_have_got_takes_a_fraction_of_its_size_and_is_read_by_all_who_read(tmp_path):
    async def test():
        path = tmp_path / "g.db"
        async with opened(path) as store, opened(path) as other:
            running = [record() for _ in range(MANY)]
            events = [chunk(number) for number in range(60)]
            await store.write([begin(one, events[:20]) for one in running])
            one = running[7]
            assert (await other.tail({one.id: 0}))[one.id].events == events[:20]
            await store.write([append(each, 20, *events[20:40]) for each in running])
            await store.write([append(each, 40, *events[40:]) for each in running])
            assert (await other.tail({one.id: 20}))[one.id].events == events[20:]
            assert await other.events(one.id, 30, LARGE) == events[30:]
            assert (await other.load(one.id)).events == 60
            assert (await other.take_over(one.id, "other", LATER)).events == 60
            assert await store.events(one.id, 0, LARGE) == events
            with contextlib.closing(sqlite3.connect(path)) as db:
                (size,) = db.execute("SELECT sum(length(content)) FROM batches").fetchone()
            assert size * 5 < MANY * sum(map(len, events))

    run(test)


@pytest.mark.parametrize("damage", ["substr(content, 1, length(content) / 2)", "x'28b52ffd00'", "x'c1'"])
def test_a_batch_that_is_damaged_is_told(tmp_path, damage):
    async def test():
        async with opened(tmp_path / "g.db") as store:
            one = record()
            await store.write([begin(one, [chunk(number) for number in range(100)])])
            with contextlib.closing(sqlite3.connect(tmp_path / "g.db")) as db, db:
                db.execute(f"UPDATE batches SET content = {damage}")
            with pytest.raises(StoreUnavailable, match="damaged"):
                await store.events(one.id, 0, LARGE)

    run(test)


def test_of_many_that_begin_those_that_are_there_are_refused_and_all_others_written(tmp_path):
    async def test():
        async with opened(tmp_path / "g.db") as store:
            begun = [record() for _ in range(MANY)]
            there = {begun[3].id, begun[35].id}
            await store.write([begin(one, [b"before"]) for one in begun if one.id in there])
            refused = await store.write([begin(one, [b"all"], end()) for one in begun])
            assert set(refused) == there
            assert {refusal.reason for refusal in refused.values()} == {Reason.EXISTS}
            assert {refusal.events for refusal in refused.values()} == {1}
            for one in begun:
                said = b"before" if one.id in there else b"all"
                assert await store.events(one.id, 0, LARGE) == [said]

    run(test)


def test_of_many_that_take_a_name_those_get_none_whose_name_somebody_has(tmp_path):
    async def test():
        async with opened(tmp_path / "g.db") as store:
            now = time.time()
            begun = [record() for _ in range(MANY)]
            holder, past = record(), record()
            await store.write([begin(holder, [b"x"], None, named("name 5", holder, now))])
            outlived = Naming("t", "name 6", b"f", now - 400, now - 100, 10.0)
            await store.write([begin(past, [b"x"], end(now - 50), outlived)])
            names = [f"name {number}" for number in range(MANY)]
            names[MANY - 1] = "name 9"  # that another one of the same batch takes before
            await store.write(
                [
                    begin(one, [b"x"], None, named(name, one, now))
                    for one, name in zip(begun, names, strict=True)
                ]
            )
            expected = {name: one.id for one, name in reversed(list(zip(begun, names, strict=True)))}
            expected["name 5"] = holder.id
            for name, whose in expected.items():
                claim = await store.take(named(name, record(), now), record().id)
                assert (name, claim.generation) == (name, whose)

    run(test)


def test_a_batch_makes_no_file_for_each_of_its_statements(tmp_path):
    of_statements = tmp_path / "of-statements"
    of_statements.mkdir()
    environ = {**os.environ, "SQLITE_TMPDIR": str(of_statements), "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", WRITING, tmp_path / "g.db"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout == "True\n", told.stderr
