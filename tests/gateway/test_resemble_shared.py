"""Answers to similar questions are verified also where gateways share a tier: by what another has asked meanwhile, too."""

import asyncio
import contextlib

import msgspec
import pytest
from keeping import settings
from resembling import ONE, PATIENT, SAME, a_question, content, experienced, saying
from serving import asked, call, on_uvloop, serving, until
from shared_tiers import on_disk, with_redis

from needing import needs_redis
from penstock.config.model import ModelCacheConfig, SemanticConfig
from penstock.gateway.stages.lookup import Lookup
from penstock.testing import ScriptedUpstream

POLICY = ModelCacheConfig(usage="original", semantic=SemanticConfig(verify=1.0))


@contextlib.asynccontextmanager
async def two(tiers, fresh="by phone", held=()):
    """``(upstream, (one, port), (other, port))``: the other knows :data:`ONE`, and would answer :data:`SAME` by it.

    :param fresh: the answer to that, whoever asks it
    :param held: steps before the one is told it
    """
    tiers = msgspec.structs.replace(tiers, embedding=PATIENT)
    request, answer = saying(fresh)
    async with ScriptedUpstream([saying("by mail", fresh), [request, *held, answer]]) as upstream:
        made = settings(upstream.url, tiers=tiers, cache=POLICY)
        async with serving(made) as (one, here), serving(made) as (other, there):
            for gateway in (one, other):
                for guard in gateway.cache.guards:
                    await guard.tier.flush()
            experienced(other)
            assert (await call(there, a_question(ONE))).headers["penstock-status"] == "created"
            await settled(other)
            yield upstream, (one, here), (other, there)


async def settled(gateway):
    await until(lambda: not gateway.pipeline.productions and not gateway.pipeline.waiting)
    for guard in gateway.cache.guards:
        await guard.tier.flush()


@contextlib.contextmanager
def held_up(monkeypatch, gateway):
    """``(there, go_on)``: the gateway has drawn a verification, and begins to see to it when it may."""
    is_to_fetch, there, go_on = Lookup.is_to_fetch, asyncio.Event(), asyncio.Event()

    async def when_it_may(lookup, *what):
        if lookup is gateway.pipeline.lookup:
            there.set()
            await go_on.wait()
        return await is_to_fetch(lookup, *what)

    with monkeypatch.context() as patching:
        patching.setattr(Lookup, "is_to_fetch", when_it_may)
        yield there, go_on


async def check_given(port):
    answer = await call(port, a_question(SAME))
    assert (answer.headers["penstock-status"], content(answer)) == ("similar", "by mail")


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("shared", [on_disk, pytest.param(with_redis, marks=needs_redis)])
def test_an_answer_is_verified_by_what_another_gateway_has_kept_meanwhile(
    shared, right, tmp_path, monkeypatch
):
    async def main():
        with shared(tmp_path) as tiers:
            fresh = "by mail" if right else "by phone"
            async with two(tiers, fresh) as (upstream, (one, here), (other, there)):
                resemblance = other.pipeline.lookup.resemblance
                with held_up(monkeypatch, other) as (begins, go_on):
                    await check_given(there)
                    await begins.wait()
                    assert content(await call(here, a_question(SAME))) == fresh
                    await settled(one)
                    go_on.set()
                    await settled(other)
                await resemblance.wait_idle()
                assert (resemblance._right.value, resemblance._wrong.value) == (right, not right)
                assert asked(upstream) == 2
                assert not other.pipeline.lookup.renewing
                again = await call(there, a_question(SAME))
                assert (again.headers["penstock-status"], content(again)) == ("cached", fresh)

    on_uvloop(main)


@contextlib.contextmanager
def claimed_by(gateway):
    """The gateway is fetching the answer to :data:`SAME`, as far as others can see; ends with the claim."""
    claims, keys = gateway.pipeline.lookup.claims, []

    async def claim(key):
        keys.append(key)
        assert await claims.claim(key)

    try:
        yield claim
    finally:
        for key in keys:
            claims.release(key)


def key_of(gateway):
    """Of the question that is being verified."""
    (key,) = gateway.pipeline.lookup.renewing
    return key


@needs_redis
def test_an_answer_is_verified_by_what_another_gateway_is_fetching_just_then(tmp_path, monkeypatch):
    async def main():
        fetched = asyncio.Event()
        with with_redis(tmp_path) as tiers:
            async with two(tiers, held=[fetched]) as (upstream, (_, here), (other, there)):
                resemblance = other.pipeline.lookup.resemblance
                fetching = asyncio.create_task(call(here, a_question(SAME)))
                await until(lambda: asked(upstream) == 2)
                looks = looked_for(monkeypatch, other)
                await check_given(there)
                await until(lambda: len(looks) > 2)
                assert other.pipeline.waiting, "it waits for the other one's"
                fetched.set()
                assert content(await fetching) == "by phone"
                await settled(other)
                await resemblance.wait_idle()
                assert (resemblance._right.value, resemblance._wrong.value) == (0, 1)
                assert (asked(upstream), other.pipeline.lookup.renewing) == (2, set())
                assert not other.pipeline.lookup.claims.answered, "no call has waited"

    on_uvloop(main)


@needs_redis
def test_who_verifies_asks_himself_where_the_other_gateway_has_got_nothing(tmp_path, monkeypatch):
    async def main():
        with with_redis(tmp_path) as tiers:
            async with two(tiers) as (upstream, (one, _), (other, there)):
                resemblance = other.pipeline.lookup.resemblance
                with held_up(monkeypatch, other) as (begins, go_on):
                    with claimed_by(one) as claim:
                        await check_given(there)
                        await begins.wait()
                        await claim(key_of(other))
                        looks = looked_for(monkeypatch, other)
                        go_on.set()
                        await until(lambda: looks)
                    await settled(other)
                await resemblance.wait_idle()
                assert (resemblance._wrong.value, asked(upstream)) == (1, 2)
                assert not other.pipeline.lookup.renewing

    on_uvloop(main)


@needs_redis
@pytest.mark.parametrize("why", ["it drains", "it has waited for long enough"])
def test_who_verifies_does_not_wait_for_ever(why, tmp_path, monkeypatch):
    async def main():
        with with_redis(tmp_path) as tiers:
            async with two(tiers) as (upstream, (one, _), (other, there)):
                with held_up(monkeypatch, other) as (begins, go_on), claimed_by(one) as claim:
                    await check_given(there)
                    await begins.wait()
                    await claim(key_of(other))
                    looks = looked_for(monkeypatch, other)
                    go_on.set()
                    await until(lambda: looks)
                    if why == "it drains":
                        other.pipeline.admission.draining = True
                    else:
                        now = other.clock.now
                        monkeypatch.setattr(other.clock, "now", lambda: now() + 3_600.0)
                    await settled(other)
                    assert (asked(upstream), other.pipeline.lookup.renewing) == (1, set())

    on_uvloop(main)


def looked_for(monkeypatch, gateway):
    """The keys that the gateway looks for in its cache from now on."""
    cache, looks = gateway.cache, []
    get = cache.get

    async def noted(key):
        looks.append(key)
        return await get(key)

    monkeypatch.setattr(cache, "get", noted)
    return looks
