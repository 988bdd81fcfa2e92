"""Spot capacity before reserved, near before far, and what becomes of a call where that is full or fails."""

import asyncio

import msgspec
import pytest
from continuing import CHAT, body_for, simulated
from serving import call, on_uvloop, until

from penstock.config.model import ConcurrencyConfig, ModelConfig
from penstock.testing import FakeClock

PLAIN = body_for(CHAT, stream=False)
ONE = ConcurrencyConfig(limit=1, adaptive=False)


def world(scripts, strategy, test, *changes, **top):
    """``test(gateway, port, asked)``: ``changes`` are the upstreams' settings; ``asked()`` counts their requests."""

    async def main():
        async with simulated(*scripts, clock=FakeClock()) as (gateway, port, simulators):
            config = gateway.pipeline.snapshot.config
            upstreams = {
                name: msgspec.structs.replace(upstream, **changed)
                for (name, upstream), changed in zip(config.upstreams.items(), changes, strict=True)
            }
            equal = [msgspec.structs.replace(one, weight=1.0) for one in config.models["m"].candidates]
            models = {"m": ModelConfig(candidates=equal, strategy=strategy)}
            gateway.reload(msgspec.structs.replace(config, upstreams=upstreams, models=models, **top))
            async with asyncio.timeout(60):
                return await test(
                    gateway, port, lambda: [one.bill.report()["requests"] for one in simulators]
                )

    return on_uvloop(main)


SPOT, RESERVED = {"capacity": "spot"}, {"capacity": "reserved"}
NEAR, FAR = {"region": "eu"}, {"region": "us"}


@pytest.mark.parametrize(
    ("strategy", "first", "second"), [("spot_first", RESERVED, SPOT), ("nearest", FAR, NEAR)]
)
def test_who_is_preferred_gets_all_calls_that_it_has_room_for(strategy, first, second):
    async def test(gateway, port, asked):
        for _ in range(4):
            await call(port, PLAIN, CHAT)
        return asked()

    assert world(["", ""], strategy, test, first, second, region="eu") == [0, 4]


@pytest.mark.parametrize(
    ("strategy", "first", "second"), [("spot_first", SPOT, RESERVED), ("nearest", NEAR, FAR)]
)
def test_what_it_has_no_room_for_goes_to_the_others_at_once(strategy, first, second):
    async def test(gateway, port, asked):
        held = asyncio.ensure_future(call(port, body_for(CHAT), CHAT))
        await until(lambda: asked()[0] == 1)
        for _ in range(3):
            await call(port, PLAIN, CHAT)
        found = asked()
        gateway.leaving.announce("up0", 0.0)
        gateway.clock.advance(1.0)
        assert (await held).status == 200
        return found

    scripts = ["stall-after=5", ""]
    assert world(scripts, strategy, test, {**first, "concurrency": ONE}, second, region="eu") == [1, 3]


def test_where_spot_capacity_fails_the_reserved_answers():
    async def test(gateway, port, asked):
        statuses = [(await call(port, PLAIN, CHAT)).status for _ in range(3)]
        return statuses, asked()[1]

    assert world(["500", ""], "spot_first", test, SPOT, RESERVED) == ([200] * 3, 3)


def test_spot_capacity_that_was_taken_back_gets_no_calls_until_it_is_there_again():
    async def test(gateway, port, asked):
        gateway.leaving.announce("up0", 30.0)
        await call(port, PLAIN, CHAT)
        told = gateway.explain(CHAT, {}, b'{"model": "m", "messages": []}')["candidates"]
        gateway.leaving.take_back("up0")
        await call(port, PLAIN, CHAT)
        return asked(), [(one["upstream"], one.get("capacity"), one["skipped"]) for one in told]

    requests, told = world(["", ""], "spot_first", test, SPOT, RESERVED)
    assert requests == [1, 1]
    assert told == [("up1", None, ""), ("up0", "spot", "it goes away in 30.0 s")]
