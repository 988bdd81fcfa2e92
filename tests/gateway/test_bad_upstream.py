"""What callers get when an upstream sends what nobody should: a clear error, bounded memory, no neighbour disturbed."""

import asyncio
import gc
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    chunk,
    config,
    delta,
    error,
    frame,
    on_uvloop,
    plain,
    request,
    rows,
    serving,
    until,
)

from penstock.config.model import (
    CandidateConfig,
    ContinuationConfig,
    ModelConfig,
    RetryConfig,
    TimeoutConfig,
    UpstreamConfig,
)
from penstock.gateway.stages.call import Production
from penstock.generation.log import Generation
from penstock.messages import Outcome, Usage
from penstock.testing import FakeClock, ScriptedUpstream, Step
from penstock.upstream.transfer import Transfer

ONCE = RetryConfig(attempts=1)
NEVER = ContinuationConfig(attempts=0)
STREAM = {**PROMPT, "stream": True}
MESSAGE = {**PROMPT, "max_tokens": 9}
LIMIT = 20_000  # bytes of an answer, in these tests
CLOCKS = TimeoutConfig(connect=5, first_token=10, between_tokens=4, total=100)

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
WHOLE = STREAM_HEAD + delta("a") + delta("b", "stop") + DONE + STREAM_END


def run(scripts, body, path="/v1/chat/completions", *, clock=None, during=None, **more):
    """The answer to a bad upstream's caller, and the ledger's rows; a neighbour's calls go well meanwhile."""

    async def main():
        neighbours = [step for _ in range(20) for step in (Step.REQUEST, plain(COMPLETION))]
        async with ScriptedUpstream(scripts) as bad, ScriptedUpstream([neighbours]) as good:
            settings = config(bad.url, **{"retry": ONCE, "max_answer_bytes": LIMIT, **more})
            settings.upstreams["good"] = UpstreamConfig(kind="openai", base_url=good.url + "/v1")
            settings.models["n"] = ModelConfig(candidates=[CandidateConfig(upstream="good")])
            async with serving(settings, clock) as (gateway, port):
                calling = asyncio.ensure_future(call(port, body, path))
                if during is not None:
                    await during(gateway, bad)
                else:
                    for _ in range(3):
                        assert (await call(port, {**PROMPT, "model": "n"})).status == 200
                answer = await calling
                assert (await call(port, {**PROMPT, "model": "n"})).status == 200
                return answer, [row for row in rows(gateway) if row.model == "m"], gateway.pipeline.registry

    answer, booked, registry = on_uvloop(main)
    assert b"127.0.0.1" not in answer.body
    assert registry.account.held == 0
    return answer, booked


def code_of(answer, path="/v1/chat/completions"):
    told = answer.json()["error"]
    return told["details"]["error_code"] if path.startswith("/v1/messages") else told["code"]


HEADS = {
    "silence": [Step.CLOSE],
    "an endless head": [b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 30_000],
    "an endless status line": [b"HTTP/1.1 200 " + b"x" * 200_000],
    "no HTTP": [b"SSH-2.0-OpenSSH_9.2\r\n"],
    "HTTP/0.9": [b"<html>hello</html>\r\n\r\n", Step.CLOSE],
    "HTTP/2": [b"HTTP/2 200\r\n\r\n"],
    "too many fields": [b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(300)) + b"\r\n"],
    "two lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}"],
    "a negative length": [b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}"],
    "a length beyond 64 bits": [b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{}"],
    "a length and chunks": [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ],
    "another transfer coding": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
    "interim answers without end": [b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000],
    "another protocol": [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    ],
    "a compressed answer": [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"
    ],
    "a compressed stream": [
        SSE_HEAD + b"content-encoding: br\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"abc") + STREAM_END
    ],
    "a page": [b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"],
    "an image": [b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 4\r\n\r\n\x89PNG"],
    "a chunk of 2^64 bytes": [SSE_HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n"],
    "a chunk size of no digits": [SSE_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n"],
    "a chunk extension without end": [
        JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
    ],
    "trailers without end": [
        JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"x: y\r\n" * 30_000
    ],
    "nothing": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "not modified": [b"HTTP/1.1 304 Not Modified\r\n\r\n"],
    "a redirection": [b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"],
    "created": [plain(COMPLETION, "201 Created")],
    "status 600": [plain(COMPLETION, "600 Odd")],
    "status 999": [plain(COMPLETION, "999 Odder")],
    "a length of 1 GB, then the end": [JSON_HEAD + b"content-length: 1000000000\r\n\r\n{", Step.CLOSE],
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", HEADS)
def test_an_answer_that_is_none_is_a_bad_gateway_in_the_callers_dialect(name, stream, path):
    script = [Step.REQUEST, *HEADS[name]]
    answer, booked = run([script], {**MESSAGE, "stream": stream}, path)
    assert answer.status == 502
    assert code_of(answer, path) in {"upstream_broken", "upstream_failed", "upstream_unreachable"}
    assert "up0" in answer.json()["error"]["message"]
    assert len(booked) == 1
    assert booked[0].outcome in {Outcome.FAILED, Outcome.PARTIAL}


PLAIN = {
    "nothing": b"",
    "white space": b" \r\n ",
    "text": b"hello",
    "an array": b"[]",
    "half of an object": b'{"choices":[',
    "deep nesting": b'{"choices":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    "no UTF-8 in a name": b'{"\xff":1}',
    "two objects": b"{}{}",
    "events": b'data: {"choices":[]}\n\n',
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_body_that_is_no_json_object_is_a_bad_gateway_and_costs_nothing(name):
    answer, booked = run([[Step.REQUEST, plain(PLAIN[name])]], PROMPT)
    if name == "deep nesting" and answer.status == 200:
        return  # relayed as it is: only the outermost members are read
    assert (answer.status, code_of(answer)) == (502, "upstream_broken")
    if not PLAIN[name].startswith(b"{"):  # else it may be an answer that was made, and spoiled on its way
        assert booked[0].usage == Usage()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("name", PLAIN)
def test_nor_can_it_be_translated(name, path):
    other = "anthropic" if path == "/v1/chat/completions" else "openai"
    answer, _ = run([[Step.REQUEST, plain(PLAIN[name])]], MESSAGE, path, kind=other)
    assert (answer.status, code_of(answer, path)) == (502, "upstream_broken")


@pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("report", "status", "words"),
    [
        ({"error": {"message": "too busy", "type": "overloaded_error"}}, 503, "too busy"),
        ({"error": {"message": "no such thing", "code": 404}}, 404, "no such thing"),
        ({"error": "out of memory"}, 502, "out of memory"),
        ({"error": {"code": 429, "message": "slow down"}}, 429, "slow down"),
    ],
)
def test_an_error_with_status_200_is_an_error_all_the_same(report, status, words, body):
    answer, booked = run([[Step.REQUEST, plain(report)]], body)
    assert answer.status == status
    assert words in answer.json()["error"]["message"]
    assert [(row.outcome, row.usage) for row in booked] == [(Outcome.FAILED, Usage())]


def test_an_answer_may_say_that_there_was_no_error():
    answer, _ = run([[Step.REQUEST, plain({**COMPLETION, "error": None})]], PROMPT)
    assert answer.status == 200
    failed = {
        "id": "resp_1",
        "object": "response",
        "status": "failed",
        "error": {"message": "x"},
        "output": [],
    }
    answer, _ = run(
        [[Step.REQUEST, plain(failed)]], {"model": "m", "input": "x"}, "/v1/responses", kind="sim"
    )
    assert (answer.status, answer.json()) == (200, failed)


@pytest.mark.parametrize(
    "script",
    [
        [JSON_HEAD + b"content-length: 1000000000\r\n\r\n" + b"x" * 2 * LIMIT],
        [JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(b" " * 100) * (2 * LIMIT // 100)],
        [JSON_HEAD + b"\r\n" + b"x" * 2 * LIMIT],
    ],
    ids=["announced", "chunked", "until-close"],
)
def test_a_plain_answer_without_end_is_cut_at_the_limit_and_not_asked_for_again(script):
    answer, booked = run([[Step.REQUEST, *script]], PROMPT, retry=RetryConfig(attempts=3, first_delay=0.0))
    assert (answer.status, code_of(answer)) == (502, "answer_too_large")
    assert len(booked) == 1


@pytest.mark.parametrize(
    "endless",
    [
        chunk(b"x" * 2 * LIMIT),
        chunk(b"data: " + b"x" * 2 * LIMIT),
        chunk(b"data: " + b"x" * 2 * LIMIT + b"\n\n"),
        chunk(b"data: x\r\n" * 5_000),
        chunk(b": hello\n" * 5_000),
        b"".join(chunk(b"x" * 100) for _ in range(2 * LIMIT // 100)),
    ],
    ids=["no-newline", "data", "frame", "carriage-returns", "comments", "in-pieces"],
)
@pytest.mark.parametrize("begun", [b"", delta("a")], ids=["first", "later"])
def test_an_event_without_end_is_cut_at_the_limit(endless, begun):
    delivered = asyncio.Event()

    async def during(gateway, bad):
        await bad.wait_received(b"hello")
        await until(lambda: not begun or any(generation.events for generation in gateway.pipeline.registry))
        delivered.set()

    script = [Step.REQUEST, STREAM_HEAD + begun, delivered, endless]
    answer, booked = run([script], STREAM, during=during)
    if begun:
        assert json.loads(answer.body.strip().rsplit(b"data: ", 1)[1])["error"]["code"] == "upstream_broken"
    else:
        assert (answer.status, code_of(answer)) == (502, "upstream_broken")
    assert len(booked) == 1


def test_a_stream_without_end_is_cut_at_the_limit_and_what_came_is_settled():
    script = [Step.REQUEST, STREAM_HEAD, *[delta("word")] * 20_000]
    answer, booked = run([script], STREAM, max_answer_bytes=1_000_000)
    assert answer.status == 200
    assert b'"code":"answer_too_large"' in answer.body
    assert len(answer.body) < 1_100_000
    assert [row.outcome for row in booked] == [Outcome.PARTIAL]
    assert booked[0].usage.output_tokens > 2_000


def test_an_event_stream_for_a_plain_call_is_a_bad_gateway():
    answer, _ = run([[Step.REQUEST, WHOLE]], PROMPT)
    assert (answer.status, code_of(answer)) == (502, "upstream_broken")


# ---- errors that do not come whole ----------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    [[Step.CLOSE], [Step.RESET], [b"zz\r\n"], [chunk(b'{"error":{"message":"slow'), Step.CLOSE]],
    ids=["closed", "reset", "bad-chunk", "half"],
)
@pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["plain", "stream"])
def test_a_status_counts_though_its_body_breaks_off(rest, body):
    head = b"HTTP/1.1 429 Slow down\r\nretry-after: 7\r\ntransfer-encoding: chunked\r\n\r\n"
    answer, booked = run([[Step.REQUEST, head + chunk(b" "), *rest]], body)
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert booked[0].status == 429


@pytest.mark.parametrize("body", [PROMPT, STREAM], ids=["plain", "stream"])
def test_an_errors_body_is_not_waited_for_for_ever(body):
    async def during(gateway, bad):
        await bad.wait_played(1)
        await until(lambda: any(production._transfer.status for production in gateway.pipeline.productions))
        gateway.clock.advance(5.5)

    head = b"HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\n"
    answer, booked = run([[Step.REQUEST, head]], body, clock=FakeClock(), timeouts=CLOCKS, during=during)
    assert (answer.status, code_of(answer)) == (503, "upstream_failed")
    assert booked[0].status == 503


def test_an_errors_body_without_end_is_read_no_further_than_it_can_say_something():
    head = b"HTTP/1.1 500 Oops\r\ncontent-length: 1000000000\r\n\r\n"
    answer, booked = run([[Step.REQUEST, head + b"x" * 200_000]], PROMPT)
    assert (answer.status, booked[0].status) == (502, 500)


def test_an_upstream_that_answers_before_it_was_asked_to_the_end_is_heard():
    big = {**PROMPT, "messages": [{"role": "user", "content": "x" * 5_000_000}]}
    begun = asyncio.Event()

    async def during(gateway, bad):
        await bad.wait_received(b"xxx")
        begun.set()

    answer, booked = run([[begun, error("413 Too large", "too long"), Step.CLOSE]], big, during=during)
    assert (answer.status, answer.json()["error"]["message"]) == (413, "up0: too long")
    assert len(booked) == 1


# ---- after the end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "after",
    [
        [STREAM_END],
        [STREAM_END + b"HTTP/1.1 200 OK\r\n\r\n"],
        [frame(b"{"), STREAM_END],
        [frame({"error": {"message": "too late"}}) + STREAM_END],
        [chunk(b"x" * 2 * LIMIT) + STREAM_END],
        [b"zz\r\n"],
        [Step.CLOSE],
        [Step.RESET],
    ],
    ids=["nothing", "another-answer", "malformed", "error", "endless", "bad-chunk", "closed", "reset"],
)
def test_what_follows_the_terminator_does_not_spoil_a_paid_answer(after):
    body = WHOLE.removesuffix(STREAM_END)
    complete = asyncio.Event()

    async def during(gateway, bad):
        await until(lambda: any(len(generation.events) == 3 for generation in gateway.pipeline.registry))
        complete.set()

    answer, booked = run([[Step.REQUEST, body, complete, *after]], STREAM, during=during)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert [row.outcome for row in booked] == [Outcome.COMPLETED]


def test_an_upstream_that_never_ends_its_message_after_the_terminator_is_cut_off():
    async def during(gateway, bad):
        await until(lambda: any(len(generation.events) == 3 for generation in gateway.pipeline.registry))
        gateway.clock.advance(1.5)

    script = [Step.REQUEST, WHOLE.removesuffix(STREAM_END)]
    answer, booked = run([script], STREAM, clock=FakeClock(), timeouts=CLOCKS, during=during)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert [row.outcome for row in booked] == [Outcome.COMPLETED]


def test_bytes_after_a_plain_answer_are_nobodys():
    async def main():
        spoiled = [Step.REQUEST, plain(COMPLETION) + plain({"choices": [], "stolen": True})]
        async with ScriptedUpstream([spoiled, [Step.REQUEST, plain(COMPLETION)]]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                answers = [await call(port, PROMPT), await call(port, PROMPT)]
            return answers, upstream.connections

    answers, connections = on_uvloop(main)
    assert [answer.json() for answer in answers] == [COMPLETION, COMPLETION]
    assert connections == 2


# ---- figures and fields ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "used",
    [
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2**63}},
        {"prompt_tokens": "many"},
        {"prompt_tokens": 1.5},
        [],
        "lots",
    ],
)
def test_a_usage_that_makes_no_sense_is_replaced_by_an_estimate(used, tmp_path):
    from penstock.config.model import LedgerConfig

    ledger = LedgerConfig(path=str(tmp_path / "ledger.db"))
    answer, booked = run([[Step.REQUEST, plain({**COMPLETION, "usage": used})]], PROMPT, ledger=ledger)
    assert answer.status == 200
    assert booked[0].outcome is Outcome.COMPLETED
    assert booked[0].usage.estimated
    assert booked[0].usage.input_tokens < 100


def test_a_negative_usage_counts_for_nothing():
    used = {"prompt_tokens": -5, "completion_tokens": -1}
    _, booked = run([[Step.REQUEST, plain({**COMPLETION, "usage": used})]], PROMPT)
    assert booked[0].usage == Usage()


@pytest.mark.parametrize("value", [b"a\r\n b", b"\xff\xfe\x80", b"x" * 5_000, b"", b"a\tb", b'"; drop'])
def test_an_upstreams_own_id_is_passed_on_or_refused_but_never_splits_the_answer(value):
    answer, _ = run(
        [[Step.REQUEST, plain(COMPLETION, headers=["x-request-id: @"]).replace(b"@", value)]], PROMPT
    )
    assert answer.status in {200, 502}
    if answer.status == 200:
        assert answer.json() == COMPLETION


# ---- in mid-stream --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    "ending",
    [
        [frame({"error": {"message": "overheated", "type": "server_error"}})],
        [frame(b"{")],
        [Step.RESET],
        [STREAM_END],
        [b"zz\r\n"],
    ],
    ids=["reported", "malformed", "reset", "no-terminator", "bad-chunk"],
)
def test_an_error_in_mid_stream_names_the_upstream_and_the_generation(ending, path):
    async def main():
        begun = asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), begun, *ending]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request({**MESSAGE, "stream": True}, path))
                await reader.readuntil(b'"a"')
                begun.set()
                rest = await reader.readuntil(b"0\r\n\r\n")
                writer.close()
                return rest

    rest = on_uvloop(main)
    told = json.loads(rest.rsplit(b"data: ", 1)[1].split(b"\n")[0])
    assert "up0" in told["error"]["message"]
    generation = told["error"].get("generation_id") or told.get("request_id")
    assert generation.startswith("gen_")


# ---- whatever comes -------------------------------------------------------------------------------

_ANSWERS = {
    "plain": plain(COMPLETION),
    "stream": STREAM_HEAD + delta("a", usage=(5, 1)) + delta("b", "stop", usage=(5, 2)) + DONE + STREAM_END,
    "message": plain(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 3, "output_tokens": 2},
        }
    ),
}


@st.composite
def spoiled(draw):
    """A good answer with a few bytes changed, cut, doubled or moved, in random pieces."""
    data = bytearray(_ANSWERS[draw(st.sampled_from(sorted(_ANSWERS)))])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case 1:
                del data[at : at + draw(st.integers(1, 40))]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(1, 80))]
            case 3:
                del data[at:]
            case _:
                token = st.sampled_from(
                    [b"\r\n", b"\n\n", b"\r", b"\0", b"data: ", b"[DONE]", b"null", b"9" * 30, b"{"]
                )
                data[at:at] = draw(token)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    pieces = [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [
        *(piece for piece in pieces if piece),
        draw(st.sampled_from([Step.CLOSE, Step.RESET, Step.HALF_CLOSE])),
    ]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@settings(max_examples=40, deadline=None)
@given(
    script=spoiled()
    | st.lists(st.binary(min_size=1, max_size=80), max_size=3).map(lambda all_: [*all_, Step.CLOSE])
)
def test_whatever_an_upstream_sends_the_caller_is_answered_and_the_ledger_closed(kind, path, stream, script):
    body = {"model": "m", "stream": stream}
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    body |= {"input": "x"} if path == "/v1/responses" else asked

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, *script]]) as upstream:
            told = config(upstream.url, kind=kind, retry=ONCE, continuation=NEVER)
            async with serving(told) as (gateway, port):
                answer = await asyncio.wait_for(call(port, body, path), 60)
                await gateway.pipeline.wait_idle()
                return answer, rows(gateway)

    answer, booked = on_uvloop(main)
    assert len(booked) == 1
    assert booked[0].error != "internal_error"
    if answer.status != 200:
        assert booked[0].outcome is not Outcome.COMPLETED
        assert answer.json()["error"]["message"]
    elif booked[0].outcome is not Outcome.COMPLETED:
        assert stream, "a plain answer that is not whole must not look like one"
        assert b'"error"' in answer.body


def test_what_a_failed_call_had_received_is_let_go_of_at_once():
    received = SSE_HEAD + b"content-length: 100000\r\n\r\ndata: " + b"x" * 10_000
    script = [Step.REQUEST, received, Step.CLOSE]

    async def main():
        async with ScriptedUpstream([script] * 6) as bad:
            settings = config(bad.url, retry=RetryConfig(attempts=2, first_delay=0.001))
            async with serving(settings) as (_, port):
                for _ in range(3):
                    assert (await call(port, STREAM)).status == 502
                return [each for each in gc.get_objects() if isinstance(each, Transfer)]

    gc.collect()
    gc.disable()
    try:
        assert len(on_uvloop(main)) <= 1  # of the last connection's, maybe
    finally:
        gc.enable()


@pytest.mark.parametrize("more", [{"continuation": NEVER}, {}], ids=["alone", "gone on with"])
@pytest.mark.parametrize(
    "end",
    [
        [Step.CLOSE],
        [Step.RESET],
        [chunk(b'data: {"id":"x\n\n')],
        [chunk(b'data: {"error":{"message":"x"}}\n\n')],
    ],
    ids=["closed", "reset", "malformed", "an error"],
)
def test_a_stream_that_broke_leaves_nothing_for_the_garbage_collector(end, more):
    half = [Step.REQUEST, STREAM_HEAD + delta("a") + delta("b"), *end]

    async def main():
        async with ScriptedUpstream([half] * 30) as bad:
            settings = config(bad.url, retry=RetryConfig(attempts=2, first_delay=0.001), **more)
            async with serving(settings) as (gateway, port):
                await call(port, STREAM)
                gc.collect()
                for _ in range(3):
                    await call(port, STREAM)
                await gateway.pipeline.wait_idle()
                # What has ended may still stand in the loop's list of calls.
                await asyncio.sleep(0)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                return [each for each in gc.garbage if isinstance(each, Transfer | Production | Generation)]

    gc.disable()
    try:
        assert on_uvloop(main) == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("end", [Step.CLOSE, Step.RESET], ids=["closed", "reset"])
def test_an_answer_of_which_only_the_head_came_may_be_billed(stream, end):
    head = STREAM_HEAD if stream else JSON_HEAD + b"content-length: 400\r\n\r\n"
    come = asyncio.Event()

    async def during(gateway, bad):
        await until(
            lambda: 200 in {one._transfer.status for one in gateway.pipeline.productions if one._transfer}
        )
        come.set()

    answer, (row,) = run([[Step.REQUEST, head, come, end]], {**PROMPT, "stream": stream}, during=during)
    assert answer.status == 502
    assert row.usage.estimated
    assert bool(row.usage.input_tokens) is not stream
