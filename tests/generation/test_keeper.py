"""What a process does with its store beside: it renews its lease, takes over what the dead have left, and clears away."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from store_suite import LATER, begin, record

from penstock.errors import Overloaded
from penstock.generation.keeper import Keeper
from penstock.generation.store import StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.net.clock import Clock
from penstock.testing import FakeClock
from waiting import until


class NobodysRuns:
    def deserted(self):
        return []


class AskedStore(SQLiteStore):
    """Does not answer who comes back, and says when its owner's lease has been renewed since it was asked."""

    def __init__(self, path):
        super().__init__(path, 1 << 26)
        self.asked = asyncio.Event()
        self.renewed = asyncio.Event()

    async def claim(self, *what, **more):
        self.asked.set()
        await asyncio.Event().wait()

    async def renew(self, owner, until):
        await super().renew(owner, until)
        if self.asked.is_set():
            self.renewed.set()


class ManyLeft(NobodysRuns):
    """A thousand answers whose readers have left."""

    def __init__(self):
        self.generations = []

    def deserted(self):
        return self.generations


def test_the_lease_is_renewed_while_the_store_is_asked_for_thousands_whether_their_readers_come_back(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("penstock.generation.attention._BUDGET", 60.0)
    monkeypatch.setattr("penstock.generation.keeper.Written", SimpleNamespace)

    async def test():
        store, runs = AskedStore(tmp_path / "g.db"), ManyLeft()
        keeper = Keeper(store, Clock(), kept_for=60.0, lease=60.0)
        await keeper.start(runs)
        written = SimpleNamespace(entry=SimpleNamespace(journal=keeper.journal))
        runs.generations = [SimpleNamespace(id=f"gen_{number}", journal=written) for number in range(1_000)]
        await asyncio.wait_for(store.asked.wait(), 30)
        await asyncio.wait_for(store.renewed.wait(), 30)
        await keeper.close()

    asyncio.run(test())


class LeavingStore(SQLiteStore):
    """Its keeper's process begins to go away while this looks for what nobody owns, or takes that over."""

    def __init__(self, path, within):
        super().__init__(path, 1 << 26)
        self.within = within
        self.keeper = None
        self.done = asyncio.Event()

    async def renew(self, owner, until):
        await super().renew(owner, until)
        if self.keeper.leaving:  # the next turn
            self.done.set()

    async def expired(self, now, limit):
        found = await super().expired(now, limit)
        if found and self.within == "look":
            self.keeper.leaving = True
        return found

    async def take_over(self, generation_id, owner, now):
        taken = await super().take_over(generation_id, owner, now)
        self.keeper.leaving = True
        return taken


@pytest.mark.parametrize("within", ["look", "take over"])
def test_a_process_that_begins_to_go_away_takes_nothing_over_that_it_has_just_found(tmp_path, within):
    async def test():
        dead = SQLiteStore(tmp_path / "g.db", 1 << 26)
        await dead.start()
        await dead.renew("dead", LATER)
        one = record()
        await dead.write([begin(one, [b"0"])])
        await dead.release(one.owner, [one.id])

        store = LeavingStore(tmp_path / "g.db", within)
        store.keeper = keeper = Keeper(store, Clock(), kept_for=60.0, lease=60.0)
        await keeper.start(NobodysRuns())
        await asyncio.wait_for(store.done.wait(), 30)
        assert keeper.taken_over == 0
        assert await dead.expired(time.time(), 10) == [one.id]  # for somebody else
        await keeper.close()
        await dead.close()

    asyncio.run(test())


class ShakyStore(SQLiteStore):
    """Fails once, right after it has given a generation to a new owner."""

    def __init__(self, path, within):
        super().__init__(path, 1 << 26)
        self.within = within

    async def take_over(self, generation_id, owner, now):
        taken = await super().take_over(generation_id, owner, now)
        if self.within == "take over":
            self.within = ""
            raise StoreUnavailable("its answer was lost")
        return taken

    async def events(self, generation_id, first, most):
        if self.within == "events":
            self.within = ""
            raise StoreUnavailable("it is away")
        return await super().events(generation_id, first, most)


class Runs(NobodysRuns):
    def __init__(self):
        self.went_on = asyncio.get_running_loop().create_future()

    def go_on(self, record, events, keeper):
        self.went_on.set_result((record.id, events))


@pytest.mark.parametrize("within", ["take over", "events"])
def test_what_was_taken_over_while_the_store_failed_is_gone_on_with_when_it_is_back(
    tmp_path, monkeypatch, within
):
    monkeypatch.setattr("penstock.generation.trouble.SETTLING_AFTER_TROUBLE", 0.0)

    async def test():
        dead = SQLiteStore(tmp_path / "g.db", 1 << 26)
        await dead.start()
        one = record()
        await dead.write([begin(one, [b"0"])])
        await dead.release(one.owner, [one.id])
        keeper = Keeper(ShakyStore(tmp_path / "g.db", within), Clock(), kept_for=60.0, lease=0.1)
        runs = Runs()
        await keeper.start(runs)
        assert await asyncio.wait_for(runs.went_on, 30) == (one.id, [b"0"])
        assert keeper.taken_over == 1
        await keeper.close()
        await dead.close()

    asyncio.run(test())


class Full(Runs):
    """Has no room for anything until it is told so."""

    def __init__(self):
        super().__init__()
        self.refused = asyncio.Event()
        self.has_room = False

    def go_on(self, record, events, keeper):
        if not self.has_room:
            self.refused.set()
            raise Overloaded("too much is in flight at this gateway", retry_after=1.0)
        super().go_on(record, events, keeper)


def test_what_there_is_no_room_for_is_left_to_others_and_gone_on_with_when_there_is(tmp_path, caplog):
    async def test():
        dead = SQLiteStore(tmp_path / "g.db", 1 << 26)
        await dead.start()
        one = record()
        await dead.write([begin(one, [b"0"])])
        await dead.release(one.owner, [one.id])
        keeper = Keeper(SQLiteStore(tmp_path / "g.db", 1 << 26), Clock(), kept_for=60.0, lease=0.1)
        runs = Full()
        await keeper.start(runs)
        await asyncio.wait_for(runs.refused.wait(), 30)
        keeper.leaving = True  # it takes nothing more
        while not await dead.expired(time.time(), 10):
            await asyncio.sleep(0)
        assert keeper.taken_over == 0
        keeper.leaving, runs.has_room = False, True
        assert await asyncio.wait_for(runs.went_on, 30) == (one.id, [b"0"])
        await until(lambda: keeper.taken_over == 1)
        await keeper.close()
        await dead.close()

    with caplog.at_level("ERROR"):
        asyncio.run(test())
    assert not caplog.messages


class CountingStore(SQLiteStore):
    """Counts its keeper's looks after those who have died, and what it clears away; has a clock of its own."""

    def __init__(self, path, wall):
        super().__init__(path, 1 << 26)
        self.wall = wall
        self.turns = 0
        self.swept = 0
        self.turned = asyncio.Event()

    async def time(self):
        return self.wall.now

    async def renew(self, owner, until):
        await super().renew(owner, until)
        self.turns += 1
        self.turned.set()

    async def expire(self, now):
        self.swept += 1
        return await super().expire(now)

    async def turn(self, times):
        until = self.turns + times
        while self.turns < until:
            self.turned.clear()
            await asyncio.wait_for(self.turned.wait(), 30)


class TakesOver(NobodysRuns):
    def go_on(self, record, events, keeper):
        pass


def test_nobody_is_taken_for_dead_because_the_clock_was_set_forward(tmp_path):
    wall = SimpleNamespace(now=1_000_000.0)

    async def test():
        living = SQLiteStore(tmp_path / "g.db", 1 << 26)
        await living.start()
        one = record(owner="living", expires_at=wall.now * 2)
        await living.renew("living", wall.now + 1.0)
        await living.write([begin(one, [b"0"])])

        store, clock = CountingStore(tmp_path / "g.db", wall), FakeClock()
        keeper = Keeper(store, clock, kept_for=60.0, lease=1.0)
        await keeper.start(TakesOver())
        await store.turn(2)
        wall.now += 86_400.0
        await store.turn(3)
        assert keeper.taken_over == 0
        await living.renew("living", wall.now + 1.0)  # its own next beat
        wall.now += 0.5
        clock.advance(0.5)
        await store.turn(3)
        assert keeper.taken_over == 0
        for _ in range(3):  # now it is silent
            wall.now += 0.4
            clock.advance(0.4)
            await store.turn(2)
        assert keeper.taken_over == 1
        await keeper.close()
        await living.close()

    asyncio.run(test())


def test_a_clock_that_was_set_back_does_not_keep_what_is_over(tmp_path):
    wall = SimpleNamespace(now=1_000_000.0)

    async def test():
        store, clock = CountingStore(tmp_path / "g.db", wall), FakeClock()
        keeper = Keeper(store, clock, kept_for=60.0, lease=1.0)
        await keeper.start(NobodysRuns())
        await store.turn(2)
        assert store.swept == 1
        wall.now -= 86_400.0
        clock.advance(61.0)
        await store.turn(2)
        assert store.swept == 2
        await keeper.close()

    asyncio.run(test())
