"""Limits as a caller meets them, and budgets that outlive a process."""

import asyncio
import contextlib
import json
import sqlite3
import time

import pytest
from gateway_doubles import a_call
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    plain,
    serving,
    until,
)

from penstock.config.model import (
    LedgerConfig,
    LimitConfig,
    LimitsConfig,
    LogConfig,
    ModelCacheConfig,
    ModelConfig,
    PrefetchConfig,
)
from penstock.gateway.stages.authenticate import ANONYMOUS
from penstock.testing import FakeClock, ScriptedUpstream, Step

MESSAGES = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
PRICED = {**PROMPT, "model": "gpt-4o"}


def limits(**values):
    return LimitsConfig(keys={"anonymous": LimitConfig(**values)})


def scripted(*answers):
    return ScriptedUpstream([[step for answer in answers for step in (Step.REQUEST, answer)]])


def test_headers_tell_what_is_left_and_the_refusal_when_to_come_back():
    async def main():
        clock = FakeClock()
        async with scripted(*[plain(COMPLETION)] * 3) as upstream:
            settings = config(upstream.url, limits=limits(requests_per_minute=2, tokens_per_minute=3_000))
            async with serving(settings, clock) as (gateway, port):
                first = await call(port, PROMPT)
                second = await call(port, PROMPT)
                third = await call(port, PROMPT)
                fourth = await call(port, MESSAGES, "/v1/messages")
                clock.advance(30)
                fifth = await call(port, PROMPT)
                metric = gateway.metrics.collect()
        return first, second, third, fourth, fifth, metric

    first, second, third, fourth, fifth, metric = asyncio.run(main())
    assert [first.status, second.status, third.status, fourth.status, fifth.status] == [
        200,
        200,
        429,
        429,
        200,
    ]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    # The tokens of the first call are settled by the time that its answer is whole: 5 were used.
    assert second.headers["x-ratelimit-remaining-tokens"] == str(3_000 - 5 - 5)
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert (third.headers["retry-after"], third.headers["retry-after-ms"]) == ("30", "30000")
    assert "x-should-retry" not in third.headers
    assert fourth.json()["error"]["type"] == "rate_limit_error"
    assert fourth.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert fourth.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    (family,) = [family for family in metric if family.name == "penstock_limit_refusals_total"]
    assert [(sample.labels, sample.value) for sample in family.samples] == [(("key", "requests"), 2)]


def test_a_limit_of_zero_tells_the_sdk_not_to_come_back():
    async def main():
        async with scripted(plain(COMPLETION)) as upstream:
            async with serving(config(upstream.url, limits=limits(concurrent=0))) as (_, port):
                return await call(port, PROMPT)

    answer = asyncio.run(main())
    assert (answer.status, answer.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in answer.headers


def test_the_log_says_which_model_was_refused(capfd):
    async def main():
        async with scripted(plain(COMPLETION)) as upstream:
            settings = config(upstream.url, limits=limits(concurrent=0), log=LogConfig(requests=True))
            async with serving(settings) as (_, port):
                await call(port, PROMPT)
                await call(port, b"{")

    asyncio.run(main())
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"refused"' in line]
    assert [(line["status"], line.get("model")) for line in lines] == [(429, "m"), (400, None)]


def test_a_call_in_progress_takes_a_place_until_it_has_ended_however_it_ends():
    async def main():
        stream = [Step.REQUEST, STREAM_HEAD + delta("a"), Step.GONE]
        whole = [Step.REQUEST, STREAM_HEAD + delta("a", "stop") + DONE + STREAM_END] * 2
        async with ScriptedUpstream([stream, whole]) as upstream:
            async with serving(config(upstream.url, limits=limits(concurrent=1))) as (gateway, port):
                body = {**PROMPT, "stream": True}
                leaving = asyncio.ensure_future(call(port, body))
                await upstream.wait_received(b"hello")
                refused = await call(port, body)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                await until(lambda: not gateway.pipeline.productions and not gateway.pipeline.readings)
                return refused, await call(port, body), await call(port, body)

    refused, second, third = asyncio.run(main())
    assert (refused.status, refused.json()["error"]["code"]) == (429, "concurrency_exceeded")
    assert (second.status, third.status) == (200, 200)


def test_a_second_caller_of_the_same_answer_uses_no_tokens():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, go_on, plain(COMPLETION)]
        async with ScriptedUpstream([script]) as upstream:
            settings = config(upstream.url, limits=limits(tokens_per_minute=10_000))
            async with serving(settings, FakeClock()) as (gateway, port):
                key = ["idempotency-key: one"]
                calls = [asyncio.ensure_future(call(port, PROMPT, headers=key)) for _ in range(2)]
                await until(lambda: len(gateway.pipeline.readings) == 2)
                go_on.set()
                await asyncio.gather(*calls)
                account = gateway.pipeline.admission.limiter._accounts["key", "anonymous"]
                return round(account.tokens.left(gateway.clock.now())), account.in_progress

    assert asyncio.run(main()) == (10_000 - 5, 0)


def test_what_is_renewed_behind_an_answer_is_paid_by_who_got_it_and_takes_no_place():
    async def main():
        script = [Step.REQUEST, plain(COMPLETION), Step.REQUEST, go_on := asyncio.Event(), plain(COMPLETION)]
        async with ScriptedUpstream([script]) as upstream:
            candidates = config(upstream.url).models["m"].candidates
            kept = ModelConfig(
                candidates=candidates, cache=ModelCacheConfig(ttl=30, stale_while_revalidate=60)
            )
            settings = config(
                upstream.url, limits=limits(tokens_per_minute=10_000, concurrent=1), models={"m": kept}
            )
            async with serving(settings, FakeClock()) as (gateway, port):
                asked = {**PROMPT, "temperature": 0}
                account = gateway.pipeline.admission.limiter._accounts
                await call(port, asked)
                gateway.cache.memory._now = gateway.cache.now = lambda: time.time() + 40
                stale = await call(port, asked)
                again = await call(port, asked)  # is renewed already
                reserved = account["key", "anonymous"].tokens.left(gateway.clock.now())
                go_on.set()
                await gateway.pipeline.wait_idle()
                return stale, again, reserved, account["key", "anonymous"].tokens.left(gateway.clock.now())

    stale, again, reserved, left = asyncio.run(main())
    assert [answer.headers["penstock-status"] for answer in (stale, again)] == ["stale", "stale"]
    assert reserved < 9_000
    assert round(left) == 10_000 - 5 - 5


def test_what_is_fetched_in_advance_counts_for_the_budget_as_it_does_in_the_ledger(tmp_path):
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    dear = plain({**COMPLETION, "usage": usage})  # 2.5 dollars

    async def main():
        async with scripted(dear) as upstream:
            candidates = config(upstream.url).models["m"].candidates
            kept = ModelConfig(candidates=candidates, cache=ModelCacheConfig(prefetch=PrefetchConfig()))
            settings = config(upstream.url, limits=limits(usd_per_day=2.0), models={"gpt-4o": kept})
            async with serving(settings) as (gateway, port):
                pipeline = gateway.pipeline
                asked = a_call(body=json.dumps({**PRICED, "temperature": 0}).encode(), tenant=ANONYMOUS)
                question = pipeline.lookup.question(asked, pipeline.router, open_to_all=True)
                pipeline.renewals.renew(asked, pipeline.lookup, question)
                await pipeline.wait_idle()
                return await call(port, PRICED)

    assert asyncio.run(main()).json()["error"]["code"] == "budget_exceeded"


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_tells_of_billions_of_tokens_does_not_use_up_a_budget(streamed):
    usage = {"prompt_tokens": 2**40, "completion_tokens": 2**40, "total_tokens": 2**41}
    pieces = (delta("Hi"), delta("", "stop", (2**40, 2**40)), DONE, STREAM_END)
    mad = STREAM_HEAD + b"".join(pieces) if streamed else plain({**COMPLETION, "usage": usage})

    async def main():
        async with scripted(mad, plain(COMPLETION)) as upstream:
            base = config(upstream.url)
            settings = config(
                upstream.url,
                models={"gpt-4o": base.models["m"]},
                limits=limits(tokens_per_minute=10_000_000, usd_per_month=100),
            )
            async with serving(settings) as (gateway, port):
                answer = await call(port, {**PRICED, "max_tokens": 20, "stream": streamed})
                again = await call(port, PRICED)
                assert gateway.recorder.measures.overstated.labels("up0").value == 1
                return answer, again, gateway.recorder.ledger.recent()

    answer, again, (_, row) = asyncio.run(main())
    assert (answer.status, again.status) == (200, 200)
    assert row.usage.estimated
    assert row.cost < 10 * 10**12  # dollars


def test_a_budget_is_kept_and_outlives_the_process(tmp_path):
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    dear = plain({**COMPLETION, "usage": usage})  # 2.5 dollars

    async def one():
        async with scripted(dear) as upstream:
            base = config(upstream.url)
            settings = config(
                upstream.url,
                models={"gpt-4o": base.models["m"]},
                limits=limits(usd_per_day=2.0, usd_per_month=100),
                ledger=LedgerConfig(path=str(tmp_path / "ledger.sqlite")),
            )
            async with serving(settings) as (gateway, port):
                answer = await call(port, PRICED)
                again = await call(port, PRICED)
                return answer, again, gateway.recorder.ledger.recent()

    first, refused, (row,) = asyncio.run(one())
    assert row.cost == 2_500_000_000_000
    assert (first.status, refused.status) == (200, 429)
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert refused.headers["x-should-retry"] == "false" or int(refused.headers["retry-after"]) <= 60
    restarted, again, rows = asyncio.run(one())
    assert (restarted.status, again.status, rows) == (429, 429, [])


def test_a_budget_knows_what_was_spent_by_an_earlier_version(tmp_path):
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    dear = plain({**COMPLETION, "usage": usage})
    path = tmp_path / "ledger.sqlite"

    async def one():
        async with scripted(dear) as upstream:
            settings = config(
                upstream.url,
                models={"gpt-4o": config(upstream.url).models["m"]},
                limits=limits(usd_per_day=2.0),
                ledger=LedgerConfig(path=str(path)),
            )
            async with serving(settings) as (_, port):
                return (await call(port, PRICED)).status

    assert asyncio.run(one()) == 200
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("DROP VIEW attempts_and_savings; DROP TABLE savings; PRAGMA user_version = 5")
        db.execute("ALTER TABLE attempts DROP COLUMN label")
        db.execute("ALTER TABLE folded DROP COLUMN shortened_to_tokens")
        for table in ("attempts", "folded"):
            for column in ("left_out_tokens", "prompt_cache_saved", "prompt_cache_missed"):
                db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    assert asyncio.run(one()) == 429


def test_a_budget_is_whole_again_as_soon_as_the_next_day_has_begun():
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    dear = plain({**COMPLETION, "usage": usage})

    async def main():
        async with scripted(dear, dear) as upstream:
            models = {"gpt-4o": config(upstream.url).models["m"]}
            clock = FakeClock()
            async with serving(
                config(upstream.url, models=models, limits=limits(usd_per_day=2.0)), clock
            ) as served:
                gateway, port = served
                limiter = gateway.pipeline.admission.limiter
                first, refused = await call(port, PRICED), await call(port, PRICED)
                limiter.unix_time = lambda: limiter.calendar.day_ends + 1.0
                clock.advance(0.1)
                return [first.status, refused.status, (await call(port, PRICED)).status]

    assert asyncio.run(main()) == [200, 429, 200]


def test_what_another_worker_spends_is_learnt_from_the_ledger(tmp_path):
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    dear = plain({**COMPLETION, "usage": usage})

    async def main():
        async with scripted(dear, dear) as upstream:
            settings = config(
                upstream.url,
                models={"gpt-4o": config(upstream.url).models["m"]},
                limits=limits(usd_per_day=2.0),
                ledger=LedgerConfig(path=str(tmp_path / "ledger.sqlite")),
            )
            clock = FakeClock()
            async with serving(settings, clock) as (gateway, port), serving(settings) as (other, other_port):
                paid = await call(other_port, PRICED)
                assert await other._store.wait_flushed()
                clock.advance(5.1)
                await gateway._spending.wait_idle()  # it has looked
                return paid.status, (await call(port, {**PRICED, "max_tokens": 0})).status

    assert asyncio.run(main()) == (200, 429)


def test_a_ledger_that_cannot_be_read_stops_no_call(tmp_path, caplog):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database, and never was")

    async def main():
        async with scripted(plain(COMPLETION)) as upstream:
            settings = config(
                upstream.url, limits=limits(usd_per_day=2.0), ledger=LedgerConfig(path=str(path))
            )
            from penstock.gateway.compose import build
            from penstock.net.clock import Clock

            gateway = build(settings, clock=Clock())
            await gateway.start()
            await gateway.close()

    asyncio.run(main())
    assert "budgets do not know what other processes have spent" in caplog.text


def test_a_reload_brings_and_takes_limits_and_keeps_what_was_used():
    async def main():
        async with scripted(*[plain(COMPLETION)] * 9) as upstream:
            free = config(upstream.url)
            tight = config(upstream.url, limits=limits(requests_per_minute=1))
            async with serving(free, FakeClock()) as (gateway, port):
                statuses = [(await call(port, PROMPT)).status]
                for settings in (
                    tight,
                    tight,
                    config(upstream.url, limits=limits(requests_per_minute=2)),
                    free,
                ):
                    gateway.reload(settings)
                    statuses.append((await call(port, PROMPT)).status)
                return statuses

    assert asyncio.run(main()) == [200, 200, 429, 429, 200]
