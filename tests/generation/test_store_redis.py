import asyncio
import logging
import re
import subprocess
import time

import pytest
import uvloop
from journaled_log import JournaledLog
from store_suite import LARGE, LATER, NOW, SharedStoreSuite, append, begin, end, record

from needing import needs_redis
from penstock.generation.journal import Journal
from penstock.generation.store import Reason, StoreUnavailable
from penstock.generation.stores.redis import RedisStore
from penstock.net.clock import Clock
from penstock.testing import RedisServer
from waiting import until

pytestmark = needs_redis
PATIENT = 60.0  # seconds: what is tested is not how quick a busy machine is


@pytest.fixture
def own_server():
    with RedisServer() as server:
        yield server


class TestRedisStore(SharedStoreSuite):
    @pytest.fixture(autouse=True)
    def _own_keys(self, server, request):
        self.url = server.url
        self.prefix = request.node.name

    def make(self, max_bytes=1 << 26):
        return RedisStore(self.url, max_bytes, prefix=self.prefix, budget=PATIENT)


class TestRedisStoreOnACluster(TestRedisStore):
    @pytest.fixture(autouse=True)
    def _own_keys(self, cluster_node, request):
        self.url = cluster_node.url
        self.prefix = request.node.name


def run(test):
    uvloop.run(test())  # the loop that serves; the suite runs on asyncio's own


async def once_it_is_back(store, writes, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await store.write(writes)
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def redis(server, *words):
    done = await asyncio.create_subprocess_exec(
        "redis-cli", "-p", str(server.port), *words, stdout=subprocess.PIPE
    )
    return (await done.communicate())[0].decode().split()


def journal_of(store):
    clock = Clock()
    clock.start(asyncio.get_running_loop())
    journal = Journal(store, clock)
    journal.start()
    return journal, clock


def test_a_server_that_is_not_there_is_told_soon_and_asked_seldom():
    async def test():
        store = RedisStore(RedisServer().url, 1 << 20)
        with pytest.raises(StoreUnavailable):
            await store.start()
        started = time.monotonic()
        for _ in range(1_000):
            with pytest.raises(StoreUnavailable, match=re.escape("Redis at 127.0.0.1:")):
                await store.load("gen_x")
        assert time.monotonic() - started < 5
        await store.close()

    run(test)


def test_a_server_that_hangs_fails_the_write_within_the_budget_and_serves_again_when_it_is_back(own_server):
    async def test():
        store = RedisStore(own_server.url, 1 << 20, budget=0.2)
        await store.start()
        one = record()
        await store.write([begin(one, [b"a"])])
        own_server.freeze()
        with pytest.raises(StoreUnavailable, match=r"no answer within 0\.2 s"):
            await store.write([append(one, 1, b"b")])
        own_server.thaw()

        answer = await once_it_is_back(store, [append(one, 1, b"b")])
        # The first try was in the server's hands when we gave up: it may have been stored, but not twice.
        assert answer == {} or answer[one.id].events == 2
        assert await store.events(one.id, 0, LARGE) == [b"a", b"b"]
        await store.close()

    run(test)


def test_generations_go_on_while_the_server_hangs_or_is_gone_and_are_whole_when_it_is_back(
    own_server, caplog
):
    async def test():
        store = RedisStore(own_server.url, 1 << 20, budget=0.2)
        reader = RedisStore(own_server.url, 1 << 20, budget=PATIENT)
        journal, clock = journal_of(store)
        log = JournaledLog(journal)
        log.append(b"0")
        # Behind at first, where a busy machine takes longer to connect than readers wait.
        await until(lambda: log.given == 1 and log.entry.stored == 1 and log.entry.durable)

        own_server.freeze()
        log.append(b"1")
        await until(lambda: log.given == 2)
        assert not log.entry.durable
        own_server.thaw()
        await until(lambda: log.entry.durable)

        own_server.kill()  # and all that it knew is lost
        log.append(b"2")
        await until(lambda: log.given == 3)
        assert not log.entry.durable
        log.append(b"3")
        assert log.given == 4
        own_server.start()
        await until(lambda: log.entry.durable)
        assert store.losses
        assert await reader.events(log.record.id, 0, LARGE) == [b"0", b"1", b"2", b"3"]
        log.append(b"4")
        await until(lambda: log.given == 5)
        assert not log.fenced
        await journal.close()
        await store.close()
        await reader.close()
        clock.stop()

    with caplog.at_level(logging.WARNING):
        run(test)
    said = [record.getMessage() for record in caplog.records]
    said = ["again" in line for line in said if "is slow" not in line]
    # A word for each time, and one for its end: no line for each event, or for each try.
    assert len(said) >= 2
    assert said == [number % 2 == 1 for number in range(len(said))]


@pytest.mark.parametrize("first", ["a write", "a renewal"])
def test_a_server_that_was_emptied_is_told_from_one_in_which_somebody_deleted(own_server, first):
    async def test():
        store = RedisStore(own_server.url, 1 << 20, budget=PATIENT)
        await store.start()
        one, other = record(), record()
        until = await store.time() + 60.0
        await store.renew("me", until)
        await store.write([begin(one, [b"a"]), begin(other, [b"a"])])
        await store.renew("me", until)
        await store.delete(other.id)
        assert (await store.write([append(other, 1, b"b")]))[other.id].reason is Reason.UNKNOWN
        assert store.losses == 0
        await redis(own_server, "FLUSHALL")
        if first == "a renewal":
            await store.renew("me", until)
        else:
            with pytest.raises(StoreUnavailable, match="not there any more"):
                await store.write([append(one, 1, b"b")])
            await store.renew("me", until)
        assert store.losses == 1
        assert (await store.write([append(one, 1, b"b")]))[one.id].reason is Reason.UNKNOWN
        assert await store.write([begin(one, [b"a", b"b"])]) == {}
        await store.close()

    run(test)


def test_scripts_that_the_server_forgot_are_loaded_again(own_server):
    async def test():
        store = RedisStore(own_server.url, 1 << 20)
        await store.start()
        one = record()
        await store.write([begin(one)])
        await redis(own_server, "script", "flush")
        with pytest.raises(StoreUnavailable, match="NOSCRIPT"):
            await store.write([append(one, 0, b"a")])
        assert await once_it_is_back(store, [append(one, 0, b"a")]) == {}
        await store.close()

    run(test)


def test_a_server_without_memory_left_says_so_and_ended_generations_make_room():
    async def test():
        with RedisServer("--maxmemory", "6mb", "--maxmemory-policy", "noeviction") as server:
            store = RedisStore(server.url, 3 << 20)
            await store.start()
            await store.renew("me", LATER)
            kept = []

            async def fill():
                for _ in range(200):
                    kept.append(record())
                    await store.write([begin(kept[-1], [bytes(100_000)], end())])

            with pytest.raises(StoreUnavailable, match="OOM"):
                await fill()
            assert await store.write([begin(record(), [bytes(100_000)], end())]) == {}
            assert await store.load(kept[0].id) is None
            assert (await store.statistics()).dropped > 0
            await store.close()

    run(test)


def test_of_what_is_gone_so_many_are_known(own_server, monkeypatch):
    monkeypatch.setattr("penstock.generation.stores.redis.MAX_GONE", 2)

    async def test():
        store = RedisStore(own_server.url, 1 << 20)
        await store.start()
        gone = [record() for _ in range(3)]
        for one in gone:
            await store.write([begin(one)])
            await store.delete(one.id)
        assert [await store.was_there(one.id, "t") for one in gone] == [False, True, True]
        await store.close()

    run(test)


def test_everything_expires_by_the_servers_own_clock_too(own_server):
    async def test():
        store = RedisStore(own_server.url, 1 << 20)
        await store.start()
        one, other = record(), record()
        await store.write([begin(one, [b"x"], end()), begin(other, [b"x"])])
        await store.write([append(other, 1, b"y")])
        await store.claim("t", "n", b"f", one.id, now=NOW, until=LATER)

        unbounded = [
            key
            for key in await redis(own_server, "keys", "*")
            if (await redis(own_server, "pttl", key)) == ["-1"]
        ]
        # These hold ids of what is running or kept, and are kept small by expire().
        assert sorted(key.removeprefix("penstock:generations:") for key in unbounded) == [
            "owned:me",
            "owners",
            "{ended}:expiry",
            "{ended}:order",
            "{ended}:sizes",
            "{ended}:total",
        ]
        await store.close()

    run(test)


def test_an_answer_that_ends_while_what_is_past_its_time_goes_stays(server, monkeypatch):
    """Its owner was taken for dead, and its time was over; then it ended, and its caller may come for it."""

    async def test():
        store = RedisStore(server.url, 1 << 26, prefix="late-end", budget=PATIENT)
        await store.start()
        now = await store.time()
        one, other = record(expires_at=now - 1.0), record(expires_at=now - 1.0)
        await store.renew("me", now - 1.0)
        await store.write([begin(one, [b"zero"]), begin(other)])
        load = store.load

        async def ends_then(generation_id):
            found = await load(generation_id)
            if generation_id == one.id:
                assert not await store.write([append(one, 1, b"one", end=end(now + 60.0))])
            return found

        monkeypatch.setattr(store, "load", ends_then)
        assert await store.expire(now) == 1
        assert await store.events(one.id, 0, LARGE) == [b"zero", b"one"]
        assert await load(other.id) is None
        await store.close()

    run(test)


def test_one_that_is_taken_over_while_what_is_past_its_time_goes_stays(server, monkeypatch):
    """Its owner was taken for dead, and its time was over; then another process went on with it."""

    async def test():
        store = RedisStore(server.url, 1 << 26, prefix="late-owner", budget=PATIENT)
        await store.start()
        now = await store.time()
        one = record(expires_at=now - 1.0)
        await store.renew("me", now - 1.0)
        await store.renew("other", now + 60.0)
        await store.write([begin(one, [b"zero"])])
        load, taken = store.load, []

        async def is_taken_then(generation_id):
            found = await load(generation_id)
            if not taken:
                taken.append(generation_id)
                assert (await store.take_over(one.id, "other", now)).epoch == 2
            return found

        monkeypatch.setattr(store, "load", is_taken_then)
        removed = await store.expire(now)
        refused = await store.write([append(one, 1, b"one", epoch=2)])
        await store.close()
        assert (removed, refused) == (0, {})

    run(test)


def test_what_was_let_go_while_the_connection_broke_is_found_once_it_is_let_go_again(server):
    async def test():
        store = RedisStore(server.url, 1 << 26, prefix="let-go", budget=PATIENT)
        await store.start()
        one = record()
        await store.write([begin(one)])
        await store.release(one.owner, [one.id])
        await redis(server, b"DEL", store._owned(""))  # as if the second of its two commands had been lost
        assert await store.expired(NOW, 10) == []
        await store.release(one.owner, [one.id])
        assert await store.expired(NOW, 10) == [one.id]
        await store.close()

    run(test)


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match="redis://"):
        RedisStore("http://localhost", 1)
