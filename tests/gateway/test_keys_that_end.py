"""Keys whose time is over: refused everywhere, and nothing that has begun with them is cut off."""

import asyncio
import contextlib
import hashlib
import json

import msgspec
import pytest
from keeping import ASKED, answering, gateway_of, line_to, settings, thrice
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    asked,
    call,
    config,
    delta,
    on_uvloop,
    plain,
    read_answer,
    request,
    rows,
    serving,
    until,
)
from test_repeats_below import above

from penstock.config.expiry import ends_at
from penstock.config.model import KeyConfig, LogConfig
from penstock.metrics import render
from penstock.testing import ScriptedUpstream, Step

ENDS = "2100-01-01T00:00:00Z"
END = ends_at(ENDS)
AMY, BOB = ["authorization: Bearer amy"], ["authorization: Bearer bob"]
SCRIPT = [Step.REQUEST, plain(COMPLETION)] * 9


def keys(ends=ENDS, **others):
    """Amy's, which ends, and Bob's, which does not."""
    amy, bob = (
        KeyConfig(name=name, tenant=f"of-{name}", hash="sha256:" + hashlib.sha256(name.encode()).hexdigest())
        for name in ("amy", "bob")
    )
    return [msgspec.structs.replace(amy, expires=ends, **others), bob]


def it_is(gateway, unix_time):
    """The machine's clock says so now, and the gateway's has looked."""
    gateway._expiry.unix_time = lambda: unix_time
    gateway.clock.sweep()


@contextlib.asynccontextmanager
async def ending(script=SCRIPT, **more):
    """``(gateway, port)``, a moment before Amy's key ends."""
    async with ScriptedUpstream([script]) as upstream:
        async with serving(config(upstream.url, keys=keys(), **more)) as (gateway, port):
            it_is(gateway, END - 0.1)
            yield gateway, port


# ---- what its owner, and who runs the gateway, get to know ----


@pytest.mark.parametrize("key", [AMY, ["x-api-key: amy"]], ids=["bearer", "x-api-key"])
def test_it_is_refused_with_a_code_of_its_own_and_the_moment_in_either_dialect(key):
    async def main():
        async with ending() as (gateway, port):
            assert (await call(port, PROMPT, headers=key)).status == 200
            it_is(gateway, END)
            openai = await call(port, PROMPT, headers=key)
            assert (openai.status, openai.headers["www-authenticate"]) == (401, "Bearer")
            told = openai.json()["error"]
            assert (told["type"], told["code"]) == ("authentication_error", "expired_api_key")
            assert told["message"].startswith(f"this API key ended at {ENDS}")
            anthropic = await call(port, PROMPT, "/v1/messages", headers=key)
            assert anthropic.status == 401
            told = anthropic.json()["error"]
            assert (told["type"], told["details"]) == (
                "authentication_error",
                {"error_code": "expired_api_key"},
            )
            for path in ("/v1/models", "/v1/generations/gen_" + "0" * 32, "/v1/key", "/nothing"):
                assert (await call(port, b"", path, "GET", headers=key)).status == 401, path

    on_uvloop(main)


def test_others_are_told_nothing_of_it_and_go_on():
    async def main():
        async with ending() as (gateway, port):
            it_is(gateway, END)
            assert (await call(port, PROMPT, headers=BOB)).status == 200
            wrong = await call(port, PROMPT, headers=["authorization: Bearer am"])
            assert wrong.json()["error"]["code"] == "invalid_api_key"

    on_uvloop(main)


def test_a_gateway_whose_last_key_has_ended_is_open_to_nobody():
    async def main():
        async with serving(config("http://127.0.0.1:9", keys=keys()[:1])) as (gateway, port):
            it_is(gateway, END)
            refused = await call(port, PROMPT)
            assert (refused.status, refused.json()["error"]["code"]) == (401, "missing_api_key")

    on_uvloop(main)


def test_log_and_metrics_know_of_the_refusal_and_whose_key_it_was(capfd):
    async def main():
        async with ending(log=LogConfig(requests=True)) as (gateway, port):
            it_is(gateway, END)
            await call(port, PROMPT, headers=AMY)
            assert b'penstock_requests_total{endpoint="chat",status="401"} 1' in render(
                gateway.metrics.collect()
            )

    on_uvloop(main)
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "expired_api_key" in line]
    assert (line["key"], line["tenant"], line["outcome"]) == ("amy", "of-amy", "refused")


def test_an_explanation_says_so():
    async def main():
        async with ending() as (gateway, _):
            it_is(gateway, END)
            said = gateway.explain("/v1/chat/completions", {"Authorization": "Bearer amy"}, b"{}")
            assert said["outcome"].startswith("refused with 401 expired_api_key: this API key ended")

    on_uvloop(main)


# ---- what is recognised without looking for its key ----


def test_not_by_the_head_that_its_connection_knows():
    async def main():
        async with ending() as (gateway, port), line_to(port) as ask:
            known = [(await ask(PROMPT, headers=AMY)).status for _ in range(3)]
            it_is(gateway, END)
            gone = [(await ask(PROMPT, headers=AMY)).status for _ in range(2)]
            assert (known, gone) == ([200] * 3, [401] * 2)

    on_uvloop(main)


def test_not_by_the_bytes_that_were_answered_before():
    async def main():
        async with gateway_of([answering()], keys=keys()) as (gateway, port, upstream, _):
            it_is(gateway, END - 0.1)
            async with line_to(port) as ask, line_to(port) as other:
                await thrice(ask, ASKED, headers=AMY)
                assert gateway.repeats.answered == 1
                it_is(gateway, END)
                for line in (ask, other):
                    assert (await line(ASKED, headers=AMY)).status == 401
            assert (gateway.repeats.answered, asked(upstream)) == (1, 1)

    on_uvloop(main)


def test_not_by_bytes_whose_answer_the_tiers_below_are_asked_for_just_then():
    async def main():
        async with above([answering()], keys=keys()) as (gateway, port, _, _, below), line_to(port) as ask:
            it_is(gateway, END - 0.1)
            await thrice(ask, ASKED, headers=AMY)
            below.waits = True
            asking = asyncio.create_task(ask(ASKED, headers=AMY))
            await until(lambda: below.asked)
            it_is(gateway, END)
            below.tell()
            assert (await asking).status == 401

    on_uvloop(main)


def test_not_by_bytes_that_were_read_before_its_end_and_answered_after():
    async def main():
        async with above([answering()], keys=keys()) as (gateway, port, _, _, below), line_to(port) as ask:
            it_is(gateway, END - 0.1)
            await ask(ASKED, headers=AMY)
            below.waits = True
            asking = asyncio.create_task(ask(ASKED, headers=AMY))
            await until(lambda: below.asked)
            it_is(gateway, END)
            below.tell()
            assert (await asking).status == 200, "it had begun"
            assert (await ask(ASKED, headers=AMY)).status == 401

    on_uvloop(main)


def test_not_by_an_idempotency_key_of_before():
    async def main():
        async with ending() as (gateway, port):
            once = [*AMY, "idempotency-key: once"]
            assert (await call(port, PROMPT, headers=once)).status == 200
            assert (await call(port, PROMPT, headers=once)).headers["penstock-status"] == "replayed"
            it_is(gateway, END)
            assert (await call(port, PROMPT, headers=once)).status == 401

    on_uvloop(main)


# ---- what goes on ----


def test_a_stream_that_has_begun_is_sent_to_its_end():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD, delta("h"), go_on, delta("i"), delta("", "stop"), DONE]
        async with ending([*script, STREAM_END]) as (gateway, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request({**PROMPT, "stream": True}, headers=AMY))
            await until(lambda: any(each.events for each in gateway.pipeline.in_flight()))
            it_is(gateway, END)
            assert (await call(port, PROMPT, headers=AMY)).status == 401
            go_on.set()
            answer = await read_answer(reader)
            assert answer.status == 200
            assert answer.body.endswith(b"data: [DONE]\n\n")
            writer.close()
            assert [row.tenant for row in rows(gateway)] == ["of-amy"]

    on_uvloop(main)


def test_a_call_whose_head_came_in_time_may_send_its_body():
    async def main():
        async with ending() as (gateway, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head, end, body = request(PROMPT, headers=[*AMY, "expect: 100-continue"]).partition(b"\r\n\r\n")
            writer.write(head + end)
            assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
            it_is(gateway, END)
            writer.write(body)
            assert (await read_answer(reader)).status == 200
            writer.close()

    on_uvloop(main)


def test_what_the_tenant_has_stays_and_another_of_its_keys_reads_it():
    """So a key is replaced: both count for a while, and nothing is lost when the old one ends."""

    async def main():
        both = [keys(tenant="one")[0], msgspec.structs.replace(keys()[1], tenant="one")]
        async with ScriptedUpstream([SCRIPT]) as upstream:
            async with serving(config(upstream.url, keys=both)) as (gateway, port):
                it_is(gateway, END - 0.1)
                once = "idempotency-key: once"
                assert (await call(port, PROMPT, headers=[*AMY, once])).status == 200
                it_is(gateway, END)
                answer = await call(port, PROMPT, headers=[*BOB, once])
                assert (answer.status, answer.headers["penstock-status"]) == (200, "replayed")

    on_uvloop(main)


# ---- the clock, and the configuration ----


def test_nothing_looks_at_the_clock_where_no_key_ends():
    async def main():
        async with serving(config("http://127.0.0.1:9", keys=keys(ends=""))) as (gateway, _):
            assert gateway._expiry not in gateway.clock._sweepables
            gateway.reload(config("http://127.0.0.1:9", keys=keys()))
            assert gateway._expiry in gateway.clock._sweepables
            it_is(gateway, END)
            assert gateway._expiry not in gateway.clock._sweepables, "there is none to come"

    on_uvloop(main)


def test_the_gateways_clock_looks_by_itself():
    async def main():
        async with ending() as (gateway, port):
            assert (await call(port, PROMPT, headers=AMY)).status == 200
            gateway._expiry.unix_time = lambda: END
            await until(lambda: gateway._expiry not in gateway.clock._sweepables)
            assert (await call(port, PROMPT, headers=AMY)).status == 401

    on_uvloop(main)


def test_a_key_that_has_ended_before_the_start_is_refused_from_the_start():
    async def main():
        async with serving(config("http://127.0.0.1:9", keys=keys("2020-01-01"))) as (_, port):
            refused = await call(port, PROMPT, headers=AMY)
            assert "ended at 2020-01-01T00:00:00Z" in refused.json()["error"]["message"]

    on_uvloop(main)


def test_a_clock_that_is_set_back_does_not_bring_it_back_but_another_configuration_does():
    async def main():
        async with ScriptedUpstream([SCRIPT]) as upstream:
            async with serving(settings(upstream.url, keys=keys())) as (gateway, port), line_to(port) as ask:
                it_is(gateway, END)
                it_is(gateway, END - 3_600)
                assert (await ask(PROMPT, headers=AMY)).status == 401
                gateway.reload(settings(upstream.url, keys=keys("2100-02-01")))
                it_is(gateway, END)
                assert (await ask(PROMPT, headers=AMY)).status == 200
                gateway.reload(settings(upstream.url, keys=keys("2099-01-01")))
                assert (await ask(PROMPT, headers=AMY)).status == 401

    on_uvloop(main)
