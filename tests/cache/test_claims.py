"""Claims of questions, on a real Redis."""

import asyncio

import pytest

from penstock.cache.claims import Claims
from penstock.cache.guard import Guard
from penstock.cache.tiers.redis import RedisTier
from penstock.testing import RedisServer

KEY, OTHER = b"k" * 32, b"o" * 32


class Worker:
    def __init__(self, url, patience=60.0, budget=5.0):
        self.tier = RedisTier(url)
        self.guard = Guard(self.tier, budget, asyncio.get_running_loop().time)
        self.claims = Claims(self.tier, self.guard, patience)

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


async def test_the_claim_of_a_worker_that_has_died_does_not_hold_for_long(redis):
    async with Worker(redis.url, patience=0.05) as one, Worker(redis.url) as other:
        assert await one.claim(KEY)
        async with asyncio.timeout(60):
            while not await other.claim(KEY):
                await asyncio.sleep(0.005)
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
