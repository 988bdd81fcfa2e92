"""Upstreams that are asked how they are, as callers meet it."""

import asyncio

import pytest
from asked_server import Server
from serving import PROMPT, call, config, error, on_uvloop, plain, serving, until

from penstock.config.model import CandidateConfig, HealthConfig, ModelConfig
from penstock.metrics import render
from penstock.testing import FakeClock

BROKEN = error("500 Broken")
CONFIG = HealthConfig(unhealthy_after=2, healthy_after=2, slow_start=0.0)


def with_two(test, first=CONFIG, second=None):
    """``test(gateway, port, clock, one, two)``, where one is asked first."""

    async def main():
        clock = FakeClock()
        async with Server("one").running() as one, Server("two").running() as two:
            candidates = [CandidateConfig(upstream="one"), CandidateConfig(upstream="two", weight=0)]
            settings = config(
                upstreams={"one": one.upstream(health=first), "two": two.upstream(health=second)},
                models={"m": ModelConfig(candidates=candidates)},
            )
            async with serving(settings, clock) as (gateway, port), asyncio.timeout(60):
                return await test(gateway, port, clock, one, two)

    return on_uvloop(main)


async def asks(gateway, clock, times=1):
    """Let the time for that many questions pass, and wait for their answers."""
    for _ in range(times):
        clock.advance(11.1)
        await until(lambda: not gateway.health._asking)


def test_nobody_is_asked_unless_the_configuration_says_so():
    async def test(gateway, port, clock, one, two):
        await asks(gateway, clock, 3)
        return one.asked, two.asked

    assert with_two(test) == (3, 0)
    assert with_two(test, None) == (0, 0)


def test_one_that_is_unwell_is_asked_last_and_comes_back():
    async def test(gateway, port, clock, one, two):
        one.health = BROKEN
        await asks(gateway, clock)
        asked = [(await call(port, PROMPT)).json()["id"]]
        await asks(gateway, clock)
        asked.append((await call(port, PROMPT)).json()["id"])
        one.health = plain({})
        await asks(gateway, clock)
        asked.append((await call(port, PROMPT)).json()["id"])
        await asks(gateway, clock)
        asked.append((await call(port, PROMPT)).json()["id"])
        return asked

    assert with_two(test) == ["one", "two", "two", "one"]


@pytest.mark.parametrize("health", [error("404 Not Found"), error("503 Busy"), b"nonsense\r\n\r\n", None])
def test_what_is_no_answer_is_none(health):
    async def test(gateway, port, clock, one, two):
        one.health = health
        await asks(gateway, clock, 2)
        return (await call(port, PROMPT)).json()["id"], render(gateway.metrics.collect())

    asked, metrics = with_two(test)
    assert asked == "two"
    assert b'penstock_upstream_unhealthy{upstream="one"} 1' in metrics
    assert b'penstock_health_checks_total{upstream="one",outcome="failed"} 2' in metrics


def test_the_last_one_is_never_left_out():
    async def test(gateway, port, clock, one, two):
        one.health = two.health = BROKEN
        await asks(gateway, clock, 3)
        return [(await call(port, PROMPT)).json()["id"] for _ in range(2)]

    assert with_two(test, second=CONFIG) == ["one", "one"]


def test_one_that_is_unwell_is_asked_where_the_others_fail():
    async def test(gateway, port, clock, one, two):
        one.health = BROKEN
        two.answer = error("400 Bad", "no")
        await asks(gateway, clock, 2)
        refused = (await call(port, PROMPT)).status
        two.answer = error("401 no", "no")
        return refused, (await call(port, PROMPT)).json()["id"]

    assert with_two(test) == (400, "one")


def test_another_process_is_told_and_hears():
    async def test(gateway, port, clock, one, two):
        told = []
        gateway.health.on_verdict = lambda *what: told.append(what)
        await asks(gateway, clock, 3)
        one.health = BROKEN
        await asks(gateway, clock, 3)
        gateway.health.asks = False
        before = one.asked
        gateway.health.heard("one", well=True)
        gateway.health.heard("nobody", well=False)
        await asks(gateway, clock)
        return told, one.asked - before, (await call(port, PROMPT)).json()["id"]

    told, more, asked = with_two(test)
    assert told == [("one", True), ("one", False), ("one", False)]
    assert (more, asked) == (0, "one")


def test_it_says_so_when_it_is_asked_to_explain():
    async def test(gateway, port, clock, one, two):
        one.health = BROKEN
        await asks(gateway, clock, 2)
        found = gateway.explain("/v1/chat/completions", {}, b'{"model": "m", "messages": []}')
        return [(told["upstream"], told.get("well")) for told in found["candidates"]], found["outcome"]

    order, outcome = with_two(test)
    assert order == [("two", None), ("one", False)]
    assert outcome.startswith("sent to two")
