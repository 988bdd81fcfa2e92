"""What a SQLite store lets go it finds by indices and in slices, however much it holds."""

import asyncio
import contextlib
import functools
import sqlite3

import pytest
from store_suite import LATER, NOW, begin, end, record

from penstock.generation.stores import sqlite as module
from penstock.generation.stores._sqlite_reader import PAST, STATISTICS
from penstock.generation.stores._sqlite_writer import OLD_CLAIMS
from penstock.generation.stores.sqlite import SQLiteStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "generations"


def in_a_loop(test):
    @functools.wraps(test)
    def run(**given):
        asyncio.run(test(**given))

    return run


async def filled(store, many=7):
    """Every other one is past its time."""
    await store.start()
    await store.renew("alive", LATER)
    records = [record(owner="alive") for _ in range(many)]
    await store.write(
        [begin(one, [b"x"], end(NOW + 1 if place % 2 else LATER)) for place, one in enumerate(records)]
    )
    for place in range(many):
        until = NOW + 1 if place % 2 else LATER
        await store.claim("t", f"name {place}", b"", f"gen_{place}", now=NOW, until=until)


def plan(path, statement, values):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        return [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


@pytest.mark.parametrize(
    ("statement", "values", "by"),
    [
        (PAST, (NOW, NOW, NOW, 10), ["generations_ended (expires_at<?)", "generations_running"]),
        (OLD_CLAIMS, (NOW, 10), ["PRIMARY KEY", "claims_past (expires_at<?)"]),
        (STATISTICS, (0, 10), ["INTEGER PRIMARY KEY (rowid>?)"]),
        (
            "SELECT id, size FROM generations WHERE state != 'running' ORDER BY number",
            (),
            ["SCAN generations"],
        ),
    ],
    ids=["past", "claims", "statistics", "too much"],
)
@in_a_loop
async def test_nothing_is_looked_through(path, statement, values, by):
    store = SQLiteStore(path, 1 << 26)
    await filled(store)
    steps = [step for step in plan(path, statement, values) if "generations" in step or "claims" in step]
    await store.close()
    for index in by:
        assert any(index in step for step in steps)
    if statement is not STATISTICS and by != ["SCAN generations"]:
        assert not [step for step in steps if step.startswith("SCAN") and "generations_running" not in step]
    assert not any("TEMP B-TREE" in step for step in plan(path, statement, values))


@in_a_loop
async def test_what_is_past_its_time_goes_in_slices(path, monkeypatch):
    monkeypatch.setattr(module, "_LOOKED_AT_ONCE", 2)
    monkeypatch.setattr(module, "_FORGOTTEN_AT_ONCE", 2)
    store = SQLiteStore(path, 1 << 26)
    await filled(store, 11)
    found = await store.statistics()
    assert (found.generations, found.running, found.size > 0) == (11, 0, True)
    assert await store.expire(NOW + 2) == 5
    assert (await store.statistics()).generations == 6
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("SELECT count(*) FROM claims WHERE generation != ''").fetchone() == (6,)
    await store.close()


@in_a_loop
async def test_a_file_of_an_earlier_release_gets_its_indices(path):
    store = SQLiteStore(path, 1 << 26)
    await filled(store)
    await store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP INDEX generations_ended")
        db.execute("DROP INDEX claims_past")
    store = SQLiteStore(path, 1 << 26)
    await store.start()
    assert await store.expire(NOW + 2) == 3
    await store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert {"generations_ended", "claims_past"} <= names
