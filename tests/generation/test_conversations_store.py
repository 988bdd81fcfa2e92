"""Conversations that callers keep: whose they are, how long they stay, and who makes room."""

import asyncio
import json

import pytest

from penstock.database import MEMORY
from penstock.errors import BodyTooLarge, NotFound
from penstock.generation.conversations import LEAST_CHARGE, Conversations, Item


class Wall:
    """Unix time."""

    def __init__(self):
        self.time = 1_700_000_000.0

    def __call__(self):
        return self.time


def item(name, size=0):
    return Item(name, json.dumps({"id": name, "text": "x" * size}).encode())


def run(test, path=MEMORY, **more):
    """``test(conversations, wall)``."""

    async def main():
        wall = Wall()
        limits = {"kept_for": 100.0, "stored_bytes": 1 << 20, "longest": 1 << 16, **more}
        conversations = Conversations(path, now=wall, **limits)
        try:
            return await test(conversations, wall)
        finally:
            await conversations.close()

    return asyncio.run(main())


async def held(conversations):
    return await conversations._database.read(
        lambda db: db.execute("SELECT coalesce(sum(bytes), 0) FROM owners").fetchone()[0]
    )


def test_nobody_elses_is_there():
    async def test(conversations, _):
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
            with pytest.raises(NotFound):
                await attempt()
        assert await conversations.items("a", made.id) == [item("i").body]

    run(test)


def test_a_conversation_goes_when_it_has_not_been_added_to():
    async def test(conversations, wall):
        first = await conversations.create("a", b"{}", [])
        second = await conversations.create("a", b"{}", [])
        wall.time += 99
        await conversations.add("a", second.id, [item("i")])
        wall.time += 2
        with pytest.raises(NotFound):
            await conversations.get("a", first.id)
        await conversations.get("a", second.id)
        wall.time += 62
        await conversations.create("b", b"{}", [])  # and what is over is let go of
        assert await held(conversations) == 3 * LEAST_CHARGE + 4

    run(test)


def test_of_whoever_holds_most_the_oldest_make_room():
    async def test(conversations, wall):
        modest = await conversations.create("modest", b"{}", [item("i", 1_000)])
        greedy = []
        for _ in range(40):
            wall.time += 1
            greedy.append(await conversations.create("greedy", b"{}", [item("i", 1_000)]))
        assert await held(conversations) <= 20_000
        assert await conversations.items("modest", modest.id)
        await conversations.items("greedy", greedy[-1].id)
        with pytest.raises(NotFound):
            await conversations.items("greedy", greedy[0].id)

    run(test, stored_bytes=20_000)


def test_one_that_is_too_long_stays_as_it_was():
    async def test(conversations, _):
        made = await conversations.create("a", b"{}", [item("i", 5_000)])
        before = await held(conversations)
        with pytest.raises(BodyTooLarge):
            await conversations.add("a", made.id, [item("j", 5_000), item("k", 5_000)])
        assert len(await conversations.items("a", made.id)) == 1
        assert await held(conversations) == before
        with pytest.raises(BodyTooLarge):
            await conversations.create("a", b"{}", [item("i", 20_000)])
        assert await held(conversations) == before

    run(test, longest=10_000)


def test_a_hundred_thousand_small_items_are_charged_for():
    async def test(conversations, _):
        made = await conversations.create("a", b"{}", [])
        with pytest.raises(BodyTooLarge):
            await conversations.add("a", made.id, [item(f"i{n}") for n in range(100_000)])
        await conversations.add("a", made.id, [item(f"i{n}") for n in range(200)])
        assert await held(conversations) == 201 * LEAST_CHARGE + 2

    run(test)


def test_what_is_taken_away_is_charged_for_no_more():
    async def test(conversations, _):
        made = await conversations.create("a", b'{"k":"v"}', [item("i", 1_000), item("j", 1_000)])
        await conversations.remove("a", made.id, "i")
        await conversations.update("a", made.id, b"{}")
        assert await held(conversations) == LEAST_CHARGE + 2 + len(item("j", 1_000).body)
        with pytest.raises(NotFound):
            await conversations.remove("a", made.id, "i")
        await conversations.delete("a", made.id)
        assert await held(conversations) == 0

    run(test)


def test_an_item_whose_id_is_there_gets_another_of_its_kind():
    async def test(conversations, _):
        made = await conversations.create("a", b"{}", [item("msg_1")])
        (again,) = await conversations.add("a", made.id, [item("msg_1", 3)])
        assert again.id.startswith("msg_")
        assert json.loads(again.body) == {"id": again.id, "text": "xxx"}
        assert await conversations.items("a", made.id) == [item("msg_1").body, again.body]

    run(test)


def test_pages_go_both_ways():
    async def test(conversations, _):
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

    run(test)


def test_workers_share_a_file(tmp_path):
    async def test(conversations, wall):
        other = Conversations(
            tmp_path / "c.sqlite", kept_for=100.0, stored_bytes=1 << 20, longest=1 << 16, now=wall
        )
        made = await conversations.create("a", b"{}", [item("i")])
        try:
            await other.add("a", made.id, [item("j")])
        finally:
            await other.close()
        assert await conversations.items("a", made.id) == [item("i").body, item("j").body]

    run(test, tmp_path / "c.sqlite")
