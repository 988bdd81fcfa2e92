"""What several gateways that share a tier do behind answers: one of them asks, the others find what it got."""

import asyncio
import contextlib

import pytest
from keeping import ASKED, Wall, settings
from serving import COMPLETION, asked, call, on_uvloop, plain, serving, until
from shared_tiers import on_disk, with_both, with_redis

from needing import needs_redis
from penstock.config.model import LimitConfig, LimitsConfig, ModelCacheConfig, PrefetchConfig
from penstock.gateway.stages.lookup import Lookup
from penstock.testing import FakeClock, ScriptedUpstream, Step

POLICY = ModelCacheConfig(ttl=30, stale_while_revalidate=60)
FOUR = 4
NEW = {**COMPLETION, "id": "new"}
FETCHED_ONCE = [
    [Step.REQUEST, plain(COMPLETION), Step.REQUEST, plain(NEW)],
    *[[Step.REQUEST, plain(NEW)]] * 9,
]


SHARED = pytest.mark.parametrize(
    "shared",
    [on_disk, pytest.param(with_redis, marks=needs_redis), pytest.param(with_both, marks=needs_redis)],
    ids=lambda shared: shared.__name__,
)


@contextlib.asynccontextmanager
async def gateways(tiers, scripts, **more):
    """``(upstream, clocks, [(gateway, port), ...])``: four that share what lies below their memories."""
    async with ScriptedUpstream(scripts) as upstream, contextlib.AsyncExitStack() as stack:
        made = settings(upstream.url, tiers=tiers, **{"cache": POLICY, **more})
        four = [await stack.enter_async_context(serving(made, FakeClock())) for _ in range(FOUR)]
        clocks = [Wall(gateway) for gateway, _ in four]
        for gateway, _ in four:
            for guard in gateway.cache.guards:
                await guard.tier.flush()  # its server is there by now, and its purges are known
        yield upstream, clocks, four


@contextlib.asynccontextmanager
async def at_last(go_on):
    """Nobody is kept waiting, whatever comes out."""
    try:
        yield
    finally:
        go_on.set()


def later(clocks, seconds):
    for wall in clocks:
        wall.time += seconds


async def settled(*gateways):
    """What is made is made, and lies where the others look."""
    for gateway in gateways:
        await until(lambda one=gateway: not one.pipeline.productions and not one.pipeline.waiting)
        for guard in gateway.cache.guards:
            await guard.tier.flush()


async def status(port, body=ASKED, **more):
    return (await call(port, body, **more)).headers["penstock-status"]


async def known_to_all(four):
    """The question has been answered, and is in every memory."""
    assert await status(four[0][1]) == "created"
    await settled(four[0][0])
    for _, port in four[1:]:
        assert await status(port) == "cached"


@SHARED
def test_whoever_finds_it_stale_takes_the_successor_that_another_has_fetched(shared, tmp_path):
    async def main():
        with shared(tmp_path) as tiers:
            async with gateways(tiers, FETCHED_ONCE) as (upstream, clocks, four):
                await known_to_all(four)
                later(clocks, 40)
                for gateway, port in four:
                    assert await status(port) == "stale"
                    await settled(gateway)
                    assert (await call(port, ASKED)).json()["id"] == "new"
                assert asked(upstream) == 2

    on_uvloop(main)


@needs_redis
def test_of_all_that_find_it_stale_at_once_one_asks(tmp_path):
    async def main():
        go_on = asyncio.Event()
        renewed = [Step.REQUEST, go_on, plain(NEW)]
        scripts = [[Step.REQUEST, plain(COMPLETION), *renewed], *[renewed] * 9]
        with with_redis(tmp_path) as tiers:
            async with gateways(tiers, scripts) as (upstream, clocks, four), at_last(go_on):
                await known_to_all(four)
                later(clocks, 40)
                for _ in range(3):
                    said = await asyncio.gather(*(status(port) for _, port in four))
                    assert said == ["stale"] * FOUR
                    for gateway, _ in four:
                        await until(lambda one=gateway: not one.pipeline.waiting)
                assert asked(upstream) == 2
                go_on.set()
                await settled(*(gateway for gateway, _ in four))
                for _, port in four:
                    async with asyncio.timeout(30):
                        while await status(port) != "cached":
                            await asyncio.sleep(0.01)
                assert asked(upstream) == 2

    on_uvloop(main)


@needs_redis
def test_what_will_probably_be_asked_next_is_fetched_by_one(tmp_path):
    """All have learned that one follows the other, and see the first at once."""

    async def main():
        go_on = asyncio.Event()
        first, then = ({**ASKED, "messages": [{"role": "user", "content": text}]} for text in "ab")
        scripts = [[Step.REQUEST, plain(COMPLETION)] * 4 + [Step.REQUEST, go_on, plain(NEW)]]
        scripts += [[Step.REQUEST, go_on, plain(NEW)]] * 9
        policy = ModelCacheConfig(
            ttl=30, prefetch=PrefetchConfig(calls_per_minute=1_000, min_probability=0.1)
        )
        with with_redis(tmp_path) as tiers:
            async with gateways(tiers, scripts, cache=policy) as (upstream, clocks, four), at_last(go_on):
                for wall, (gateway, _) in zip(clocks, four, strict=True):
                    gateway.pipeline.lookup.prefetch._now = lambda wall=wall: wall.time
                for _ in range(2):
                    later(clocks, 100)
                    for body in (first, then):
                        for gateway, port in four:
                            key = (await call(port, body)).headers.get("penstock-cache-key")
                            await settled(gateway)
                for gateway, _ in four:
                    gateway.cache.purge_key(bytes.fromhex(key))
                    await settled(gateway)
                later(clocks, 1)
                assert asked(upstream) == 4
                for gateway, port in four:
                    assert await status(port, first) == "cached"
                    await until(lambda one=gateway: not one.pipeline.waiting)
                await until(lambda: asked(upstream) >= 5)
                assert sum(len(gateway.pipeline.productions) for gateway, _ in four) == 1
                go_on.set()
                await settled(*(gateway for gateway, _ in four))
                assert [await status(port, then) for _, port in four] == ["cached"] * FOUR
                assert asked(upstream) == 5

    on_uvloop(main)


def test_who_finds_a_successor_has_used_nothing_of_its_limits(tmp_path):
    async def main():
        limits = LimitsConfig(keys={"*": LimitConfig(tokens_per_minute=10_000)})
        with on_disk(tmp_path) as tiers:
            async with gateways(tiers, FETCHED_ONCE, limits=limits) as (_, clocks, four):
                await known_to_all(four)
                later(clocks, 40)
                for gateway, port in four:
                    await status(port)
                    await settled(gateway)
                accounts = [
                    gateway.pipeline.admission.limiter._accounts["key", "anonymous"] for gateway, _ in four
                ]
                now = four[0][0].clock.now()
                assert [round(account.tokens.left(now)) for account in accounts] == [9_990, *[10_000] * 3]

    on_uvloop(main)


@SHARED
def test_once_a_gateway_drains_it_asks_nothing_more_behind_an_answer(shared, tmp_path, monkeypatch):
    """Also where it was being looked whether another has asked; another may ask at once."""
    is_to_fetch = Lookup.is_to_fetch
    looked = []

    async def main():
        with shared(tmp_path) as tiers:
            limits = LimitsConfig(keys={"*": LimitConfig(tokens_per_minute=10_000)})
            async with gateways(tiers, FETCHED_ONCE, limits=limits) as (upstream, clocks, four):
                await known_to_all(four)
                later(clocks, 40)
                (leaving, port), (staying, other_port) = four[1:3]

                async def meanwhile_it_drains(lookup, *what):
                    wanted = await is_to_fetch(lookup, *what)
                    looked.append(wanted)
                    if lookup is leaving.pipeline.lookup:
                        leaving.pipeline.admission.draining = True
                    return wanted

                monkeypatch.setattr(Lookup, "is_to_fetch", meanwhile_it_drains)
                assert await status(port) == "stale"
                await settled(leaving)
                assert (looked, asked(upstream)) == ([True], 1)
                account = leaving.pipeline.admission.limiter._accounts["key", "anonymous"]
                assert round(account.tokens.left(leaving.clock.now())) == 10_000
                assert await status(other_port) == "stale"
                await settled(staying)
                assert (looked, asked(upstream)) == ([True, True], 2)

    on_uvloop(main)
