"""Upstreams that are announced as going away: no new calls, and what runs there goes on elsewhere in time."""

import asyncio

import msgspec
import pytest
from continuing import CHAT, body_for, check_form, events_of, ids_of, simulated, text_of, whole_text
from serving import call, on_uvloop, until

from penstock.config.model import ModelConfig, RetryConfig
from penstock.messages import Outcome
from penstock.metrics import render
from penstock.testing import FakeClock

POOR = RetryConfig(first_delay=0.0, budget_floor=0, budget_ratio=0.0)  # no retry is paid for
PLAIN = body_for(CHAT, stream=False)


async def events_at(gateway, count):
    """Until the one answer that is under way has so many events."""

    def there():
        (generation,) = gateway.pipeline.in_flight() or [None]
        return generation is not None and len(generation.events) >= count

    await until(there)


def rows(gateway):
    return [row.outcome for row in reversed(gateway.recorder.ledger.recent())]


def asked(simulators):
    return [simulator.bill.report()["requests"] for simulator in simulators]


def moved(gateway):
    """How many answers have been broken off to go on elsewhere; the clock's step does that at once."""
    (family,) = (one for one in gateway.metrics.collect() if one.name == "penstock_moved_total")
    return sum(sample.value for sample in family.samples)


def with_one(script, test, *others, **more):
    """``test(gateway, port, simulators, clock, calling)`` while a call of the first upstream is under way."""

    async def main():
        clock = FakeClock()
        async with simulated(script, *others, clock=clock, **more) as (gateway, port, simulators):
            async with asyncio.timeout(60):
                return await test(gateway, port, simulators, clock)

    return on_uvloop(main)


def test_an_answer_goes_on_elsewhere_shortly_before_its_upstream_goes():
    async def test(gateway, port, simulators, clock):
        calling = asyncio.ensure_future(call(port, body_for(CHAT), CHAT))
        await events_at(gateway, 9)
        gateway.leaving.announce("up0", 20.0)
        clock.advance(14.0)
        stayed = not moved(gateway)
        clock.advance(1.5)
        answer = await calling
        await gateway.pipeline.wait_idle()
        metrics = render(gateway.metrics.collect()).decode()
        return answer, stayed, asked(simulators), rows(gateway), metrics

    answer, stayed, requests, outcomes, metrics = with_one("stall-after=9", test, "", retry=POOR)
    assert stayed
    assert requests == [1, 1]
    events = events_of(answer)
    assert text_of(CHAT, events) == whole_text(CHAT)
    check_form(CHAT, events)
    assert ids_of(answer) == list(range(len(events)))
    assert outcomes == [Outcome.PARTIAL, Outcome.CONTINUED]
    assert 'penstock_upstream_leaving{upstream="up0"} 1' in metrics
    assert "penstock_moved_total 1" in metrics


def test_a_short_notice_is_used_to_its_half():
    async def test(gateway, port, simulators, clock):
        calling = asyncio.ensure_future(call(port, body_for(CHAT), CHAT))
        await events_at(gateway, 9)
        gateway.leaving.announce("up0", 2.0)
        clock.advance(0.9)
        stayed = not moved(gateway)
        clock.advance(0.2)
        answer = await calling
        return stayed, text_of(CHAT, events_of(answer))

    assert with_one("stall-after=9", test, "") == (True, whole_text(CHAT))


def test_what_cannot_be_gone_on_with_stays_to_the_end():
    async def test(gateway, port, simulators, clock):
        calling = asyncio.ensure_future(call(port, body_for(CHAT, logprobs=True), CHAT))
        await events_at(gateway, 9)
        gateway.leaving.announce("up0", 2.0)
        clock.advance(1.9)
        clock.advance(3.0)
        still = not moved(gateway) and len(gateway.pipeline.in_flight())
        requests = asked(simulators)
        clock.advance(60.0)  # the clock between tokens ends it, as it would have without a notice
        await calling
        return still, requests

    assert with_one("stall-after=9", test, "") == (1, [1, 0])


def test_an_answer_that_has_not_begun_is_asked_for_elsewhere_when_its_upstream_has_gone():
    async def test(gateway, port, simulators, clock):
        calling = asyncio.ensure_future(call(port, PLAIN, CHAT))
        await until(lambda: asked(simulators)[0] == 1)
        gateway.leaving.announce("up0", 20.0)
        clock.advance(18.0)
        stayed = not moved(gateway)
        clock.advance(3.0)
        answer = await calling
        return stayed, answer.status, asked(simulators)

    assert with_one("no-answer", test, "", retry=POOR) == (True, 200, [1, 1])


def test_it_gets_no_new_calls_until_that_is_taken_back():
    async def test(gateway, port, simulators, clock):
        gateway.leaving.announce("up0", None)
        await call(port, PLAIN, CHAT)
        clock.advance(10_000.0)
        await call(port, PLAIN, CHAT)
        left = asked(simulators)
        gateway.leaving.take_back("up0")
        await call(port, PLAIN, CHAT)
        return left, asked(simulators)

    assert with_one("", test, "") == ([0, 2], [1, 2])


def test_what_is_announced_holds_over_a_reload_that_replaces_the_upstream():
    async def test(gateway, port, simulators, clock):
        gateway.leaving.announce("up0", None)
        gateway.leaving.announce("later", 5.0)
        config = gateway.pipeline.snapshot.config
        first = msgspec.structs.replace(config.upstreams["up0"], cancel_grace=2.0)
        gateway.reload(msgspec.structs.replace(config, upstreams={**config.upstreams, "up0": first}))
        await call(port, PLAIN, CHAT)
        return asked(simulators)

    assert with_one("", test, "") == [0, 1]


def test_where_nobody_else_answers_the_call_is_refused_and_told_why():
    async def test(gateway, port, simulators, clock):
        gateway.leaving.announce("up0", 30.0)
        clock.advance(10.0)
        answer = await call(port, PLAIN, CHAT)
        told = gateway.explain(CHAT, {}, b'{"model": "m", "messages": []}')
        return answer, told, asked(simulators)

    answer, told, requests = with_one("", test)
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "upstream_leaving"
    assert "retry-after" in answer.headers
    assert requests == [0]
    assert told["candidates"][0]["skipped"] == "it goes away in 20.0 s"
    assert "it goes away" in told["outcome"]


def test_how_another_failed_is_told_rather_than_that_one_goes():
    async def test(gateway, port, simulators, clock):
        gateway.leaving.announce("up1", None)
        return await call(port, PLAIN, CHAT)

    answer = with_one("500", test, "")
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_failed")


@pytest.mark.parametrize("strategy", ["weighted", "cheapest", "fastest", "least_busy", "prefix"])
def test_by_every_strategy_it_comes_last(strategy):
    async def test(gateway, port, simulators, clock):
        config = gateway.pipeline.snapshot.config
        model = config.models["m"]
        equal = [msgspec.structs.replace(one, weight=1.0) for one in model.candidates]
        models = {"m": ModelConfig(candidates=equal, strategy=strategy)}
        gateway.reload(msgspec.structs.replace(config, models=models))
        gateway.leaving.announce("up1", None)
        for _ in range(8):
            await call(port, PLAIN, CHAT)
        return asked(simulators)

    assert with_one("", test, "", "")[1] == 0
