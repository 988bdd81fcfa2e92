"""What ``penstock explain`` is told, at a gateway whose state the test knows."""

import asyncio
import hashlib
import json

import msgspec
import pytest
from serving import COMPLETION, PROMPT, call, config, plain, serving, until
from test_degrade_end_to_end import run

from penstock.config.model import (
    BreakerConfig,
    CandidateConfig,
    ConcurrencyConfig,
    KeyConfig,
    LimitConfig,
    LimitsConfig,
    ModelCacheConfig,
    ModelConfig,
    UpstreamConfig,
)
from penstock.flow.gate import Asked, Outcome
from penstock.testing import ScriptedUpstream, Step

PATH = "/v1/chat/completions"


def explained(gateway, body=PROMPT, path=PATH, **headers):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return gateway.explain(path, {name.replace("_", "-"): value for name, value in headers.items()}, text)


def at(test, *scripts, **more):
    async def main():
        async with ScriptedUpstream(list(scripts) or [[Step.REQUEST, plain(COMPLETION)] * 3]) as upstream:
            async with serving(config(upstream.url, **more)) as (gateway, port):
                return await test(gateway, port, upstream)

    return asyncio.run(main())


def test_a_call_that_would_be_sent_says_where_and_nothing_is_sent():
    async def test(gateway, port, upstream):
        return explained(gateway), upstream.received, gateway.recorder.ledger.statistics().open

    found, received, open_attempts = at(test)
    assert found["outcome"] == "sent to up0 as 'm'"
    assert found["caller"] == {"key": "anonymous", "tenant": "default", "tier": "standard"}
    assert (found["load"], found["ladder"]) == (0.0, "the tier has none")
    assert found["cache"] == {"kept": False, "why": "no answer of this model is kept"}
    assert found["strategy"] == "weighted"
    assert (b"".join(received), open_attempts) == (b"", 0)
    json.dumps(found)


def test_limits_tell_what_is_left_and_are_not_used_by_the_question():
    async def test(gateway, port, upstream):
        before = [explained(gateway) for _ in range(5)][-1]
        await call(port, PROMPT)
        await call(port, PROMPT)
        return before, explained(gateway)

    limits = LimitsConfig(keys={"anonymous": LimitConfig(requests_per_minute=2, concurrent=3, usd_per_day=1)})
    before, after = at(test, limits=limits)
    assert [(told["limit"], told["of"], told["left"], told["wait"]) for told in before["limits"]] == [
        ("concurrent", 3, 3, 0.0),
        ("requests", 2, 2, 0.0),
        ("day", 1.0, 1.0, 0.0),
    ]
    assert after["limits"][0]["limit"] == "requests"
    assert after["outcome"].startswith("refused with 429: the key 'anonymous' has no requests left for ")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"concurrent": 0}, "no place left, and gets none"),
        ({"usd_per_day": 0}, "no budget of this day left, and gets none"),
        ({"usd_per_month": 0}, "no budget of this month left, and gets none"),
    ],
)
def test_what_there_is_no_more_of_is_said_in_words(limit, said):
    async def test(gateway, port, upstream):
        return explained(gateway)

    limits = LimitsConfig(keys={"anonymous": LimitConfig(**limit)})
    assert at(test, limits=limits)["outcome"] == f"refused with 429: the key 'anonymous' has {said}"


def test_wrong_requests_are_refused_as_they_would_be():
    async def test(gateway, port, upstream):
        return [
            explained(gateway, b"{"),
            explained(gateway, {**PROMPT, "model": "unknown"}),
            explained(gateway, path="/v1/nothing"),
            explained(gateway, penstock_deadline="soon"),
        ]

    outcomes = [
        found["outcome"]
        for found in at(
            test,
            models={"m": ModelConfig([CandidateConfig("up0")])},
            upstreams={
                "up0": UpstreamConfig(
                    kind="openai", base_url="http://127.0.0.1:1/v1", concurrency=ConcurrencyConfig()
                )
            },
        )
    ]
    assert [outcome.split(":")[0] for outcome in outcomes] == [
        "refused with 400 invalid_json",
        "refused with 404 model_not_found",
        "refused with 404 not_found",
        "refused with 400 invalid_request",
    ]


def test_a_gateway_that_is_going_away_says_so():
    async def test(gateway, port, upstream):
        gateway.pipeline.admission.draining = True
        found, answer = explained(gateway), await call(port, PROMPT)
        return found["outcome"], answer

    outcome, answer = at(test)
    assert outcome.startswith(f"refused with {answer.status} {answer.json()['error']['code']}: ")
    assert answer.status == 503


def test_whose_key_it_is_decides():
    keys = [
        KeyConfig(
            name="alice", hash="sha256:" + hashlib.sha256(b"pk-1").hexdigest(), tier="gold", models=["m"]
        )
    ]

    async def test(gateway, port, upstream):
        return (
            explained(gateway),
            explained(gateway, authorization="Bearer pk-1"),
            explained(gateway, {**PROMPT, "model": "x"}, authorization="Bearer pk-1"),
        )

    nobody, alice, forbidden = at(test, keys=keys)
    assert nobody["outcome"].startswith("refused with 401")
    assert alice["caller"] == {"key": "alice", "tenant": "default", "tier": "gold"}
    assert forbidden["outcome"].startswith("refused with 403 model_not_permitted")


def test_the_cache_is_asked_by_the_key_that_answers_carry():
    asked = {**PROMPT, "temperature": 0}

    async def test(gateway, port, upstream):
        before = explained(gateway, asked)
        await call(port, asked)
        answer = await call(port, asked)
        return before, answer, explained(gateway, asked), explained(gateway, PROMPT)

    models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")], cache=ModelCacheConfig())}
    before, answer, after, random = at(test, models=models)
    assert before["cache"]["memory"] == "not found"
    assert after["outcome"] == "answered by the cache: cached"
    assert after["cache"]["key"] == answer.headers["penstock-cache-key"]
    assert random["cache"]["why"] == "only answers at temperature 0 or with a seed are kept"


@pytest.mark.parametrize("broken", [True, False])
def test_an_answer_that_a_fallback_would_give_is_not_said_to_be_kept(broken):
    asked = {**PROMPT, "temperature": 0}

    async def test(gateway, port, upstream):
        if broken:
            _break(gateway, "bad")
        return explained(gateway, asked)

    models = {
        "m": ModelConfig([CandidateConfig("bad")], fallbacks=["other"], cache=ModelCacheConfig()),
        "other": ModelConfig([CandidateConfig("good")]),
    }
    found = at(test, upstreams=_BAD_AND_GOOD, models=models)
    assert found["outcome"] == ("sent to good as 'other'" if broken else "sent to bad as 'm'")
    assert found["cache"]["kept"] is not broken
    assert found["cache"].get("why", "").startswith("another model") is broken


def test_the_queue_the_ladder_and_the_smaller_model_are_told():
    async def test(port, busy, gateway, upstream, small):
        async with busy():
            return explained(gateway), explained(gateway, penstock_deadline="-1")

    found, _ = run(test, smaller=1.0, large=0)
    assert (found["load"], found["ladder"]) == (1.0, "smaller")
    assert found["reduced"]["model"] == "s"
    assert found["outcome"] == "sent to up1 as 'tiny'"
    queued, late = run(test, large=0, refuse=9.0)
    assert queued["ladder"] == "full"
    assert queued["candidates"][0]["position"] == 1
    assert "in place 1 of its queue" in queued["outcome"]
    assert late["outcome"].startswith("refused with 503: the deadline")


def test_a_deadline_that_has_passed_is_told_where_nothing_waits():
    async def test(gateway, port, upstream):
        return explained(gateway, penstock_deadline="-1")["outcome"]

    assert at(test) == "refused with 503: the deadline has passed"


def test_a_call_that_the_ladder_refuses_is_told_so():
    async def test(port, busy, gateway, upstream, small):
        async with busy():
            return explained(gateway)

    found = run(test, refuse=1.0, large=0)
    assert found["outcome"].startswith("refused with 503 degraded")
    assert found["retry_after"] >= 1.0


_BAD_AND_GOOD = {
    "bad": UpstreamConfig(kind="openai", base_url="http://127.0.0.1:1/v1", breaker=BreakerConfig()),
    "good": UpstreamConfig(kind="openai", base_url="http://127.0.0.1:2/v1"),
}


def _break(gateway, upstream):
    """Open its breaker."""
    gate = gateway.pipeline.snapshot.upstreams[upstream].gate
    asked = Asked("m", "t", "standard", stream=True)
    for _ in range(20):
        gate.ask(asked, gateway.clock.now(), lambda _: None).settle(Outcome("upstream"), gateway.clock.now())


def test_every_candidate_says_why_it_is_skipped():
    async def test(gateway, port, upstream):
        _break(gateway, "bad")
        return explained(gateway)

    models = {
        "m": ModelConfig(
            candidates=[CandidateConfig(upstream="bad"), CandidateConfig(upstream="good", weight=0)]
        )
    }
    found = at(test, upstreams=_BAD_AND_GOOD, models=models)
    good, bad = found["candidates"]
    assert (good["upstream"], good["skipped"]) == ("good", "")
    assert bad["skipped"].startswith("its breaker is open for ")
    assert found["outcome"] == "sent to good as 'm'"


def test_the_last_one_standing_is_said_to_be_tried():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)]]) as upstream:
            settings = config(upstream.url)
            broken = msgspec.structs.replace(settings.upstreams["up0"], breaker=BreakerConfig())
            settings = msgspec.structs.replace(settings, upstreams={"up0": broken})
            async with serving(settings) as (gateway, port):
                _break(gateway, "up0")
                return explained(gateway), (await call(port, PROMPT)).status

    found, status = asyncio.run(main())
    assert (found["outcome"], status) == ("sent to up0 as 'm'", 200)
    assert found["candidates"][0]["breaker"].endswith("there is nobody else, so it is tried")


def test_a_full_queue_is_told_also_where_nobody_knows_how_long_calls_take():
    async def main():
        go_on = asyncio.Event()
        async with ScriptedUpstream([[Step.REQUEST, go_on, plain(COMPLETION)]]) as upstream:
            settings = config(upstream.url)
            gated = msgspec.structs.replace(
                settings.upstreams["up0"],
                concurrency=ConcurrencyConfig(limit=1, adaptive=False, max_waiting=0),
            )
            settings = msgspec.structs.replace(settings, upstreams={"up0": gated})
            async with serving(settings) as (gateway, port):
                first = asyncio.ensure_future(call(port, PROMPT))
                await upstream.wait_received(b"hello")
                found, answer = explained(gateway), await call(port, PROMPT)
                go_on.set()
                await first
                return found, answer.status

    found, status = asyncio.run(main())
    assert status == 503
    assert found["outcome"].startswith("refused with 503: its queue is full")


def test_a_call_that_repeats_another_is_told_which():
    async def test(gateway, port, upstream):
        answer = await call(port, PROMPT, headers=["idempotency-key: k"])
        await until(lambda: not gateway.pipeline.productions)
        return answer, explained(gateway, idempotency_key="k")

    answer, found = at(test)
    assert (
        found["outcome"] == f"answered from {answer.headers['penstock-generation']}, which this call repeats"
    )
