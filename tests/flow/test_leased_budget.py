"""Budgets of several processes: what they spend together, with a clock and a ledger of the test's own."""

import asyncio
import datetime as dt
import random
from types import SimpleNamespace

import msgspec
import pytest
from flow_calls import a_call
from pool_board import PoolBoard, SharedPool

from penstock.config.model import LimitConfig, LimitsConfig
from penstock.errors import LeaseWanted, RateLimited
from penstock.flow.budget import Calendar
from penstock.flow.leased_budget import LeasedBudget
from penstock.flow.lessee import Lessee
from penstock.flow.limits import Limiter
from penstock.flow.sharing import LIFE, Pool
from penstock.messages import Spent, Tenant, Usage
from penstock.testing import FakeClock

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC).timestamp()
ALICE = Tenant(name="research", key_name="alice")
CENT = 10**10


class Process:
    def __init__(self, world, name):
        self.world = world
        self.lessee = Lessee(world.count, world.clock.now, lambda result: None)
        self.board = PoolBoard(world.pool, name, world.clock)
        self.limiter = Limiter(
            world.limits,
            world.clock.now,
            lambda *_: world.price,
            lambda *_: None,
            lessee=self.lessee,
            unix_time=lambda: NOON + world.passed,
        )
        self.running = []
        self.spent = 0
        self.error = None

    def call(self, *, patient=True):
        """Whether a call may begin; one that would have to wait gets what there is now."""
        try:
            reservation = self.limiter.reserve(a_call(ALICE), patient=patient)
        except RateLimited as error:
            self.error = error
            return False
        self.running.append(reservation)
        return True

    async def patient_call(self):
        """The same for one that waits, a quarter of a second at most."""
        for _ in range(3):
            if self.call():
                return True
            if not isinstance(self.error, LeaseWanted):
                return False
            waiting = asyncio.ensure_future(self.limiter.wait_leased(a_call(ALICE), 60.0))
            for _ in range(10):
                await asyncio.sleep(0)
                if not waiting.done():
                    self.world.sweep(0.02)
            waiting.cancel()
        return False

    def end(self, cost):
        reservation = self.running.pop(0)
        self.spent += cost
        reservation.settle(Usage(), cost)
        reservation.release()

    @property
    def reserved(self):
        return len(self.running) * self.world.price

    def sweep(self, now):
        self.lessee.sweep(now)


class World(SharedPool):
    """Processes that share one key's budget, of which the ledger tells each what all others spent a second ago."""

    def __init__(self, count=4, price=CENT, before=0, **limit):
        super().__init__(FakeClock(), count)
        self.price = price
        self.before = before
        self.limits = LimitsConfig(keys={"alice": LimitConfig(**limit)})
        self.began = self.clock.now()
        self.processes = [Process(self, f"p{number}") for number in range(count)]
        self.look()

    @property
    def passed(self):
        return self.clock.now() - self.began

    def sweep(self, seconds):
        self.clock.advance(seconds)
        for process in self.processes:
            process.sweep(self.clock.now())

    def look(self):
        total = self.before + sum(process.spent for process in self.processes)
        for process in self.processes:
            others = total - process.spent
            process.limiter.look()
            process.limiter.credit([Spent("alice", "research", "standard", "m", "up", "m", others, others)])

    @property
    def total(self):
        return self.before + sum(process.spent + process.reserved for process in self.processes)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [2, 8])
def test_together_they_spend_the_budget_and_at_most_one_call_each_beyond(seed, count):
    """Calls come in floods, at one process or at all; what they cost is their estimate, or less."""

    async def main():
        rng = random.Random(seed)
        world = await World(count, rng.choice([CENT, 7 * CENT]), usd_per_day=rng.choice([1, 20])).start()
        limit, beyond = round(world.limits.keys["alice"].usd_per_day * 10**12), 0
        rates = [rng.choice([0, 1, 30]) for _ in world.processes]
        rates[0] = 30
        for step in range(900):
            if rng.random() < 0.03:
                rng.shuffle(rates)
            for process, rate in zip(world.processes, rates, strict=True):
                for _ in range(rng.randrange(rate + 1)):
                    process.call()
                beyond = max(beyond, world.total - limit)
                while process.running and rng.random() < 0.7:
                    process.end(rng.choice([world.price, world.price // 3]))
            await world.turn()
            if step % 10 == 0:
                world.look()
        for process in world.processes:
            while await process.patient_call():
                process.end(world.price)
        return beyond / world.price, (limit - world.total) / world.price

    beyond, unused = asyncio.run(main())
    assert beyond <= count  # most often 0: only a process that is new to the account may be too trusting
    assert unused < 2  # of calls: little lies idle that one could have had


def test_a_flood_at_processes_that_have_not_heard_of_each_other_spends_no_more_than_there_is():
    async def main():
        world = await World(8, usd_per_day=0.1).start()  # ten calls
        for _ in range(50):
            for process in world.processes:
                for _ in range(20):
                    process.call()
            await world.turn()
        return world.total

    assert asyncio.run(main()) == 10 * CENT


def test_the_last_of_it_is_had_by_whoever_asks():
    """The others have some leased ahead, and give it back."""

    async def main():
        world = await World(4, usd_per_day=1).start()
        for process in world.processes:
            assert await process.patient_call()
            process.end(CENT)
        lonely = world.processes[2]
        got = 0
        for _ in range(10):
            while await lonely.patient_call():
                lonely.end(CENT)
                got += 1
            await world.turn(1.0)  # as it is told to come back
        return got

    assert asyncio.run(main()) == 96


def test_what_was_spent_before_the_pool_began_counts_once():
    async def main():
        world = await World(3, before=90 * CENT, usd_per_day=1).start()
        got = 0
        for _ in range(30):
            for process in world.processes:
                if await process.patient_call():
                    process.end(CENT)
                    got += 1
            world.look()
        return got

    assert asyncio.run(main()) == 10


def test_a_pool_that_has_lost_its_memory_leases_no_money_twice():
    async def main():
        world = await World(3, usd_per_day=1).start()
        for _ in range(10):
            for process in world.processes:
                if await process.patient_call():
                    process.end(CENT)
        world.look()
        fresh = Pool()
        for process in world.processes:
            process.board.pool = fresh
        got = 30
        for _ in range(60):
            for process in world.processes:
                if await process.patient_call():
                    process.end(CENT)
                    got += 1
            world.look()
        return got, world.total

    got, total = asyncio.run(main())
    assert total <= 10**12
    assert got >= 97


def test_what_a_dead_process_held_is_the_others_and_what_it_spent_is_spent():
    async def main():
        world = await World(2, usd_per_day=1).start()
        dead, lives = world.processes
        for _ in range(20):
            if dead.call():
                dead.end(CENT)
            await world.turn()
        await world.kill(dead)
        for _ in range(int(LIFE * 10) + 2):
            await world.turn()
        got = 0
        while await lives.patient_call():
            lives.end(CENT)
            got += 1
        return got, dead.spent

    got, spent = asyncio.run(main())
    assert got * CENT + spent == 10**12


def test_without_word_from_the_others_each_spends_its_part_and_together_no_more_than_there_is():
    async def main():
        world = await World(4, usd_per_day=1).start()
        for process in world.processes:
            assert await process.patient_call()
            process.end(CENT)
        await world.turn(1.1)
        await world.turn(1.1)
        for process in world.processes:
            process.board.state = "gone"
        await world.turn(1.1)
        for _ in range(2):
            for process in world.processes:
                while process.call(patient=False):
                    process.end(CENT)
            await world.turn(61.0)
        return world.total

    assert 80 * CENT < asyncio.run(main()) <= 10**12


def test_a_new_day_begins_with_nothing_leased():
    async def main():
        world = await World(2, usd_per_day=0.05).start()
        one, other = world.processes
        while await one.patient_call():
            one.end(CENT)
        refused = one.error.retry_after
        world.clock.advance(86_400)
        for process in world.processes:
            process.spent = 0
            process.limiter.look()
        for _ in range(40):  # until the pool knows again who is there
            await world.turn()
        world.look()
        got = 0
        while await other.patient_call():
            other.end(CENT)
            got += 1
        return refused, got

    refused, got = asyncio.run(main())
    assert refused > 40_000
    assert got == 5


def test_a_call_that_is_dearer_than_the_whole_budget_gets_all_of_it_once():
    async def main():
        world = await World(4, 500 * CENT, usd_per_day=1).start()
        return [await process.patient_call() for process in world.processes]

    assert asyncio.run(main()) == [True, False, False, False]


class DatedBoard(PoolBoard):
    """Tells what time it is, which need not be what this machine takes it for."""

    def exchange(self, reports, *, rejoins):
        found = asyncio.get_running_loop().create_future()
        if self.state == "well":
            answer = self.pool.exchange(self.member, reports, self.clock.now(), rejoins=rejoins)
            found.set_result(msgspec.structs.replace(answer, now=NOON + self.clock.now()))
        else:
            found.set_exception(ConnectionError("nobody there"))
        return found


@pytest.mark.parametrize("wrong_by", [86_400.0, -86_400.0, 32 * 86_400.0])
def test_a_day_is_the_one_that_it_is_for_all_whatever_this_machine_takes_it_for(wrong_by, monkeypatch):
    monkeypatch.setattr("penstock.flow.lessee.time", SimpleNamespace(time=lambda: NOON + wrong_by))

    async def test():
        clock = FakeClock(0.0)
        lessee = Lessee(1, clock.now, lambda result: None)
        limits = LimitsConfig(keys={"alice": LimitConfig(usd_per_day=0.5, usd_per_month=10.0)})
        limiter = Limiter(limits, clock.now, lambda *_: CENT, lambda *_: None, lessee=lessee)

        def dated():
            calendar = limiter.calendar
            (account,) = limiter._accounts.values()
            assert account.day._period == calendar.day
            assert account.month._period == calendar.month
            return calendar.day, calendar.month, account.day.own

        reservation = limiter.reserve(a_call(ALICE))
        reservation.settle(Usage(), CENT)
        reservation.release()
        here, today = Calendar(NOON + wrong_by), Calendar(NOON)
        assert dated() == (here.day, here.month, CENT)

        board = DatedBoard(Pool(), "p", clock)
        await lessee.use(board)
        lessee.sweep(clock.now())
        await asyncio.sleep(0)
        assert dated() == (today.day, today.month, CENT)
        board.state = "gone"  # and what was told still holds
        for seconds, days, spent in ((43_199.0, 0, CENT), (1.0, 1, 0)):
            clock.advance(seconds)
            lessee.sweep(clock.now())
            await asyncio.sleep(0)
            limiter.look()
            assert dated() == (today.day + days, today.month, spent)
        await lessee.use(None)

    asyncio.run(test())


def test_what_others_have_spent_that_no_ledger_here_knows_is_not_told_to_be_left():
    """As where machines share a budget, each with a ledger of its own."""

    async def main():
        world = await World(2, usd_per_day=1).start()
        busy, idle = world.processes
        for _ in range(60):
            assert await busy.patient_call()
            busy.end(CENT)
            world.sweep(0.02)
        (account,) = idle.limiter.accounts_of(ALICE)
        assert account.day.known_left == account.day.left == 100 * CENT, "nobody has told"
        asking = asyncio.ensure_future(idle.limiter.wait_told([account], 60.0))
        await world.turn()
        await asyncio.wait_for(asking, 5.0)
        assert account.day.left == 100 * CENT, "which its own ledger says"
        assert 30 * CENT < account.day.known_left <= 40 * CENT

    asyncio.run(main())


# ---- one process's part, by itself ----


class Word:
    """Whether there is word from the others."""

    def __init__(self):
        self.is_valid, self.is_alone = True, False

    def budget(self, limit=100, even=0.25):
        budget = LeasedBudget(limit, lambda: self.is_valid, lambda: self.is_alone, lambda: even, "book")
        budget.date(1)
        return budget


def leased(budget, granted, free):
    """Report, and be leased so much."""
    told = budget.told(waited_for=False)
    budget.lease(budget.period, granted, free)
    return told


def test_what_was_leased_for_one_day_is_not_spent_on_the_next():
    budget = Word().budget()
    leased(budget, 60, 40)
    budget.turn(1)
    assert budget.fits(50), "it is the same day"
    budget.turn(2)
    assert not budget.fits(50)
    assert budget.told(waited_for=False).held == 0


def test_what_calls_under_way_may_cost_is_kept_though_less_is_granted():
    budget = Word().budget()
    leased(budget, 60, 40)
    budget.left -= 30  # reserved
    assert budget.lease(1, 10, 40), "what is given back is told at once"
    told = budget.told(waited_for=False)
    assert (told.held, told.needs) == (30, 30)
    assert not budget.lease(1, 45, 40)
    assert budget.told(waited_for=False).held == 45


def test_each_outage_has_a_part_of_what_was_free_before_it():
    word = Word()
    budget = word.budget()
    for granted, free, part in ((8, 40, 18), (0, 80, 20)):
        word.is_alone = False
        leased(budget, granted, free)
        word.is_alone = True
        assert [budget.fits(part), budget.fits(part + 1)] == [True, False]


def test_what_is_left_is_short_when_it_is_less_than_the_last_call_may_have_cost():
    budget = Word().budget()
    leased(budget, 20, 40)
    budget.took(20)
    assert not budget.is_short
    budget.left -= 1
    assert budget.is_short


def test_who_has_not_been_used_for_a_while_has_given_its_part_to_the_others():
    async def main():
        world = await World(2, usd_per_day=0.12).start()  # twelve calls
        idle, busy = world.processes
        assert await idle.patient_call()
        idle.end(CENT)
        await world.turn()
        for _ in range(18):  # and is not counted any more
            await world.turn(1.0)
        got = 0
        while await busy.patient_call():
            busy.end(CENT)
            got += 1
        return got, idle.call()

    assert asyncio.run(main()) == (11, False)


def test_where_there_is_plenty_one_that_comes_back_does_not_wait():
    async def main():
        world = await World(2, usd_per_day=10).start()
        process = world.processes[0]
        assert await process.patient_call()
        process.end(CENT)
        for _ in range(18):
            await world.turn(1.0)
        return process.call()

    assert asyncio.run(main())


def test_in_an_outage_a_part_that_is_not_used_for_a_while_does_not_grow():
    async def main():
        world = await World(4, usd_per_day=1).start()
        busy, idle = world.processes[:2]
        for _ in range(90):
            assert await busy.patient_call()
            busy.end(CENT)
        assert await idle.patient_call()
        idle.end(CENT)
        await world.turn(1.1)
        for process in world.processes:
            process.board.state = "gone"
        for _ in range(80):
            await world.turn(1.0)
        got = 0
        while idle.call(patient=False):
            idle.end(CENT)
            got += 1
        return got

    assert 1 <= asyncio.run(main()) <= 9


# ---- what goes on for hours ----

NAMES = ("alice", "research", "standard", "m")
SERVED_BY = ("up", "m")


def set_aside(process, cost):
    return process.limiter.set_aside(NAMES, SERVED_BY, cost, is_spent=True)


async def spend(world, process):
    """How many calls it can make, also of what another has to spare only a second later."""
    got = 0
    for _ in range(15):
        await world.turn(1.1)
        while await process.patient_call():
            process.end(CENT)
            got += 1
    return got


def test_what_is_set_aside_is_kept_from_the_others_for_as_long_as_it_is():
    async def main():
        world = await World(2, usd_per_day=0.12).start()  # twelve calls
        waiting, busy = world.processes
        aside = set_aside(waiting, 10 * CENT)
        for _ in range(18):  # no call comes there meanwhile
            await world.turn(1.0)
        got = await spend(world, busy)
        aside.release()
        return got, await spend(world, busy)

    assert asyncio.run(main()) == (2, 10)


def test_what_is_to_be_set_aside_is_asked_of_those_who_have_it_to_spare():
    async def main():
        world = await World(4, usd_per_day=1.0).start()
        for process in world.processes:  # all of them hold some
            assert await process.patient_call()
            process.end(CENT)
        await world.turn()
        asking = asyncio.ensure_future(world.processes[0].limiter.wait_set_aside(NAMES, SERVED_BY, 90 * CENT))
        while not asking.done():
            await world.turn()
        return await asking, await world.processes[0].limiter.wait_set_aside(NAMES, SERVED_BY, 90 * CENT)

    aside, another = asyncio.run(main())
    assert aside is not None
    assert another is None


def test_what_is_spent_without_a_call_is_told_to_the_others():
    async def main():
        world = await World(2, usd_per_day=0.12).start()
        taking_in, busy = world.processes
        taking_in.limiter.correct(NAMES, 10 * CENT, SERVED_BY)
        return await spend(world, busy)

    assert asyncio.run(main()) == 2
