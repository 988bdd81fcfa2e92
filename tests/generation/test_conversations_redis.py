"""Conversations that several machines share: a server that hangs, is gone, is full, or answers too late."""

import asyncio
import time

import pytest
from test_conversations_store import InRedis, item

from penstock.errors import StorageFull, StorageUnavailable
from penstock.testing import RedisServer

pytestmark = pytest.mark.skipif(
    not RedisServer.available(), reason="there is no redis-server on this machine"
)
LIMITS = {"kept_for": 100.0, "stored_bytes": 1 << 30, "longest": 1 << 26}


@pytest.fixture
def own_server():
    with RedisServer() as server:
        yield server


def run(place, test, **limits):
    async def main():
        conversations = place.make(**{**LIMITS, **limits})
        try:
            await test(conversations)
        finally:
            await conversations.close()

    asyncio.run(main())


def test_an_addition_whose_answer_was_lost_is_made_once(server):
    place = InRedis(server.url)

    async def test(conversations):
        made = await conversations.create("a", b"{}", [item("i")])
        for _ in range(3):
            await conversations.add("a", made.id, [item("j"), item("k")], once="gen_1")
        assert await conversations.items("a", made.id) == [item(name).body for name in "ijk"]
        await conversations.add("a", made.id, [item("l")], once="gen_2")
        await conversations.add("a", made.id, [item("m")])
        await conversations.add("a", made.id, [item("n")])
        assert len(await conversations.items("a", made.id)) == 6
        (key,) = await conversations._client.ask(b"KEYS", place.prefix + b"once:*gen_1")
        assert await conversations._client.ask(b"TTL", key) > 0

    run(place, test)


def test_another_process_has_them_at_once(server):
    place = InRedis(server.url)

    async def test(conversations):
        other = place.make(**LIMITS)
        made = await conversations.create("a", b"{}", [item("i")])
        adding = [(other, "j"), (conversations, "k"), (other, "l")]
        await asyncio.gather(*(each.add("a", made.id, [item(name)]) for each, name in adding))
        found = await other.items("a", made.id)
        assert sorted(found) == sorted(item(name).body for name in "ijkl")
        assert found == await conversations.items("a", made.id)
        await other.close()

    run(place, test)


def test_a_server_that_stops_in_mid_call_is_said_and_leaves_nothing_half_done(own_server):
    place = InRedis(own_server.url)

    async def test(conversations):
        made = await conversations.create("a", b"{}", [item("i")])
        own_server.freeze()
        conversations._client._budget = 0.2
        try:
            for _ in range(2):  # by a connection that hangs, and by none
                with pytest.raises(StorageUnavailable, match="cannot be reached now") as raised:
                    await conversations.add("a", made.id, [item("j", 1_000), item("k")], once="gen_1")
                assert raised.value.retry_after is not None
        finally:
            own_server.thaw()
        conversations._client._budget = 60.0
        before = time.monotonic()
        while True:
            try:
                found = await conversations.items("a", made.id)
                break
            except StorageUnavailable:
                assert time.monotonic() - before < 60
                await asyncio.sleep(0.05)
        assert found in ([item("i").body], [item("i").body, item("j", 1_000).body, item("k").body])
        await conversations.add("a", made.id, [item("j", 1_000), item("k")], once="gen_1")
        assert len(await conversations.items("a", made.id)) == 3
        await place.held(conversations)  # and the sums agree
        own_server.kill()
        with pytest.raises(StorageUnavailable):
            await conversations.create("a", b"{}", [])

    run(place, test)


def test_a_server_without_room_is_said_and_what_is_there_can_be_let_go_of():
    with RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as small:
        place = InRedis(small.url)

        async def test(conversations):
            made = [await conversations.create("a", b"{}", [item("i")])]

            async def fill():
                while True:
                    made.append(await conversations.create("a", b"{}", [item("i", 200_000)]))

            with pytest.raises(StorageFull):
                await asyncio.wait_for(fill(), 60)
            held = await place.held(conversations)
            with pytest.raises(StorageFull):
                await conversations.add("a", made[0].id, [item("j", 200_000), item("k")])
            assert await place.held(conversations) == held
            assert await conversations.items("a", made[0].id) == [item("i").body]
            for each in made[1:]:
                await conversations.delete("a", each.id)
            assert await place.held(conversations) < 1_000
            await conversations.add("a", made[0].id, [item("j")])

        run(place, test)
