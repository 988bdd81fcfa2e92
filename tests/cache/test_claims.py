"""Claims of questions, on a real Redis."""

import asyncio

import pytest

from penstock.cache import claims as claiming
from penstock.cache.claims import LIFETIME, Claims
from penstock.cache.guard import Guard
from penstock.cache.tiers.redis import RedisTier
from penstock.testing import FakeClock, RedisServer

KEY, OTHER = b"k" * 32, b"o" * 32


class Worker:
    def __init__(self, url, patience=60.0, budget=5.0):
        self.tier = RedisTier(url)
        self.guard = Guard(self.tier, budget, asyncio.get_running_loop().time)
        self.claims = Claims(self.tier, self.guard, patience, asyncio.get_running_loop().time)

    async def __aenter__(self):
        self.tier.start()
        await self.tier.flush()
        return self.claims

    async def __aexit__(self, *_):
        await self.tier.flush()
        await self.tier.close()


@pytest.fixture
def redis(redis_for_all):
    with RedisServer() as server:
        yield server


async def test_a_question_is_claimed_by_one(redis):
    async with Worker(redis.url) as one, Worker(redis.url) as other:
        assert await one.claim(KEY)
        assert not await other.claim(KEY)
        assert not await one.claim(KEY)
        assert await other.claim(OTHER)


async def test_of_many_who_claim_at_once_one_gets_it(redis):
    async with Worker(redis.url) as one, Worker(redis.url) as other:
        got = await asyncio.gather(*(worker.claim(KEY) for worker in (one, other) * 50))
        assert got.count(True) == 1


async def test_what_was_released_can_be_claimed_again(redis):
    async with Worker(redis.url) as one, Worker(redis.url) as other:
        assert await one.claim(KEY)
        one.release(KEY)
        while not await other.claim(KEY):
            await asyncio.sleep(0)
        assert not await one.claim(KEY)
        one.release(KEY)  # it is not its own any more
        assert not await one.claim(KEY)


async def test_the_claim_of_a_worker_that_has_died_does_not_hold_for_long(redis, monkeypatch):
    monkeypatch.setattr(claiming, "LIFETIME", 0.05)
    async with Worker(redis.url) as one, Worker(redis.url) as other:
        assert await one.claim(KEY)
        async with asyncio.timeout(60):
            while not await other.claim(KEY):
                await asyncio.sleep(0.005)
        monkeypatch.undo()
        one.sweep(float("inf"))
        one.release(KEY)
        third = Worker(redis.url)
        async with third as claims:
            assert not await claims.claim(KEY)


async def test_without_redis_everybody_asks_for_himself(redis):
    async with Worker(redis.url, budget=0.05) as one, Worker(redis.url, budget=0.05) as other:
        redis.freeze()
        assert await one.claim(KEY)
        assert await other.claim(KEY)
        redis.thaw()
        redis.kill()
        assert await one.claim(OTHER)
        assert await other.claim(OTHER)
        one.release(OTHER)


async def test_a_claim_is_renewed_by_whom_it_belongs_to_alone(redis):
    async with Worker(redis.url) as one, Worker(redis.url) as other:
        assert await one.claim(KEY)
        one._board.renew(KEY, b"another", 0.001)
        one._board.renew(KEY, one._held[KEY].token, 1_000.0)
        one._board.renew(OTHER, b"nobody's", 1_000.0)
        left = await one._board._ask(b"PTTL", b"penstock:asking:" + KEY)
        assert LIFETIME * 1_000 < left <= 1_000_000
        assert not await other.claim(KEY)
        assert await other.claim(OTHER)


class Board:
    """Claims that hold by a clock."""

    def __init__(self, clock):
        self._clock = clock
        self._held = {}

    def claim(self, key, token, lifetime):
        answer = asyncio.get_running_loop().create_future()
        free = key not in self._held or self._held[key][1] <= self._clock.now()
        if free:
            self._held[key] = (token, self._clock.now() + lifetime)
        answer.set_result(free)
        return answer

    def renew(self, key, token, lifetime):
        if key in self._held and self._held[key][0] == token and self._held[key][1] > self._clock.now():
            self._held[key] = (token, self._clock.now() + lifetime)

    def release(self, key, token):
        if key in self._held and self._held[key][0] == token:
            del self._held[key]


class Untold:
    """A tier that is never asked for anything."""

    name = "redis"
    answered = 0


def workers(patience):
    clock = FakeClock()
    board = Board(clock)
    made = [Claims(board, Guard(Untold(), 5.0, clock.now), patience, clock.now) for _ in range(2)]
    clock.add(made[0])
    return clock, *made


async def test_a_claim_holds_while_the_answer_is_made_and_soon_ends_with_its_worker():
    clock, one, other = workers(60.0)
    assert await one.claim(KEY)
    for _ in range(50):
        clock.advance(1.0)
        assert not await other.claim(KEY)
    clock.remove(one)  # it has been killed
    clock.advance(LIFETIME)
    assert await other.claim(KEY)


async def test_a_claim_is_not_renewed_for_longer_than_anybody_waits():
    clock, one, other = workers(60.0)
    assert await one.claim(KEY)
    for _ in range(60 + int(LIFETIME)):
        clock.advance(1.0)
    assert await other.claim(KEY)


async def test_nothing_is_renewed_that_was_released():
    clock, one, other = workers(60.0)
    assert await one.claim(KEY)
    one.release(KEY)
    assert await other.claim(KEY)
    clock.advance(LIFETIME - 1)
    clock.advance(1.0)
    assert await one.claim(KEY)
