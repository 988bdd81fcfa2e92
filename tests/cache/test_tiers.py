"""What every tier does, whatever it is made of."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest
from entries import Wall, a_key, an_entry, emptied, got
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cache.entry import Sealer
from penstock.cache.tiers.disk import DiskTier
from penstock.cache.tiers.memory import MemoryTier
from penstock.cache.tiers.redis import RedisTier
from penstock.cache.tiers.redis_cluster import ClusterTier
from penstock.sqlite_files import Kind

SEALER = Sealer(b"s" * 32, 1 << 24)


class Memory:
    """Memory under the interface of the others."""

    def __init__(self, max_bytes, wall):
        self.tier = MemoryTier(max_bytes, wall)
        self.tags = {}

    def start(self):
        pass

    def get(self, key, then):
        entry = self.tier.get(key)
        then(None if entry is None else entry.events[0])

    def put(self, key, sealed, kept_until):
        self.tier.put(key, an_entry(sealed, kept_until=kept_until))

    def remove(self, key):
        self.tier.remove(key)

    async def flush(self):
        pass

    close = flush

    def statistics(self):
        return self.tier.statistics()


@pytest.fixture(params=["memory", "disk", "redis", "cluster"])
def kind(request):
    return request.param


@pytest.fixture
def made(kind, tmp_path, request):
    """Makes tiers that keep their entries in one place, apart from other tests'."""
    wall = Wall(time.time())
    if kind == "redis":
        server = emptied(request.getfixturevalue("redis_for_all"))
        return lambda max_bytes=1 << 20: RedisTier(server.url)
    if kind == "cluster":
        cluster = request.getfixturevalue("cluster_for_all")
        for server in cluster.servers:
            emptied(server)
        return lambda max_bytes=1 << 20: ClusterTier(cluster.url)
    if kind == "disk":
        return lambda max_bytes=1 << 20: DiskTier(tmp_path / "cache.sqlite", max_bytes)
    return lambda max_bytes=1 << 20: Memory(max_bytes, wall)


@contextlib.asynccontextmanager
async def running(*tiers):
    for tier in tiers:
        tier.start()
        await tier.flush()
    try:
        yield
    finally:
        for tier in tiers:
            await tier.close()


def soon():
    return time.time() + 300


async def test_what_was_put_is_found_and_nothing_else(made):
    tier = made()
    async with running(tier):
        assert await got(tier, a_key(1)) is None
        tier.put(a_key(1), b"one", soon())
        tier.put(a_key(2), b"two", soon())
        await tier.flush()
        assert await got(tier, a_key(1)) == b"one"
        assert await got(tier, a_key(2)) == b"two"
        assert await got(tier, a_key(3)) is None


async def test_what_was_purged_is_told_before_anything_is_found(made, kind):
    if kind == "memory":
        return
    one, two, learnt = made(), made(), []
    async with running(one):
        one.put(a_key(1), b"one", soon())
        one.purged("tenant:a", 5.0)
        await one.flush()
        two.start(learnt.append)
        if kind != "disk":  # whose threads are there at once
            await two.flush()
        found = []
        two.get(a_key(1), lambda sealed: found.append((sealed, *learnt)))
        await two.flush()
        await got(two, a_key(2))
        assert found == [(b"one", {"tenant:a": 5.0})]
        await two.close()


async def test_the_last_one_put_counts(made):
    tier = made()
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        tier.put(a_key(1), b"two", soon())
        await tier.flush()
        assert await got(tier, a_key(1)) == b"two"


async def test_what_was_removed_is_gone(made):
    tier = made()
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        tier.remove(a_key(1))
        tier.remove(a_key(2))
        await tier.flush()
        assert await got(tier, a_key(1)) is None


async def test_what_has_expired_is_not_found(made):
    tier = made()
    async with running(tier):
        tier.put(a_key(1), b"one", time.time() - 1)
        await tier.flush()
        assert await got(tier, a_key(1)) is None


@pytest.mark.parametrize("value", [b"", bytes(range(256)), b"\r\n$5\r\n\0'--", b"x" * 200_000])
async def test_any_bytes_come_back_as_they_were(made, value):
    tier = made(1 << 23)
    async with running(tier):
        tier.put(a_key(1), value, soon())
        await tier.flush()
        assert await got(tier, a_key(1)) == value


async def test_many_look_ups_at_once_get_each_its_own(made):
    tier = made()
    async with running(tier):
        for number in range(300):
            tier.put(a_key(number), b"%d" % number, soon())
        await tier.flush()
        found = await asyncio.gather(*(got(tier, a_key(number)) for number in range(400)))
        assert found == [*(b"%d" % number for number in range(300)), *[None] * 100]


async def test_one_who_stops_waiting_does_not_disturb_the_others(made):
    tier = made()
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        given_up = got(tier, a_key(1))
        kept = got(tier, a_key(1))
        given_up.cancel()
        assert await kept == b"one"


async def test_entries_outlive_the_one_who_put_them_where_others_share_them(made, kind):
    if kind == "memory":
        pytest.skip("memory is nobody else's")
    one = made()
    async with running(one):
        one.put(a_key(1), b"one", soon())
        one.purged("tenant:a", 5.0)
        await one.flush()
    two, three = made(), made()
    async with running(two, three):
        assert await got(two, a_key(1)) == b"one"
        three.remove(a_key(1))
        two.purged("tenant:b", 7.5)
        await three.flush()
        await two.flush()
        assert await got(two, a_key(1)) is None
        assert await three.purges() == {"tenant:a": 5.0, "tenant:b": 7.5}


async def test_a_bound_in_bytes_is_kept_and_what_is_new_finds_room(made, kind, tmp_path):
    if kind in {"redis", "cluster"}:
        pytest.skip("the server's own maxmemory bounds it")
    room = 2 << 20
    tier = made(room)
    async with running(tier):
        for number in range(4_000):
            tier.put(a_key(number), os.urandom(2_000), soon())
            if number % 200 == 0:
                await tier.flush()
        await tier.flush()
        statistics = tier.statistics()
        assert statistics.held <= room
        assert statistics.evicted > 2_000
        if kind == "disk":
            assert (tmp_path / "cache.sqlite").stat().st_size <= room
            assert statistics.dropped == 0
        tier.put(a_key("new"), b"new", soon())
        await tier.flush()
        assert await got(tier, a_key("new")) == b"new"


async def test_an_end_without_a_beginning_harms_nobody(made):
    tier = made()
    await tier.close()


# ---- memory alone ----


def test_what_is_asked_for_again_outlives_a_flood_of_what_is_asked_for_once():
    tier = MemoryTier(200_000, Wall())
    for number in range(20):
        tier.put(a_key(number), an_entry("x" * 500))
        for _ in range(2):
            assert tier.get(a_key(number)) is not None
    for number in range(1_000, 3_000):
        tier.put(a_key(number), an_entry("x" * 500))
    assert all(tier.get(a_key(number)) is not None for number in range(20))


def test_one_that_came_back_too_soon_after_it_went_stays_longer():
    tier = MemoryTier(100_000, Wall())
    for number in range(100):
        tier.put(a_key(number), an_entry("x" * 500))
    (gone,) = [n for n in range(100) if tier.get(a_key(n)) is None][-1:]
    tier.put(a_key(gone), an_entry("x" * 500))
    for number in range(1_000, 1_030):
        tier.put(a_key(number), an_entry("x" * 500))
    assert tier.get(a_key(gone)) is not None


def test_an_entry_that_would_displace_most_others_is_not_kept():
    tier = MemoryTier(100_000, Wall())
    tier.put(a_key(1), an_entry("x"))
    tier.put(a_key(1), an_entry("x" * 50_000))
    assert tier.get(a_key(1)) is None  # not the old one, either: it was replaced
    assert tier.statistics().held == 0


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "remove", "wait", "clear"]),
            st.integers(0, 30),
            st.integers(0, 9_000),
        ),
        max_size=200,
    )
)
def test_whatever_is_done_the_account_is_right_and_the_bound_is_kept(steps):
    wall = Wall()
    tier = MemoryTier(40_000, wall)
    model = {}
    for what, number, size in steps:
        key = a_key(number)
        if what == "put":
            model[key] = an_entry("x" * size, now=wall.time, ttl=100.0)
            tier.put(key, model[key])
        elif what == "get":
            found = tier.get(key)
            assert found is None or found is model[key]
            assert found is None or found.kept_until > wall.time
        elif what == "remove":
            tier.remove(key)
            assert tier.get(key) is None
        elif what == "clear":
            tier.clear()
            assert len(tier) == 0
        else:
            wall.time += number
        nodes = [*tier._small.values(), *tier._main.values()]
        assert tier._held == sum(node.size for node in nodes) + 180 * len(tier._ghosts)
        assert tier._on_trial == sum(node.size for node in tier._small.values())
        assert tier._held <= tier.max_bytes
        assert not set(tier._small) & set(tier._main)


# ---- disk alone ----


async def test_a_damaged_file_is_given_up_and_begun_anew(tmp_path):
    path = tmp_path / "cache.sqlite"
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        for number in range(200):
            tier.put(a_key(number), os.urandom(2_000), soon())
        await tier.flush()
    data = bytearray(path.read_bytes())
    for at in range(100, len(data), 97):  # all but the first header
        data[at] ^= 0x5A
    path.write_bytes(data)
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        for number in range(200):
            with contextlib.suppress(OSError):
                assert await got(tier, a_key(number)) is None
        for _ in range(5):
            tier.put(a_key("new"), b"new", soon())
            await tier.flush()
        assert await got(tier, a_key("new")) == b"new"
        assert tier.statistics().trouble == ""


async def test_a_file_with_the_mark_that_caches_had_is_read_and_gets_todays(tmp_path):
    path = tmp_path / "cache.sqlite"
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        tier.put(a_key("old"), b"old", soon())
        await tier.flush()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {Kind.CONVERSATIONS:d}")
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        assert await got(tier, a_key("old")) == b"old"
        assert tier.statistics().trouble == ""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (Kind.CACHE,)


@pytest.mark.parametrize("length", [0, 1, 50, 100, 4_096, 10_000])
async def test_a_file_that_was_cut_short_is_no_end(tmp_path, length):
    path = tmp_path / "cache.sqlite"
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        for number in range(50):
            tier.put(a_key(number), os.urandom(2_000), soon())
        await tier.flush()
    os.truncate(path, length)
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        for number in range(60):
            with contextlib.suppress(OSError):
                await got(tier, a_key(number))
            tier.put(a_key("new"), b"new", soon())
            await tier.flush()
        assert await got(tier, a_key("new")) == b"new"


async def test_a_file_that_is_cut_short_under_us_is_no_end(tmp_path):
    path = tmp_path / "cache.sqlite"
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        for number in range(50):
            tier.put(a_key(number), os.urandom(2_000), soon())
        await tier.flush()
        os.truncate(path, 5_000)
        for number in range(60):
            with contextlib.suppress(OSError):
                await got(tier, a_key(number))
            tier.put(a_key(("new", number)), b"new", soon())
            await tier.flush()


async def test_a_file_that_was_removed_is_begun_anew_for_all_to_find(tmp_path):
    path = tmp_path / "cache.sqlite"
    tier = DiskTier(path, 1 << 24)
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        assert await got(tier, a_key(1)) == b"one"
        for file in tmp_path.iterdir():
            file.unlink()
        tier.put(a_key(2), b"two", soon())
        await tier.flush()
        assert await got(tier, a_key(2)) == b"two"
        assert await got(tier, a_key(1)) is None
        other = DiskTier(path, 1 << 24)
        async with running(other):
            assert await got(other, a_key(2)) == b"two"


@pytest.mark.parametrize("content", [b"a letter to my mother", b"SQLite format 3\0" + b"x" * 5_000])
async def test_what_is_no_cache_is_left_alone(tmp_path, content):
    path = tmp_path / "letter"
    path.write_bytes(content)
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        with pytest.raises(OSError):
            await got(tier, a_key(1))
        assert tier.statistics().trouble
    assert path.read_bytes() == content


async def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "theirs.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE letters (text)")
    before = path.read_bytes()
    tier = DiskTier(path, 1 << 22)
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        with pytest.raises(OSError):
            await got(tier, a_key(1))
    assert path.read_bytes() == before


async def test_a_directory_that_is_not_there_is_a_trouble_and_no_error_of_ours(tmp_path):
    tier = DiskTier(tmp_path / "nowhere" / "cache.sqlite", 1 << 22)
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        with pytest.raises(OSError):
            await got(tier, a_key(1))
        assert tier.statistics().dropped == 1
        (tmp_path / "nowhere").mkdir()
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        assert await got(tier, a_key(1)) == b"one"


@pytest.fixture
def file_size_limit():
    """Sets how long a file may become: the kernel refuses what goes past it, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size=None: resource.setrlimit(
        resource.RLIMIT_FSIZE, before if size is None else (size, before[1])
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_drops_what_is_new_and_keeps_what_is_there(tmp_path, file_size_limit):
    tier = DiskTier(tmp_path / "cache.sqlite", 1 << 24)
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        file_size_limit(200_000)
        for number in range(20):
            tier.put(a_key(("large", number)), os.urandom(50_000), soon())
            await tier.flush()
        assert tier.statistics().dropped > 0
        assert tier.statistics().trouble
        assert await got(tier, a_key(1)) == b"one"
        file_size_limit()
        tier.put(a_key(2), b"two", soon())
        await tier.flush()
        assert await got(tier, a_key(2)) == b"two"
        assert not tier.statistics().trouble


async def test_the_file_is_nobody_elses_to_read(tmp_path):
    tier = DiskTier(tmp_path / "cache.sqlite", 1 << 22)
    async with running(tier):
        tier.put(a_key(1), b"one", soon())
        await tier.flush()
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


async def test_what_has_expired_goes_from_the_file(tmp_path):
    wall = Wall(time.time())
    tier = DiskTier(tmp_path / "cache.sqlite", 1 << 22, wall)
    async with running(tier):
        for number in range(1_200):
            tier.put(a_key(number), b"x", wall.time + 10)
        tier.put(a_key("stays"), b"x", wall.time + 100)
        await tier.flush()
    wall.time += 20
    tier = DiskTier(tmp_path / "cache.sqlite", 1 << 22, wall)
    async with running(tier):
        await tier.flush()  # the first round cleans
        assert tier.statistics().entries == 1


# ---- Redis alone ----


async def test_entries_in_redis_expire_by_themselves(redis_for_all):
    tier = RedisTier(redis_for_all.url)
    async with running(tier):
        tier.put(a_key("brief"), b"x", time.time() + 60)
        await tier.flush()
        left = await tier._ask(b"PTTL", b"penstock:cache:" + a_key("brief"))
        assert 50_000 < left <= 60_000


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_redis_learns_what_was_used_without_asking_it(kind, made, request):
    servers = [request.getfixturevalue("redis_for_all")]
    if kind == "cluster":
        servers = request.getfixturevalue("cluster_for_all").servers
    tier = made()

    async def how_often(number):
        asked = b"return redis.call('object', 'freq', KEYS[1])"
        return await tier._ask(b"EVAL", asked, b"1", b"penstock:cache:" + a_key(number))

    async with running(tier):
        for server in servers:
            configure(server, "maxmemory-policy", "allkeys-lfu")
        try:
            for number in range(6):
                tier.put(a_key(number), b"x", soon())
            await tier.flush()
            before = [await how_often(number) for number in range(6)]
            tier.used([*map(a_key, range(5)), a_key("gone")])
            await tier.flush()
            after = [await how_often(number) for number in range(6)]
        finally:
            for server in servers:
                configure(server, "maxmemory-policy", "noeviction")
    assert [later - sooner for sooner, later in zip(before, after, strict=True)] == [1, 1, 1, 1, 1, 0]


def configure(server, name, value):
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(f"CONFIG SET {name} {value}\r\n".encode())
        assert sock.recv(100) == b"+OK\r\n"


def visit(path):
    """Another process reads the database, and thinks that it was the last one if nobody else has a lock on it."""
    code = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('PRAGMA user_version').fetchall(); d.close()"
    subprocess.run([sys.executable, "-c", code, path], check=True)


def test_a_process_that_goes_does_not_take_the_log_from_those_that_stay(tmp_path):
    path = tmp_path / "answers"

    async def main():
        tier = DiskTier(path, 1 << 26)
        tier.start()
        tier.put(b"k" * 32, b"sealed", time.time() + 100)
        await tier.flush()
        assert await got(tier, b"k" * 32) is not None  # both of its connections are open
        log = path.with_name("answers-wal").stat().st_ino
        visit(path)
        assert path.with_name("answers-wal").stat().st_ino == log
        await tier.close()

    asyncio.run(main())
