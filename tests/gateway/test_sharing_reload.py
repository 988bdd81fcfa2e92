"""Leases over a reload: what a process has of shared limits and places is neither lost nor had twice."""

import asyncio
import contextlib

import msgspec
import pytest
from serving import config, on_uvloop

from penstock.config.model import BreakerConfig, ConcurrencyConfig, LimitConfig, LimitsConfig, UpstreamConfig
from penstock.errors import RateLimited
from penstock.flow.gate import Asked, Outcome, Ticket
from penstock.flow.places import Places
from penstock.flow.reservation import Reached
from penstock.flow.sharing import Pool, Report
from penstock.gateway.compose import build
from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.net import tasks
from penstock.testing import FakeClock

LIMIT = 6


class Board:
    """A pool in this process, of which the gateway is one member."""

    def __init__(self, clock):
        self.pool = Pool()
        self.clock = clock

    def exchange(self, reports, *, rejoins):
        found = asyncio.get_running_loop().create_future()
        found.set_result(self.pool.exchange("us", reports, self.clock.now(), rejoins=rejoins))
        return found

    def reset(self):
        pass

    async def open(self):
        pass

    async def close(self):
        pass

    def held(self, account):
        parts = self.pool._accounts[account].parts.values()
        return sum(part.places.held for part in parts), sum(part.in_progress for part in parts)


class World:
    def __init__(self, gateway, clock, board):
        self.gateway = gateway
        self.clock = clock
        self.board = board
        self.turns = []

    @property
    def gate(self):
        return self.gateway.pipeline.snapshot.upstreams["up0"].gate

    def ask(self):
        asked = Asked("m", "t", "default", stream=False)
        place = self.gate.ask(asked, self.clock.now(), self.turns.append)
        if not isinstance(place, Ticket):
            self.turns.append(place)

    def settle(self, turn):
        turn.settle(Outcome("", None, None, 1), self.clock.now())

    async def seek(self):
        """A place, for a call that waits for one."""
        with contextlib.suppress(RateLimited):
            return self.reserve()
        waiting = asyncio.ensure_future(self.gateway.pipeline.admission.limiter.wait_leased(self.call, 60.0))
        while not waiting.done():
            await self.turn(times=1)
        return self.reserve()

    def reserve(self):
        return self.gateway.pipeline.admission.limiter.reserve(self.call)

    @property
    def call(self):
        return Call(
            id="gen_1",
            endpoint=Endpoint.CHAT,
            model="m",
            stream=False,
            fields={},
            body=b"{}",
            headers={},
            received=0.0,
            tenant=Tenant(name="t", key_name="k", tier="default"),
        )

    async def turn(self, times=3):
        for _ in range(times):
            self.clock.advance(0.1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def reload(self, **more):
        present = self.gateway.pipeline.snapshot.config
        upstream = msgspec.structs.replace(present.upstreams["up0"], **more.pop("upstream", {}))
        self.gateway.reload(msgspec.structs.replace(present, upstreams={"up0": upstream}, **more))


PLACES = ConcurrencyConfig(limit=LIMIT, adaptive=False)


def in_world(test, *, workers=2, concurrency=PLACES, **more):
    async def main():
        clock = FakeClock()
        upstream = UpstreamConfig(
            kind="openai",
            base_url="http://127.0.0.1:9/v1",
            concurrency=concurrency,
        )
        settings = config("http://127.0.0.1:9", workers=workers, **more)
        settings = msgspec.structs.replace(settings, upstreams={"up0": upstream})
        gateway, board = build(settings, clock=clock), Board(clock)
        await gateway.start(board)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(gateway.close)
            world = World(gateway, clock, board)
            await world.turn()
            async with asyncio.timeout(30):
                return await test(world)

    return on_uvloop(main)


FURTHER = ConcurrencyConfig(limit=LIMIT, adaptive=False, max_waiting=7)


@pytest.mark.parametrize(
    ("workers", "change"),
    [
        (1, {"cancel_grace": 2.0}),
        (2, {"cancel_grace": 2.0}),
        (2, {"breaker": BreakerConfig()}),  # its gate is another then, its lease is not
        (2, {"concurrency": FURTHER}),
    ],
)
def test_a_reload_keeps_the_places_of_an_upstream_and_those_in_use_count(workers, change):
    async def test(world):
        for _ in range(LIMIT - 2):
            world.ask()
        await world.turn()
        before = list(world.turns)
        assert len(before) == LIMIT - 2
        world.reload(upstream=change)
        await world.turn()
        if workers > 1:
            held, in_progress = world.board.held("gate:up0")
            assert in_progress == LIMIT - 2
            assert held <= LIMIT
        for _ in range(4):
            world.ask()
        await world.turn()
        assert len(world.turns) == LIMIT
        for turn in before:
            world.settle(turn)
        await world.turn()
        assert len(world.turns) == LIMIT + 2
        for turn in world.turns:
            world.settle(turn)
        await world.turn()
        if workers > 1:
            held, in_progress = world.board.held("gate:up0")
            assert (held <= LIMIT, in_progress) == (True, 0)

    in_world(test, workers=workers)


def test_places_of_an_upstream_are_no_calls_at_once_of_its_limits():
    async def test(world):
        limiter, at = world.gateway.pipeline.admission.limiter, Reached("up0", "m", "m", lambda usage: 0)
        held = []
        while len(held) < 2:
            with contextlib.suppress(RateLimited):
                held.append(limiter.reserve_at(world.call, at, patient=True))
            waiting = asyncio.ensure_future(limiter.wait_leased(world.call, 60.0, at))
            await world.turn(times=1)
            waiting.cancel()
        for _ in range(LIMIT):
            world.ask()
        await world.turn()
        assert len(world.turns) == LIMIT

    in_world(test, limits=LimitsConfig(upstreams={"up0": LimitConfig(concurrent=2)}))


def test_a_reload_keeps_what_was_used_of_a_shared_limit_and_its_places():
    def limits(requests, concurrent):
        return LimitsConfig(
            keys={
                "k": LimitConfig(
                    requests_per_minute=requests, tokens_per_minute=100_000, concurrent=concurrent
                )
            }
        )

    async def test(world):
        account = "key:k"
        held = [await world.seek() for _ in range(3)]
        await world.turn()
        before = world.board.held(account)
        taken = world.board.pool._accounts[account].requests.left
        for requests, concurrent in ((600, 4), (600, 4), (60_000, 8), (600, 4)):
            world.reload(limits=limits(requests, concurrent))
            await world.turn()
        assert world.board.held(account)[1] == before[1] == 3
        assert world.board.held(account)[0] <= 4
        assert world.board.pool._accounts[account].requests.left == pytest.approx(taken, abs=10.0)
        held.append(await world.seek())
        with pytest.raises(RateLimited):
            world.reserve()
        for reservation in held:
            reservation.settle(Usage(1, 1), 0)
            reservation.release()
        await world.turn()
        assert world.board.held(account)[1] == 0

    in_world(test, limits=limits(600, 4))


def test_the_first_limit_of_all_comes_with_a_reload_and_no_place_of_it_is_taken_that_was_not_leased(
    monkeypatch,
):
    """A key that is made while the gateway runs: another worker may have all places by then."""
    # As on Python 3.11, where no task begins before the loop's next turn.
    monkeypatch.setattr(tasks, "start", lambda coroutine, loop: loop.create_task(coroutine))

    async def test(world):
        elsewhere = Report("key:k", False, 8.0, 0.0, 8, None, None, Places(8, 1, 0, 8))
        assert world.board.pool.exchange("another", [elsewhere], world.clock.now()).leases[0].places == 8
        world.reload(limits=LimitsConfig(keys={"k": LimitConfig(concurrent=8)}))
        with pytest.raises(RateLimited):
            world.reserve()
        await world.turn()
        with pytest.raises(RateLimited):
            world.reserve()
        assert world.board.held("key:k")[0] == 8

    in_world(test, concurrency=None)
