"""Several processes' limiters over one pool, with a clock of the test's own."""

import asyncio
import random

import pytest
from flow_calls import a_call
from pool_board import PoolBoard, SharedPool

from penstock.config.model import LimitConfig, LimitsConfig
from penstock.errors import LeaseWanted, RateLimited
from penstock.flow.leased import AccountLease
from penstock.flow.leased_bucket import SMALL, LeasedBucket
from penstock.flow.lessee import PATIENCE, Lessee
from penstock.flow.limits import Limiter
from penstock.flow.reservation import Reached
from penstock.flow.sharing import LIFE, Lease, Pool
from penstock.messages import Tenant, Usage
from penstock.testing import FakeClock

ALICE = Tenant(name="research", key_name="alice")


class Process:
    def __init__(self, world, name):
        self.results = []
        self.lessee = Lessee(world.count, world.clock.now, self.results.append)
        self.board = PoolBoard(world.pool, name, world.clock)
        self.limiter = Limiter(
            world.limits, world.clock.now, lambda *_: 0, lambda *_: None, lessee=self.lessee
        )
        self.running = []
        self.admitted = 0
        self.error = None

    def call(self, **more):
        call = a_call(ALICE, **more)
        try:
            reservation = self.limiter.reserve(call)
        except RateLimited as error:
            self.error = error
            return None
        self.admitted += 1
        return reservation

    def sweep(self, now):
        self.lessee.sweep(now)


class World(SharedPool):
    """Four processes that share one key's limits."""

    def __init__(self, count=4, **limit):
        super().__init__(FakeClock(), count)
        self.limits = LimitsConfig(keys={"alice": LimitConfig(**limit)})
        self.processes = [Process(self, f"p{number}") for number in range(count)]

    async def seek(self, process):
        """What a patient call gets that comes to this process."""
        for _ in range(3):
            waiting = asyncio.ensure_future(process.limiter.wait_leased(a_call(ALICE), 60.0))
            await self.turn()
            waiting.cancel()
            reservation = process.call()
            if reservation is not None:
                return reservation
        return None

    @property
    def admitted(self):
        return sum(process.admitted for process in self.processes)


async def offered(world, seconds, rates, rng, call=lambda process: process.call()):
    """Calls of so many a second at each process, at random moments."""
    steps = round(seconds * 10)
    for _ in range(steps):
        for process, rate in zip(world.processes, rates, strict=True):
            for _ in range(int(rate / 10 + rng.random())):
                reservation = call(process)
                if reservation is not None:
                    reservation.release()
        await world.turn()


@pytest.mark.parametrize("rates", [(10, 10, 10, 10), (37, 1, 1, 1), (40, 0, 0, 0), (60, 60, 60, 60)])
def test_together_they_admit_the_limit_however_the_calls_are_spread(rates):
    async def main():
        world = await World(requests_per_minute=600).start()
        rng = random.Random(1)
        await offered(world, 30, rates, rng)  # the bucket that was full
        before = world.admitted
        await offered(world, 60, rates, rng)
        return before, world.admitted - before

    before, admitted = asyncio.run(main())
    assert before <= 600 + 300 + 4
    assert admitted == pytest.approx(600, rel=0.01)


def test_tokens_too_with_what_was_really_used():
    async def main():
        world = await World(tokens_per_minute=120_000).start()
        rng = random.Random(2)
        used = 0

        def call(process):
            nonlocal used
            reservation = process.call(max_tokens=1_000)
            if reservation is not None:
                really = rng.randrange(20, 400)
                used += really
                reservation.settle(Usage(0, really), 0)
            return reservation

        await offered(world, 60, (20, 3, 3, 3), rng, call)
        before = used
        await offered(world, 60, (20, 3, 3, 3), rng, call)
        return used - before

    assert asyncio.run(main()) == pytest.approx(120_000, rel=0.02)


def test_traffic_that_moves_takes_its_share_along():
    async def main():
        world = await World(requests_per_minute=600).start()
        rng = random.Random(3)
        await offered(world, 30, (40, 0, 0, 0), rng)
        await offered(world, 3, (0, 0, 0, 40), rng)
        before = world.admitted
        await offered(world, 60, (0, 0, 0, 40), rng)
        return world.admitted - before

    assert asyncio.run(main()) == pytest.approx(600, rel=0.01)


def test_a_small_limit_is_whole_for_who_alone_has_callers():
    async def main():
        world = await World(requests_per_minute=3).start()
        first, *others = world.processes
        for _ in range(5):
            await world.seek(first)
        return first.admitted, [await world.seek(process) for process in others], first.error

    admitted, elsewhere, error = asyncio.run(main())
    assert admitted == 3
    assert elsewhere == [None] * 3
    assert "may use 3 requests a minute" in error.message
    assert error.requests[0] == 3


def test_calls_in_progress_count_everywhere():
    async def main():
        world = await World(concurrent=8).start()
        one, other = world.processes[:2]
        held = [await world.seek(process) for process in (one, other) for _ in range(6)]
        refused = held.count(None)
        message = other.error.message
        held[0].release()
        await world.turn()
        again = await world.seek(other)
        return refused, message, again

    refused, message, again = asyncio.run(main())
    assert refused == 4
    assert "may have 8 calls in progress" in message
    assert again is not None


def test_calls_of_a_process_that_died_are_given_up_after_a_while():
    async def main():
        world = await World(count=2, concurrent=4).start()
        dead, alive = world.processes
        held = [await world.seek(dead) for _ in range(4)]
        await world.kill(dead)
        before = await world.seek(alive)
        for _ in range(round(LIFE) + 2):
            await world.turn(1.0)
        return held, before, [await world.seek(alive) for _ in range(5)]

    held, before, after = asyncio.run(main())
    assert None not in held
    assert before is None
    assert None not in after[:4]
    assert after[4] is None


@pytest.mark.parametrize("state", ["gone", "silent"])
@pytest.mark.parametrize("rates", [(20, 20, 20, 20), (70, 4, 4, 4)])
def test_without_the_pool_everybody_keeps_to_his_part_and_after_it_to_the_limit_again(state, rates):
    async def main():
        world = await World(requests_per_minute=600).start()
        rng = random.Random(4)
        await offered(world, 60, rates, rng)
        for process in world.processes:
            process.board.state = state
        before = world.admitted
        await offered(world, 60, rates, rng)
        without = world.admitted - before
        alone = [process.lessee.is_alone for process in world.processes]
        for process in world.processes:
            process.board.state = "well"
        world.pool = Pool()  # it came back empty
        for process in world.processes:
            process.board.pool = world.pool
        before = world.admitted
        await offered(world, 60, rates, rng)
        return without, alone, world.admitted - before, world.processes[0]

    without, alone, after, process = asyncio.run(main())
    assert without == pytest.approx(600, rel=0.1)
    assert all(alone)
    assert after == pytest.approx(600, rel=0.05)
    assert not process.lessee.trouble
    if state == "silent":
        assert process.board.resets
        assert "late" in process.results


def test_after_a_minute_without_word_the_limit_is_divided_evenly():
    async def main():
        world = await World(requests_per_minute=600).start()
        rng = random.Random(5)
        await offered(world, 40, (40, 0, 0, 0), rng)
        for process in world.processes:
            process.board.state = "gone"
        await offered(world, 62, (40, 0, 0, 0), rng)
        before = world.admitted
        await offered(world, 60, (40, 0, 0, 0), rng)
        return world.admitted - before

    assert asyncio.run(main()) == pytest.approx(150, rel=0.1)


def test_an_exchange_that_takes_too_long_is_given_up():
    async def main():
        world = await World(count=1, requests_per_minute=60).start()
        (process,) = world.processes
        process.board.state = "silent"
        process.call()
        for _ in range(round(PATIENCE * 10) + 5):
            await world.turn()
        return process

    process = asyncio.run(main())
    assert process.board.resets == 1
    assert "no answer" in process.lessee.trouble


def test_limits_that_change_keep_what_was_used():
    async def main():
        world = await World(count=2, requests_per_minute=120, concurrent=5).start()
        one, _ = world.processes
        (await world.seek(one)).release()
        for _ in range(29):
            one.call().release()
            await world.turn(0.01)
        for process in world.processes:
            process.limiter.configure(LimitsConfig(keys={"alice": LimitConfig(requests_per_minute=240)}))
        await world.turn()
        left = one.call().windows()[0]
        one.limiter.configure(LimitsConfig())
        return left, one.call(), one.lessee

    left, unlimited, lessee = asyncio.run(main())
    assert left[0] == 240
    assert left[1] in range(118, 215)
    assert unlimited is None
    assert "0 accounts" in repr(lessee)


def test_nobody_is_asked_while_the_way_there_is_being_made(caplog):
    async def main():
        world = World(count=1, requests_per_minute=60)
        (process,) = world.processes
        opened = asyncio.get_running_loop().create_future()
        process.board.state = "gone"

        async def open_it():
            await opened
            process.board.state = "well"

        process.board.open = open_it
        await process.lessee.use(process.board)
        joining = asyncio.create_task(process.lessee.join(5.0))
        await world.turn()
        process.call()
        await world.turn(1.0)
        opened.set_result(None)
        await joining
        await world.turn()

    asyncio.run(main())
    assert not caplog.text


def test_processes_share_the_places_at_an_upstream_and_wait_for_one_there():
    """A candidate's limit is leased as a caller's is."""

    async def main():
        world = World(count=2)
        world.limits = LimitsConfig(upstreams={"up": LimitConfig(concurrent=1)})
        world.processes = [Process(world, f"p{number}") for number in range(2)]
        await world.start()
        one, other = world.processes
        at = Reached("up", "m", "m", lambda usage: 0)
        call = a_call(ALICE)
        for process in (one, other):
            assert process.limiter.reserve(call) is None  # nobody is limited by what it names
        with pytest.raises(LeaseWanted):
            one.limiter.reserve_at(call, at, patient=True)
        waiting = asyncio.ensure_future(one.limiter.wait_leased(call, 60.0, at))
        await world.turn()
        waiting.cancel()
        held = one.limiter.reserve_at(call, at, patient=True)
        await world.turn()
        with pytest.raises(RateLimited):
            other.limiter.reserve_at(call, at)
        held.settle(Usage(), 0), held.release()
        waiting = asyncio.ensure_future(other.limiter.wait_leased(call, 60.0, at))
        while not waiting.done():
            await world.turn()
        return other.limiter.reserve_at(call, at)

    assert asyncio.run(main()) is not None


@pytest.mark.parametrize(("limit", "at_once"), [(SMALL, True), (SMALL + 1, False)])
def test_each_call_of_a_small_limit_is_told_at_once(limit, at_once):
    urgent = []
    lease = AccountLease("key:k", lambda _, soon: urgent.append(soon), lambda: False, lambda: 0.0)
    lease.requests = lease.bucket(limit, 0.5)
    lease.leased(Lease(float(limit), 0.0, 0.5, 0.5, 0), 0.5, 0.0, 0.0)  # it is known already
    lease.asked(1.0, 0.0, refused=False)
    assert urgent == [at_once]


async def standing(world, process):
    """What a process knows of alice's limits when it has asked the others."""
    accounts = process.limiter.accounts_of(ALICE)
    asking = asyncio.ensure_future(process.limiter.wait_told(accounts, 60.0))
    await world.turn()
    await asyncio.wait_for(asking, 5.0)
    (account,) = accounts
    return account


def test_a_process_without_calls_knows_what_is_left_once_it_has_asked():
    async def main():
        world = await World(2, requests_per_minute=600, concurrent=9).start()
        busy, idle = world.processes
        (account,) = idle.limiter.accounts_of(ALICE)
        held = [await world.seek(busy) for _ in range(4)]
        assert all(held)
        now = world.clock.now()
        assert (account.requests.known_left(now), account.free_places(now)) == (600, 9), "nobody has told"
        account = await standing(world, idle)
        now = world.clock.now()
        assert 596 <= account.requests.known_left(now) < 600
        assert account.free_places(now) == 5
        for reservation in held:
            reservation.release()
        await world.turn()
        assert (await standing(world, idle)).free_places(world.clock.now()) == 9

    asyncio.run(main())


def test_a_process_without_word_from_the_others_does_not_wait_for_it():
    async def main():
        world = await World(2, requests_per_minute=600).start()
        process = world.processes[0]
        process.board.state = "gone"
        process.call()
        await world.turn(2.0)
        await asyncio.wait_for(process.limiter.wait_told(process.limiter.accounts_of(ALICE), 60.0), 1.0)

    asyncio.run(main())


def test_what_is_told_to_be_left_is_of_all_and_without_word_of_others_this_process_s_part():
    assert LeasedBucket(100, 0.25, lambda: False).known_left(0.0) == 100
    assert LeasedBucket(100, 0.25, lambda: True).known_left(0.0) == 25


@pytest.mark.parametrize("kind", ["requests", "tokens"])
def test_a_flood_at_all_of_them_lets_in_hardly_more_than_a_large_bucket_holds(kind):
    """Four thousand calls a second, and sweeps that are not in step: what others took is told as it is taken."""

    async def main():
        calls = 1_200 if kind == "requests" else 120_000
        world = await World(**{f"{kind}_per_minute": calls}).start()
        for millisecond in range(1, 1_500):
            for number, process in enumerate(world.processes):
                if (reservation := process.call(max_tokens=98)) is not None:
                    reservation.settle(Usage(input_tokens=2, output_tokens=98), 0)
                    reservation.release()
                if millisecond % 100 == 25 * number:
                    process.sweep(world.clock.now())
            world.clock.advance(0.001)
            await world.settle()
        return world.admitted

    assert asyncio.run(main()) == pytest.approx(1_200 * (1 + 1.5 / 60), rel=0.03)
