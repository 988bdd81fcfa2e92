"""Gateways on several machines tell each other who goes away, through a real Redis."""

import asyncio

import pytest

from needing import needs_redis
from penstock.admin.departures import Departures
from penstock.admin.elsewhere import Elsewhere
from penstock.config.model import Config, DepartureConfig, LimitsConfig, UpstreamConfig
from penstock.config.secret import Secret
from penstock.testing.redis import RedisServer

pytestmark = needs_redis

NAMES = ("spot", "other", "mine")


@pytest.fixture(scope="module")
def server():
    with RedisServer() as running:
        yield running


class Machine:
    """One gateway's supervisor; it goes by a clock of its own."""

    def __init__(self, server, began=100.0, path=""):
        upstreams = {
            name: UpstreamConfig(
                kind="openai",
                base_url="http://127.0.0.1:9/v1",
                departure=DepartureConfig(shared="workers" if name == "mine" else "machines"),
            )
            for name in NAMES
        }
        self.config = Config(upstreams=upstreams, limits=LimitsConfig(redis=Secret(server.url)))
        self.monotonic = began
        self.departures = Departures(list, path, lambda: self.monotonic)
        self.elsewhere = Elsewhere(self.departures, lambda: self.config)
        self.board = self.elsewhere._board

    async def exchange(self):
        await self.elsewhere.exchange(self.board)

    def left(self, name="spot"):
        return name in self.departures, self.departures.left(name)


def with_machines(server, test, *began):
    async def main():
        machines = [Machine(server, at) for at in began or (100.0, 9_000.0)]
        try:
            async with asyncio.timeout(60):
                await machines[0].board._redis.ask(b"FLUSHALL")
                return await test(*machines)
        finally:
            for machine in machines:
                await machine.board.close()

    return asyncio.run(main())


def test_an_announcement_is_heard_elsewhere_whatever_the_clocks_say_and_so_is_its_end(server):
    async def test(one, two):
        one.departures.announce("spot", 30.0)
        one.departures.announce("other", None)
        await one.exchange()
        await two.exchange()
        there, left = two.left()
        assert there
        assert left == pytest.approx(30.0, abs=2.0)
        assert two.left("other") == (True, None)
        two.departures.take_back("spot")
        await two.exchange()
        await one.exchange()
        assert one.left() == (False, None)
        assert one.left("other") == (True, None)
        one.departures.announce("spot", None)  # and once more
        await one.exchange()
        await two.exchange()
        assert two.left() == (True, None)

    with_machines(server, test)


def test_what_an_upstream_said_of_itself_lapses_elsewhere_too(server):
    async def test(one, two):
        one.departures.heard("spot", 10.0, 60.0)
        await one.exchange()
        await two.exchange()
        assert two.departures.of("spot").is_its_own
        two.monotonic += 72.0
        assert two.left() == (False, None)

    with_machines(server, test)


def test_of_an_upstream_that_is_not_shared_nobody_is_told_and_nothing_is_taken(server):
    async def test(one, two):
        one.departures.announce("mine", 30.0)
        one.config.upstreams["spot"] = one.config.upstreams["mine"]  # reloaded
        two.departures.announce("spot", None)
        two.departures.announce("other", None)
        for machine in (one, two, one):
            await machine.exchange()
        assert two.left("mine") == (False, None)
        assert one.left("spot") == (False, None)
        assert one.left("other") == (True, None)

    with_machines(server, test)


def test_a_server_that_forgets_everything_is_told_again(server):
    async def test(one, two, three):
        one.departures.announce("spot", 300.0)
        two.departures.announce("other", None)
        for machine in (one, two, one):
            await machine.exchange()
        two.departures.take_back("other")
        await two.exchange()
        await one.board._redis.ask(b"FLUSHALL")
        await two.exchange()
        await three.exchange()
        assert three.left()[0]
        assert three.left("other") == (False, None)
        await one.exchange()  # which has not heard of the end yet
        assert one.left("other") == (False, None)

    with_machines(server, test, 1.0, 2.0, 3.0)


def test_who_starts_anew_with_an_old_file_believes_what_was_said_since(server, tmp_path):
    path = str(tmp_path / "departures.json")

    async def test(one, two):
        before = Machine(server, path=path)
        before.departures.announce("spot", None)
        before.departures.announce("other", None)
        await before.exchange()
        await before.board.close()
        await two.exchange()
        two.departures.take_back("spot")
        await two.exchange()
        after = Machine(server, path=path)
        assert after.left("spot") == (True, None)
        await after.exchange()
        await after.board.close()
        assert after.left("spot") == (False, None)
        assert after.left("other") == (True, None)

    with_machines(server, test)


def test_two_at_once_agree_on_the_later_word(server):
    async def test(one, two):
        one.departures.announce("spot", 500.0)
        two.departures.announce("spot", 5.0)
        await asyncio.gather(one.exchange(), two.exchange())
        await asyncio.gather(one.exchange(), two.exchange())
        assert one.left()[1] == pytest.approx(two.left()[1], abs=2.0)

    with_machines(server, test)


def test_without_redis_everybody_keeps_to_what_he_knows_and_tells_it_later(caplog):
    async def main():
        with RedisServer() as server:
            one, two = Machine(server), Machine(server)
            await one.exchange()
            server.stop()
            one.departures.announce("spot", None)
            for _ in range(3):
                await one.exchange()
            assert one.left() == (True, None)
            server.start()
            async with asyncio.timeout(60):
                while not two.left()[0]:
                    await one.exchange()
                    await two.exchange()
                    await asyncio.sleep(0.02)
            await one.board.close()
            await two.board.close()

    asyncio.run(main())
    assert sum("other machines are not told" in line for line in caplog.messages) <= 2


def test_nothing_is_asked_where_there_is_no_redis():
    departures = Departures(list)
    asyncio.run(Elsewhere(departures, Config).run())
    assert departures.on_news is None
