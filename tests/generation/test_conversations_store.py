"""Conversations that callers keep: whose they are, how long they stay, and who makes room."""

import asyncio
import json
import secrets

import pytest

from penstock.database import MEMORY
from penstock.errors import BodyTooLarge, NotFound
from penstock.generation.conversations import LEAST_CHARGE, Item
from penstock.generation.stores.redis_conversations import RedisConversations
from penstock.generation.stores.sqlite_conversations import SQLiteConversations
from penstock.testing import RedisServer

PATIENT = 60.0  # seconds: what is tested is not how quick a busy machine is


class InFile:
    """Conversations in SQLite, and a clock of their own."""

    def __init__(self):
        self.time = 1_700_000_000.0

    def make(self, path=MEMORY, **limits):
        return SQLiteConversations(path, now=lambda: self.time, **limits)

    async def passes(self, conversations, seconds):
        self.time += seconds

    async def held(self, conversations):
        return await conversations._database.read(
            lambda db: db.execute("SELECT coalesce(sum(bytes), 0) FROM owners").fetchone()[0]
        )


class InRedis:
    """Conversations in a Redis server, whose own clock counts: time passes by making all moments earlier."""

    def __init__(self, url):
        self.url = url
        self.prefix = b"test:{%b}:" % secrets.token_hex(4).encode()

    def make(self, **limits):
        return RedisConversations(self.url, prefix=self.prefix.decode(), budget=PATIENT, **limits)

    async def passes(self, conversations, seconds):
        ask = conversations._client.ask
        for key in [self.prefix + b"used", *await ask(b"KEYS", self.prefix + b"of:*")]:
            for member in await ask(b"ZRANGE", key, b"0", b"-1"):
                await ask(b"ZINCRBY", key, b"%d" % -seconds, member)

    async def held(self, conversations):
        ask = conversations._client.ask
        owners = await ask(b"ZRANGE", self.prefix + b"owners", b"0", b"-1", b"WITHSCORES")
        held = int(await ask(b"GET", self.prefix + b"bytes") or 0)
        assert sum(map(int, owners[1::2])) == held
        each = [
            int(await ask(b"HGET", key, b"bytes"))
            for key in await ask(b"KEYS", self.prefix + b"conversation:*")
        ]
        assert sum(each) == held
        return held


@pytest.fixture(params=["file", "redis", "cluster"])
def place(request):
    if request.param == "file":
        return InFile()
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    return InRedis(request.getfixturevalue("server" if request.param == "redis" else "cluster_node").url)


def item(name, size=0):
    return Item(name, json.dumps({"id": name, "text": "x" * size}).encode())


def run(place, test, **more):
    """``test(conversations)``."""

    async def main():
        limits = {"kept_for": 100.0, "stored_bytes": 1 << 20, "longest": 1 << 16, **more}
        conversations = place.make(**limits)
        try:
            return await test(conversations)
        finally:
            await conversations.close()

    return asyncio.run(main())


def test_nobody_elses_is_there(place):
    async def test(conversations):
        made = await conversations.create("a", b"{}", [item("i")])
        for attempt in (
            lambda: conversations.get("b", made.id),
            lambda: conversations.update("b", made.id, b"{}"),
            lambda: conversations.delete("b", made.id),
            lambda: conversations.add("b", made.id, []),
            lambda: conversations.items("b", made.id),
            lambda: conversations.item("b", made.id, "i"),
            lambda: conversations.remove("b", made.id, "i"),
            lambda: conversations.page("b", made.id, after="", limit=1, newest_first=True),
        ):
            with pytest.raises(NotFound, match="you have no conversation"):
                await attempt()
        assert await conversations.items("a", made.id) == [item("i").body]
        assert await conversations.item("a", made.id, "i") == item("i")

    run(place, test)


def test_what_is_known_of_one_is_as_it_was_set_last(place):
    async def test(conversations):
        made = await conversations.create("a", b'{"k":"v"}', [])
        assert await conversations.get("a", made.id) == made
        changed = await conversations.update("a", made.id, b'{"k":"w"}')
        assert (changed.created, changed.metadata) == (made.created, b'{"k":"w"}')
        assert await conversations.get("a", made.id) == changed

    run(place, test)


def test_a_conversation_goes_when_it_has_not_been_added_to(place):
    async def test(conversations):
        first = await conversations.create("a", b"{}", [])
        second = await conversations.create("a", b"{}", [])
        await place.passes(conversations, 95)
        await conversations.add("a", second.id, [item("i")])
        await place.passes(conversations, 6)
        with pytest.raises(NotFound):
            await conversations.get("a", first.id)
        await conversations.get("a", second.id)
        await place.passes(conversations, 62)
        await conversations.create("b", b"{}", [])  # and what is over is let go of
        assert await place.held(conversations) == 3 * LEAST_CHARGE + 4

    run(place, test)


def test_of_whoever_holds_most_the_oldest_make_room(place):
    async def test(conversations):
        modest = await conversations.create("modest", b"{}", [item("i", 1_000)])
        greedy = []
        for _ in range(40):
            await place.passes(conversations, 1)
            greedy.append(await conversations.create("greedy", b"{}", [item("i", 1_000)]))
        assert 15_000 < await place.held(conversations) <= 20_000
        assert await conversations.items("modest", modest.id)
        await conversations.items("greedy", greedy[-1].id)
        with pytest.raises(NotFound):
            await conversations.items("greedy", greedy[0].id)

    run(place, test, stored_bytes=20_000)


def test_the_one_that_is_added_to_stays_whoever_else_must_go(place):
    async def test(conversations):
        old = await conversations.create("a", b"{}", [item("i", 6_000)])
        await place.passes(conversations, 1)
        young = await conversations.create("a", b"{}", [item("i", 6_000)])
        await conversations.add("a", old.id, [item("j", 9_000)])
        with pytest.raises(NotFound):
            await conversations.items("a", young.id)
        assert len(await conversations.items("a", old.id)) == 2

    run(place, test, stored_bytes=20_000)


def test_the_only_one_stays_though_it_is_more_than_all_may_hold(place):
    async def test(conversations):
        made = await conversations.create("a", b"{}", [item("i", 6_000)])
        assert len(await conversations.items("a", made.id)) == 1

    run(place, test, stored_bytes=5_000)


def test_one_that_is_too_long_stays_as_it_was(place):
    async def test(conversations):
        made = await conversations.create("a", b"{}", [item("i", 5_000)])
        before = await place.held(conversations)
        with pytest.raises(BodyTooLarge):
            await conversations.add("a", made.id, [item("j", 5_000), item("k", 5_000)])
        with pytest.raises(BodyTooLarge):
            await conversations.update("a", made.id, b"x" * 6_000)
        assert len(await conversations.items("a", made.id)) == 1
        assert await place.held(conversations) == before
        with pytest.raises(BodyTooLarge):
            await conversations.create("a", b"{}", [item("i", 20_000)])
        assert await place.held(conversations) == before

    run(place, test, longest=10_000)


def test_a_hundred_thousand_small_items_are_charged_for(place):
    async def test(conversations):
        made = await conversations.create("a", b"{}", [])
        with pytest.raises(BodyTooLarge):
            await conversations.add("a", made.id, [item(f"i{n}") for n in range(100_000)])
        await conversations.add("a", made.id, [item(f"i{n}") for n in range(200)])
        assert await place.held(conversations) == 201 * LEAST_CHARGE + 2

    run(place, test)


def test_what_is_taken_away_is_charged_for_no_more(place):
    async def test(conversations):
        made = await conversations.create("a", b'{"k":"v"}', [item("i", 1_000), item("j", 1_000)])
        await conversations.remove("a", made.id, "i")
        await conversations.update("a", made.id, b"{}")
        assert await place.held(conversations) == LEAST_CHARGE + 2 + len(item("j", 1_000).body)
        for attempt in (conversations.remove, conversations.item):
            with pytest.raises(NotFound, match="no item"):
                await attempt("a", made.id, "i")
        await conversations.delete("a", made.id)
        assert await place.held(conversations) == 0

    run(place, test)


def test_an_item_whose_id_is_there_gets_another_of_its_kind(place):
    async def test(conversations):
        made = await conversations.create("a", b"{}", [item("msg_1"), item("msg_1", 1)])
        (again,) = await conversations.add("a", made.id, [item("msg_1", 3)])
        assert again.id.startswith("msg_")
        assert json.loads(again.body) == {"id": again.id, "text": "xxx"}
        first, second, third = await conversations.items("a", made.id)
        assert (first, third) == (item("msg_1").body, again.body)
        assert json.loads(second)["text"] == "x"
        assert json.loads(second)["id"] not in {"msg_1", again.id}

    run(place, test)


def test_pages_go_both_ways(place):
    async def test(conversations):
        made = await conversations.create("a", b"{}", [item(f"i{n}") for n in range(5)])

        async def page(after, *, newest_first):
            found, more = await conversations.page(
                "a", made.id, after=after, limit=2, newest_first=newest_first
            )
            return [each.id for each in found], more

        assert await page("", newest_first=False) == (["i0", "i1"], True)
        assert await page("i3", newest_first=False) == (["i4"], False)
        assert await page("", newest_first=True) == (["i4", "i3"], True)
        assert await page("i2", newest_first=True) == (["i1", "i0"], False)
        assert await page("unknown", newest_first=True) == ([], False)
        await conversations.remove("a", made.id, "i4")
        await conversations.add("a", made.id, [item("i5")])
        assert await page("i2", newest_first=False) == (["i3", "i5"], False)

    run(place, test)


def test_workers_share_a_file(tmp_path):
    place = InFile()

    async def test(conversations):
        other = place.make(tmp_path / "c.sqlite", kept_for=100.0, stored_bytes=1 << 20, longest=1 << 16)
        made = await conversations.create("a", b"{}", [item("i")])
        try:
            await other.add("a", made.id, [item("j")])
        finally:
            await other.close()
        assert await conversations.items("a", made.id) == [item("i").body, item("j").body]

    run(place, test, path=tmp_path / "c.sqlite")
