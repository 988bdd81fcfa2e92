import asyncio
import json
import ssl
import subprocess

import pytest
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    error,
    plain,
    read_answer,
    request,
    serving,
)

from penstock.config.model import ModelConfig, RetryConfig, TimeoutConfig, UpstreamConfig
from penstock.messages import Outcome, Usage
from penstock.testing import FakeClock, ScriptedUpstream, Step

AT_ONCE = RetryConfig(first_delay=0.0)
STREAM = {**PROMPT, "stream": True}


def rows(gateway):
    """The ledger's rows, oldest first."""
    return list(reversed(gateway.recorder.ledger.recent()))


def run(scripts, body=PROMPT, clock=None, during=None, path="/v1/chat/completions", **more):
    """Call a gateway over one upstream per list of scripts; returns answer, ledger rows, upstreams."""

    async def main():
        upstreams = [ScriptedUpstream(script) for script in scripts]
        for upstream in upstreams:
            await upstream.__aenter__()
        try:
            settings = config(*(upstream.url for upstream in upstreams), **{"retry": AT_ONCE, **more})
            async with serving(settings, clock) as (gateway, port):
                calling = asyncio.ensure_future(call(port, body, path))
                if during is not None:
                    await during(gateway, *upstreams)
                answer = await calling
            return answer, rows(gateway), upstreams
        finally:
            for upstream in upstreams:
                await upstream.__aexit__(None, None, None)

    return asyncio.run(main())


def answering(*answers):
    """One connection that gives these answers in turn."""
    return [[step for answer in answers for step in (Step.REQUEST, answer)]]


def test_an_answer_is_relayed_byte_for_byte_and_booked():
    body = json.dumps(COMPLETION, indent=3).encode()
    answer, booked, _ = run([answering(plain(body))])
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["penstock-status"] == "created"
    assert answer.headers["penstock-generation"].startswith("gen_")
    assert [row.outcome for row in booked] == [Outcome.COMPLETED]
    assert booked[0].usage == Usage(input_tokens=3, output_tokens=2)


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad", "503 Busy", "429 Slow down", "529 Overloaded"])
def test_a_failing_upstream_is_tried_again(status):
    answer, booked, _ = run([answering(error(status), plain(COMPLETION))])
    assert answer.status == 200
    assert [row.outcome for row in booked] == [Outcome.FAILED, Outcome.COMPLETED]
    assert [row.number for row in booked] == [1, 2]


@pytest.mark.parametrize("status", ["400 Bad", "404 Gone", "413 Long", "422 Odd"])
def test_a_refused_request_is_not_tried_again(status):
    answer, booked, upstreams = run([answering(error(status, "too long")), answering(plain(COMPLETION))])
    assert answer.status == int(status[:3])
    assert answer.json()["error"]["message"] == "up0: too long"
    assert len(booked) == 1
    assert upstreams[1].connections == 0


def test_after_its_attempts_a_candidate_makes_way_for_the_next():
    answer, booked, _ = run([answering(*[error("500 no")] * 3), answering(plain(COMPLETION))])
    assert answer.status == 200
    assert [row.upstream for row in booked] == ["up0", "up0", "up0", "up1"]


def test_our_own_bad_key_goes_to_the_next_candidate_at_once_and_is_not_shown():
    answer, booked, _ = run(
        [answering(error("401 no", "key sk-secret is bad")), answering(plain(COMPLETION))]
    )
    assert answer.status == 200
    assert [row.upstream for row in booked] == ["up0", "up1"]


def test_when_all_fail_the_last_error_is_told_and_the_sdk_asked_not_to_multiply_it():
    answer, booked, _ = run([answering(*[error("503 no", "overheated")] * 3)])
    assert answer.status == 503
    assert "overheated" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert len(booked) == 3


def test_a_spent_retry_budget_ends_the_retries():
    none = RetryConfig(first_delay=0.0, budget_floor=0, budget_ratio=0)
    gateways = []

    async def during(gateway, _):
        gateways.append(gateway)

    answer, booked, _ = run([answering(error("500 no"))], retry=none, during=during)
    assert answer.status == 502
    assert len(booked) == 1
    assert gateways[0].recorder.measures.retries_refused.labels().value == 1


def test_a_long_retry_after_is_not_waited_for():
    answer, booked, _ = run(
        [answering(error("429 no", headers=["retry-after: 3600"])), answering(plain(COMPLETION))]
    )
    assert answer.status == 200
    assert [row.upstream for row in booked] == ["up0", "up1"]


_OF_LIMITS = ["x-ratelimit-remaining-requests: 0", "x-ratelimit-limit-requests: 60"]


@pytest.mark.parametrize("status", ["429 no", "400 no"])
@pytest.mark.parametrize(("sent", "told"), [(["authorization: Bearer mine"], "0"), ([], None)])
def test_whose_own_key_is_over_its_limit_is_told_what_the_upstream_says_of_it(status, sent, told):
    refused = error(status, headers=["retry-after: 3600", "set-cookie: a=b", *_OF_LIMITS])

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, refused]]) as upstream:
            async with serving(config(upstream.url, retry=AT_ONCE)) as (_, port):
                return await call(port, PROMPT, headers=sent)

    answer = asyncio.run(main())
    assert answer.status == int(status[:3])
    assert answer.headers.get("x-ratelimit-remaining-requests") == told
    assert answer.headers.get("x-ratelimit-limit-requests") == (told and "60")
    assert "set-cookie" not in answer.headers


def test_a_retry_after_is_told_to_the_caller():
    answer, _, _ = run([answering(error("429 no", headers=["retry-after: 3600"]))])
    assert (answer.status, answer.headers["retry-after"]) == (429, "3600")


@pytest.mark.parametrize(
    "script",
    [
        [[Step.REQUEST, Step.RESET]],
        [[Step.REQUEST, Step.CLOSE]],
        [[Step.REQUEST, b"not http\r\n\r\n"]],
        [[Step.REQUEST, b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", Step.CLOSE]],
        [[Step.REQUEST, plain(b"<html>"), Step.CLOSE]],
        [[Step.REQUEST, plain(b"[]"), Step.CLOSE]],
    ],
    ids=["reset", "closed", "not-http", "truncated", "web-page", "array"],
)
def test_an_upstream_that_sends_nonsense_is_a_bad_gateway_and_costs_nothing(script):
    answer, booked, _ = run([script])
    assert answer.status == 502
    assert answer.json()["error"]["type"] == "upstream_error"
    assert all(row.outcome in {Outcome.FAILED, Outcome.PARTIAL} for row in booked)
    assert "127.0.0.1" not in answer.json()["error"]["message"]


def test_nobody_listening_is_a_bad_gateway():
    async def main():
        async with serving(config("http://127.0.0.1:9", retry=AT_ONCE)) as (gateway, port):
            answer = await call(port, PROMPT)
            return answer, rows(gateway)

    answer, booked = asyncio.run(main())
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    assert "127.0.0.1" not in answer.json()["error"]["message"]
    assert len(booked) == 3


def test_where_nobody_listens_the_next_replica_is_asked_at_once_and_a_fallback_only_after_retries():
    async def main():
        async with ScriptedUpstream(answering(plain(COMPLETION))) as upstream:
            nobody = "http://127.0.0.1:9"
            settings = config(nobody, nobody, upstream.url, retry=AT_ONCE)
            replicas, fallback = settings.models["m"].candidates[:2], settings.models["m"].candidates[2:]
            settings.models["m"] = ModelConfig(candidates=replicas, fallbacks=("other",))
            settings.models["other"] = ModelConfig(candidates=fallback)
            async with serving(settings) as (gateway, port):
                return await call(port, PROMPT), rows(gateway)

    answer, booked = asyncio.run(main())
    assert answer.status == 200
    assert [row.upstream for row in booked] == ["up0", "up1", "up1", "up1", "up2"]


def test_who_was_asked_before_is_told_with_the_last_failure():
    async def main():
        failed = plain(b'{"error": {"message": "secret words"}}', status="500 Internal Server Error")
        failing = answering(*[failed] * AT_ONCE.attempts)  # on one connection, which then says no more
        async with ScriptedUpstream(failing) as one, ScriptedUpstream(failing) as two:
            settings = config(one.url, "http://127.0.0.1:9", two.url, retry=RetryConfig(attempts=1))
            async with serving(settings) as (_, port):
                several = await call(port, PROMPT)
            async with serving(config(one.url, retry=AT_ONCE)) as (_, port):
                return several, await call(port, PROMPT)

    several, alone = asyncio.run(main())
    told = several.json()["error"]["message"]
    assert told.startswith("up2: secret words")
    assert told.endswith(" [before that: up0 (upstream_failed), up1 (upstream_unreachable)]")
    assert alone.json()["error"]["message"] == "up0: secret words"


def test_a_certificate_that_is_not_trusted_is_asked_once_and_told(tmp_path):
    """It will not mend, so there is nothing to wait for."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    command = ["openssl", "req", "-x509", *kind, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def main():
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        async with server, serving(config(url, retry=AT_ONCE)) as (gateway, port):
            return await call(port, PROMPT), rows(gateway)

    answer, (booked,) = asyncio.run(main())
    assert (answer.status, booked.error) == (502, "upstream_untrusted")
    told = answer.json()["error"]
    assert told["code"] == "upstream_untrusted"
    assert told["message"].startswith("the TLS certificate of the upstream 'up0' is not trusted: ")


def test_an_unknown_model_never_reaches_an_upstream():
    answer, booked, upstreams = run([answering(plain(COMPLETION))], {**PROMPT, "model": "other"})
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert (booked, upstreams[0].connections) == ([], 0)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("402 Pay", "no"),
        ("400 Bad", "Your credit balance is too low"),
        ("403 No", "no"),
        ("429 Too Many", "Insufficient balance"),
    ],
)
def test_trouble_with_our_own_account_goes_to_the_next_candidate_at_once_and_into_the_log(
    status, message, caplog
):
    answer, booked, _ = run([answering(error(status, message)), answering(plain(COMPLETION))])
    assert answer.status == 200
    assert [row.upstream for row in booked] == ["up0", "up1"]
    (logged,) = [record for record in caplog.records if record.name == "penstock.upstream"]
    assert (logged.levelname, logged.getMessage().split()[0]) == ("WARNING", "up0")
    assert "credit balance" not in logged.getMessage()


@pytest.mark.parametrize(("status", "kind"), [(401, "authentication_error"), (403, "permission_error")])
def test_a_callers_own_key_that_the_provider_refuses_is_the_callers_to_mend(status, kind, caplog):
    async def main():
        async with ScriptedUpstream(answering(error(f"{status} No", "Incorrect API key"))) as upstream:
            async with serving(config(upstream.url, retry=AT_ONCE)) as (_, port):
                return await call(port, PROMPT, headers=["authorization: Bearer callers"])

    answer = asyncio.run(main())
    told = answer.json()["error"]
    assert (answer.status, told["type"], told["message"]) == (status, kind, "up0: Incorrect API key")
    assert [record for record in caplog.records if record.name == "penstock.upstream"] == []


def test_a_candidate_that_cannot_say_the_call_makes_way_for_one_that_can():
    completion = {
        "id": "c",
        "object": "text_completion",
        "choices": [{"text": "hi", "finish_reason": "stop"}],
    }

    async def main():
        async with ScriptedUpstream(answering(plain(completion))) as upstream:
            settings = config("http://127.0.0.1:9", upstream.url, retry=AT_ONCE)
            settings.upstreams["up0"] = UpstreamConfig(kind="anthropic", base_url="http://127.0.0.1:9")
            async with serving(settings) as (gateway, port):
                answer = await call(port, {"model": "m", "prompt": "hi"}, "/v1/completions")
                return answer, rows(gateway)

    answer, booked = asyncio.run(main())
    assert answer.json() == completion
    assert [row.upstream for row in booked] == ["up1"]


def test_who_could_not_be_asked_in_the_stead_of_one_that_failed_is_told_too():
    """Else nobody knows why the fallback did not answer."""

    async def main():
        settings = config("http://127.0.0.1:9", "http://127.0.0.1:9", retry=RetryConfig(attempts=1))
        settings.upstreams["up1"] = UpstreamConfig(kind="anthropic", base_url="http://127.0.0.1:9")
        async with serving(settings) as (_, port):
            return await call(port, {**PROMPT, "seed": 1})

    error = asyncio.run(main()).json()["error"]
    assert error["code"] == "upstream_unreachable"
    assert error["message"].startswith("cannot connect to the upstream 'up0'")
    assert error["message"].endswith(" [after that: up1 (untranslatable)]")


def test_if_no_candidate_can_say_the_call_the_caller_is_told_why():
    answer, booked, _ = run(
        [answering(plain({}))], {"model": "m", "prompt": "hi"}, path="/v1/completions", kind="anthropic"
    )
    assert (answer.status, answer.json()["error"]["code"]) == (400, "untranslatable")
    assert booked == []


def test_tokens_are_counted_here_where_the_upstream_cannot_be_asked():
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}]}
    answer, booked, upstreams = run([answering(plain({}))], body, path="/v1/messages/count_tokens")
    assert (answer.status, answer.json()) == (200, {"input_tokens": 100})
    assert answer.headers["penstock-estimated"] == "true"
    assert (booked, upstreams[0].connections) == ([], 0)


def test_and_there_where_it_can():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    counted = {"input_tokens": 9}
    answer, booked, _ = run(
        [answering(plain(counted))], body, path="/v1/messages/count_tokens", kind="anthropic"
    )
    assert (answer.status, answer.json()) == (200, counted)
    assert "penstock-estimated" not in answer.headers
    assert [row.usage for row in booked] == [Usage()]


INPUT_TOKENS = "/v1/responses/input_tokens"
GONE_ON = {"model": "m", "instructions": "Be brief.", "input": [{"role": "user", "content": "x" * 400}]}


def test_what_a_response_would_read_is_estimated_for_who_has_none():
    answer, booked, upstreams = run([answering(plain({}))], GONE_ON, path=INPUT_TOKENS)
    assert (answer.status, answer.json()) == (200, {"object": "response.input_tokens", "input_tokens": 103})
    assert answer.headers["penstock-estimated"] == "true"
    assert (booked, upstreams[0].connections) == ([], 0)


def test_and_anthropic_counts_the_same_as_a_message():
    answer, booked, upstreams = run(
        [answering(plain({"input_tokens": 9}))],
        {**GONE_ON, "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
        path=INPUT_TOKENS,
        kind="anthropic",
    )
    assert (answer.status, answer.json()) == (200, {"object": "response.input_tokens", "input_tokens": 9})
    assert "penstock-estimated" not in answer.headers
    assert [row.usage for row in booked] == [Usage()]
    head, body = upstreams[0].received[0].split(b"\r\n\r\n", 1)
    assert head.startswith(b"POST /v1/messages/count_tokens ")
    assert json.loads(body).keys() == {"model", "system", "messages", "tools"}


@pytest.mark.parametrize(
    ("status", "told"), [("404 Not Found", 200), ("405 Method Not Allowed", 200), ("400 Bad Request", 400)]
)
def test_a_server_that_has_responses_and_counts_none_is_estimated_for(status, told):
    answer, _, _ = run([answering(error(status, "no"))], GONE_ON, path=INPUT_TOKENS, kind="sim")
    assert answer.status == told
    assert (answer.headers.get("penstock-estimated") == "true") is (told == 200)


# ---- the four clocks ------------------------------------------------------------------------------

CLOCKS = TimeoutConfig(connect=5, first_token=10, between_tokens=4, total=100)


def passing(*seconds, after=b"POST"):
    async def during(gateway, upstream, *_):
        await upstream.wait_received(after)
        for step in seconds:
            gateway.clock.advance(step)

    return during


def test_silence_before_the_first_token_goes_to_the_next_candidate():
    answer, booked, _ = run(
        [[[Step.REQUEST]], answering(plain(COMPLETION))],
        clock=FakeClock(),
        timeouts=CLOCKS,
        during=passing(9, 2),
    )
    assert answer.status == 200
    assert [row.error for row in booked] == ["upstream_timeout", ""]


def test_silence_before_the_first_token_is_a_gateway_timeout():
    answer, _, _ = run([[[Step.REQUEST]]], clock=FakeClock(), timeouts=CLOCKS, during=passing(11))
    assert answer.status == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"


def test_silence_between_tokens_ends_the_stream_with_an_error():
    async def main():
        clock = FakeClock()
        async with ScriptedUpstream([[Step.REQUEST, STREAM_HEAD + delta("a")]]) as upstream:
            settings = config(upstream.url, timeouts=CLOCKS, retry=AT_ONCE)
            async with serving(settings, clock) as (gateway, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(STREAM))
                await reader.readuntil(b'"a"')
                clock.advance(3.9)
                assert gateway.pipeline.productions
                clock.advance(0.2)
                rest = await reader.readuntil(b"0\r\n\r\n")
                writer.close()
            return rest, rows(gateway)

    rest, booked = asyncio.run(main())
    assert b'"code":"upstream_timeout"' in rest
    assert b"[DONE]" not in rest
    assert [row.outcome for row in booked] == [Outcome.PARTIAL]
    assert booked[0].usage.estimated
    assert booked[0].usage.output_tokens == 1


# ---- a stream that breaks -------------------------------------------------------------------------


def test_a_stream_that_breaks_before_its_first_event_is_tried_again_unseen():
    good = STREAM_HEAD + delta("a", "stop") + DONE + STREAM_END
    answer, booked, _ = run([[[Step.REQUEST, STREAM_HEAD, Step.RESET], [Step.REQUEST, good]]], STREAM)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert [row.outcome for row in booked] == [Outcome.FAILED, Outcome.COMPLETED]


@pytest.mark.parametrize(
    "ending",
    [
        [Step.RESET],
        [STREAM_END],
        [DONE + STREAM_END],
        [b"7\r\ndata: {\r\n3\r\n\n\n\n\r\n"],
        [b"zz\r\n"],
    ],
    ids=["reset", "no-terminator", "no-finish-reason", "malformed", "bad-chunk"],
)
def test_a_stream_that_breaks_midway_ends_in_an_error_and_never_as_a_success(ending):
    begun = asyncio.Event()

    async def during(gateway, upstream):
        while not any(generation.events for generation in gateway.pipeline.registry):
            await asyncio.sleep(0)
        begun.set()

    script = [[Step.REQUEST, STREAM_HEAD + delta("a"), begun, *ending]]
    answer, booked, _ = run([script], STREAM, during=during)
    assert answer.status == 200
    assert b"[DONE]" not in answer.body
    last = answer.body.strip().rsplit(b"data: ", 1)[1]
    assert json.loads(last)["error"]["code"] == "upstream_broken"
    assert [row.outcome for row in booked] == [Outcome.PARTIAL]


def test_tokens_that_nobody_could_be_shown_are_still_counted():
    broken = [Step.REQUEST, STREAM_HEAD + delta("a", usage=(5, 1)) + DONE]
    good = STREAM_HEAD + delta("b", "stop", usage=(5, 1)) + DONE + STREAM_END
    answer, booked, _ = run([[broken, [Step.REQUEST, good]]], STREAM)
    assert b'"a"' not in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert [(row.outcome, row.usage.output_tokens) for row in booked] == [
        (Outcome.PARTIAL, 1),
        (Outcome.COMPLETED, 1),
    ]


def test_an_anthropic_caller_gets_its_own_form_of_error_event():
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 4, "output_tokens": 1}}}
    piece = b"event: message_start\ndata: " + json.dumps(start).encode() + b"\n\n"
    begun = STREAM_HEAD + b"%x\r\n%b\r\n" % (len(piece), piece)
    body = {**STREAM, "max_tokens": 5}
    answer, booked, _ = run(
        [[[Step.REQUEST, begun, Step.RESET]]], body, path="/v1/messages", kind="anthropic"
    )
    assert b"event: error\n" in answer.body
    assert booked[0].usage.input_tokens == 4


# ---- the caller leaves ----------------------------------------------------------------------------


def test_a_caller_that_leaves_ends_the_upstream_call_and_what_came_is_settled():
    async def main():
        tail = delta("c", usage=(5, 3))
        script = [
            Step.REQUEST,
            STREAM_HEAD + delta("a", usage=(5, 1)) + delta("b", usage=(5, 2)),
            Step.GONE,
            tail,
        ]
        async with ScriptedUpstream([[*script, Step.CLOSE]]) as upstream:
            async with serving(config(upstream.url, retry=AT_ONCE)) as (gateway, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(STREAM))
                await reader.readuntil(b'"b"')
                writer.close()
                await upstream.wait_gone()
                await gateway.pipeline.wait_idle()
            return rows(gateway)

    booked = asyncio.run(main())
    assert [row.outcome for row in booked] == [Outcome.CANCELLED]
    # the token that was on its way when the caller left is counted too
    assert booked[0].usage == Usage(input_tokens=5, output_tokens=3)


def test_a_caller_that_leaves_while_nothing_has_come_costs_nothing():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, Step.GONE]]) as upstream:
            async with serving(config(upstream.url, retry=AT_ONCE)) as (gateway, port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(PROMPT))
                await upstream.wait_received(b"hello")
                writer.close()
                await upstream.wait_gone()
            return rows(gateway)

    booked = asyncio.run(main())
    assert [(row.outcome, row.usage) for row in booked] == [(Outcome.CANCELLED, Usage())]


def test_a_caller_that_leaves_during_a_back_off_ends_the_retries():
    async def main():
        slow = RetryConfig(first_delay=1000, max_delay=1000)
        async with ScriptedUpstream(answering(error("500 no"))) as upstream:
            async with serving(config(upstream.url, retry=slow)) as (gateway, port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(PROMPT))
                await upstream.wait_played(1)
                writer.close()
                await gateway.pipeline.wait_idle()
            return rows(gateway)

    assert len(asyncio.run(main())) == 1


def test_the_same_idempotency_key_attaches_to_the_running_call():
    async def main():
        go_on = asyncio.Event()
        async with ScriptedUpstream([[Step.REQUEST, go_on, plain(COMPLETION)]]) as upstream:
            async with serving(config(upstream.url, retry=AT_ONCE)) as (gateway, port):
                key = ["idempotency-key: k1"]
                first = asyncio.ensure_future(call(port, PROMPT, headers=key))
                await upstream.wait_received(b"hello")
                other = await call(port, {**PROMPT, "seed": 1}, headers=key)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(PROMPT, headers=key))
                while gateway.pipeline.admission.in_progress < 2:
                    await asyncio.sleep(0)
                go_on.set()
                second = await read_answer(reader)
                writer.close()
                return await first, second, other, upstream.connections

    first, second, other, connections = asyncio.run(main())
    assert first.body == second.body
    assert second.headers["penstock-status"] == "attached"
    assert other.status == 422
    assert connections == 1
