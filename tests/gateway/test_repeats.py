"""Requests that come again in the same bytes: answered without being read, as long as reading would say the same."""

import hashlib
import json

import msgspec
import pytest
from keeping import ASKED, KEPT, STREAM, STREAMED, answering, apart, gateway_of, line_to, settings, thrice
from serving import asked, call, on_uvloop, request, until

from penstock.cache.cache import EVERYTHING
from penstock.config.model import (
    KeyConfig,
    LimitConfig,
    LimitsConfig,
    LogConfig,
    ModelCacheConfig,
    PrefetchConfig,
    PromptConfig,
)
from penstock.gateway import repeats as repeating
from penstock.messages import Outcome
from penstock.metrics import render
from penstock.testing import Step


@pytest.mark.parametrize(
    ("asked_as", "kept_as"),
    [(ASKED, ASKED), (STREAM, ASKED), (ASKED, STREAM), (STREAM, STREAM)],
    ids=["plain of plain", "streamed of plain", "plain of streamed", "streamed of streamed"],
)
@pytest.mark.parametrize("stream_options", [{}, {"stream_options": {"include_usage": True}}])
def test_the_answer_is_the_one_that_reading_gives(asked_as, kept_as, stream_options):
    body = {**asked_as, **(stream_options if "stream" in asked_as else {})}

    async def main():
        script = [Step.REQUEST, *STREAMED] if "stream" in kept_as else answering()
        async with gateway_of([script]) as (gateway, port, upstream, wall), line_to(port) as ask:
            await ask(kept_as)
            if body != kept_as:
                await ask(body)  # what comes for the first time is not remembered
            wall.time += 3
            read, again = await ask(body), await ask(body)
            assert gateway.repeats.answered == 1
            assert apart(again) == apart(read)
            assert again.headers["age"] == "3"
            wall.time += 2
            assert (await ask(body)).headers["age"] == "5"
            assert again.headers["penstock-status"] == "cached"
            assert again.headers["penstock-generation"] != read.headers["penstock-generation"]
            assert asked(upstream) == 1

    on_uvloop(main)


def test_a_request_that_comes_for_the_first_time_is_not_remembered(monkeypatch):
    monkeypatch.setattr(repeating, "MOST_SEEN", 3)

    def written(number):
        return json.dumps(ASKED).encode() + b" " * number

    async def main():
        async with gateway_of([answering()]) as (gateway, port, upstream, _), line_to(port) as ask:
            repeats = gateway.repeats
            for number in range(9):
                await ask(written(number))
            assert (asked(upstream), repeats.held_bytes, repeats.answered) == (1, 0, 0)
            assert len(repeats._seen) + len(repeats._seen_before) <= 6
            for answered in (0, 1):
                await ask(written(8))
                assert repeats.held_bytes
                assert repeats.answered == answered
            await ask(written(0))  # that is too long ago
            await ask(written(0))
            assert repeats.answered == 1
            await ask(written(0))
            assert repeats.answered == 2

    on_uvloop(main)


def test_ledger_metrics_and_log_know_it_as_any_other_hit(capfd):
    async def main():
        async with gateway_of([answering()], log=LogConfig(requests=True)) as (gateway, port, _, _):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
            hits = [row for row in gateway.recorder.ledger.recent() if row.outcome is Outcome.CACHED]
            new, old = hits
            assert gateway.repeats.answered == 1
            assert (new.usage, new.saved, new.model, new.upstream, new.tenant) == (
                old.usage, old.saved, old.model, old.upstream, old.tenant,
            )  # fmt: skip
            assert new.id == f"{new.generation}/1" != old.id
            assert gateway.recorder.saved_output.value == 2 * new.usage.output_tokens
            assert gateway.cache.hits["memory"] == 2
            assert b'penstock_requests_total{endpoint="chat",status="200"} 3' in render(
                gateway.metrics.collect()
            )

    on_uvloop(main)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "cached" in line]
    read, again = lines
    varying = {"time", "generation", "duration_ms", "ttft_ms"}
    assert {name: again.get(name) for name in {*read, *again} - varying} == {
        name: read.get(name) for name in {*read, *again} - varying
    }


@pytest.mark.parametrize("policy", [KEPT, ModelCacheConfig(stale_while_revalidate=60)])
def test_it_lasts_no_longer_than_its_entry_is_fresh(policy):
    async def main():
        async with gateway_of([answering()], cache=policy) as (gateway, port, upstream, wall):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                wall.time += policy.ttl
                late = await ask(ASKED)
            assert late.headers["penstock-status"] == (
                "stale" if policy.stale_while_revalidate else "created"
            )
            await until(lambda: asked(upstream) == 2)
            assert gateway.repeats.answered == 1

    on_uvloop(main)


def test_a_caller_who_wants_no_older_answer_gets_none():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, wall), line_to(port) as ask:
            told = [(await ask(ASKED, headers=["cache-control: max-age=10"])).headers["penstock-status"]]
            for seconds in (0, 9, 1):
                wall.time += seconds
                told.append(
                    (await ask(ASKED, headers=["cache-control: max-age=10"])).headers["penstock-status"]
                )
            assert told == ["created", "cached", "cached", "created"]
            assert gateway.repeats.answered == 1

    on_uvloop(main)


@pytest.mark.parametrize("purge", [EVERYTHING, "model:m", "tenant:default", "key"])
def test_what_is_purged_is_asked_anew(purge):
    async def main():
        async with gateway_of([answering()]) as (gateway, port, upstream, wall), line_to(port) as ask:
            answers = await thrice(ask, ASKED)
            wall.time += 1
            key = bytes.fromhex(answers[2].headers["penstock-cache-key"])
            gateway.purge([] if purge == "key" else [purge], [key] if purge == "key" else [])
            assert (await ask(ASKED)).headers["penstock-status"] == "created"
            assert asked(upstream) == 2

    on_uvloop(main)


def test_a_renewed_answer_takes_the_place_of_the_old_one():
    async def main():
        async with gateway_of([answering("old")], cache=KEPT) as (gateway, port, upstream, _):
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
                await ask(ASKED, headers=["cache-control: no-cache"])
                assert asked(upstream) == 2
                await thrice(ask, ASKED)
            assert asked(upstream) == 2
            assert gateway.cache.hits["memory"] == 5

    on_uvloop(main)


def test_what_fell_out_of_memory_is_not_answered():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, upstream, _), line_to(port) as ask:
            await thrice(ask, ASKED)
            gateway.cache.memory.clear()
            assert (await ask(ASKED)).headers["penstock-status"] == "created"
            assert asked(upstream) == 2

    on_uvloop(main)


LIMITED = LimitsConfig(tenants={"default": LimitConfig(requests_per_minute=100)})


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        (["idempotency-key: 1"], {}),
        (["x-stainless-retry-count: 1"], {}),
        (["connection: close"], {}),
        ([], {"limits": LIMITED}),
        ([], {"cache": ModelCacheConfig(prefetch=PrefetchConfig())}),
    ],
    ids=["key", "retry", "close", "limit", "prefetch"],
)
def test_where_more_than_freshness_counts_every_request_is_read(headers, more):
    async def main():
        async with gateway_of([answering()], **more) as (gateway, port, _, _):
            for _ in range(4):
                assert (await call(port, ASKED, headers=headers)).status == 200
            assert gateway.repeats.answered == 0

    on_uvloop(main)


def test_what_goes_on_from_a_response_is_refused_once_that_is_deleted():
    async def main():
        async with gateway_of([answering(), answering()]) as (gateway, port, _, _):
            first = (await call(port, {"model": "m", "input": "x"}, "/v1/responses")).json()["id"]
            on = {"model": "m", "input": "y", "previous_response_id": first, "temperature": 0, "store": False}
            statuses = [(await call(port, on, "/v1/responses")).headers["penstock-status"] for _ in range(3)]
            assert statuses == ["created", "cached", "cached"]
            assert gateway.repeats.answered == 0
            assert (await call(port, b"", f"/v1/responses/{first}", "DELETE")).status == 200
            assert (await call(port, on, "/v1/responses")).status == 400

    on_uvloop(main)


def test_a_prompt_that_is_tidied_is_tidied_each_time():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, _), line_to(port) as ask:
            old = gateway.pipeline.snapshot.config
            model = msgspec.structs.replace(old.models["m"], prompt=PromptConfig(whitespace=True))
            gateway.reload(msgspec.structs.replace(old, models={"m": model}))
            await thrice(ask, ASKED)
            assert gateway.repeats.answered == 0

    on_uvloop(main)


def test_a_reload_ends_what_the_old_configuration_would_have_answered():
    def keys(*names):
        return [
            KeyConfig(name=name, tenant=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest())
            for name in names
        ]

    async def main():
        async with gateway_of([answering()], keys=keys("amy", "bob")) as (gateway, port, _, _):
            async with line_to(port) as ask:
                as_amy = ["authorization: Bearer amy"]
                await thrice(ask, ASKED, headers=as_amy)
                assert gateway.repeats.answered == 1
                as_bob = await thrice(ask, ASKED, headers=["authorization: Bearer bob"])
                assert [answer.headers["penstock-status"] for answer in as_bob] == [
                    "created",
                    "cached",
                    "cached",
                ]
                gateway.reload(msgspec.structs.replace(gateway.pipeline.snapshot.config, keys=keys("bob")))
                assert (await ask(ASKED, headers=as_amy)).status == 401

    on_uvloop(main)


def test_what_is_remembered_is_bounded_and_the_oldest_goes():
    async def main():
        tiers = settings("http://127.0.0.1:1").cache
        tiers = msgspec.structs.replace(tiers, memory_bytes=120_000)
        async with gateway_of([answering()], tiers=tiers) as (gateway, port, _, _), line_to(port) as ask:
            for number in range(12):
                await thrice(ask, {**ASKED, "seed": number})
            known = gateway.repeats
            assert known.answered == 12
            assert 0 < known.held_bytes <= tiers.memory_bytes / repeating.SHARE
            assert 0 < len(known._answers) < 12
            assert sum(known.lengths.values()) == len(known._answers)
            await ask({**ASKED, "seed": 11})
            await ask({**ASKED, "seed": 0})
            assert known.answered == 13, "the last one is known yet, the first one is not"
            known.clear()
            assert (known.held_bytes, known._answers, known.lengths) == (0, {}, {})

    on_uvloop(main)


def test_a_long_answer_is_read_and_written_like_any_other():
    async def main():
        long = answering("x" * (repeating.MOST_BYTES + 1))
        async with gateway_of([long]) as (gateway, port, _, _), line_to(port) as ask:
            await thrice(ask, ASKED)
            assert (gateway.repeats.answered, gateway.repeats.held_bytes) == (0, 0)

    on_uvloop(main)


def test_no_byte_of_a_request_can_differ():
    async def main():
        async with gateway_of([answering()]) as (gateway, port, _, _):
            raw = request(ASKED)
            async with line_to(port) as ask:
                await thrice(ask, ASKED)
            assert gateway.repeats.answered == 1
            for at in range(len(raw)):
                changed = bytearray(raw)
                changed[at] ^= 1
                assert gateway.repeats.answer(bytes(changed), b"", None) is None
            assert gateway.repeats.answered == 1

    on_uvloop(main)
