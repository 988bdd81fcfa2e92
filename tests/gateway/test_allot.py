"""What a candidate may be asked: limits of upstreams, and of models that are asked in another's stead."""

import asyncio
import json

import pytest
from serving import COMPLETION, PROMPT, call, config, error, plain, serving, until

from penstock.config.model import (
    CandidateConfig,
    CascadeConfig,
    LimitConfig,
    LimitsConfig,
    ModelConfig,
)
from penstock.testing import FakeClock, ScriptedUpstream, Step

ONE = LimitConfig(requests_per_minute=1)


def said(text):
    """An answer that can be told from others."""
    message = {"role": "assistant", "content": text}
    return {**COMPLETION, "choices": [{**COMPLETION["choices"][0], "message": message}]}


def answering(text, times=9):
    return ScriptedUpstream([[Step.REQUEST, plain(said(text))] * times])


def to(*candidates, **more):
    """A model with these candidates: an upstream's name, or one with a model's name there."""
    pairs = [each if isinstance(each, tuple) else (each, "") for each in candidates]
    chosen = [
        CandidateConfig(name, model=model, weight=float(not i)) for i, (name, model) in enumerate(pairs)
    ]
    return ModelConfig(candidates=chosen, **more)


def settings(first, second, models, /, **limits):
    made = config(first.url, second.url).upstreams
    upstreams = {"one": made["up0"], "two": made["up1"]}
    return config(upstreams=upstreams, models=models, limits=LimitsConfig(**limits))


def asked(models, requests, /, *, gaps=(), **limits):
    """Who answered each of these requests, and the gateway's metrics."""

    async def main():
        async with answering("one") as first, answering("two") as second:
            time = FakeClock()
            async with serving(settings(first, second, models, **limits), time) as (gateway, port):
                answers = []
                for number, request in enumerate(requests):
                    answers.append(await call(port, request))
                    await until(lambda: not gateway.pipeline.productions)
                    time.advance(dict(gaps).get(number, 0.0))
                return answers, gateway.metrics.collect()

    answers, metrics = asyncio.run(main())
    return answers, [who(answer) for answer in answers], metrics


def who(answer):
    return answer.json()["choices"][0]["message"]["content"] if answer.status == 200 else answer.status


def named(model, **more):
    return {**PROMPT, "model": model, **more}


def samples(metrics, name):
    (family,) = [family for family in metrics if family.name == name]
    return {sample.labels: sample.value for sample in family.samples}


def test_an_upstream_that_is_over_its_limit_is_passed_over():
    _, found, metrics = asked({"m": to("one", "two")}, [named("m")] * 3, upstreams={"one": ONE})
    assert found == ["one", "two", "two"]
    assert samples(metrics, "penstock_limit_passed_over_total") == {("one", "upstream", "requests"): 2}
    assert samples(metrics, "penstock_limit_refusals_total") == {}


def test_where_no_candidate_is_left_the_caller_is_told_when_the_first_of_them_has_room():
    limits = {"one": LimitConfig(requests_per_minute=1), "two": LimitConfig(requests_per_minute=2)}
    answers, found, _ = asked({"m": to("one", "two")}, [named("m")] * 4, upstreams=limits)
    assert found == ["one", "two", "two", 429]
    assert answers[-1].headers["retry-after"] == "30"  # of two's; one's would be 60
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[-1].json()["error"]["message"].startswith("the upstream 'two' may use 2 requests a minute")


def test_an_upstream_gets_calls_again_when_it_has_room():
    _, found, _ = asked(
        {"m": to("one", "two")},
        [named("m")] * 3,
        gaps={1: 60.0},
        upstreams={"*": LimitConfig(requests_per_minute=1)},
    )
    assert found == ["one", "two", "one"]


def test_an_upstream_has_one_limit_whatever_models_are_asked_there():
    _, found, _ = asked(
        {"a": to("one", "two"), "b": to("one", "two")}, [named("a"), named("b")], upstreams={"one": ONE}
    )
    assert found == ["one", "two"]


@pytest.mark.parametrize("model", ["b", "alias"])
def test_a_models_limit_holds_where_it_is_a_fallback_or_has_another_name(model):
    """It is one limit: what is used under one name is missing under the other."""
    models = {"a": to(("one", "gone"), fallbacks=["b"]), "b": to("two"), "alias": to(("two", "b"))}
    limits = {"gone": LimitConfig(requests_per_minute=0), "b": ONE}
    answers, found, _ = asked(models, [named("a"), named(model)], models=limits)
    assert found == ["two", 429]
    assert answers[-1].json()["error"]["message"].startswith("the model 'b' may use 1 requests a minute")


def test_a_model_that_is_over_its_limit_is_stood_in_for_by_its_fallbacks():
    _, found, _ = asked(
        {"a": to("one", fallbacks=["b"]), "b": to("two")}, [named("a")] * 3, models={"a": ONE}
    )
    assert found == ["one", "two", "two"]


def test_what_a_fallback_answers_is_none_of_the_models_own():
    models = {"a": to(("one", "x"), fallbacks=["b"]), "b": to("two")}
    limits = {"x": LimitConfig(requests_per_minute=0), "a": LimitConfig(requests_per_minute=3)}
    _, found, _ = asked(models, [named("a")] * 5, models=limits)
    assert found == ["two"] * 5


def test_a_limit_is_charged_once_where_the_names_are_one_account():
    _, found, _ = asked(
        {"a": to(("one", "a-2026")), "b": to("two")},
        [named("a")] * 3,
        models={"a*": LimitConfig(requests_per_minute=2)},
    )
    assert found == ["one", "one", 429]


def test_a_cascade_asks_the_larger_model_where_the_smaller_one_is_over_its_limit():
    models = {"big": to("two", cascade=CascadeConfig(model="small")), "small": to("one")}
    _, found, _ = asked(models, [named("big")] * 3, models={"small": ONE})
    assert found == ["one", "two", "two"]


def test_money_is_counted_by_the_upstream_that_got_it():
    """An answer of COMPLETION's usage costs 32.5 millionths of a dollar at gpt-4o's price."""
    models = {"m": to(("one", "gpt-4o"), ("two", "gpt-4o"))}
    cost = 0.00052  # what is reserved for 5 + 50 tokens, and a little
    _, found, _ = asked(
        models, [named("m", max_tokens=50)] * 3, upstreams={"one": LimitConfig(usd_per_day=cost)}
    )
    assert found[0] == "one"
    assert found[-1] == "two"


def test_a_place_at_an_upstream_is_taken_until_its_attempt_has_ended():
    async def main():
        go_on = asyncio.Event()
        first = ScriptedUpstream(
            [[Step.REQUEST, go_on, plain(said("one")), Step.REQUEST, plain(said("one"))]]
        )
        async with first, answering("two") as second:
            limits = {"one": LimitConfig(concurrent=1)}
            async with serving(settings(first, second, {"m": to("one", "two")}, upstreams=limits)) as (
                _,
                port,
            ):
                slow = asyncio.ensure_future(call(port, named("m")))
                await first.wait_received(b"hello")
                meanwhile = await call(port, named("m"))
                go_on.set()
                return who(await slow), who(meanwhile), who(await call(port, named("m")))

    assert asyncio.run(main()) == ("one", "two", "one")


def test_what_fails_otherwise_counts_more_than_a_limit():
    """A minute is a long time to wait for, if the other candidate may answer at once."""

    async def main():
        failing = ScriptedUpstream([[Step.REQUEST, error(500)] * 9])
        async with failing as first, answering("two") as second:
            limits = {"two": LimitConfig(requests_per_minute=0)}
            wanted = settings(first, second, {"m": to("one", "two")}, upstreams=limits)
            async with serving(wanted) as (_, port):
                return await call(port, named("m"))

    assert asyncio.run(main()).status == 502


def test_who_is_over_a_limit_of_its_own_gets_no_candidate_asked():
    _, found, metrics = asked(
        {"m": to("one", "two")},
        [named("m")] * 2,
        keys={"anonymous": ONE},
        upstreams={"one": LimitConfig(requests_per_minute=5)},
    )
    assert found == ["one", 429]
    assert samples(metrics, "penstock_limit_refusals_total") == {("key", "requests"): 1}


def test_nothing_is_looked_up_where_nothing_is_limited():
    async def main():
        async with answering("one") as first, answering("two") as second:
            wanted = settings(first, second, {"m": to("one", "two")}, keys={"anonymous": ONE})
            async with serving(wanted) as (gateway, _):
                router = gateway.pipeline.snapshot.router
                return [candidate.allotment for candidate in router.regular("m")]

    assert asyncio.run(main()) == [None]


def test_explain_says_who_is_passed_over_and_why():
    async def main():
        async with answering("one") as first, answering("two") as second:
            wanted = settings(first, second, {"m": to("one", "two")}, upstreams={"*": ONE})
            async with serving(wanted, FakeClock()) as (gateway, port):
                told = []
                for _ in range(3):
                    told.append(gateway.explain("/v1/chat/completions", {}, json.dumps(named("m")).encode()))
                    await call(port, named("m"))
                    await until(lambda: not gateway.pipeline.productions)
                return told

    whole, one_left, none_left = asyncio.run(main())
    assert whole["outcome"].startswith("sent to one")
    assert whole["candidates"][0]["limits"][0]["left"] == 1
    assert one_left["outcome"].startswith("sent to two")
    assert one_left["candidates"][0]["skipped"] == "the upstream 'one' has no requests left for 60.0 s"
    assert none_left["outcome"] == "refused with 429: the upstream 'one' has no requests left for 60.0 s"
