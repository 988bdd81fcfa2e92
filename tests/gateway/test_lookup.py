"""The cache as callers meet it: a gateway on a real socket, an upstream that counts."""

import asyncio
import hashlib
import json
import os

import msgspec
import pytest
from gateway_doubles import a_call, a_generation
from keeping import ASKED, STREAM, STREAMED, Wall, answering, gateway_of, line_to, settings
from openai import AsyncOpenAI
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    asked,
    call,
    delta,
    frame,
    on_uvloop,
    plain,
    request,
    serving,
    until,
)
from serving import error as upstream_error

from penstock.config.model import (
    CacheConfig,
    CandidateConfig,
    ContinuationConfig,
    KeyConfig,
    ModelCacheConfig,
    ModelConfig,
)
from penstock.gateway.stages import lookup as lookups
from penstock.messages import Endpoint, Outcome
from penstock.testing import ScriptedUpstream, Step
from penstock.wire.cache_control import Control


def test_the_same_question_is_asked_once():
    async def main():
        async with gateway_of([answering()]) as (_gateway, port, upstream, wall):
            first = await call(port, ASKED)
            wall.time += 7
            second = await call(port, ASKED)
            assert (first.headers["penstock-status"], second.headers["penstock-status"]) == (
                "created",
                "cached",
            )
            assert second.body == first.body
            assert second.headers["age"] == "7"
            assert "age" not in first.headers
            assert second.headers["penstock-generation"] != first.headers["penstock-generation"]
            assert asked(upstream) == 1

    on_uvloop(main)


def test_a_hit_costs_nothing_and_the_ledger_says_what_it_saved():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, _):
            for _ in range(3):
                await call(port, ASKED)
            totals = gateway.recorder.ledger.totals()
            assert totals[Outcome.COMPLETED].attempts == 1
            assert totals[Outcome.CACHED].attempts == 2
            assert totals[Outcome.CACHED].usage.input_tokens == 6
            assert totals[Outcome.CACHED].cost == 0
            assert gateway.recorder.saved_output.value == 4

    on_uvloop(main)


WITH_USAGE = {**STREAM, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("kept_as", "told"), [(ASKED, ASKED), (ASKED, WITH_USAGE), (STREAM, WITH_USAGE), (WITH_USAGE, ASKED)]
)
def test_whatever_it_tells_its_caller_the_ledger_knows_what_a_hit_did_not_use(kept_as, told):
    async def main():
        script = answering() if kept_as is ASKED else [Step.REQUEST, *STREAMED]
        policy = ModelCacheConfig()
        async with gateway_of([script], cache=policy) as (gateway, port, _, _), line_to(port) as ask:
            assert b'"cached_tokens"' not in (await ask(kept_as)).body
            for hit in [await ask(told) for _ in range(2)]:
                assert b'"cached_tokens":3' in hit.body
            hit_rows = gateway.recorder.ledger.totals()[Outcome.CACHED]
            assert (hit_rows.usage.input_tokens, hit_rows.usage.cached_input_tokens) == (6, 0)

    on_uvloop(main)


@pytest.mark.parametrize(
    ("body", "policy", "kept"),
    [
        (ASKED, ModelCacheConfig(), True),
        ({**PROMPT, "seed": 1}, ModelCacheConfig(), True),
        (PROMPT, ModelCacheConfig(), False),
        (PROMPT, ModelCacheConfig(calls="all"), True),
        ({**ASKED, "store": True}, ModelCacheConfig(calls="all"), False),
        ({**ASKED, "tools": [{"type": "web_search"}]}, ModelCacheConfig(calls="all"), False),
        (ASKED, None, False),
    ],
)
def test_only_what_the_configuration_says_is_kept(body, policy, kept):
    async def main():
        async with ScriptedUpstream([answering()]) as upstream:
            made = settings(upstream.url, cache=policy)
            made.models["other"] = ModelConfig(
                candidates=made.models["m"].candidates, cache=ModelCacheConfig()
            )
            async with serving(made) as (_, port):
                await call(port, body)
                second = await call(port, body)
                assert (second.headers["penstock-status"] == "cached") is kept
                assert asked(upstream) == (1 if kept else 2)

    on_uvloop(main)


def test_without_any_model_that_keeps_answers_there_is_no_cache():
    async def main():
        async with ScriptedUpstream([answering()]) as upstream:
            async with serving(settings(upstream.url, cache=None)) as (gateway, _):
                assert gateway.cache is None
                assert gateway.pipeline.lookup is None

    on_uvloop(main)


# ---- both forms ----


async def through_sdk(port, stream, **more):
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", max_retries=0) as client:
        messages = [{"role": "user", "content": "hello"}]
        answer = await client.chat.completions.create(
            model="m", messages=messages, temperature=0, stream=stream, **more
        )
        if not stream:
            return answer.choices[0].message.content, answer.usage.total_tokens
        text, total = "", None
        async for chunk in answer:
            for choice in chunk.choices:
                text += choice.delta.content or ""
            if chunk.usage is not None:
                total = chunk.usage.total_tokens
        return text, total


@pytest.mark.parametrize("first", ["plain", "stream", "stream with usage"])
@pytest.mark.parametrize("then", ["plain", "stream", "stream with usage"])
def test_whatever_form_was_kept_each_caller_gets_its_own(first, then):
    wanted = {
        "plain": ({"stream": False}, ("hi", 5)),
        "stream": ({"stream": True}, ("hi", None)),
        "stream with usage": ({"stream": True, "stream_options": {"include_usage": True}}, ("hi", 5)),
    }

    async def main():
        script = answering() if first == "plain" else [Step.REQUEST, *STREAMED]
        async with gateway_of([script]) as (gateway, port, upstream, _):
            for form in (first, then, first):
                arguments, expected = wanted[form]
                assert await through_sdk(port, **arguments) == expected
            assert asked(upstream) == 1
            assert gateway.cache.hits["memory"] == 2

    on_uvloop(main)


# ---- what is never kept ----

NEVER = {
    "filtered": [Step.REQUEST, plain({**COMPLETION, "choices": [{"finish_reason": "content_filter"}]})],
    "refused": [
        Step.REQUEST,
        plain({**COMPLETION, "choices": [{"message": {"refusal": "no"}, "finish_reason": "stop"}]}),
    ],
    "without a reason": [Step.REQUEST, plain({**COMPLETION, "choices": [{"finish_reason": None}]})],
    "with an unknown reason": [Step.REQUEST, plain({**COMPLETION, "choices": [{"finish_reason": "tired"}]})],
    "without choices": [Step.REQUEST, plain({**COMPLETION, "choices": []})],
    "failed": [Step.REQUEST, upstream_error("500 no")],
    "refused by the upstream": [Step.REQUEST, upstream_error("400 no")],
    "no JSON": [Step.REQUEST, plain(b"<html>")],
    "an error with status 200": [Step.REQUEST, plain({"error": {"message": "x"}})],
    "cut off": [Step.REQUEST, plain(COMPLETION)[:-10], Step.CLOSE],
    "a stream that is cut": [Step.REQUEST, STREAM_HEAD, delta("h"), Step.RESET],
    "a stream without an end": [Step.REQUEST, STREAM_HEAD, delta("h", "stop"), STREAM_END],
    "a stream without a reason": [Step.REQUEST, STREAM_HEAD, delta("h"), DONE, STREAM_END],
    "a stream that was filtered": [Step.REQUEST, STREAM_HEAD, delta("h", "content_filter"), DONE, STREAM_END],
    "a stream with an error": [
        Step.REQUEST,
        STREAM_HEAD,
        delta("h"),
        frame({"error": {"message": "x"}}),
        STREAM_END,
    ],
}


@pytest.mark.parametrize("script", NEVER.values(), ids=NEVER)
def test_what_is_not_a_whole_answer_is_never_kept(script):
    body = STREAM if STREAM_HEAD in script else ASKED

    async def main():
        once = ContinuationConfig(attempts=0)
        async with gateway_of([[*script, Step.CLOSE]], continuation=once) as (gateway, port, upstream, _):
            for _ in range(2):
                answer = await call(port, body)
                assert answer.headers.get("penstock-status") != "cached"
            assert asked(upstream) == 2
            assert gateway.cache.stored == 0
            assert len(gateway.cache.memory) == 0

    on_uvloop(main)


@pytest.mark.parametrize(
    "limits",
    [
        {"tiers": CacheConfig(max_entry_bytes=2_048)},
        {"cache": ModelCacheConfig(max_entry_bytes=2_048)},
        {"cache": ModelCacheConfig(max_entry_bytes=1 << 20), "tiers": CacheConfig(max_entry_bytes=2_048)},
    ],
    ids=["of all", "of the model", "of the model no more than of all"],
)
@pytest.mark.parametrize(("characters", "is_read"), [(10, True), (5_000, False)])
def test_what_is_certainly_too_large_to_be_kept_is_not_even_read(characters, is_read, limits, monkeypatch):
    read = []

    def sound(endpoint, events, *, stream):
        read.append(events)
        return True

    async def main():
        monkeypatch.setattr(lookups, "is_sound", sound)
        async with gateway_of([answering("a" * characters)], **limits) as (gateway, port, _, _):
            assert (await call(port, ASKED)).status == 200
            assert gateway.cache.stored == is_read
            assert gateway.cache.too_large == (not is_read)

    on_uvloop(main)
    assert bool(read) == is_read


def test_what_nobody_waited_for_is_not_kept_half():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD, delta("h"), go_on]
        async with gateway_of([script]) as (gateway, port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(STREAM))
            await reader.readuntil(b'"h"')
            writer.close()
            await until(lambda: not gateway.pipeline.productions)
            go_on.set()
            assert gateway.cache.stored == 0

    on_uvloop(main)


def test_an_answer_of_a_fallback_is_not_kept_as_the_models_own():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, upstream_error("503 no"), Step.CLOSE]]) as first:
            async with ScriptedUpstream([answering("from the other")]) as second:
                made = settings(first.url, second.url)
                made.models["m"] = ModelConfig(
                    candidates=[CandidateConfig(upstream="up0")], fallbacks=["n"], cache=ModelCacheConfig()
                )
                made.models["n"] = ModelConfig(candidates=[CandidateConfig(upstream="up1")])
                async with serving(made) as (gateway, port):
                    assert b"from the other" in (await call(port, ASKED)).body
                    assert gateway.cache.stored == 0

    on_uvloop(main)


def test_another_version_behind_the_name_makes_another_question():
    async def main():
        async with ScriptedUpstream([answering("one")]) as upstream:
            made = settings(upstream.url)
            async with serving(made) as (gateway, port):
                await call(port, ASKED)
                made.models["m"] = ModelConfig(
                    candidates=[CandidateConfig(upstream="up0", model="m2")], cache=ModelCacheConfig()
                )
                gateway.reload(made)
                assert (await call(port, ASKED)).headers["penstock-status"] == "created"

    on_uvloop(main)


def test_what_is_asked_without_a_part_of_it_is_another_question():
    async def main():
        async with ScriptedUpstream([answering("one")]) as upstream:
            made = settings(upstream.url)
            async with serving(made) as (gateway, port):
                await call(port, ASKED)
                made.upstreams["up0"] = msgspec.structs.replace(made.upstreams["up0"], leave_out=["seed"])
                gateway.reload(made)
                assert (await call(port, ASKED)).headers["penstock-status"] == "created"

    on_uvloop(main)


# ---- whose ----


def keyed(*tenants):
    return [
        KeyConfig(name=name, tenant=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest())
        for name in tenants
    ]


@pytest.mark.parametrize(("scope", "shared"), [("tenant", False), ("shared", True)])
def test_answers_are_the_tenants_own_unless_they_are_shared(scope, shared):
    async def main():
        async with ScriptedUpstream([answering()]) as upstream:
            made = settings(upstream.url, cache=ModelCacheConfig(scope=scope), keys=keyed("a", "b"))
            async with serving(made) as (_, port):
                status = []
                for name in ("a", "a", "b"):
                    answer = await call(port, ASKED, headers=[f"authorization: Bearer {name}"])
                    status.append(answer.headers["penstock-status"])
                assert status == ["created", "cached", "cached" if shared else "created"]

    on_uvloop(main)


def test_where_the_provider_checks_the_key_nobody_gets_an_answer_with_another_key():
    async def main():
        async with gateway_of([answering()], cache=ModelCacheConfig(scope="shared")) as (
            _,
            port,
            upstream,
            _,
        ):
            await call(port, ASKED, headers=["authorization: Bearer right"])
            stranger = await call(port, ASKED, headers=["authorization: Bearer wrong"])
            assert stranger.headers["penstock-status"] == "created"
            assert asked(upstream) == 2

    on_uvloop(main)


def test_what_a_provider_said_of_its_limits_is_no_part_of_a_kept_answer():
    told = plain(COMPLETION, headers=["x-ratelimit-remaining-tokens: 7", "x-request-id: r1"])

    async def main():
        async with gateway_of([[Step.REQUEST, told]]) as (_, port, _, _):
            answers = [await call(port, ASKED, headers=["authorization: Bearer k"]) for _ in range(2)]
            assert [answer.headers["penstock-status"] for answer in answers] == ["created", "cached"]
            assert [answer.headers["x-request-id"] for answer in answers] == ["r1", "r1"]
            told_to = [answer.headers.get("x-ratelimit-remaining-tokens") for answer in answers]
            assert told_to == ["7", None]

    on_uvloop(main)


# ---- Cache-Control ----


def test_no_cache_asks_anew_and_the_new_answer_is_kept():
    async def main():
        async with gateway_of([answering()]) as (_, port, upstream, _):
            fields = ([], ["cache-control: no-cache"], [], ["cache-control: no-store"], [])
            answers = [await call(port, ASKED, headers=headers) for headers in fields]
            status = [answer.headers["penstock-status"] for answer in answers]
            assert status == ["created", "created", "cached", "created", "cached"]
            assert asked(upstream) == 3

    on_uvloop(main)


def test_no_store_leaves_nothing_behind():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, _):
            await call(port, ASKED, headers=["cache-control: no-store"])
            assert len(gateway.cache.memory) == 0

    on_uvloop(main)


def test_max_age_is_how_old_an_answer_may_be():
    async def main():
        async with gateway_of([answering()]) as (_, port, _, wall):
            await call(port, ASKED)
            wall.time += 10
            old = await call(port, ASKED, headers=["cache-control: max-age=11"])
            too_old = await call(port, ASKED, headers=["cache-control: max-age=10"])
            assert old.headers["penstock-status"] == "cached"
            assert too_old.headers["penstock-status"] == "created"

    on_uvloop(main)


@pytest.mark.parametrize("body", [ASKED, PROMPT])
def test_only_if_cached_is_504_where_nothing_is_kept(body):
    async def main():
        async with gateway_of([answering()]) as (_gateway, port, upstream, _):
            answer = await call(port, body, headers=["cache-control: only-if-cached"])
            assert answer.status == 504
            assert answer.json()["error"]["code"] == "not_cached"
            assert asked(upstream) == 0
            await call(port, ASKED)
            answer = await call(port, ASKED, headers=["cache-control: only-if-cached"])
            assert answer.headers["penstock-status"] == "cached"

    on_uvloop(main)


# ---- old answers ----


def test_an_answer_is_fresh_for_its_ttl_and_no_longer():
    async def main():
        async with gateway_of([answering()], cache=ModelCacheConfig(ttl=30)) as (_, port, upstream, wall):
            await call(port, ASKED)
            wall.time += 29
            assert (await call(port, ASKED)).headers["penstock-status"] == "cached"
            wall.time += 1
            assert (await call(port, ASKED)).headers["penstock-status"] == "created"
            assert asked(upstream) == 2

    on_uvloop(main)


def test_a_stale_answer_is_served_while_one_call_fetches_a_new_one():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, plain(COMPLETION), Step.REQUEST, go_on, plain({**COMPLETION, "id": "new"})]
        policy = ModelCacheConfig(ttl=30, stale_while_revalidate=60)
        async with gateway_of([script], cache=policy) as (gateway, port, upstream, wall):
            await call(port, ASKED)
            wall.time += 40
            for _ in range(5):
                answer = await call(port, ASKED)
                assert answer.headers["penstock-status"] == "stale"
                assert answer.json()["id"] == "c"
            go_on.set()
            await until(lambda: not gateway.pipeline.productions)
            assert (await call(port, ASKED)).json()["id"] == "new"
            assert asked(upstream) == 2
            wall.time += 91
            refused = await call(port, ASKED, headers=["cache-control: only-if-cached"])
            assert refused.status == 504

    on_uvloop(main)


def test_a_renewal_that_fails_leaves_the_old_answer():
    async def main():
        script = [
            Step.REQUEST,
            plain(COMPLETION),
            Step.REQUEST,
            upstream_error("500 no"),
            Step.REQUEST,
            plain(COMPLETION),
        ]
        policy = ModelCacheConfig(ttl=30, stale_while_revalidate=60)
        async with gateway_of([script], cache=policy) as (gateway, port, _, wall):
            await call(port, ASKED)
            wall.time += 40
            for _ in range(2):
                assert (await call(port, ASKED)).headers["penstock-status"] == "stale"
                await until(lambda: not gateway.pipeline.productions)
            assert (await call(port, ASKED)).headers["penstock-status"] == "cached"

    on_uvloop(main)


@pytest.mark.parametrize("first", ["plain", "stream"])
@pytest.mark.parametrize("then", ["plain", "stream", "stream with usage"])
def test_an_old_answer_is_better_than_none(first, then):
    bodies = {
        "plain": ASKED,
        "stream": STREAM,
        "stream with usage": {**STREAM, "stream_options": {"include_usage": True}},
    }

    async def main():
        script = [plain(COMPLETION)] if first == "plain" else STREAMED
        down = [Step.REQUEST, upstream_error("503 no"), Step.CLOSE]
        policy = ModelCacheConfig(ttl=30, stale_if_error=600, usage="original")
        scripts = [[Step.REQUEST, *script, Step.CLOSE], down]
        async with gateway_of(scripts, cache=policy) as (gateway, port, _, wall):
            await call(port, bodies[first])
            wall.time += 100
            answer = await call(port, bodies[then])
            assert (answer.status, answer.headers["penstock-status"]) == (200, "stale")
            assert answer.headers["age"] == "100"
            if then == "plain":
                assert answer.json()["choices"][0]["message"]["content"] == "hi"
            else:
                assert b"[DONE]" in answer.body
                assert (b"total_tokens" in answer.body) == (then == "stream with usage")
            assert gateway.recorder.ledger.totals()[Outcome.CACHED].attempts == 1
            wall.time += 600
            assert (await call(port, bodies[then])).status == 503

    on_uvloop(main)


def test_a_request_that_is_wrong_gets_no_old_answer():
    async def main():
        scripts = [
            [Step.REQUEST, plain(COMPLETION), Step.CLOSE],
            [Step.REQUEST, upstream_error("400 no"), Step.CLOSE],
        ]
        async with gateway_of(
            scripts, cache=ModelCacheConfig(ttl=30, stale_if_error=600, usage="original")
        ) as (
            _,
            port,
            _,
            wall,
        ):
            await call(port, ASKED)
            wall.time += 100
            assert (await call(port, ASKED)).status == 400

    on_uvloop(main)


# ---- the tiers below ----


def test_another_process_of_the_machine_finds_the_answer_on_the_disk(tmp_path):
    async def main():
        tiers = CacheConfig(disk=str(tmp_path / "cache.sqlite"), disk_budget=5.0)
        async with gateway_of([answering()], tiers=tiers) as (one, port, upstream, _):
            await call(port, ASKED)
            await one.cache.guards[0].tier.flush()
            made = settings(upstream.url, tiers=tiers)
            async with serving(made) as (two, other_port):
                Wall(two)
                for _ in range(2):
                    answer = await call(other_port, STREAM)
                    assert answer.headers["penstock-status"] == "cached"
                    assert b"[DONE]" in answer.body
                assert two.cache.hits == {"memory": 1, "disk": 1}
                assert asked(upstream) == 1

    on_uvloop(main)


def test_a_client_that_leaves_while_the_disk_is_asked_leaves_nothing_behind(tmp_path):
    async def main():
        tiers = CacheConfig(disk=str(tmp_path / "cache.sqlite"), disk_budget=5.0)
        async with gateway_of([answering()], tiers=tiers) as (gateway, port, _, _):
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request({**ASKED, "seed": int.from_bytes(os.urandom(3))}))
                await asyncio.sleep(0)
                writer.close()
            await until(lambda: not gateway.pipeline.waiting and not gateway.pipeline.productions)

    on_uvloop(main)


def test_a_disk_that_cannot_be_used_is_no_reason_to_fail(tmp_path):
    async def main():
        (tmp_path / "letter").write_bytes(b"no cache at all" * 99)
        tiers = CacheConfig(disk=str(tmp_path / "letter"))
        async with gateway_of([answering()], tiers=tiers) as (gateway, port, _, _):
            for number in range(10):
                assert (await call(port, {**ASKED, "seed": number})).status == 200
            assert (await call(port, {**ASKED, "seed": 1})).headers["penstock-status"] == "cached"
            assert gateway.cache.guards[0].is_open

    on_uvloop(main)


# ---- purging ----


@pytest.mark.parametrize("tag", ["tenant:default", "model:m", "tag:blue", "all"])
def test_what_is_purged_does_not_answer_again(tag):
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, wall):
            tagged = ["penstock-cache-tags: green, blue"]
            await call(port, ASKED, headers=tagged)
            wall.time += 1
            gateway.purge(["tenant:other", "model:other", "tag:red"], [])
            assert (await call(port, ASKED)).headers["penstock-status"] == "cached"
            gateway.purge([tag], [])
            wall.time += 1
            assert (await call(port, ASKED)).headers["penstock-status"] == "created"
            assert (await call(port, ASKED)).headers["penstock-status"] == "cached"

    on_uvloop(main)


def test_a_single_answer_is_purged_by_the_key_that_it_told():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, _):
            await call(port, ASKED)
            key = (await call(port, ASKED)).headers["penstock-cache-key"]
            gateway.purge([], [bytes.fromhex(key)])
            assert (await call(port, ASKED)).headers["penstock-status"] == "created"

    on_uvloop(main)


@pytest.mark.parametrize("field", ["x" * 65, ",".join("abcdefghijklmnopqr")])
def test_too_many_or_too_long_tags_are_refused(field):
    async def main():
        async with gateway_of([answering()]) as (_, port, upstream, _):
            answer = await call(port, ASKED, headers=[f"penstock-cache-tags: {field}"])
            assert (answer.status, answer.json()["error"]["param"]) == (400, "penstock-cache-tags")
            assert asked(upstream) == 0

    on_uvloop(main)


# ---- at once, and with limits ----


def test_a_crowd_with_one_question_asks_once():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, go_on, plain(COMPLETION)]
        async with gateway_of([script]) as (gateway, port, upstream, _):
            crowd = [asyncio.ensure_future(call(port, ASKED)) for _ in range(20)]
            await until(lambda: len(gateway.pipeline.readings) == 20)
            go_on.set()
            answers = await asyncio.gather(*crowd)
            assert len({answer.body for answer in answers}) == 1
            assert (await call(port, ASKED)).headers["penstock-status"] == "cached"
            assert asked(upstream) == 1

    on_uvloop(main)


def test_a_cache_that_a_reload_switches_on_works_and_is_silent_when_switched_off():
    async def main():
        async with ScriptedUpstream([answering()]) as upstream:
            off, on = settings(upstream.url, cache=None), settings(upstream.url)
            async with serving(off) as (gateway, port):
                status = []
                for configured in (off, on, on, off):
                    gateway.reload(configured)
                    status.append((await call(port, ASKED)).headers["penstock-status"])
                assert status == ["created", "created", "cached", "created"]

    on_uvloop(main)


def test_what_the_stage_says_of_itself():
    question = lookups.Question(bytes(32), ModelCacheConfig(), Control(), 0.0, (), "tenant:t")
    assert "00000000" in repr(question)
    made = a_generation(a_call(Endpoint.CHAT, json.dumps(ASKED).encode()))
    assert made.ending is None
