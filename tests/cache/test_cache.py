"""The tiers together."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import time

import pytest
from entries import Wall, a_key, an_entry, emptied, got

from penstock.cache.cache import EVERYTHING, Cache
from penstock.cache.entry import Sealer
from penstock.cache.guard import Guard
from penstock.cache.tiers.disk import DiskTier
from penstock.cache.tiers.memory import MemoryTier
from penstock.cache.tiers.redis import RedisTier
from penstock.cache.tiers.redis_cluster import ClusterTier
from penstock.config.redis_address import Address
from penstock.net.redis import ERRORS, connect
from penstock.testing import RedisServer
from penstock.testing._ports import free_port

SECRET = b"s" * 32
PATIENT = 60.0  # seconds: what is tested is not how quick a busy machine is


def a_cache(*tiers, wall=None, budget=PATIENT, memory=1 << 22, secret=SECRET):
    wall = wall or Wall(time.time())
    return Cache(
        MemoryTier(memory, wall),
        [Guard(tier, budget, time.monotonic) for tier in tiers],
        Sealer(secret, 1 << 24),
        max_entry_bytes=1 << 22,
        now=wall,
    )


@contextlib.asynccontextmanager
async def running(*caches):
    for cache in caches:
        cache.start()
        await settle(cache)
    try:
        yield
    finally:
        for cache in caches:
            await cache.close()


async def settle(*caches):
    for cache in caches:
        if cache._sealing:
            await asyncio.wait(cache._sealing.values())
        for guard in cache.guards:
            await guard.tier.flush()


def fresh(text="hello", **more):
    return an_entry(text, now=time.time(), **more)


async def test_memory_answers_at_once():
    cache = a_cache()
    async with running(cache):
        assert cache.get_nowait(a_key(1)) is None
        entry = fresh()
        assert cache.put(a_key(1), entry)
        assert cache.get_nowait(a_key(1)) is entry


@pytest.fixture(params=["disk", "redis", "cluster"])
def below(request, tmp_path):
    if request.param == "redis":
        server = emptied(request.getfixturevalue("redis_for_all"))
        return lambda: RedisTier(server.url)
    if request.param == "cluster":
        cluster = request.getfixturevalue("cluster_for_all")
        for server in cluster.servers:
            emptied(server)
        return lambda: ClusterTier(cluster.url)
    return lambda: DiskTier(tmp_path / "cache.sqlite", 1 << 24)


class Noting:
    """Keeps what it is told; says which uses it was told of."""

    name = "noting"

    def __init__(self, *, by_use):
        self.by_use = by_use
        self.kept = {}
        self.told = []

    def start(self, learn):
        pass

    def get(self, key, then):
        then(self.kept.get(key))

    def put(self, key, sealed, _kept_until):
        self.kept[key] = sealed

    def used(self, keys):
        self.told.append(sorted(keys))

    def purges(self):
        found = asyncio.get_running_loop().create_future()
        found.set_result({})
        return found

    def reset(self):
        pass

    async def flush(self):
        pass

    close = flush


async def test_what_is_found_above_is_told_to_those_below_who_keep_what_is_used():
    above, below = Noting(by_use=False), Noting(by_use=True)
    cache = a_cache(above, below)
    for number in range(4):
        cache.put(a_key(number), fresh())
    cache.get_nowait(a_key(0))
    cache.get_nowait(a_key(0))
    cache.memory.clear()
    await cache.get(a_key(1))  # the disk has it
    del above.kept[a_key(2)]
    await cache.get(a_key(2))  # it was asked itself
    cache.get_nowait(a_key("nowhere"))
    entry = fresh()
    cache.put(a_key(4), entry)
    assert cache.holds(a_key(4), entry)
    await cache.tell_uses()
    assert (above.told, below.told) == ([], [sorted([a_key(0), a_key(1), a_key(4)])])

    await cache.tell_uses()
    assert len(below.told) == 1  # once


async def test_many_uses_are_told_by_and_by():
    below = Noting(by_use=True)
    cache = a_cache(below)
    for number in range(450):
        cache.put(a_key(number), fresh())
        cache.get_nowait(a_key(number))
    await cache.tell_uses()
    assert [len(keys) for keys in below.told] == [200, 200, 50]


async def test_uses_are_told_again_and_again_while_it_runs(monkeypatch):
    monkeypatch.setattr("penstock.cache.cache.USES_TOLD_EVERY", 0.001)
    below = Noting(by_use=True)
    cache = a_cache(below)
    async with running(cache):
        for count in (1, 2):
            cache.put(a_key(1), fresh())
            cache.get_nowait(a_key(1))
            async with asyncio.timeout(PATIENT):
                while len(below.told) < count:
                    await asyncio.sleep(0)


async def test_a_tier_in_trouble_is_not_told_what_was_used():
    below = Noting(by_use=True)
    cache = a_cache(below)
    cache.put(a_key(1), fresh())
    cache.get_nowait(a_key(1))
    cache.guards[0]._open()
    await cache.tell_uses()
    assert not below.told


async def test_where_nobody_keeps_what_is_used_uses_are_not_noted(tmp_path):
    cache = a_cache(DiskTier(tmp_path / "cache.sqlite", 1 << 20))
    cache.memory.put(a_key(1), fresh())
    assert cache.get_nowait(a_key(1)) is not None
    assert cache._used is None


@pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
async def test_what_one_process_keeps_another_finds_below_and_brings_up(below, size):
    one, two = a_cache(below()), a_cache(below())
    name = a_key(("shared", size, os.urandom(4)))
    async with running(one, two):
        entry = fresh("y" * size)
        one.put(name, entry)
        await settle(one)
        assert two.get_nowait(name) is None
        assert await two.get(name) == entry
        assert two.get_nowait(name) == entry


async def test_what_is_found_in_the_lowest_tier_is_brought_to_all_above(tmp_path, redis_for_all):
    name = a_key(os.urandom(4))
    one = a_cache(RedisTier(redis_for_all.url))
    disk = DiskTier(tmp_path / "cache.sqlite", 1 << 24)
    two = a_cache(disk, RedisTier(redis_for_all.url))
    async with running(one, two):
        one.put(name, fresh())
        await settle(one)
        assert await two.get(name) is not None
        assert two.hits == {"memory": 0, "disk": 0, "redis": 1}
        await settle(two)
        assert await got(disk, name) is not None


async def test_poison_below_is_a_miss_that_is_counted_and_removed(below):
    tier = below()
    cache = a_cache(tier)
    name = a_key(os.urandom(4))
    async with running(cache):
        for poison in (b"", b"junk" * 50, Sealer(bytes(32), 99).seal(name, fresh())):
            tier.put(name, poison, time.time() + 300)
            await settle(cache)
            assert await cache.get(name) is None
            await settle(cache)
            assert await got(tier, name) is None
        assert cache.unusable == {"truncated": 1, "version": 0, "tampered": 2, "undecodable": 0}


async def test_an_entry_that_was_moved_to_another_key_is_no_answer(below):
    tier = below()
    cache = a_cache(tier)
    mine, theirs = a_key(os.urandom(4)), a_key(os.urandom(4))
    async with running(cache):
        cache.put(theirs, fresh("their secret"))
        await settle(cache)
        tier.put(mine, await got(tier, theirs), time.time() + 300)
        await settle(cache)
        assert await cache.get(mine) is None
        assert cache.unusable["tampered"] == 1


@pytest.mark.parametrize("tag", ["tenant:a", EVERYTHING])
async def test_what_was_purged_is_no_answer_here_nor_elsewhere(below, tag):
    wall = Wall(time.time())
    one, two = a_cache(below(), wall=wall), a_cache(below(), wall=wall)
    before, other, after = (a_key(os.urandom(4)) for _ in range(3))
    async with running(one, two):
        one.put(before, fresh())
        one.put(other, fresh(tags=("tenant:b",)))
        await settle(one)
        assert await two.get(before) is not None
        wall.time += 1
        one.purge(tag)
        await settle(one)
        await two.read_purges()
        wall.time += 1
        one.put(after, an_entry(now=wall.time))
        for cache in (one, two):
            assert cache.get_nowait(before) is None
            assert await cache.get(before) is None
            found = cache.get_nowait(other) or await cache.get(other)
            assert (found is not None) == (tag != EVERYTHING)
        assert one.get_nowait(after) is not None


async def test_one_answer_is_purged_by_its_key_also_where_it_is_in_memory(below):
    wall = Wall(time.time() + 100)  # after what other tests have purged
    one, two = a_cache(below(), wall=wall), a_cache(below(), wall=wall)
    name, other = a_key(os.urandom(4)), a_key(os.urandom(4))
    async with running(one, two):
        for cache in (one, two):
            await cache.read_purges()
        for each in (name, other):
            one.put(each, an_entry(now=wall.time))
        await settle(one)
        for each in (name, other):
            assert await two.get(each) is not None
        wall.time += 60
        one.purge_key(name)
        await settle(one)
        await two.read_purges()
        for cache in (one, two):
            assert cache.get_nowait(name) is None
            assert await cache.get(name) is None
            assert cache.get_nowait(other) is not None


async def test_a_purge_of_everything_lets_tiers_forget_those_before_it(below):
    wall = Wall(time.time() + 1_000)  # after what other tests have purged
    tier = below()
    one, two = a_cache(tier, wall=wall), a_cache(below(), wall=wall)
    async with running(one, two):
        for number in range(5):
            wall.time += 1
            one.purge(f"tenant:{number}")
        wall.time += 1
        one.purge(EVERYTHING)
        everything = wall.time
        wall.time += 1
        one.purge("tenant:later")
        await settle(one)
        await two.read_purges()
        await settle(two)
        assert await tier.purges() == {EVERYTHING: everything, "tenant:later": wall.time}


async def test_of_very_many_purges_the_older_half_is_one_of_everything(below, monkeypatch):
    monkeypatch.setattr("penstock.cache.cache._MAX_PURGES", 10)
    wall = Wall(time.time() + 2_000)
    tier = below()
    one, two = a_cache(tier, wall=wall), a_cache(below(), wall=wall)
    old, late, later = (a_key(os.urandom(4)) for _ in range(3))
    async with running(one, two):
        for cache in (one, two):
            await cache.read_purges()
        one.put(old, an_entry(now=wall.time))
        began = wall.time
        for number in range(11):
            wall.time += 1
            one.purge(f"tenant:of {number}")
        one.put(late, an_entry(now=wall.time - 1, tags=("tenant:of 10",)))
        one.put(later, an_entry(now=wall.time - 1))
        await settle(one)
        for cache in (one, two, one):
            await cache.read_purges()
            await settle(cache)
        told = await tier.purges()
        assert len(told) <= 10, told
        assert min(told.values()) == told[EVERYTHING] > began + 2, told
        for cache in (one, two):
            assert await cache.get(old) is None
            assert await cache.get(late) is None
            assert await cache.get(later) is not None


def test_what_a_purge_of_everything_covers_is_not_uncovered_by_many_older_ones(monkeypatch):
    """They may be of a machine whose time is behind."""
    monkeypatch.setattr("penstock.cache.cache._MAX_PURGES", 10)
    wall = Wall()
    cache = a_cache(wall=wall)
    wall.time += 60
    cache.purge(EVERYTHING)
    wall.time -= 60
    for number in range(20):
        wall.time += 1
        cache.purge(f"tenant:of {number}")
    wall.time += 20
    cache.put(a_key(1), an_entry(now=wall.time))
    assert cache.get_nowait(a_key(1)) is None


async def test_an_answer_to_a_question_from_before_the_purge_is_not_kept_alive_by_it():
    """It was asked before and finished after: what it says is as old as the question."""
    wall = Wall()
    cache = a_cache(wall=wall)
    asked = wall.time
    wall.time += 5
    cache.purge("tenant:a")
    cache.put(a_key(1), an_entry(now=wall.time + 1, asked=asked))
    assert cache.get_nowait(a_key(1)) is None


async def test_an_entry_is_removed_everywhere(below):
    cache = a_cache(below())
    name = a_key(os.urandom(4))
    async with running(cache):
        cache.put(name, fresh())
        cache.remove(name)
        await settle(cache)
        assert cache.get_nowait(name) is None
        assert await cache.get(name) is None


async def test_an_answer_that_is_too_large_is_not_kept():
    cache = a_cache()
    assert not cache.put(a_key(1), fresh("x" * (1 << 22)))
    assert cache.get_nowait(a_key(1)) is None


# ---- Redis in trouble ----


async def until_found(cache, name):
    """Asks until a probe has been answered."""
    for _ in range(1_000):
        if await cache.get(name) is not None:
            return
        cache.memory.clear()
        await asyncio.sleep(0.01)
    raise AssertionError("it never came back")


@pytest.fixture
def own_redis():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_a_redis_in_trouble_is_a_miss_and_comes_back(own_redis, trouble):
    cache = a_cache(RedisTier(own_redis.url))
    (guard,) = cache.guards
    name = a_key("kept")
    async with running(cache):
        cache.put(name, fresh())
        await settle(cache)
        cache.memory.clear()
        await until_found(cache, name)
        cache.memory.clear()
        if trouble == "killed":
            own_redis.kill()
        else:
            own_redis.freeze()
        guard.budget = 0.005
        for number in range(200):
            assert await cache.get(a_key(("absent", number))) is None
        assert guard.skipped > 150  # a few wait for their budgets, and then nobody does
        assert guard.is_open
        guard.budget = PATIENT
        cache.put(a_key("meanwhile"), fresh())  # dropped, or kept when it is back; no error
        if trouble == "killed":
            own_redis.start()
            await asyncio.sleep(0)
        else:
            own_redis.thaw()
        for _ in range(1_000):
            cache.put(name, fresh())
            cache.memory.clear()
            if await cache.get(name) is not None:
                break
            await asyncio.sleep(0.01)
        assert not guard.is_open


@pytest.fixture
def lasting_redis(tmp_path):
    """Which comes back with what it had."""
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path)) as server:
        yield server


def unheard(cache):
    return cache.figures()[-1].unheard


async def until_heard(cache):
    for _ in range(2_000):
        if not unheard(cache):
            return
        await cache.read_purges()
        await asyncio.sleep(0.01)
    raise AssertionError("it was never noted")


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_a_purge_that_redis_could_not_be_told_of_is_told_once_it_is_back(lasting_redis, trouble):
    wall = Wall(time.time())
    one, two = (a_cache(RedisTier(lasting_redis.url), wall=wall) for _ in "ab")
    name, other = a_key(1), a_key(2)
    async with running(one, two):
        one.put(name, fresh())
        one.put(other, fresh(tags=("tenant:b",)))
        await settle(one)
        assert await two.get(name) is not None
        assert await two.get(other) is not None
        if trouble == "killed":
            lasting_redis.kill()
            await until_lost(one)
        else:
            lasting_redis.freeze()
        wall.time += 60
        one.purge("tenant:a")
        one.purge("tenant:a")  # the last one of a tag is all that is to be known
        assert one.get_nowait(name) is None
        assert unheard(one) == 1
        assert two.get_nowait(name) is not None  # nobody could tell it
        if trouble == "killed":
            lasting_redis.start()
        else:
            lasting_redis.thaw()
        await until_heard(one)
        await settle(one, two)
        assert await one.get(name) is None  # Redis has it still, and gives it
        await two.read_purges()
        assert two.get_nowait(name) is None
        assert await two.get(name) is None
        assert two.get_nowait(other) is not None


async def until_lost(cache):
    tier = cache.guards[-1].tier
    for _ in range(2_000):
        if tier.statistics().trouble:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the connection never ended")


async def test_while_memory_answers_purges_are_read_all_the_same_when_redis_is_back(lasting_redis):
    wall = Wall(time.time())
    one, two = (a_cache(RedisTier(lasting_redis.url), wall=wall) for _ in "ab")
    async with running(one, two):
        two.put(a_key(1), fresh())
        lasting_redis.kill()
        for number in range(10):
            await two.get(a_key(("absent", number)))
        assert two.guards[0].is_open
        lasting_redis.start()
        wall.time += 60
        one.purge("tenant:a")
        await until_heard(one)
        for _ in range(2_000):
            await two.read_purges()
            if two.get_nowait(a_key(1)) is None:
                break
            await asyncio.sleep(0.01)
        assert two.get_nowait(a_key(1)) is None


async def test_a_redis_that_has_forgotten_a_purge_is_told_again(own_redis):
    one = a_cache(RedisTier(own_redis.url))
    async with running(one):
        one.purge("tenant:a")
        await until_heard(one)
        own_redis.kill()
        await until_lost(one)
        own_redis.start()  # empty
        tier = one.guards[0].tier
        for _ in range(2_000):
            await one.read_purges()
            with contextlib.suppress(ConnectionError):  # it is not back yet
                if "tenant:a" in await tier.purges():
                    return
            await asyncio.sleep(0.01)
        raise AssertionError("it was never told again")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$5\r\nhel",
        b"+OK\r\n" * 50,
        b"\0" * 1_000,
        b":1\r\n",
        b"*-1\r\n",
        b"",
    ],
)
async def test_a_server_that_answers_garbage_is_a_miss(answer):
    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1_000):
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cache = a_cache(RedisTier(f"redis://127.0.0.1:{port}"), budget=0.005)
    async with server:
        cache.start()
        for _ in range(20):
            assert await cache.get(a_key(1)) is None
            await asyncio.sleep(0)
        await cache.close()


async def test_nobody_there_is_a_miss():
    cache = a_cache(RedisTier("redis://127.0.0.1:1"))
    cache.start()
    for _ in range(10):
        assert await cache.get(a_key(1)) is None
    assert cache.guards[0].is_open
    assert cache.guards[0].skipped == 7
    await cache.close()


async def test_a_password_a_user_and_a_database_are_used():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer("--requirepass", "p@ss") as server:
        url = f"redis://:p%40ss@127.0.0.1:{server.port}/3"
        right, wrong = a_cache(RedisTier(url)), a_cache(RedisTier(server.url))
        async with running(right, wrong):
            right.put(a_key(1), fresh())
            wrong.put(a_key(2), fresh())
            await settle(right, wrong)
            right.memory.clear()
            wrong.memory.clear()
            assert await right.get(a_key(1)) is not None
            assert await wrong.get(a_key(2)) is None
            assert "NOAUTH" in wrong.guards[0].tier.statistics().trouble


class Sentinel:
    """One who watches the server that is called ``mine``.

    :param options: lines of its configuration
    """

    def __init__(self, folder, master, *options, quorum=1):
        self.port = free_port()
        file = folder / f"sentinel-{self.port}.conf"
        file.write_text("\n".join([f"sentinel monitor mine 127.0.0.1 {master} {quorum}", *options, ""]))
        command = ["redis-server", file, "--sentinel", "--bind", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    async def knows(self, *, replicas, sentinels):
        """Wait until it has found so many."""
        counts = [("num-slaves", replicas), ("num-other-sentinels", sentinels)]
        wanted = [f"{name}\r\n$1\r\n{count}\r\n".encode() for name, count in counts]
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as line:
                line.sendall(b"SENTINEL master mine\r\n")
                told = line.recv(65_536)
                if all(each in told for each in wanted):
                    return
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def connected(url, seconds=60):
    """A tier that is connected, or has not been for so long."""
    deadline = time.monotonic() + seconds
    while True:
        tier = RedisTier(url)
        tier.start()
        await tier.flush()
        if not tier.statistics().trouble or time.monotonic() > deadline:
            return tier
        await tier.close()
        await asyncio.sleep(0.05)


async def keeps(tier):
    tier.put(a_key(1), b"one", time.time() + 60)
    await tier.flush()
    return await got(tier, a_key(1)) == b"one"


async def test_a_sentinel_tells_who_the_master_is(own_redis, tmp_path):
    with Sentinel(tmp_path, own_redis.port) as sentinel:
        tier = await connected(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/mine")
        assert await keeps(tier)
        await tier.close()


async def test_sentinels_have_a_password_of_their_own(tmp_path):
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with (
        RedisServer("--requirepass", "of the master") as server,
        Sentinel(
            tmp_path, server.port, 'requirepass "p@ss"', 'sentinel auth-pass mine "of the master"'
        ) as one,
    ):
        url = f"redis+sentinel://:of%20the%20master@127.0.0.1:{one.port}/mine"
        tier = await connected(f"{url}?sentinel_username=default&sentinel_password=p%40ss")
        assert await keeps(tier)
        await tier.close()
        for wrong in ("", "?sentinel_password=wrong"):
            tier = await connected(url + wrong, seconds=0)
            assert re.search("no sentinel answers: (NOAUTH|WRONGPASS)", tier.statistics().trouble)
            await tier.close()


async def test_another_server_that_becomes_the_master_is_used(tmp_path):
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    at_once = ("--repl-diskless-sync-delay", "0", "--dir", str(tmp_path))
    quick = ("sentinel down-after-milliseconds mine 300", "sentinel failover-timeout mine 2000")
    with (
        RedisServer(*at_once) as master,
        RedisServer(*at_once, "--replicaof", "127.0.0.1", str(master.port)),
        Sentinel(tmp_path, master.port, *quick, quorum=2) as one,
        Sentinel(tmp_path, master.port, *quick, quorum=2) as other,
    ):
        for sentinel in (one, other):
            await sentinel.knows(replicas=1, sentinels=1)
        url = f"redis+sentinel://127.0.0.1:{one.port},127.0.0.1:{other.port}/mine"
        tier = await connected(url)
        assert await keeps(tier)
        master.kill()
        deadline = time.monotonic() + 60
        while True:
            try:
                if await keeps(tier):
                    break
            except OSError:
                assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await tier.close()


async def test_with_tls_sentinels_are_asked_with_tls():
    url = "rediss+sentinel://me:own@127.0.0.1:{},b/mine/2?sentinel_password=theirs"
    hosts = (("127.0.0.1", 5), ("b", 26379))
    assert Address.parse(url.format(5)) == Address(
        hosts, "mine", tls=True, user="me", password="own", database=2, sentinel_password="theirs"
    )
    heard = []

    async def hear(reader, writer):
        heard.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ERRORS):
            await connect(Address.parse(f"rediss+sentinel://127.0.0.1:{port}/mine"), None)
    assert heard == [b"\x16"]  # a handshake of TLS


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://x",
        "redis://",
        "redis+sentinel://x",
        "redis+sentinel://x/mine?password=it",
        "redis+sentinel://x/mine?sentinel_password",
        "redis://a,b",
        "redis://x/one",
        "redis://x/1/2",
        "redis://x:y",
    ],
)
def test_what_is_no_address_of_redis_is_refused(url):
    with pytest.raises(ValueError):
        RedisTier(url)
