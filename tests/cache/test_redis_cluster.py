"""The tier in a cluster: where a key is, and what happens when that changes."""

import asyncio
import contextlib
import time

import pytest
from entries import got
from redis_cluster import RedisCluster

from penstock.cache.tiers import redis_cluster as module
from penstock.cache.tiers.redis_cluster import SLOTS, ClusterTier, slot_of, slots_of
from penstock.testing import RedisServer

PREFIX = b"penstock:cache:"


@pytest.fixture
def own_cluster():
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisCluster() as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def running(cluster):
    tier = ClusterTier(cluster.url)
    tier.start()
    await tier.flush()
    try:
        yield tier
    finally:
        await tier.close()


async def until(seen):
    """Real processes decide when."""
    async with asyncio.timeout(60):
        while not await seen():
            await asyncio.sleep(0.02)


def soon():
    return time.time() + 300


async def put_everywhere(cluster, tier, count=60):
    """Entries at every server."""
    keys = [b"%032d" % number for number in range(count)]
    for key in keys:
        tier.put(key, b"entry " + key, soon())
    await tier.flush()
    owners = {key: cluster.owner(slot_of(PREFIX + key)) for key in keys}
    assert set(owners.values()) == {0, 1, 2}
    return owners


@pytest.mark.parametrize(
    "key",
    [b"", b"a", b"123456789", b"penstock:cache:x", b"{a}b", b"b{a}", b"{}a", b"{a", b"a{b}{c}", b"{{a}}"],
)
def test_slots_are_those_of_redis(cluster_for_all, key):
    assert cluster_for_all.tell(cluster_for_all.servers[0], b"CLUSTER", b"KEYSLOT", key) == slot_of(key)


async def test_every_key_is_written_to_its_own_server_and_found_there(own_cluster):
    async with running(own_cluster) as tier:
        owners = await put_everywhere(own_cluster, tier)
        for key in owners:
            assert await got(tier, key) == b"entry " + key
        held = [own_cluster.tell(server, "DBSIZE") for server in own_cluster.servers]
        assert sum(held) == len(owners)
        assert min(held) > 0
        assert tier.statistics().written == len(owners)
        assert tier.statistics().trouble == ""


async def test_a_slot_that_has_moved_is_followed(own_cluster):
    async with running(own_cluster) as tier:
        owners = await put_everywhere(own_cluster, tier)
        for key, owner in list(owners.items())[:6]:
            own_cluster.move(slot_of(PREFIX + key), (owner + 1) % 3)
            assert await got(tier, key) == b"entry " + key
            assert await got(tier, key) == b"entry " + key


async def test_a_slot_that_is_just_moving_is_followed(own_cluster):
    async with running(own_cluster) as tier:
        owners = await put_everywhere(own_cluster, tier)
        key, owner = next(iter(owners.items()))
        own_cluster.move(slot_of(PREFIX + key), (owner + 1) % 3, hurry=True)
        assert await got(tier, key) == b"entry " + key
        assert await got(tier, key) == b"entry " + key


async def test_a_server_that_is_killed_takes_only_its_own_along_and_comes_back(own_cluster):
    async with running(own_cluster) as tier:
        owners = await put_everywhere(own_cluster, tier)
        own_cluster.servers[0].kill()

        async def is_noticed():
            return tier.statistics().trouble != ""

        await until(is_noticed)
        for key, owner in owners.items():
            if owner == 0:
                with pytest.raises(OSError):
                    await got(tier, key)
            else:
                assert await got(tier, key) == b"entry " + key
        own_cluster.servers[0].start()
        lost = next(key for key, owner in owners.items() if owner == 0)

        async def is_back():
            with contextlib.suppress(OSError):
                tier.put(lost, b"again", soon())
                return await got(tier, lost) == b"again"
            return False

        await until(is_back)


async def test_a_replica_that_takes_over_is_found(own_cluster):
    async with running(own_cluster) as tier:
        owners = await put_everywhere(own_cluster, tier)
        replica = own_cluster.add_replica(0)

        async def has_copied():
            return own_cluster.tell(replica, "DBSIZE") == own_cluster.tell(own_cluster.servers[0], "DBSIZE")

        await until(has_copied)
        own_cluster.servers[0].kill()
        own_cluster.tell(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        moved = next(key for key, owner in owners.items() if owner == 0)

        async def is_found():
            with contextlib.suppress(OSError):
                return await got(tier, moved) == b"entry " + moved
            return False

        await until(is_found)


async def test_where_there_is_no_cluster_nothing_is_found_and_nobody_waits(redis_for_all):
    tier = ClusterTier(redis_for_all.url.replace("redis://", "redis+cluster://"))
    tier.start()
    await tier.flush()
    with pytest.raises(OSError, match="cluster support disabled"):
        await got(tier, b"k")
    tier.put(b"k", b"x", soon())
    assert tier.statistics().dropped == 1
    assert "cluster support disabled" in tier.statistics().trouble
    await tier.close()


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        [7],
        [[1]],
        [[0, 1]],
        [[0, SLOTS, [b"h", 1]]],
        [[2, 1, [b"h", 1]]],
        [[0, 1, [7, b"x"]]],
        [b"no"],
    ],
)
def test_a_map_that_makes_no_sense_is_a_trouble(answer):
    with pytest.raises(ConnectionError):
        slots_of(answer, "h")


def test_a_node_that_does_not_know_its_name_is_where_it_was_asked():
    assert slots_of([[0, 1, [None, 7]], [2, 2, [b"other", 8, b"id"], [b"replica", 9]]], "h") == {
        0: ("h", 7),
        1: ("h", 7),
        2: ("other", 8),
    }


@pytest.mark.parametrize(
    ("why", "moved"),
    [
        ("MOVED 7 h:1", (False, ("h", 1))),
        ("ASK 7 ::1:1", (True, ("::1", 1))),
        ("MOVED 7 h", None),
        ("MOVED x h:1", None),
        ("MOVED 7 h:x", None),
        ("MOVED", None),
        ("READONLY You can't", None),
    ],
)
def test_where_a_slot_has_gone_is_read_of_the_error(why, moved):
    assert module._moved(why) == moved
