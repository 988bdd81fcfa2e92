"""What a SQLite store writes in one transaction."""

import asyncio
import contextlib
import sqlite3

import pytest
from store_suite import LARGE, LATER, append, begin, record

from penstock.generation.store import StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore

MANY = 40


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
