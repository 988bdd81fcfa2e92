"""What runs elsewhere is followed: every event once, whoever fetches it."""

import asyncio
import math
import time
from types import SimpleNamespace

import pytest
from store_suite import LATER, append, begin, record

from penstock.errors import Overloaded
from penstock.generation import keeper as module
from penstock.generation.keeper import Keeper
from penstock.generation.log import Generation
from penstock.generation.store import StoreUnavailable
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.messages import Endpoint
from penstock.net.clock import Clock
from penstock.testing import FakeClock
from waiting import until


class NobodysRuns:
    def deserted(self):
        return []


class SlowStore(SQLiteStore):
    """Tells what is new once only when it is told to."""

    def __init__(self, path):
        super().__init__(path, 1 << 26)
        self.holds = False
        self.held = asyncio.Event()
        self.go_on = asyncio.Event()
        self.answered = asyncio.Event()

    async def tail(self, wanted):
        found = await super().tail(wanted)
        if self.holds and any(tail.events for tail in found.values()):
            self.holds = False
            self.held.set()
            await self.go_on.wait()
        elif self.go_on.is_set():
            self.answered.set()
        return found


def test_a_store_is_waited_for_as_long_as_the_answer_is_of_use_and_only_until_it_has_failed_somebody(
    tmp_path,
):
    keeper = Keeper(SQLiteStore(tmp_path / "g.db", 1 << 26), FakeClock(), kept_for=60.0, lease=60.0)
    usual, longest = module.CLAIM_BUDGET, module.KEY_PATIENCE
    assert usual < 2.0 < longest
    assert [keeper.patience(left, named=True) for left in (math.inf, 2.0)] == [longest, 2.0]
    assert keeper.patience(math.inf, named=False) == usual
    keeper.unheard(StoreUnavailable("no answer"), named=False)
    assert keeper.patience(math.inf, named=True) == longest
    keeper.unheard(StoreUnavailable("no answer"), named=True)
    assert keeper.patience(math.inf, named=True) == usual
    assert keeper.unclaimed == 2


def test_what_a_reader_brings_who_comes_back_is_not_brought_once_more_by_a_look_that_was_under_way(tmp_path):
    async def test():
        elsewhere = SQLiteStore(tmp_path / "g.db", 1 << 26)
        await elsewhere.start()
        await elsewhere.renew("me", LATER)
        one = record()
        await elsewhere.write([begin(one, [b"0", b"1"])])

        store = SlowStore(tmp_path / "g.db")
        keeper = Keeper(store, Clock(), kept_for=60.0, lease=60.0)
        await keeper.start(NobodysRuns())
        generation = Generation(
            one.id, endpoint=Endpoint.CHAT, tenant="t", model="m", stream=True, started=0.0, max_bytes=1 << 20
        )
        await keeper.restore(await keeper.load(one.id), generation)
        store.holds = True
        await elsewhere.write([append(one, 2, b"2", b"3")])
        await store.held.wait()  # the keeper's own look has the two that are new, and is not back
        await keeper.catch_up(generation)
        assert generation.events == [b"0", b"1", b"2", b"3"]
        store.go_on.set()
        await store.answered.wait()  # its next look
        assert generation.events == [b"0", b"1", b"2", b"3"]
        keeper.leave(generation)
        await keeper.close()
        await elsewhere.close()

    asyncio.run(test())


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
    monkeypatch.setattr(module, "CLAIM_BUDGET", 60.0)
    monkeypatch.setattr(module, "Written", SimpleNamespace)

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
    monkeypatch.setattr(module, "SETTLING_AFTER_TROUBLE", 0.0)

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


class TroubledStore(SQLiteStore):
    """Its lease cannot be renewed as long as that is in ``trouble``; ``renewals`` counts the tries."""

    def __init__(self, path, clock):
        super().__init__(path, 1 << 26)
        self.trouble = ""
        self.renewals = 0
        self._clock = clock

    async def time(self):
        return self._clock.now()

    async def renew(self, owner, until):
        self.renewals += 1
        if self.trouble:
            raise StoreUnavailable(f"{self.trouble} {self.renewals}")
        await super().renew(owner, until)


def test_trouble_with_the_store_is_told_once_with_its_place_and_so_is_its_end(tmp_path, caplog):
    async def test():
        clock = FakeClock()
        store = TroubledStore(tmp_path / "g.db", clock)
        keeper = Keeper(store, clock, kept_for=60.0, lease=0.02)
        await keeper.start(NobodysRuns())

        async def some_turns():
            seen = store.renewals
            await until(lambda: store.renewals >= seen + 3)

        store.trouble = "no"
        await some_turns()
        clock.advance(30.0)
        await some_turns()
        store.trouble = ""
        await some_turns()  # for a moment it is well
        store.trouble = "not yet"
        await some_turns()
        store.trouble = ""
        await some_turns()
        assert len(caplog.records) == 1
        clock.advance(module.QUIET + 1.0)
        await some_turns()
        await keeper.close()

    with caplog.at_level("WARNING", "penstock.gateway"):
        asyncio.run(test())
    began, over = [found.getMessage() for found in caplog.records]
    assert began.startswith(f"stored answers cannot be read now ({tmp_path}/g.db: no ")
    assert over == f"stored answers can be read again: {tmp_path}/g.db was in trouble for 30 s"
