"""Small limits of several processes, of which each call's part is granted, with a clock of the test's own."""

import asyncio
import contextlib

import pytest
from flow_calls import a_call
from pool_board import PoolBoard, SharedPool

from penstock.config.model import LimitConfig, LimitsConfig
from penstock.errors import LeaseWanted, RateLimited
from penstock.flow.leased import UNHEARD
from penstock.flow.lessee import PATIENCE, Lessee
from penstock.flow.limits import Limiter
from penstock.flow.sharing import Pool
from penstock.messages import Tenant, Usage
from penstock.testing import FakeClock

ALICE = Tenant(name="research", key_name="alice")
BOB = Tenant(name="research", key_name="bob")


class Process:
    def __init__(self, world, name):
        self.world = world
        self.lessee = Lessee(world.count, world.clock.now, lambda result: None)
        self.board = PoolBoard(world.pool, name, world.clock)
        self.limiter = Limiter(
            world.limits, world.clock.now, lambda *_: 0, lambda *_: None, lessee=self.lessee
        )
        self.error = None

    def now(self, tenant=ALICE, *, patient=False, **more):
        """What a call gets that does not wait."""
        try:
            return self.limiter.reserve(a_call(tenant, **more), patient=patient)
        except RateLimited as error:
            self.error = error
            return None

    async def call(self, tenant=ALICE, **more):
        """What a call gets that waits, a quarter of a second at most."""
        until = self.world.clock.now() + 0.25
        while self.world.clock.now() < until:
            reservation = self.now(tenant, patient=True, **more)
            if reservation is not None or not isinstance(self.error, LeaseWanted):
                return reservation
            waiting = asyncio.ensure_future(self.limiter.wait_leased(a_call(tenant, **more), 60.0))
            while not waiting.done() and self.world.clock.now() < until:
                await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        return self.now(tenant, **more)

    def sweep(self, now):
        self.lessee.sweep(now)


class World(SharedPool):
    """Processes that share limits: of the key, unless ``limits`` has others."""

    def __init__(self, count, limits=None, **limit):
        super().__init__(FakeClock(), count)
        self.limits = limits or LimitsConfig(keys={"alice": LimitConfig(**limit)})
        self.processes = [Process(self, f"p{number}") for number in range(count)]

    async def all_of(self, calls):
        """What they get that begin at the same moment."""
        tasks = [asyncio.ensure_future(call) for call in calls]
        while not all(task.done() for task in tasks):
            await self.turn(0.02)
        return [task.result() for task in tasks]

    async def burst(self, each, **more):
        """How many may begin of so many calls at each process."""
        got = await self.all_of([process.call(**more) for process in self.processes for _ in range(each)])
        return len(got) - got.count(None)

    async def pass_by(self, seconds):
        """Processes that have nothing to tell are heard of every second."""
        for _ in range(10 * seconds):
            await self.turn()

    def left(self, account="key:alice"):
        return self.pool._accounts[account].requests.left

    def held(self, account="key:alice"):
        return sum(part.requests_credit.held for part in self.pool._accounts[account].parts.values())


@pytest.mark.parametrize("limit", [1, 2, 5, 8, 20, 60])
@pytest.mark.parametrize("count", [2, 4])
def test_a_burst_at_processes_that_have_not_heard_of_each_other_gets_the_limit(limit, count):
    async def main():
        world = await World(count, requests_per_minute=limit).start()
        first = await world.burst(limit + 1)
        second = await world.burst(limit + 1)
        await world.pass_by(60)
        return first, second, await world.burst(limit + 1)

    first, second, third = asyncio.run(main())
    assert first == limit
    assert second <= 1  # what came in meanwhile
    assert third in range(limit - 1, limit + 2)


@pytest.mark.parametrize("count", [2, 4])
def test_a_bucket_of_tokens_that_holds_a_few_calls_lets_in_so_many(count):
    """A call is thought to take a thousand tokens and a few."""

    async def main():
        world = await World(count, tokens_per_minute=5_500).start()
        return await world.burst(6, max_tokens=1_000)

    assert asyncio.run(main()) == 5


def test_a_call_of_more_than_the_whole_bucket_gets_all_of_it():
    async def main():
        world = await World(2, tokens_per_minute=500).start()
        return await world.burst(2, max_tokens=1_000)

    assert asyncio.run(main()) == 1


def test_a_large_call_waits_to_be_granted_its_tokens_where_small_ones_do_not():
    async def main():
        world = await World(2, tokens_per_minute=100_000).start()
        (process, _) = world.processes
        small = process.now(patient=True, max_tokens=100)
        with pytest.raises(LeaseWanted):
            process.limiter.reserve(a_call(ALICE, max_tokens=10_000), patient=True)
        return small, await world.burst(6, max_tokens=10_000)

    small, large = asyncio.run(main())
    assert small is not None
    assert large == 9


def test_what_was_not_used_of_a_small_bucket_of_tokens_is_had_by_all():
    async def main():
        world = await World(2, tokens_per_minute=2_200).start()
        one, other = world.processes
        held = await world.all_of([one.call(max_tokens=1_000), one.call(max_tokens=1_000)])
        before = await world.all_of([other.call(max_tokens=1_000)])
        for reservation in held:
            reservation.settle(Usage(5, 45), 0)
            reservation.release()
        await world.turn()
        return held, before, await world.all_of([other.call(max_tokens=1_000)])

    held, before, after = asyncio.run(main())
    assert None not in held
    assert before == [None]
    assert after != [None]


def test_what_was_granted_to_a_call_that_another_limit_refuses_is_given_back_at_once():
    async def main():
        limits = LimitsConfig(
            keys={"alice": LimitConfig(requests_per_minute=2)},
            tenants={"research": LimitConfig(requests_per_minute=1)},
        )
        world = await World(2, limits).start()
        one, other = world.processes
        got = await world.all_of([one.call(), other.call(BOB)])
        await world.turn()
        return len(got) - got.count(None), world.left(), world.held()

    got, left, held = asyncio.run(main())
    assert got == 1
    assert left >= 1
    assert held == 0


def test_a_call_that_several_small_limits_concern_is_granted_its_part_of_all():
    async def main():
        limits = LimitsConfig(
            keys={"alice": LimitConfig(requests_per_minute=5)},
            tenants={"research": LimitConfig(requests_per_minute=8, tokens_per_minute=9_000)},
            models={"*": LimitConfig(requests_per_minute=4, concurrent=10)},
        )
        world = await World(4, limits).start()
        return await world.burst(3)

    assert asyncio.run(main()) == 4


def test_a_caller_who_leaves_while_it_waits_leaves_nothing_behind():
    async def main():
        world = await World(2, requests_per_minute=1).start()
        one, other = world.processes
        waiting = asyncio.ensure_future(one.limiter.wait_leased(a_call(ALICE), 60.0))
        await asyncio.sleep(0)
        while not world.pool._accounts.get("key:alice") or not world.held():
            one.sweep(world.clock.now())
            waiting.cancel()  # while its wish is on its way, or granted
            await world.settle()
        held = world.held()
        await world.turn(0.1)
        return held, world.held(), await world.all_of([other.call()])

    held, after, got = asyncio.run(main())
    assert (held, after) == (1, 0)
    assert got != [None]


def test_of_what_a_process_held_that_died_the_others_have_all():
    async def main():
        world = await World(2, requests_per_minute=1).start()
        dead, alive = world.processes
        waiting = asyncio.ensure_future(dead.limiter.wait_leased(a_call(ALICE), 60.0))
        await world.settle()
        dead.sweep(world.clock.now())
        await world.settle()
        held = world.held()
        await world.kill(dead)
        before = await world.all_of([alive.call()])
        for _ in range(6):
            await world.turn(1.0)
        await waiting
        return held, before, await world.all_of([alive.call()])

    held, before, after = asyncio.run(main())
    assert held == 1
    assert before == [None]
    assert after != [None]


def test_without_word_from_the_others_nobody_waits_and_together_they_have_the_limit():
    async def main():
        world = await World(4, requests_per_minute=8).start()
        await world.turn(1.0)  # each has heard how many they are
        for process in world.processes:
            process.board.state = "gone"
        await world.turn(1.0)
        return sum(process.now(patient=True) is not None for process in world.processes for _ in range(9))

    assert asyncio.run(main()) == 8


def test_one_whose_wish_is_not_answered_in_time_goes_by_its_share_and_so_do_those_who_come_after():
    async def main():
        world = await World(4, requests_per_minute=8).start()
        await world.turn(1.0)
        (process, *_) = world.processes
        process.board.state = "silent"
        waiting = asyncio.ensure_future(process.limiter.wait_leased(a_call(ALICE), 60.0))
        await world.turn(UNHEARD - 0.05)
        before = process.now()
        await world.turn(0.1)
        got = [process.now(patient=True) for _ in range(5)]
        waiting.cancel()
        return before, got, process.lessee.trouble

    before, got, trouble = asyncio.run(main())
    assert before is None
    assert got.count(None) == 3
    assert not trouble  # it is given up later


def test_those_who_wait_are_woken_when_there_is_no_word_any_more():
    async def main():
        world = await World(2, requests_per_minute=8).start()
        (process, _) = world.processes
        process.board.state = "silent"
        waiting = asyncio.ensure_future(process.limiter.wait_leased(a_call(ALICE), 60.0))
        await world.turn()
        before = waiting.done()
        await world.turn(PATIENCE + 1.0)
        return before, waiting.done(), process.now(patient=True)

    before, after, got = asyncio.run(main())
    assert (before, after) == (False, True)
    assert got is not None


def test_an_answer_that_is_lost_costs_nobody_anything():
    async def main():
        world = await World(2, requests_per_minute=4).start()
        one, other = world.processes
        exchange, lost = one.board.exchange, []

        def losing(reports, *, rejoins):
            answer = exchange(reports, rejoins=rejoins)
            if lost:
                return answer
            lost.append(answer.result())
            return asyncio.get_running_loop().create_future()

        one.board.exchange = losing
        waiting = asyncio.ensure_future(one.limiter.wait_leased(a_call(ALICE), 60.0))
        while not lost:
            await world.turn(0.02)
        held = world.held()
        for _ in range(round(PATIENCE * 10) + 2):
            await world.turn()
        await waiting
        await world.turn()
        return held, world.held(), await world.all_of([other.call() for _ in range(5)])

    held, after, got = asyncio.run(main())
    assert (held, after) == (1, 0)
    assert got.count(None) == 1


def test_after_a_pool_has_lost_its_memory_no_more_begin_than_the_limit():
    async def main():
        world = await World(2, requests_per_minute=8).start()
        before = await world.burst(2)
        await world.pass_by(2)
        for process in world.processes:
            process.board.state = "gone"
        await world.turn(0.2)
        without = sum(process.now() is not None for process in world.processes for _ in range(9))
        world.pool = Pool()
        for process in world.processes:
            process.board.pool, process.board.state = world.pool, "well"
        after = sum([await world.burst(5) for _ in range(3)])
        return before + without + after

    assert asyncio.run(main()) in (7, 8)


def test_a_limit_that_a_reload_makes_small_and_large_again_is_kept_to_all_the_time():
    async def main():
        world = await World(2, requests_per_minute=600).start()

        async def reload(limit):
            for process in world.processes:
                process.limiter.configure(
                    LimitsConfig(keys={"alice": LimitConfig(requests_per_minute=limit)})
                )
            await world.pass_by(2)

        large = await world.burst(30)
        await reload(8)
        small = await world.burst(1)
        await world.pass_by(2)
        await reload(600)
        return large, small, await world.burst(400)

    large, small, again = asyncio.run(main())
    assert large == 60
    assert small == 2
    assert again == pytest.approx(600 * (0.9 + 6 / 60 - 2 / 8), rel=0.1)  # as full as it was


def test_who_misses_the_others_word_just_while_a_call_is_looked_at_lets_it_in_by_its_share():
    """Not enough was granted at the first look at the clock, and at the next one nobody is waited for any more."""

    async def main():
        world = await World(2, requests_per_minute=10).start()
        process, began = world.processes[0], world.clock.now()
        assert process.now(patient=True) is None
        waiting = asyncio.ensure_future(process.limiter.wait_leased(a_call(ALICE), 60.0))
        await asyncio.sleep(0)
        (account,) = process.limiter._accounts.values()
        looks = iter([began + UNHEARD - 0.001])
        account.lease._now = lambda: next(looks, began + UNHEARD + 0.001)
        got = process.now()
        waiting.cancel()
        return got

    assert asyncio.run(main()) is not None
