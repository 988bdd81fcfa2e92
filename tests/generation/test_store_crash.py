"""A process is killed while it writes: what its readers could have is there, in order, without a gap."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.generation.log import State
from penstock.generation.store import Reason, Write
from penstock.generation.stores.redis import RedisStore
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.testing import RedisServer

WRITER = Path(__file__).with_name("crashing_writer.py")
LARGE = 1 << 40


@pytest.fixture(params=["sqlite", "redis"])
def place(request, tmp_path):
    if request.param == "sqlite":
        yield "sqlite", str(tmp_path / "generations.db")
    elif RedisServer.available():
        with RedisServer() as server:
            yield "redis", server.url
    else:
        pytest.skip("there is no redis-server on this machine")


def opened(kind, place):
    return SQLiteStore(place, 1 << 30) if kind == "sqlite" else RedisStore(place, 1 << 30, budget=60)


def killed(kind, place, lines):
    """Let a process write until it has said so many lines, and kill it; returns what it said."""
    command = [sys.executable, WRITER, kind, place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = [process.stdout.readline() for _ in range(lines)]
        finally:
            process.kill()
        said += process.stdout  # communicate() would leave out what was read ahead
        assert "Traceback" not in process.stderr.read()
    return [line.split() for line in said if line.endswith("\n")]


@pytest.mark.parametrize("lines", [1, 37, 900, 4_001])
def test_nothing_that_readers_were_given_is_lost_by_kill_9_and_another_goes_on(place, lines):
    kind, where = place
    given, ended = {}, set()
    for generation_id, upto, end in killed(kind, where, lines):
        given[generation_id] = int(upto)
        if end == "1":
            ended.add(generation_id)

    async def main():
        store = opened(kind, where)
        await store.start()
        now = time.time() + 10  # the lease was for 3 s
        for generation_id, upto in given.items():
            stored = await store.events(generation_id, 0, LARGE)
            assert stored == [b"%d" % i for i in range(len(stored))]
            assert len(stored) >= upto
            record = await store.load(generation_id)
            assert record.events == len(stored)
            assert record.state is State.FINISHED or generation_id not in ended

        orphans = await store.expired(now, 1_000)
        assert not ended & set(orphans)
        await store.renew("successor", now + 100)
        for generation_id in orphans:
            record = await store.take_over(generation_id, "successor", now)
            assert record.epoch == 2
            first = record.events
            late = Write(generation_id, 1, first, [b"from the dead"])
            assert (await store.write([late]))[generation_id].reason is Reason.FENCED
            assert await store.write([Write(generation_id, 2, first, [b"%d" % first])]) == {}
            stored = await store.events(generation_id, 0, LARGE)
            assert stored == [b"%d" % i for i in range(first + 1)]
        assert await store.expired(now, 1_000) == []
        await store.close()

    asyncio.run(main())


def test_several_processes_are_killed_one_after_the_other_on_the_same_store(place):
    kind, where = place
    given = {}
    for lines in (5, 100, 300):
        for generation_id, upto, _ in killed(kind, where, lines):
            given[generation_id] = int(upto)

    async def main():
        store = opened(kind, where)
        await store.start()
        for generation_id, upto in given.items():
            stored = await store.events(generation_id, 0, LARGE)
            assert stored == [b"%d" % i for i in range(len(stored))]
            assert len(stored) >= upto
        await store.close()

    asyncio.run(main())
