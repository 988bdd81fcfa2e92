"""The ladder as a caller meets it: a model whose one upstream is busy with another call."""

import asyncio
import json

import msgspec
import pytest
from serving import COMPLETION, PROMPT, call, config, plain, serving, until

from penstock.config.model import (
    CandidateConfig,
    ConcurrencyConfig,
    DegradationConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
    TierConfig,
)
from penstock.testing import FakeClock, ScriptedUpstream, Step

ASKED = {**PROMPT, "temperature": 0}
SMALL = {**COMPLETION, "id": "small"}


def settings(upstream, small, *, cache=None, poor=False, **ladder):
    """``m`` at an upstream that takes one call at once, ``s`` at another that takes many."""
    whole = config(
        upstream.url,
        small.url,
        retry=RetryConfig(attempts=1, first_delay=0.0, budget_floor=0 if poor else 10, budget_ratio=0),
    )
    up0, up1 = whole.upstreams["up0"], whole.upstreams["up1"]
    gated = ConcurrencyConfig(limit=1, adaptive=False)
    return msgspec.structs.replace(
        whole,
        upstreams={"up0": msgspec.structs.replace(up0, concurrency=gated), "up1": up1},
        models={
            "m": ModelConfig(candidates=[CandidateConfig(upstream="up0")], smaller="s", cache=cache),
            "s": ModelConfig(candidates=[CandidateConfig(upstream="up1", model="tiny")], cache=cache),
        },
        tiers={"standard": TierConfig(degradation=DegradationConfig(**ladder))},
    )


def run(test, *, cache=None, clock=None, large=3, small_says=None, **ladder):
    """``test(port, busy, gateway, large, small)``; ``busy()`` makes the large model's upstream busy, and then free."""
    little = [Step.REQUEST, small_says or plain(SMALL)]

    async def main():
        go_on = asyncio.Event()
        first = [Step.REQUEST, plain(COMPLETION)] if cache else []
        script = [
            *first,
            Step.REQUEST,
            go_on,
            plain(COMPLETION),
            *[Step.REQUEST, plain(COMPLETION)] * large,
        ]
        async with (
            ScriptedUpstream([script, script]) as upstream,
            ScriptedUpstream([little * 5, little * 5]) as small,
            serving(settings(upstream, small, cache=cache, **ladder), clock) as (gateway, port),
        ):
            gate = gateway.pipeline.snapshot.upstreams["up0"].gate

            class Busy:
                async def __aenter__(self):
                    self.held = asyncio.ensure_future(call(port, {**PROMPT, "user": "who holds it"}))
                    await until(lambda: gate.in_progress == 1)

                async def __aexit__(self, *_):
                    go_on.set()
                    assert (await self.held).status == 200
                    await until(lambda: gate.in_progress == 0)

            return await test(port, Busy, gateway, upstream, small)

    return asyncio.run(main())


def body_of(received):
    return json.loads(received[received.rindex(b"\r\n\r\n") :])


def reduced(gateway):
    (family,) = [each for each in gateway.metrics.collect() if each.name == "penstock_degraded_total"]
    return {sample.labels: sample.value for sample in family.samples}


def test_a_busy_model_is_answered_by_a_smaller_one_and_a_free_one_by_itself():
    async def test(port, busy, gateway, upstream, small):
        async with busy():
            answer = await call(port, PROMPT)
        return answer, body_of(small.received[0]), reduced(gateway)

    answer, asked, counts = run(test, smaller=1.0)
    assert answer.json()["id"] == "small"
    assert answer.headers["penstock-degraded"] == 'smaller; model="s"'
    assert asked["model"] == "tiny"
    assert asked["messages"] == PROMPT["messages"]
    assert counts == {("standard", "smaller"): 1, ("standard", "larger"): 0, ("standard", "queue"): 0}


async def ask_while_busy(port, busy, gateway, upstream, small):
    """What is said to one who asks while the small model answers; it fails, and the large one is free a moment later."""
    async with busy():
        asking = asyncio.ensure_future(call(port, PROMPT))
        gate = gateway.pipeline.snapshot.upstreams["up0"].gate
        await until(lambda: asking.done() or len(gate.queue) == 1)
    return await asking, reduced(gateway)


@pytest.mark.parametrize("status", ["500 no", "400 too long for me"])
def test_where_the_small_model_fails_the_one_that_was_asked_for_answers(status):
    failure = plain({"error": {"message": "no"}}, status=status)
    answer, counts = run(ask_while_busy, small_says=failure, smaller=1.0)
    assert (answer.status, answer.json()["id"]) == (200, "c")
    assert answer.headers["penstock-degraded"] == 'smaller; model="s", queue'
    assert answer.headers["penstock-fallback"] == 'model; model="m"'
    assert answer.headers["penstock-attempts"] == "2"
    assert (counts["standard", "smaller"], counts["standard", "larger"]) == (1, 1)


def test_as_long_as_the_retry_budget_has_something_left():
    failure = plain({"error": {"message": "no"}}, status="500 no")
    answer, counts = run(ask_while_busy, small_says=failure, poor=True, smaller=1.0)
    assert answer.status == 502
    assert (counts["standard", "smaller"], counts["standard", "larger"]) == (1, 0)


def test_a_step_that_was_taken_is_kept_while_the_model_may_be_busy_again():
    async def test(port, busy, gateway, upstream, small):
        clock = gateway.clock
        async with busy():
            await call(port, PROMPT)
        free = await call(port, PROMPT)
        clock.advance(11.0)
        later = await call(port, PROMPT)
        return [answer.json()["id"] for answer in (free, later)]

    assert run(test, smaller=1.0, hold=10.0, clock=FakeClock()) == ["small", COMPLETION["id"]]


def test_an_answer_is_shortened_and_never_lengthened():
    async def test(port, busy, gateway, upstream, small):
        async with busy():
            answers = [
                await call(port, PROMPT),
                await call(port, {**PROMPT, "max_tokens": 500}),
                await call(port, {**PROMPT, "max_tokens": 7}),
            ]
        return answers, b"".join(small.received)

    answers, received = run(test, smaller=0.5, shorter=1.0, max_tokens=64)
    assert [answer.headers["penstock-degraded"] for answer in answers] == [
        'smaller; model="s", shorter; max_tokens=64',
        'smaller; model="s", shorter; max_tokens=64',
        'smaller; model="s"',
    ]
    assert received.count(b'"max_completion_tokens":64') == 1
    assert received.count(b'"max_tokens":64') == 1
    assert received.count(b'"max_tokens":7') == 1


def test_at_the_top_of_the_ladder_a_call_is_refused_with_503_and_a_time_to_come_back():
    async def test(port, busy, gateway, upstream, small):
        async with busy():
            refused = await call(port, PROMPT)
        return refused, reduced(gateway)

    refused, counts = run(test, refuse=1.0)
    assert (refused.status, refused.json()["error"]["code"]) == (503, "degraded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["penstock-degraded"] == "refuse"
    assert counts == {("standard", "refuse"): 1, ("standard", "queue"): 0}


def test_who_is_promised_an_answer_but_waits_for_it_is_refused_like_others_and_who_does_not_wait_is_not():
    async def test(port, busy, gateway, upstream, small):
        async with busy():
            waits = await call(port, PROMPT, headers=["prefer: respond-async, wait=60"])
            comes_back = await call(port, PROMPT, headers=["prefer: respond-async"])
        await until(lambda: gateway.pipeline.snapshot.upstreams["up0"].gate.in_progress == 0)
        return waits.status, comes_back.status

    assert run(test, refuse=1.0) == (503, 202)


def test_a_call_that_had_to_wait_is_told_so():
    async def test(port, busy, gateway, upstream, small):
        async with busy() as _:
            waiting = asyncio.ensure_future(call(port, PROMPT))
            await until(lambda: len(gateway.pipeline.snapshot.upstreams["up0"].gate.queue) == 1)
        return await waiting, await call(port, PROMPT), reduced(gateway)

    waited, at_once, counts = run(test, refuse=9.0)
    assert (waited.status, waited.headers["penstock-degraded"]) == (200, "queue")
    assert "penstock-degraded" not in at_once.headers
    assert counts == {("standard", "refuse"): 0, ("standard", "queue"): 1}


def test_a_shorter_answer_that_had_to_be_waited_for_is_both():
    async def test(port, busy, gateway, upstream, small):
        async with busy() as _:
            waiting = asyncio.ensure_future(call(port, PROMPT))
            await until(lambda: len(gateway.pipeline.snapshot.upstreams["up0"].gate.queue) == 1)
        return (await waiting).headers["penstock-degraded"]

    assert run(test, shorter=1.0, max_tokens=7) == "shorter; max_tokens=7, queue"


def test_what_a_small_model_said_is_not_kept_as_the_large_ones_answer():
    async def test(port, busy, gateway, upstream, small):
        await call(port, {**ASKED, "user": "first of all"})
        async with busy():
            less = await call(port, {**ASKED, "seed": 5})
            again = await call(port, {**ASKED, "seed": 5})
        gateway.clock.advance(100)
        gateway.clock.sweep()
        await call(port, {**ASKED, "seed": 6})  # the load has fallen
        gateway.clock.advance(100)
        whole = await call(port, {**ASKED, "seed": 5})
        return less, again, whole

    less, again, whole = run(test, cache=ModelCacheConfig(), clock=FakeClock(), smaller=1.0, hold=10.0)
    assert less.json()["id"] == again.json()["id"] == "small"
    assert again.headers["penstock-status"] == "cached"
    assert again.headers["penstock-degraded"] == 'smaller; model="s"'
    assert whole.json()["id"] == "c"
    assert "penstock-degraded" not in whole.headers


def test_the_same_idempotency_key_finds_the_lesser_answer_also_when_the_load_has_gone():
    async def test(port, busy, gateway, upstream, small):
        key = ["idempotency-key: k1"]
        async with busy():
            less = await call(port, PROMPT, headers=key)
            again = await call(port, PROMPT, headers=key)
        gateway.pipeline.snapshot.degradation.ladders._ladders.clear()
        later = await call(port, PROMPT, headers=key)
        return less, again, later

    less, again, later = run(test, smaller=1.0)
    assert less.json() == again.json() == later.json()
    assert later.headers["penstock-status"] == "replayed"


def test_a_stale_answer_is_better_than_waiting_and_is_not_renewed_now():
    async def test(port, busy, gateway, upstream, small):
        await call(port, ASKED)
        entry_age = 50.0
        now = gateway.cache.now
        gateway.cache.now = lambda: now() + entry_age
        async with busy():
            stale = await call(port, ASKED)
        return stale, upstream.received, reduced(gateway)

    policy = ModelCacheConfig(ttl=10.0, stale_if_error=1_000.0)
    stale, received, counts = run(test, cache=policy, stale=1.0)
    assert (stale.status, stale.headers["penstock-status"]) == (200, "stale")
    assert stale.headers["penstock-degraded"] == "stale"
    assert counts == {("standard", "stale"): 1, ("standard", "queue"): 0}
    assert b"".join(received).count(b"POST ") == 2  # the first, and the one that holds the place


def test_embeddings_have_no_smaller_form():
    async def test(port, busy, gateway, upstream, small):
        async with busy():
            embedding = asyncio.ensure_future(call(port, {"model": "m", "input": "x"}, "/v1/embeddings"))
            await until(lambda: len(gateway.pipeline.snapshot.upstreams["up0"].gate.queue) == 1)
        answer = await embedding
        return answer, b"".join(small.received)

    answer, small = run(test, smaller=0.5, shorter=0.5)
    assert answer.headers["penstock-degraded"] == "queue"
    assert not small


def test_without_a_ladder_nothing_is_looked_at():
    async def main():
        async with ScriptedUpstream([[]]) as upstream, serving(config(upstream.url)) as (gateway, _):
            return gateway.pipeline.snapshot.degradation

    assert asyncio.run(main()) is None
