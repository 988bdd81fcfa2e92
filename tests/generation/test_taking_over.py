"""How soon somebody goes on with what a process left that died: within its lease, however much that is."""

import asyncio
import selectors
from types import SimpleNamespace

import pytest
from memory_store import MemoryStore
from store_suite import begin, record

from needing import needs_redis
from penstock.generation import lease as lease_module
from penstock.generation.keeper import Keeper
from penstock.generation.stores.redis import RedisStore
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.net.clock import Clock
from penstock.testing import FakeClock, RedisServer
from waiting import until

UNIX = 1_900_000_000.0


class NotWaiting(selectors.DefaultSelector):
    """Where it would wait, time leaps."""

    leapt = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nobody waits for anything"
            self.leapt += max(timeout, 0.0)
        return ready


class LeapingLoop(asyncio.SelectorEventLoop):
    """What happens in it takes no time, and waiting takes none of ours."""

    def __init__(self):
        self.waited = NotWaiting()
        super().__init__(self.waited)

    def time(self):
        return 1_000.0 + self.waited.leapt


class TimedStore(MemoryStore):
    async def time(self):
        return UNIX + asyncio.get_running_loop().time()


class Survivor:
    """A process that notes when it takes something over."""

    def __init__(self, store, lease, clock=None):
        self.taken = {}
        self.keeper = Keeper(
            store, clock or Clock(now=asyncio.get_running_loop().time), kept_for=60.0, lease=lease
        )

    def deserted(self):
        return []

    def go_on(self, record, events, keeper):
        self.taken[record.id] = asyncio.get_running_loop().time()


@pytest.mark.parametrize("lease", [1.0, 10.0])
@pytest.mark.parametrize("survivors", [1, 3])
@pytest.mark.parametrize("many", [1, 500])
def test_all_that_a_dead_process_left_is_gone_on_with_within_its_lease(lease, survivors, many):
    async def test():
        loop = asyncio.get_running_loop()
        store = TimedStore(1 << 30)
        dead = Survivor(store, lease)
        await dead.keeper.start(dead)
        left = [record(owner=dead.keeper.lease.owner, expires_at=UNIX * 2) for _ in range(many)]
        await store.write([begin(one, [b"0"]) for one in left])
        living = [Survivor(store, lease) for _ in range(survivors)]
        for one in living:
            await asyncio.sleep(lease / 7)  # they look at different moments
            await one.keeper.start(one)
        await asyncio.sleep(3 * lease)
        assert not any(one.taken for one in living), "it lives"
        for task in dead.keeper._tasks:  # as kill -9 does: no lease is given back
            task.cancel()
        died = loop.time()
        await asyncio.sleep(2 * lease)
        taken = {name: at - died for one in living for name, at in one.taken.items()}
        assert set(taken) == {one.id for one in left}
        assert sum(len(one.taken) for one in living) == many, "each by one"
        beat = min(lease / 4, lease_module.BEAT)
        assert min(taken.values()) >= lease - beat, "it said last that it lives a beat ago, at most"
        assert max(taken.values()) <= 1.5 * lease, "the lease, and until somebody looks"
        for one in [dead, *living]:
            await one.keeper.close()

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(test())


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=needs_redis)])
def store_of(request, tmp_path):
    if request.param == "memory":
        store = MemoryStore(1 << 26)
        yield lambda: store
    elif request.param == "sqlite":
        yield lambda: SQLiteStore(tmp_path / "g.db", 1 << 26)
    else:
        with RedisServer() as server:
            yield lambda: RedisStore(server.url, 1 << 26, budget=60.0)


def test_in_every_store_a_lease_is_over_to_the_instant_and_not_before(store_of):
    lease, wall = 0.4, SimpleNamespace(now=UNIX)

    async def test():
        dead, clock = store_of(), FakeClock()
        await dead.start()
        await dead.renew("dead", wall.now + lease)
        left = [record(owner="dead", expires_at=UNIX * 2) for _ in range(3)]
        await dead.write([begin(one, [b"0"]) for one in left])

        store = store_of()
        looked = asyncio.Event()
        find = store.expired

        async def time():
            return wall.now

        async def expired(now, limit):
            found = await find(now, limit)
            if now == wall.now:
                looked.set()
            return found

        store.time, store.expired = time, expired
        survivor = Survivor(store, lease, clock)
        await survivor.keeper.start(survivor)
        for passed in (lease / 2, lease * 0.999):
            clock.advance(UNIX + passed - wall.now)
            wall.now = UNIX + passed
            looked.clear()
            await asyncio.wait_for(looked.wait(), 60)
            assert not survivor.taken
        clock.advance(UNIX + lease - wall.now)
        wall.now = UNIX + lease
        await until(lambda: set(survivor.taken) == {one.id for one in left})
        await survivor.keeper.close()
        await dead.close()

    asyncio.run(test())
