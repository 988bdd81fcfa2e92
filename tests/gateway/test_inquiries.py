"""What was estimated is asked of the provider afterwards."""

import asyncio
import contextlib
import json
import sqlite3

import msgspec
import pytest
from serving import COMPLETION, PROMPT, STREAM_HEAD, call, config, delta, on_uvloop, plain, serving, until

from penstock.config.model import (
    CapabilitiesConfig,
    LedgerConfig,
    LimitConfig,
    LimitsConfig,
    RetryConfig,
    UpstreamConfig,
)
from penstock.testing import FakeClock, ScriptedUpstream, Step

NAMED = b"x-generation-id: gen-7\r\n"
BODY = json.dumps(COMPLETION).encode()
BROKEN = (
    b"HTTP/1.1 200 OK\r\n"
    + NAMED
    + b"content-type: application/json\r\ncontent-length: 9000\r\n\r\n"
    + BODY[:60]
)
TOLD = {
    "data": {
        "native_tokens_prompt": 500_000,
        "native_tokens_completion": 40,
        "native_tokens_cached": 100,
        "native_tokens_reasoning": None,
        "total_cost": 1.5,
    }
}
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def settings(url, folder, lookup="generation", **more):
    base = config(
        url, retry=RetryConfig(attempts=1), ledger=LedgerConfig(path=str(folder / "ledger.db")), **more
    )
    capable = CapabilitiesConfig(usage_lookup=lookup)
    able = UpstreamConfig(kind="openai", base_url=url + "/v1", capabilities=capable)
    return msgspec.structs.replace(base, upstreams={"up0": able})


def rows(folder):
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as database:
        return database.execute(
            "SELECT outcome, answer, estimated, told, asked, input_tokens, output_tokens, cost FROM attempts"
        ).fetchall()


async def looked(gateway, clock):
    """One look at the questions."""
    assert await gateway._store.wait_flushed()
    clock.advance(1.1)
    await gateway._inquiries.wait_idle()


def metric(gateway, name):
    (family,) = [one for one in gateway.metrics.collect() if one.name == name]
    return {sample.labels: sample.value for sample in family.samples}


def asked_after(folder, *answers, first=BROKEN, body=PROMPT, **more):
    """What becomes of a call that broke, when its provider answers so to each look."""

    async def main():
        scripts = [[Step.REQUEST, first, Step.CLOSE], *[[Step.REQUEST, one, Step.CLOSE] for one in answers]]
        clock = FakeClock()
        async with ScriptedUpstream(scripts) as upstream:
            async with serving(settings(upstream.url, folder, **more), clock) as (gateway, port):
                answer = await call(port, body)
                for _ in answers or [None]:
                    await looked(gateway, clock)
                return answer, gateway, upstream.received

    return on_uvloop(main)


def test_a_plain_answer_that_broke_gets_its_true_figures(tmp_path):
    limits = LimitsConfig(keys={"anonymous": LimitConfig(usd_per_day=100.0)})
    answer, gateway, received = asked_after(tmp_path, plain(TOLD), limits=limits)
    assert answer.status == 502
    assert received[1].startswith(b"GET /v1/generation?id=gen-7 HTTP/1.1\r\n")
    assert rows(tmp_path) == [("partial", "gen-7", 0, 1, 1, 500_000, 40, 1_500_000_000_000)]
    assert metric(gateway, "penstock_usage_lookups_total") == {("up0", "told"): 1}
    tokens = metric(gateway, "penstock_tokens_total")
    assert tokens["up0", "m", "input"] == 500_000
    too_much = metric(gateway, "penstock_overestimated_tokens_total")
    assert tokens["up0", "m", "output"] - too_much.get(("up0", "m", "output"), 0) == 40
    account = gateway.pipeline.admission.limiter._accounts["key", "anonymous"]
    assert account.day.own == 1_500_000_000_000
    sums = {outcome.value: total for outcome, total in gateway.recorder.ledger.totals().items()}
    assert sums["partial"].usage.output_tokens == 40
    assert (sums["partial"].attempts, sums["partial"].estimated, sums["partial"].cost) == (
        1,
        0,
        1_500_000_000_000,
    )


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (NOT_FOUND, "not_told"),
        (plain({"data": {"native_tokens_prompt": "many"}}), "not_told"),
        (plain({"data": {"native_tokens_prompt": 1, "native_tokens_completion": -1}}), "not_told"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b" " * 100_000, "not_told"),
        (b"this is no HTTP\r\n\r\n", "failed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", "failed"),
        (b"", "failed"),
    ],
    ids=["404", "nonsense", "less than nothing", "too large", "no HTTP", "cut", "closed"],
)
def test_what_is_not_told_stays_an_estimate_that_says_so_and_is_asked_for_again(tmp_path, answer, outcome):
    _, gateway, _ = asked_after(tmp_path, answer)
    (row,) = rows(tmp_path)
    assert row[1:5] == ("gen-7", 1, 0, 1)
    assert metric(gateway, "penstock_usage_lookups_total") == {("up0", outcome): 1}


def test_a_question_outlives_a_restart(tmp_path):
    asked_after(tmp_path, NOT_FOUND)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute("UPDATE attempts SET ask_at = 0")  # time has passed

    async def main():
        clock = FakeClock()
        async with ScriptedUpstream([[Step.REQUEST, plain(TOLD)]]) as upstream:
            async with serving(settings(upstream.url, tmp_path), clock) as (gateway, _):
                await looked(gateway, clock)

    on_uvloop(main)
    assert rows(tmp_path)[0][2:7] == (0, 1, 2, 500_000, 40)


def test_a_caller_who_leaves_a_stream_leaves_a_question(tmp_path):
    async def main():
        head = STREAM_HEAD.replace(b"\r\n", b"\r\n" + NAMED, 1)
        scripts = [[Step.REQUEST, head + delta("a"), Step.GONE], [Step.REQUEST, plain(TOLD)]]
        clock = FakeClock()
        async with ScriptedUpstream(scripts) as upstream:
            async with serving(settings(upstream.url, tmp_path), clock) as (gateway, port):
                leaving = asyncio.ensure_future(call(port, {**PROMPT, "stream": True}))
                await upstream.wait_received(b"hello")
                await until(lambda: any(one.events for one in gateway.pipeline.registry))
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                await until(lambda: not gateway.pipeline.productions)
                await looked(gateway, clock)

    on_uvloop(main)
    assert rows(tmp_path)[0][:4] == ("cancelled", "gen-7", 0, 1)


def test_openai_is_asked_for_what_it_has_stored(tmp_path):
    beginning = b'{"id":"chatcmpl-9","object":"chat.completion","choices":['
    first = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n" + beginning
    stored = {**COMPLETION, "usage": {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17}}
    body = {**PROMPT, "store": True}
    _, _, received = asked_after(tmp_path, plain(stored), first=first, body=body, lookup="stored")
    assert received[1].startswith(b"GET /v1/chat/completions/chatcmpl-9 HTTP/1.1\r\n")
    assert rows(tmp_path)[0][1:7] == ("chatcmpl-9", 0, 1, 1, 11, 6)


def test_what_openai_has_not_stored_is_not_asked_for(tmp_path):
    _, _, received = asked_after(tmp_path, lookup="stored")
    assert len(received) == 1
    assert rows(tmp_path)[0][1:5] == ("", 1, 0, 0)


def test_an_upstream_that_cannot_tell_is_not_asked(tmp_path):
    _, _, received = asked_after(tmp_path, lookup="none")
    assert len(received) == 1


def test_what_was_asked_with_a_callers_own_key_is_not_asked_for(tmp_path):
    async def main():
        clock = FakeClock()
        async with ScriptedUpstream([[Step.REQUEST, BROKEN, Step.CLOSE]]) as upstream:
            async with serving(settings(upstream.url, tmp_path), clock) as (gateway, port):
                await call(port, PROMPT, headers=["authorization: Bearer sk-mine"])
                await looked(gateway, clock)
                return upstream.connections

    assert on_uvloop(main) == 1
    assert rows(tmp_path)[0][1:5] == ("", 1, 0, 0)


def test_an_upstream_that_is_silent_is_asked_once_at_a_look_and_holds_up_no_end(tmp_path):
    async def main():
        broken = [Step.REQUEST, BROKEN, Step.CLOSE]
        clock = FakeClock()
        async with ScriptedUpstream([broken, broken, [Step.REQUEST]]) as upstream:
            async with serving(settings(upstream.url, tmp_path), clock) as (gateway, port):
                for _ in range(2):
                    await call(port, PROMPT)
                assert await gateway._store.wait_flushed()
                clock.advance(1.1)
                await upstream.wait_received(b"generation?id=", 2)
                return upstream.connections

    assert on_uvloop(main) == 3
    assert [row[2:4] for row in rows(tmp_path)] == [(1, 0), (1, 0)]
