"""A call whose question somebody else has claimed."""

import asyncio
import contextlib

from serving import COMPLETION, PROMPT, asked, call, config, on_uvloop, plain, request, serving, until

from penstock.cache.claims import Claims
from penstock.cache.guard import Guard
from penstock.config.model import CacheConfig, ModelCacheConfig, ModelConfig
from penstock.testing import ScriptedUpstream, Step

ASKED = {**PROMPT, "temperature": 0}


class Board:
    """Somebody else has claimed everything, until they have not."""

    def __init__(self):
        self.taken = True
        self.claims = 0
        self.released = []

    def claim(self, key, token, lifetime):
        self.claims += 1
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(not self.taken)
        return answer

    def release(self, key, token):
        self.released.append(key)


class Empty:
    """A tier below memory that has nothing."""

    name = "redis"
    answered = 0

    def get(self, key, then):
        then(None)

    def put(self, key, sealed, kept_until):
        pass


class Frozen(Empty):
    """One that does not answer."""

    def get(self, key, then):
        pass


@contextlib.asynccontextmanager
async def waiting(patience=60.0, below=Empty, budget=5.0):
    """``(gateway, port, board, upstream)``"""
    async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)] * 50]) as upstream:
        made = config(upstream.url, cache=CacheConfig())
        made.models["m"] = ModelConfig(candidates=made.models["m"].candidates, cache=ModelCacheConfig())
        async with serving(made) as (gateway, port):
            board, guard = Board(), Guard(below(), budget, gateway.clock.now)
            gateway.cache.guards = (guard,)
            gateway.pipeline.lookup.claims = Claims(board, guard, patience, gateway.clock.now)
            try:
                yield gateway, port, board, upstream
            finally:
                gateway.cache.guards = ()


async def comes_to_wait(gateway):
    while not gateway.pipeline.waiting:
        await asyncio.sleep(0.001)


def test_it_gets_the_answer_that_the_other_has_fetched():
    async def main():
        async with waiting() as (gateway, port, board, upstream):
            board.taken = False
            await call(port, ASKED)
            board.taken = True
            lookup = gateway.pipeline.lookup
            (key,) = board.released
            entry = gateway.cache.get_nowait(key)
            gateway.cache.memory.clear()
            late = asyncio.ensure_future(call(port, ASKED))
            await comes_to_wait(gateway)
            gateway.cache.memory.put(key, entry)
            assert (await late).headers["penstock-status"] == "cached"
            assert asked(upstream) == 1
            assert lookup.claims.answered == 1

    on_uvloop(main)


def test_it_asks_itself_when_the_other_has_got_none():
    async def main():
        async with waiting() as (gateway, port, board, upstream):
            late = asyncio.ensure_future(call(port, ASKED))
            await comes_to_wait(gateway)
            board.taken = False
            assert (await late).headers["penstock-status"] == "created"
            assert gateway.pipeline.lookup.claims.taken_over == 1
            assert asked(upstream) == len(board.released) == 1

    on_uvloop(main)


def test_it_does_not_wait_for_ever():
    async def main():
        async with waiting(patience=0.05) as (gateway, port, board, _upstream):
            assert (await call(port, ASKED)).headers["penstock-status"] == "created"
            assert gateway.pipeline.lookup.claims.tired == 1
            assert board.released == []

    on_uvloop(main)


def test_it_does_not_wait_beyond_its_deadline():
    async def main():
        async with waiting() as (gateway, port, _board, upstream):
            answer = await call(port, ASKED, headers=["penstock-deadline: 0.05"])
            assert answer.status == 503
            assert gateway.pipeline.lookup.claims.tired == 1
            assert asked(upstream) == 0

    on_uvloop(main)


def test_who_does_not_want_to_join_does_not_wait():
    async def main():
        async with waiting() as (_, port, _board, upstream):
            await call(port, ASKED, headers=["penstock-join: never"])
            assert asked(upstream) == 1

    on_uvloop(main)


def test_nothing_is_asked_for_a_caller_who_left_meanwhile():
    async def main():
        async with waiting() as (gateway, port, board, upstream):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(ASKED))
            await comes_to_wait(gateway)
            writer.close()
            await until(lambda: not gateway.pipeline.waiting)
            assert asked(upstream) == 0
            board.taken = False
            assert (await call(port, ASKED)).headers["penstock-status"] == "created"

    on_uvloop(main)


def test_what_has_used_up_the_budget_of_a_call_is_not_asked_who_is_to_ask():
    """A frozen Redis costs one budget, not two."""

    async def main():
        async with waiting(below=Frozen, budget=0.005) as (_, port, board, upstream):
            assert (await call(port, ASKED)).headers["penstock-status"] == "created"
            assert (board.claims, asked(upstream)) == (0, 1)

    on_uvloop(main)
