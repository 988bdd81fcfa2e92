"""Machines that share a cache in Redis go by its clock, whatever their own say."""

import asyncio
import contextlib
import time

import pytest
from entries import a_key, an_entry, emptied, got
from hypothesis import given
from hypothesis import strategies as st
from redis_cluster import RedisCluster

from penstock.cache.cache import EVERYTHING, Cache
from penstock.cache.entry import Sealer
from penstock.cache.guard import Guard
from penstock.cache.shared_clock import SharedClock
from penstock.cache.tiers.disk import DiskTier
from penstock.cache.tiers.memory import MemoryTier
from penstock.cache.tiers.redis import RedisTier
from penstock.cache.tiers.redis_cluster import ClusterTier
from penstock.testing import RedisServer
from waiting import until

PATIENT = 60.0  # seconds: what is tested is not how quick a busy machine is
MINUTE, HOUR = 60.0, 3_600.0
TTL = 300.0


class Machine:
    """A cache on a machine of its own, whose clock is ``ahead`` of the right one."""

    def __init__(self, url, ahead=0.0, disk=None):
        self.ahead = ahead
        self.passed = 0.0  # seconds by which its monotonic clock is ahead of the test's
        self.clock = SharedClock(lambda: time.time() + self.ahead, lambda: time.monotonic() + self.passed)
        kind = ClusterTier if "+cluster" in url else RedisTier
        tiers = [kind(url, self.clock)]
        if disk is not None:
            tiers.insert(0, DiskTier(disk, 1 << 24, self.clock.now))
        self.cache = Cache(
            MemoryTier(1 << 22, self.clock.now),
            [Guard(tier, PATIENT, time.monotonic) for tier in tiers],
            Sealer(b"s" * 32, 1 << 24),
            max_entry_bytes=1 << 22,
            clock=self.clock,
        )

    async def settle(self):
        for guard in self.cache.guards:
            await guard.tier.flush()

    async def keep(self, name, **more):
        """Ask an upstream now, and keep what it says."""
        self.cache.put(a_key(name), an_entry(now=self.cache.now(), ttl=TTL, **more))
        await self.settle()

    async def has(self, name):
        """Whether it answers from the cache."""
        key = a_key(name)
        return (self.cache.get_nowait(key) or await self.cache.get(key)) is not None

    async def later(self, than):
        """Wait until what it asks comes after this moment, of all machines' time."""
        until = max(than, self.clock.latest())
        while self.cache.now() <= until:
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def running(*machines):
    async with contextlib.AsyncExitStack() as stack:
        for machine in machines:
            machine.cache.start()
            stack.push_async_callback(machine.cache.close)
            await machine.settle()
        yield


@pytest.fixture(params=["server", "cluster"])
def url(request):
    if request.param == "server":
        return emptied(request.getfixturevalue("redis_for_all")).url
    cluster = request.getfixturevalue("cluster_for_all")
    for server in cluster.servers:
        emptied(server)
    return cluster.url


@pytest.fixture
def own_redis(tmp_path):
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path)) as server:
        yield server


APART = pytest.mark.parametrize("ahead", [MINUTE, -MINUTE, HOUR, -HOUR])


@APART
async def test_an_answer_is_as_fresh_everywhere_as_where_it_was_asked(url, ahead):
    wrong, right = Machine(url, ahead), Machine(url)
    async with running(wrong, right):
        assert abs(wrong.cache.now() - time.time()) < MINUTE / 2
        for one, other in ((wrong, right), (right, wrong)):
            name = id(one)
            await one.keep(name)
            entry = await other.cache.get(a_key(name))
            left = entry.fresh_until - other.cache.now()
            assert TTL - MINUTE / 2 < left < TTL + MINUTE / 2
            for machine in (wrong, right):
                machine.passed += TTL + MINUTE
            assert entry.fresh_until < other.cache.now()
            assert not await other.has(name)
            assert not await one.has(name)


@APART
@pytest.mark.parametrize("tag", [EVERYTHING, "tenant:a", "model:m", "version:v", "tag:x", "key"])
async def test_what_one_machine_purges_none_answers_with_any_more(url, ahead, tag):
    wrong, right = Machine(url, ahead), Machine(url)
    tags = ("tenant:a", "model:m", "version:v", "tag:x")
    async with running(wrong, right):
        for asked, purged in ((wrong, right), (right, wrong)):
            name = id(asked)
            await asked.keep(name, tags=tags)
            assert await purged.has(name)
            if tag == "key":
                purged.cache.purge_key(a_key(name))
            else:
                purged.cache.purge(tag)
            dated = (
                purged.clock.latest()
            )  # by the later bound, which may be beyond what the other takes for now
            await purged.settle()
            await asked.cache.read_purges()
            assert not await asked.has(name)
            assert not await purged.has(name)
            await purged.settle()  # what is no answer is removed
            await purged.later(dated)
            await asked.later(dated)
            await asked.keep(name, tags=tags)
            assert await purged.has(name)


@pytest.mark.parametrize("with_disk", [True, False])
async def test_what_was_purged_before_a_worker_began_it_does_not_answer_with(url, tmp_path, with_disk):
    file = tmp_path / "cache.sqlite" if with_disk else None
    one = Machine(url, disk=file)
    async with running(one):
        await one.keep("old", tags=("tenant:a",))
        one.cache.purge("tenant:a")
        await one.settle()
        another = Machine(url, disk=file)
        async with running(another):
            assert await got(another.cache.guards[0].tier, a_key("old")) is not None
            assert not await another.has("old")


async def test_a_clock_that_jumps_matters_to_nobody(url):
    jumping, right = Machine(url), Machine(url)
    async with running(jumping, right):
        for ahead in (HOUR, -HOUR, 0.0):
            jumping.ahead = ahead
            await jumping.keep("it", tags=("tenant:a",))
            right.cache.memory.clear()
            assert await right.has("it")
            right.cache.purge("tenant:a")
            dated = right.clock.latest()
            await right.settle()
            await jumping.cache.read_purges()
            assert not await jumping.has("it")
            await right.later(dated)
            await jumping.later(dated)


@APART
async def test_what_was_kept_and_purged_while_redis_was_away_is_set_right_when_it_is_back(
    own_redis, tmp_path, ahead
):
    right, wrong = Machine(own_redis.url), Machine(own_redis.url, ahead, tmp_path / "cache.sqlite")
    async with running(right):
        await right.keep("theirs", tags=("tenant:a",))
        own_redis.kill()
        async with running(wrong):
            assert not wrong.clock.known
            await wrong.keep("ours", tags=("tenant:b",))
            assert await wrong.has("ours")
            assert await got(wrong.cache.guards[0].tier, a_key("ours")) is None  # others read it there
            wrong.cache.purge("tenant:a")
            own_redis.start()
            await until(lambda: wrong.clock.known)
            await until_heard(wrong)
            right.cache.purge("tenant:b")
            await until_heard(right)
            await wrong.cache.read_purges()
            assert not await wrong.has("ours")
            assert not await wrong.has("theirs")
            await right.cache.read_purges()
            assert not await right.has("theirs")
            await wrong.keep("more", tags=("tenant:c",))
            assert await got(wrong.cache.guards[0].tier, a_key("more")) is not None


async def until_heard(machine):
    """Until Redis has noted its purges."""
    async with asyncio.timeout(PATIENT):
        while machine.cache.figures()[-1].unheard:
            await machine.cache.read_purges()
            await asyncio.sleep(0.01)


async def test_where_the_servers_clock_goes_back_that_of_all_goes_on(url):
    """The machines' monotonic clocks run ahead of the server's, which comes to the same."""
    before = [Machine(url), Machine(url)]
    async with running(*before):
        await before[0].keep("it", tags=("tenant:a",))
        for machine in before:
            machine.passed += MINUTE
        await before[0].keep("more", tags=("tenant:a",))
        for machine in (*before, *before):
            await machine.cache.read_purges()
            await machine.settle()
        after = Machine(url)
        async with running(after):
            assert abs(after.cache.now() - before[0].cache.now()) < MINUTE / 2
            assert await after.has("more")
            after.cache.purge("tenant:a")
            await after.settle()
            for machine in before:
                await machine.cache.read_purges()
            for machine in (*before, after):
                assert not await machine.has("it")
                assert not await machine.has("more")


async def test_a_server_whose_clock_leaps_ahead_is_followed(url):
    one = Machine(url)
    async with running(one):
        one.passed -= HOUR
        await one.cache.read_purges()
        assert abs(one.cache.now() - time.time()) < MINUTE
        assert one.clock.now() <= one.clock.latest()


def test_a_purge_covers_what_was_asked_until_its_latest_moment():
    clock = SharedClock(lambda: 1e6, lambda: 5.0)
    clock.heard(1e6, 3.0, 5.0, 0.0)
    cache = Cache(
        MemoryTier(1 << 22, clock.now), (), Sealer(b"s" * 32, 1 << 24), max_entry_bytes=1 << 22, clock=clock
    )
    cache.put(a_key(1), an_entry(now=1e6 + 1.9))
    cache.purge("tenant:a")
    assert cache.get_nowait(a_key(1)) is None


class Deaf(SharedClock):
    """A clock that takes its own time for everybody's."""

    def heard(self, *_):
        self.refused()
        return 0.0


async def test_an_answer_from_a_machine_that_is_ahead_and_did_not_hear_the_server_is_none(url, monkeypatch):
    right = Machine(url)
    monkeypatch.setitem(globals(), "SharedClock", Deaf)
    wrong = Machine(url, HOUR)
    async with running(right, wrong):
        await wrong.keep("it")
        assert await got(right.cache.guards[0].tier, a_key("it")) is not None
        assert not await right.has("it")


async def test_who_may_not_ask_for_the_time_goes_by_his_own_and_keeps_what_he_is_told():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer("--user", "timeless", "on", ">p", "~*", "+@all", "-time") as server:
        machine = Machine(server.url.replace("redis://", "redis://timeless:p@"), MINUTE)
        async with running(machine):
            assert machine.clock.known
            assert machine.cache.now() > time.time() + MINUTE / 2
            await machine.keep("it")
            machine.cache.memory.clear()
            assert await machine.has("it")


async def test_who_may_not_ask_for_the_time_asks_once_a_connection():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer("--user", "timeless", "on", ">p", "~*", "+@all", "-time") as server:
        machine, other = (
            Machine(server.url.replace("redis://", "redis://timeless:p@"), MINUTE),
            Machine(server.url),
        )
        (tier,), (owner,) = ([guard.tier for guard in one.cache.guards] for one in (machine, other))
        async with running(machine, other):
            for _ in range(3):
                await machine.cache.read_purges()
            assert tier.statistics().errors == 0
            await owner._ask(b"ACL", b"SETUSER", b"timeless", b"+time")
            await machine.cache.read_purges()
            assert machine.cache.now() > time.time() + MINUTE / 2
            tier.reset()
            await machine.settle()
            await tier._link.wait_connected()
            assert abs(machine.cache.now() - time.time()) < MINUTE / 2


async def test_a_cluster_is_asked_where_the_purges_are_before_anything_is_looked_up(monkeypatch):
    greet = ClusterTier._greet
    connected = []

    async def slowly(tier, connection):
        await asyncio.sleep(0.2)  # seconds, in which the others would have connected
        connected.extend(link.connection for link in tier._links.values())
        await greet(tier, connection)

    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisCluster() as cluster:
        one = Machine(cluster.url)
        async with running(one):
            names = range(30)
            for name in names:
                await one.keep(name, tags=("tenant:a",))
            one.cache.purge("tenant:a")
            await one.settle()
            two = Machine(cluster.url)
            monkeypatch.setattr(ClusterTier, "_greet", slowly)
            async with running(two):
                assert connected == [None, None, None]
                assert [name for name in names if await two.has(name)] == []


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20),
    st.floats(-HOUR, HOUR),
    st.floats(-0.0005, 0.0005),
)
def test_the_servers_time_is_between_the_two_bounds(hearings, apart, drift):
    """``hearings``: seconds since the last, until the server is asked, and from then until its answer is here."""
    now = 0.0

    def server():
        return 1e6 + now

    monotonic = lambda: now * (1 + drift)  # noqa: E731
    clock = SharedClock(lambda: server() + apart, monotonic)
    for pause, out, back in hearings:
        now += pause
        if clock.known:
            assert clock.now() - 0.0005 * pause - 1e-6 <= server() <= clock.latest() + 1e-6
        sent = monotonic()
        now += out
        told = server()
        now += back
        assert clock.heard(told, sent, monotonic(), 0.0) == 0.0
        assert clock.now() <= server() + 1e-6
        assert server() <= clock.latest() + 1e-6
