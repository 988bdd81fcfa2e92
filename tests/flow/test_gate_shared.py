"""Several processes' gates to one upstream, over one pool, with a clock of the test's own."""

import asyncio
import random
from math import inf

import pytest
from pool_board import PoolBoard, SharedPool

from penstock.config.model import ConcurrencyConfig
from penstock.errors import Overloaded
from penstock.flow.gate import Asked, Gate, Outcome, Ticket, Turn
from penstock.flow.leased import LeasedPlaces
from penstock.flow.lessee import Lessee
from penstock.metrics import Counter
from penstock.testing import FakeClock


class Process:
    def __init__(self, world, name, limit):
        self.world = world
        self.lessee = Lessee(world.count, world.clock.now, lambda result: None)
        self.board = PoolBoard(world.pool, name, world.clock)
        lease = self.lessee.account("upstream:up")
        lease.in_line = True
        lease.places = LeasedPlaces(limit, self.lessee.even)
        config = ConcurrencyConfig(limit=limit, adaptive=False)
        self.gate = Gate("up", config, None, {}, lambda *_: Counter(), lease=lease)
        self.running = []

    def ask(self, within=inf):
        now = self.world.clock.now()
        place = self.gate.ask(Asked("m", "t", "standard", True, now + within), now)
        if isinstance(place, Ticket):
            place.called = self.called
        else:
            self.running.append(place)

    def called(self, answer):
        assert isinstance(answer, Turn)
        self.running.append(answer)

    def end_one(self):
        self.running.pop(0).settle(Outcome("", 0.1, None, 10), self.world.clock.now())

    def sweep(self, now):
        self.lessee.sweep(now)
        self.gate.sweep(now)


class World(SharedPool):
    """Four processes that send calls to one upstream."""

    def __init__(self, limit, count=4):
        super().__init__(FakeClock(1_000.0), count)
        self.processes = [Process(self, f"p{number}", limit) for number in range(count)]

    @property
    def running(self):
        return [len(process.running) for process in self.processes]


def test_the_only_one_that_has_callers_gets_all_places_and_no_more():
    async def main():
        world = await World(limit=6).start()
        first = world.processes[0]
        for _ in range(10):
            first.ask()
        await world.turn()
        assert world.running == [6, 0, 0, 0]
        assert first.gate.waiting == 4
        first.end_one()
        assert world.running == [6, 0, 0, 0]  # the next goes at once

    asyncio.run(main())


def test_who_comes_later_gets_places_as_calls_end():
    async def main():
        world = await World(limit=6).start()
        first, second = world.processes[:2]
        for _ in range(30):
            first.ask()
        await world.turn()
        for _ in range(30):
            second.ask()
        for _ in range(6):
            first.end_one()
            await world.turn(0.3)
            assert sum(world.running) <= 6
        assert len(second.running) >= 2
        assert sum(world.running) == 6

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(8))
def test_never_are_more_under_way_than_the_limit_and_none_is_forgotten(seed):
    async def main():
        rand = random.Random(seed)
        limit = rand.choice([1, 3, 4, 10])
        world = await World(limit=limit).start()
        asked = ended = 0
        for _ in range(200):
            for process in world.processes:
                for _ in range(rand.choice([0, 0, 0, 1, 3])):
                    process.ask()
                    asked += 1
                for _ in range(rand.randint(0, len(process.running))):
                    process.end_one()
                    ended += 1
            assert sum(world.running) <= limit
            await world.turn(rand.choice([0.01, 0.1]))
            assert sum(world.running) <= limit
        for _ in range(100 * asked):
            if ended == asked:
                break
            for process in world.processes:
                while process.running:
                    process.end_one()
                    ended += 1
            await world.turn()
        assert ended == asked
        assert all(
            process.gate.in_progress == process.gate.lease.in_progress == 0 for process in world.processes
        )

    asyncio.run(main())


def test_full_by_others_calls_is_full():
    async def main():
        world = await World(limit=4).start()
        first, second = world.processes[:2]
        for _ in range(4):
            first.ask()
        await world.turn()
        second.ask()
        for _ in range(5):
            await world.turn()
        now = world.clock.now()
        assert first.gate.load("m", now) == 1.0
        assert second.gate.load("m", now) >= 1.0
        assert not second.gate.free("m", 0, now)

    asyncio.run(main())


def test_a_place_that_is_on_its_way_is_no_reason_to_refuse_for_a_deadline():
    async def main():
        world = await World(limit=4).start()
        first = world.processes[0]
        first.ask()
        await world.turn()
        world.clock.advance(30.0)
        first.end_one()  # calls take half a minute
        for _ in range(130):  # long enough for its places to be others'
            await world.turn()
        first.ask(within=1.0)
        await world.turn()
        assert len(first.running) == 1
        for _ in range(4):
            first.ask()
        await world.turn()
        with pytest.raises(Overloaded):
            first.ask(within=1.0)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_without_the_pool_each_keeps_its_part_and_nobody_waits_for_ever(how):
    async def main():
        world = await World(limit=8).start()
        for process in world.processes:
            for _ in range(5):
                process.ask()
        for _ in range(20):  # until each has some
            await world.turn()
            for process in world.processes:
                if process.running:
                    process.end_one()
                    process.ask()
        assert all(world.running)
        for process in world.processes:
            process.board.state = how
        for _ in range(60):
            for process in world.processes:
                if process.running:
                    process.end_one()
            await world.turn()
            assert sum(world.running) <= 8
        assert [process.gate.waiting for process in world.processes] == [0, 0, 0, 0]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_one_that_has_no_place_when_the_pool_is_lost_takes_one_within_seconds(how):
    async def main():
        world = await World(limit=2).start()
        for process in world.processes[:2]:
            process.ask()
            await world.turn()
        late = world.processes[2]
        for _ in range(3):
            late.ask()
        await world.turn()
        assert world.running == [1, 1, 0, 0]
        for process in world.processes:
            process.board.state = how
        for _ in range(30):  # three seconds
            await world.turn()
        assert world.running == [1, 1, 0, 0]  # its lease has not ended: there may yet be word
        for _ in range(40):
            await world.turn()
        assert world.running == [1, 1, 1, 0]
        for process in world.processes:
            process.board.state = "well"
        for _ in range(5):
            await world.turn()
            assert sum(world.running) <= 3
        for process in world.processes[:2]:
            process.end_one()
        for _ in range(5):  # who had none waits for the others no longer, and the one too many is made good
            await world.turn()
            assert sum(world.running) <= 2
        while late.running:
            late.end_one()
            await world.turn()
            assert sum(world.running) <= 2
        assert late.gate.waiting == 0

    asyncio.run(main())
