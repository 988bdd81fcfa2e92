"""A model's parameters count as the caller's own, and what a candidate is asked with besides, it alone is asked with."""

import asyncio
import json

import msgspec
import pytest
from continuing import (
    CHAT,
    MESSAGES,
    RESPONSES,
    body_for,
    error_of,
    events_of,
    simulated,
    text_of,
    whole_text,
)
from keeping import ASKED, answering, settings
from serving import COMPLETION, call, config, on_uvloop, plain, rows, serving

from penstock.config.model import (
    BatchingConfig,
    CandidateConfig,
    CapabilitiesConfig,
    LimitConfig,
    LimitsConfig,
    ModelCacheConfig,
    ModelConfig,
    ParametersConfig,
)
from penstock.gateway.explain import explain
from penstock.testing import ScriptedUpstream, Step

SAID = [{"role": "user", "content": "hi"}]
PROMPT = {"model": "m", "messages": SAID}
LLAMA = "meta.llama3-3-70b-instruct-v1:0"  # asked by Converse


def model(upstream="up0", name="m", extra=None, **more):
    return ModelConfig(
        candidates=[CandidateConfig(upstream=upstream, model=name, extra_body=extra or {})], **more
    )


def sent_by(asked, *, path=CHAT, kinds=("sim",), **more):
    """What the upstream got for these calls, and what the callers got."""

    async def main():
        models = {"m": model(**more)}
        async with simulated("tokens=4", kinds=kinds, models=models) as (_, port, (sim,)):
            answers = [await call(port, body, path) for body in asked]
            return [json.loads(body) for _, _, _, body in sim._seen], answers

    return on_uvloop(main)


CAREFUL = ParametersConfig(temperature=0, max_tokens=800, reasoning_effort="high")


def test_a_call_is_asked_with_what_it_does_not_say():
    (plain_one, said), answers = sent_by([PROMPT, {**PROMPT, "temperature": 1}], parameters=CAREFUL)
    assert [answer.status for answer in answers] == [200, 200]
    assert plain_one == {**PROMPT, "reasoning_effort": "high", "temperature": 0, "max_tokens": 800}
    assert said["temperature"] == 1


def test_so_is_a_call_that_came_in_another_coding():
    async def main():
        async with simulated("tokens=4", models={"m": model(parameters=CAREFUL)}) as (_, port, (sim,)):
            kind = ["content-type: application/msgpack"]
            await call(port, msgspec.msgpack.encode(PROMPT), headers=kind)
            return json.loads(sim._seen[-1][-1])

    assert on_uvloop(main)["temperature"] == 0


def test_a_model_without_parameters_is_asked_with_the_callers_bytes():
    body = b'{"model": "m", "messages": [ {"role":"user","content":"hi"}],"temperature": 1.0}'

    async def main():
        models = {"m": model(), "careful": model(parameters=CAREFUL)}
        async with simulated("tokens=4", models=models) as (_, port, (sim,)):
            await call(port, body)
            return sim._seen[-1][-1]

    assert on_uvloop(main) == b'{"model":"m","messages":[ {"role":"user","content":"hi"}],"temperature":1.0}'


def test_they_are_translated_with_the_call():
    (sent,), (answer,) = sent_by([PROMPT], kinds=["anthropic"], parameters=CAREFUL)
    assert (sent["temperature"], sent["max_tokens"]) == (0, 800)
    assert sent["output_config"] == {"effort": "high"}
    assert answer.status == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_they_reach_every_upstream_from_every_api(path, kind):
    body = {name: value for name, value in body_for(path).items() if "max" not in name}
    if path == MESSAGES:
        body["max_tokens"] = 900
    (sent,), (answer,) = sent_by([body], path=path, kinds=[kind], parameters=CAREFUL)
    assert error_of(events_of(answer)) is None
    assert sent["temperature"] == 0
    assert "high" in json.dumps(sent)
    limits = [sent.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    assert [limit for limit in limits if limit is not None] == [900 if path == MESSAGES else 800]


@pytest.mark.parametrize("more", [{"parameters": CAREFUL}, {"max_output_tokens": 800}])
def test_a_message_needs_no_limit_where_its_model_has_one(more):
    (asked,), (answer,) = sent_by([PROMPT], path=MESSAGES, **more)
    assert (answer.status, asked["max_tokens"]) == (200, 800)


def test_a_message_needs_a_limit_where_its_model_has_none():
    asked, (answer,) = sent_by([PROMPT], path=MESSAGES, parameters=ParametersConfig(temperature=0))
    assert (answer.status, asked) == (400, [])


def test_an_answer_is_kept_and_shared_as_if_the_caller_had_said_them():
    async def main():
        async with ScriptedUpstream([answering("one"), answering("two")]) as upstream:
            made = settings(upstream.url)
            kept = made.models["m"]
            made.models["m"] = ModelConfig(
                candidates=kept.candidates, cache=kept.cache, parameters=ParametersConfig(temperature=0)
            )
            silent = {name: value for name, value in ASKED.items() if name not in {"temperature", "seed"}}
            async with serving(made) as (_, port):
                asked = [silent, {**silent, "temperature": 0}, {**silent, "temperature": 0.5}]
                return [(await call(port, body)).headers["penstock-status"] for body in asked]

    assert on_uvloop(main) == ["created", "cached", "created"]


def test_another_default_is_another_question():
    async def main():
        async with ScriptedUpstream([answering("one"), answering("two")]) as upstream:
            made = settings(upstream.url)
            made.models["m"] = model(cache=ModelCacheConfig(calls="all"), parameters=CAREFUL)
            async with serving(made) as (gateway, port):
                await call(port, PROMPT)
                made.models["m"] = model(
                    cache=ModelCacheConfig(calls="all"), parameters=ParametersConfig(temperature=1)
                )
                gateway.reload(made)
                return (await call(port, PROMPT)).headers["penstock-status"]

    assert on_uvloop(main) == "created"


def test_a_repetition_that_says_nothing_finds_the_call_that_said_nothing():
    async def main():
        async with simulated("tokens=4", models={"m": model(parameters=CAREFUL)}) as (_, port, (sim,)):
            key = ["idempotency-key: k"]
            answers = [await call(port, PROMPT, headers=key) for _ in range(2)]
            return [answer.headers["penstock-status"] for answer in answers], len(sim._seen)

    assert on_uvloop(main) == (["created", "replayed"], 1)


def test_limits_reserve_what_the_call_is_asked_with():
    async def main():
        limits = LimitsConfig(keys={"anonymous": LimitConfig(tokens_per_minute=100)})
        models = {
            "short": model(max_output_tokens=7),
            "long": model(parameters=ParametersConfig(max_tokens=400)),
        }
        async with simulated("tokens=4", models=models, limits=limits) as (gateway, port, _):
            answers = [await call(port, {**PROMPT, "model": name}) for name in models]
            return [answer.status for answer in answers], rows(gateway)[0].reserved.output_tokens

    assert on_uvloop(main) == ([200, 429], 7)


def test_no_answer_is_asked_for_that_is_longer_than_the_longest():
    asked = [{**PROMPT, "max_tokens": tokens} for tokens in (10, 9_000)] + [PROMPT]
    sent, _ = sent_by(asked, max_output_tokens=50)
    assert [body["max_tokens"] for body in sent] == [10, 50, 50]


def test_overrides_are_not_the_callers_to_change():
    (sent,), _ = sent_by([{**PROMPT, "temperature": 1}], overrides=ParametersConfig(temperature=0))
    assert sent["temperature"] == 0


def test_a_fallback_gets_the_parameters_of_the_name_that_was_called():
    async def main():
        models = {
            "m": model(parameters=CAREFUL, fallbacks=["other"]),
            "other": model("up1", "n", parameters=ParametersConfig(temperature=1)),
        }
        scripts = ("500", "tokens=4")
        async with simulated(*scripts, models=models) as (_, port, sims):
            answer = await call(port, PROMPT)
            return answer.status, json.loads(sims[1]._seen[-1][-1])

    status, sent = on_uvloop(main)
    assert (status, sent["model"], sent["temperature"]) == (200, "n", 0)


# ---- what a candidate is asked with besides ----

EXTRA = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 40}


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_a_candidate_is_asked_with_more_in_its_own_api(path):
    body = {**body_for(path), "stream": False}
    (sent,), (answer,) = sent_by([body], path=path, kinds=["openai"], extra=EXTRA)
    assert answer.status == 200
    assert {name: sent[name] for name in EXTRA} == EXTRA


def test_what_the_call_has_itself_goes_on_as_it_is():
    (sent,), _ = sent_by([{**PROMPT, "top_k": 3}], kinds=["openai"], extra=EXTRA)
    assert (sent["top_k"], sent["chat_template_kwargs"]) == (3, EXTRA["chat_template_kwargs"])


@pytest.mark.parametrize(
    ("kind", "prefill", "name", "member"),
    [
        ("anthropic", "trailing", "m", "x_more"),
        ("bedrock", "trailing", "m", "x_more"),
        ("bedrock", "trailing", LLAMA, "requestMetadata"),
        ("openai", "continue_final_message", "m", "x_more"),
    ],
)
def test_so_it_is_when_it_is_asked_for_the_rest(kind, prefill, name, member):
    async def main():
        more = {
            "kinds": [kind],
            "capabilities": [CapabilitiesConfig(prefill=prefill)],
            "models": {"m": model(name=name, extra={member: {"a": "1"}})},
        }
        async with simulated("cut-after=9,once", **more) as (gateway, port, (sim,)):
            answer = await call(port, body_for(CHAT), CHAT)
            await gateway.pipeline.wait_idle()
            return [json.loads(body) for _, _, _, body in sim._seen], events_of(answer)

    bodies, events = on_uvloop(main)
    assert [body[member] for body in bodies] == [{"a": "1"}] * 2
    assert text_of(CHAT, events) == whole_text(CHAT)


def test_and_when_several_are_asked_together():
    async def main():
        models = {"m": model(extra={"x_more": 1}, parameters=ParametersConfig(dimensions=8))}
        upstream = {"batching": BatchingConfig(window="fixed", max_batch_size=2, max_queue_delay=30)}
        async with simulated("tokens=4", models=models, upstream=upstream) as (_, port, (sim,)):
            bodies = [{"model": "m", "input": said} for said in ("one", "two")]
            await asyncio.gather(*(call(port, body, "/v1/embeddings") for body in bodies))
            return [json.loads(sent) for _, _, _, sent in sim._seen]

    (sent,) = on_uvloop(main)
    assert (sent["input"], sent["x_more"], sent["dimensions"]) == (["one", "two"], 1, 8)


def test_who_is_asked_with_something_else_gives_other_answers():
    async def main():
        async with ScriptedUpstream([answering("one"), answering("two")]) as upstream:
            made = settings(upstream.url)
            async with serving(made) as (gateway, port):
                await call(port, ASKED)
                made.models["m"] = model(cache=ModelCacheConfig(), extra=EXTRA)
                gateway.reload(made)
                return (await call(port, ASKED)).headers["penstock-status"]

    assert on_uvloop(main) == "created"


def test_it_is_explained_what_a_call_is_asked_with():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)]]) as upstream:
            made = config(upstream.url)
            made.models["m"] = model(parameters=CAREFUL, extra={"secret": "s3cr3t"})
            async with serving(made) as (gateway, _):
                body = json.dumps({**PROMPT, "temperature": 1}).encode()
                return explain(gateway.pipeline, CHAT, {}, body)

    found = on_uvloop(main)
    assert found["parameters"] == {"max_tokens": 800, "reasoning_effort": "high"}
    assert found["call"]["max_output_tokens"] == 800
    assert found["candidates"][0]["extra_body"] == ["secret"]
    assert "s3cr3t" not in json.dumps(found)
