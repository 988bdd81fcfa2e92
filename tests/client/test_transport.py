"""What goes over the wire: keys, deadlines, proxies; and providers that are no gateways."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys

import anthropic
import httpx
import httpx2
import openai
import pytest
import zstandard
from sdks import QUESTION, ask, expected

import penstock
from penstock.testing import ScriptedUpstream, SimulatorProcess, Step

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
BODY = {"model": "m", "messages": QUESTION}
REQUEST = Step.REQUEST


def status(code, *headers):
    head = b"".join(each + b"\r\n" for each in headers)
    return b"HTTP/1.1 %d Other\r\n%bcontent-length: 2\r\n\r\n{}" % (code, head)


def posted(scripts, **settings):
    """The status of one call to a server that plays these scripts, what that received, and the figures."""

    async def main():
        headers = settings.pop("headers", {})
        async with ScriptedUpstream(scripts) as upstream:
            async with penstock.async_http_client(trust_env=False, first_delay=0.001, **settings) as http:
                url = upstream.url + "/v1/chat/completions"
                try:
                    answer = await http.post(url, json=BODY, headers=headers)
                except httpx2.HTTPError as error:
                    answer = error
            return answer, [head(each) for each in upstream.received], http.statistics()

    return asyncio.run(main())


def head(received):
    lines = received.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


# ---- what a request says -----------------------------------------------------------------------------


def test_all_attempts_of_a_call_have_one_key():
    scripts = [[REQUEST, status(500), Step.CLOSE], [REQUEST, Step.RESET], [REQUEST, ANSWER]]
    answer, received, figures = posted(scripts)
    assert answer.status_code == 200
    keys = [each["idempotency-key"] for each in received]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert (figures.attempts, figures.retries, figures.broken) == (3, 2, 1)


def test_two_calls_have_two_keys_and_the_applications_own_is_kept():
    async def main():
        async with ScriptedUpstream([[REQUEST, ANSWER, REQUEST, ANSWER, REQUEST, ANSWER]]) as upstream:
            async with penstock.async_http_client(trust_env=False) as http:
                url = upstream.url + "/v1/chat/completions"
                for headers in ({}, {}, {"Idempotency-Key": "mine"}):
                    await http.post(url, json=BODY, headers=headers)
            assert upstream.connections == 1  # one connection for all
            return upstream.received[0]

    keys = [
        line.partition(b": ")[2]
        for line in asyncio.run(main()).split(b"\r\n")
        if line.lower().startswith(b"idempotency-key")
    ]
    assert keys[2] == b"mine"
    assert len(set(keys)) == 3


def test_each_attempt_is_told_how_much_time_is_left():
    scripts = [[REQUEST, status(503, b"retry-after-ms: 200"), Step.CLOSE], [REQUEST, ANSWER]]
    _, received, _ = posted(scripts, deadline=30.0)
    first, second = (float(each["penstock-deadline"]) for each in received)
    assert 29.0 < first <= 30.0
    assert second <= first - 0.2


def test_nothing_is_waited_for_beyond_the_deadline():
    answer, received, figures = posted([[REQUEST]], deadline=0.3)
    assert isinstance(answer, httpx2.ReadTimeout)
    assert len(received) == 1
    assert figures.failed == 1


def test_an_answer_that_breaks_off_is_asked_for_again():
    half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"
    answer, _, figures = posted([[REQUEST, half, Step.RESET], [REQUEST, ANSWER]])
    assert answer.json() == {}
    assert figures.retries == 1


def test_what_is_refused_for_good_is_told_so_that_the_sdk_does_not_multiply():
    answer, received, _ = posted([[REQUEST, status(500), Step.CLOSE]], attempts=3)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
    assert len(received) == 3


def test_a_broken_answer_that_has_failed_for_good_is_not_asked_for_again():
    begun = (
        b"HTTP/1.1 200 OK\r\npenstock-generation: gen_1\r\ncontent-type: text/event-stream\r\n\r\n"
        b'id: 0\ndata: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    )
    failed = [REQUEST, status(502, b"x-should-retry: false"), Step.CLOSE]
    error, received, _ = posted([[REQUEST, begun, Step.RESET], failed], attempts=5, headers={"x": "y"})
    assert isinstance(error, httpx2.HTTPError)
    assert len(received) == 2


STREAM = b"HTTP/1.1 200 OK\r\npenstock-generation: gen_1\r\ncontent-type: text/event-stream\r\n\r\n"
CHAT_EVENTS = [
    *(
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % each
        for each in (b"a", b"b")
    ),
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
MESSAGES_EVENTS = [
    b"event: %b\ndata: %b\n\n" % (json.loads(told)["type"].encode(), told)
    for told in (
        b'{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","content":[],"usage":{}}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"b"}}',
        b'{"type":"content_block_stop","index":0}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}',
        b'{"type":"message_stop"}',
    )
]
EVENTS = {"chat": CHAT_EVENTS, "messages": MESSAGES_EVENTS}
GOING = {
    "chat": b'data: {"error":{"message":"m","type":"overloaded_error","param":null,"code":"draining"}}\n\n',
    "messages": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m",'
    b'"details":{"error_code":"draining"}},"request_id":"gen_1"}\n\n',
}


def numbered(way, first, last):
    return b"".join(
        b"id: %d\n%b" % (number, event) for number, event in enumerate(EVENTS[way]) if first <= number < last
    )


async def streamed(way, url, http):
    if way == "chat":
        client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", http_client=http, max_retries=0)
        chunks = await client.chat.completions.create(**BODY, stream=True)
        return "".join([each.choices[0].delta.content or "" async for each in chunks])
    claude = anthropic.AsyncAnthropic(base_url=url, api_key="any", http_client=http, max_retries=0)
    async with claude.messages.stream(**BODY, max_tokens=9) as events:
        return await events.get_final_text()


def test_a_stream_that_falls_silent_again_and_again_goes_on_each_time():
    """Also where the rest was asked for, and no head came, and where it came, and nothing after it."""
    silent = [
        [REQUEST, STREAM + numbered("chat", 0, 1), REQUEST],
        [REQUEST, STREAM + numbered("chat", 1, 2), REQUEST],
        [REQUEST, STREAM, REQUEST],
        [REQUEST, REQUEST],
    ]

    async def main():
        async with ScriptedUpstream([*silent, [REQUEST, STREAM + numbered("chat", 2, 9)]]) as upstream:
            async with penstock.async_http_client(
                trust_env=False, gateways=[upstream.url], stall_timeout=0.2
            ) as http:
                text = await streamed("chat", upstream.url, http)
            return text, upstream.received, http.statistics()

    text, received, figures = asyncio.run(asyncio.wait_for(main(), 60))
    assert text == "ab"
    assert len(received) == 5
    assert (figures.resumed, figures.broken, figures.succeeded) == (3, 4, 1)


def test_a_gateway_is_asked_for_signs_of_life():
    async def main(**settings):
        async with ScriptedUpstream([[REQUEST, STREAM + numbered("chat", 0, 9)]]) as upstream:
            gateways = [upstream.url]
            async with penstock.async_http_client(trust_env=False, gateways=gateways, **settings) as http:
                await streamed("chat", upstream.url, http)
            return head(upstream.received[0])

    assert asyncio.run(main())["penstock-heartbeat"] == "2"
    assert "penstock-heartbeat" not in asyncio.run(main(stall_timeout=40.0))


@pytest.mark.parametrize("way", ["chat", "messages"])
@pytest.mark.parametrize("had", [0, 1, 3], ids=lambda had: f"after {had} events")
def test_an_answer_that_a_gateway_hands_over_goes_on_at_the_next_one(way, had):
    """The gateway that goes away has said so, and nobody listens there any more."""
    leaving = [REQUEST, STREAM + numbered(way, 0, had) + GOING[way], Step.CLOSE]
    ending = STREAM + (numbered(way, had, 9) if had else numbered(way, 0, 9))

    async def main():
        async with (
            ScriptedUpstream([leaving]) as one,
            ScriptedUpstream([[REQUEST, ending, Step.CLOSE]]) as two,
        ):
            settings = {"trust_env": False, "gateways": [one.url, two.url]}
            async with penstock.async_http_client(**settings) as http:
                assert await streamed(way, one.url, http) == "ab"
            return one.connections, two.received[0], head(one.received[0]), http.statistics()

    connections, again, first, figures = asyncio.run(main())
    assert connections == 1
    if had:
        assert again.startswith(b"GET /v1/generations/gen_1/events ")
        assert head(again)["last-event-id"] == str(had - 1)
    else:  # nothing to count from: the call's key finds its log
        assert again.startswith(b"POST ")
        assert head(again)["idempotency-key"] == first["idempotency-key"]
    assert (figures.succeeded, figures.failed, figures.broken, figures.resumed) == (1, 0, 1, had > 0)


def test_a_gateway_that_is_alone_is_asked_again_once_another_process_listens():
    leaving = [REQUEST, STREAM + numbered("chat", 0, 1) + GOING["chat"], Step.CLOSE]
    following = [REQUEST, STREAM + numbered("chat", 1, 9), Step.CLOSE]

    async def main():
        async with ScriptedUpstream([leaving, [Step.RESET], following]) as upstream:
            async with penstock.async_http_client(trust_env=False, gateways=[upstream.url]) as http:
                return await streamed("chat", upstream.url, http)

    assert asyncio.run(main()) == "ab"


@pytest.mark.parametrize(("way", "error"), [("chat", openai.APIError), ("messages", anthropic.APIError)])
def test_an_answer_that_nobody_goes_on_with_fails_as_the_gateway_said(way, error):
    leaving = [REQUEST, STREAM + numbered(way, 0, 2) + GOING[way], Step.CLOSE]
    refusing = [REQUEST, status(403), Step.CLOSE]

    async def main():
        async with ScriptedUpstream([leaving]) as one, ScriptedUpstream([refusing]) as two:
            settings = {"trust_env": False, "gateways": [one.url, two.url]}
            async with penstock.async_http_client(**settings) as http:
                with pytest.raises(error) as raised:
                    await streamed(way, one.url, http)
            return raised.value, http.statistics()

    raised, figures = asyncio.run(main())
    assert "draining" in str(raised.body)
    assert (figures.failed, figures.succeeded) == (1, 0)


VERDICTS = {
    "chat": b'{"error":{"message":"it ended","type":"upstream_error","param":null,"code":"upstream_broken"}}',
    "messages": b'{"type":"error","error":{"type":"api_error","message":"it ended",'
    b'"details":{"error_code":"upstream_broken"}},"request_id":"gen_1"}',
}


@pytest.mark.parametrize(("way", "error"), [("chat", openai.APIError), ("messages", anthropic.APIError)])
def test_an_answer_whose_rest_is_lost_fails_as_the_gateway_says(way, error):
    verdict = VERDICTS[way]
    refusal = (
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\npenstock-generation: gen_1\r\n"
        b"x-should-retry: false\r\ncontent-length: %d\r\n\r\n%b" % (len(verdict), verdict)
    )
    scripts = [[REQUEST, STREAM + numbered(way, 0, 2), Step.RESET], [REQUEST, refusal, Step.CLOSE]]

    async def main():
        async with ScriptedUpstream(scripts) as upstream:
            async with penstock.async_http_client(trust_env=False, gateways=[upstream.url]) as http:
                with pytest.raises(error) as raised:
                    await streamed(way, upstream.url, http)
            return raised.value, http.statistics()

    raised, figures = asyncio.run(main())
    assert "it ended" in str(raised)
    assert "upstream_broken" in str(raised.body)
    assert (figures.failed, figures.succeeded) == (1, 0)


def test_a_server_that_is_no_gateway_says_draining_to_the_sdk():
    head = STREAM.replace(b"penstock-generation: gen_1\r\n", b"")
    leaving = [REQUEST, head + CHAT_EVENTS[0] + GOING["chat"], Step.CLOSE]

    async def main():
        async with ScriptedUpstream([leaving]) as upstream:
            async with penstock.async_http_client(trust_env=False) as http:
                with pytest.raises(openai.APIError):
                    await streamed("chat", upstream.url, http)
            return upstream.connections

    assert asyncio.run(main()) == 1


def test_an_sdk_adds_to_the_attempts_and_does_not_multiply_them():
    """A reset is an exception, which tells nothing: the SDK repeats it, twice, once each."""

    async def main():
        async with ScriptedUpstream([[REQUEST, Step.RESET]]) as upstream:
            async with penstock.async_http_client(trust_env=False, first_delay=0.001, attempts=3) as http:
                client = openai.AsyncOpenAI(base_url=upstream.url, api_key="any", http_client=http)
                client._calculate_retry_timeout = lambda *_, **__: 0.0
                with pytest.raises(openai.APIConnectionError):
                    await client.chat.completions.create(**BODY)
            return [head(each)["idempotency-key"] for each in upstream.received]

    keys = asyncio.run(main())
    assert len(keys) == 3 + 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["a call", "an upload"])
def test_a_call_that_is_cancelled_is_abandoned_and_the_next_one_has_a_connection_of_its_own(size):
    async def main():
        script = [REQUEST, asyncio.Event()]
        body = {**BODY, "messages": [{"role": "user", "content": random.Random(1).randbytes(size).hex()}]}
        async with ScriptedUpstream([script, [REQUEST, ANSWER]]) as upstream:
            url = upstream.url + "/v1/chat/completions"
            async with penstock.async_http_client(trust_env=False, gateways=[upstream.url]) as http:
                task = asyncio.create_task(http.post(url, json=body))
                while not upstream.received:
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (await http.post(url, json=BODY)).status_code == 200
                return http.statistics()

    figures = asyncio.run(main())
    assert (figures.calls, figures.abandoned, figures.succeeded, figures.failed) == (2, 1, 1, 0)


def test_compressed_answers_pass():
    import gzip

    packed = gzip.compress(b'{"a": 1}')
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(packed), packed)
    )
    assert posted([[REQUEST, answer]])[0].json() == {"a": 1}
    events = gzip.compress(b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(events), events)
    )
    assert posted([[REQUEST, answer]])[0].text.endswith("data: [DONE]\n\n")


def test_other_requests_pass_as_they_are():
    async def main():
        async with ScriptedUpstream([[REQUEST, status(500), REQUEST, ANSWER]]) as upstream:
            async with penstock.async_http_client(trust_env=False) as http:

                async def pieces():
                    yield b"of the application's own"

                first = await http.post(upstream.url + "/v1/chat/completions", content=pieces())
                second = await http.post(upstream.url + "/v1/files", content=b"x")
            assert [first.status_code, second.status_code] == [500, 200]
            assert http.statistics().calls == 0
            return upstream.received[0]

    assert b"idempotency-key" not in asyncio.run(main()).lower()


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    async def main():
        async with ScriptedUpstream([[REQUEST, ANSWER]]) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("no_proxy", "direct.example")
            async with penstock.async_http_client() as http:
                await http.post("http://provider.example/v1/chat/completions", json=BODY)
            return proxy.received[0]

    assert asyncio.run(main()).startswith(b"POST http://provider.example/v1/chat/completions HTTP/1.1\r\n")


# ---- plain providers ---------------------------------------------------------------------------------


@pytest.fixture
def provider():
    """One of its own: what it does once, it does once in its life."""
    with SimulatorProcess() as running:
        yield running


@pytest.mark.parametrize("script", ["500-once", "reset-before-headers,once", "503-for=2", "html,503,once"])
def test_a_provider_that_fails_before_the_first_byte_is_asked_again(provider, script):
    text, figures = ask("chat", provider.url, model=f"sim:{script}", first_delay=0.01, sdk={"max_retries": 0})
    assert text == expected("chat", 12)
    assert figures.retries >= 1


def test_a_deterministic_stream_that_breaks_is_made_once_more(provider):
    text, figures = ask(
        "chat", provider.url, model="sim:cut-after=5,once", call={"temperature": 0}, sdk={"max_retries": 0}
    )
    assert text == expected("chat", 12)
    assert (figures.reruns, figures.resumed) == (1, 0)


@pytest.mark.parametrize("end", ["cut-after=5", "close-after=5", "no-terminator"])
def test_any_other_that_breaks_raises(provider, end):
    """An orderly end in the middle as well, which the SDK alone takes for the whole answer."""
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        ask("chat", provider.url, model=f"sim:{end}", sdk={"max_retries": 0})
    assert provider.bill()["requests"] == 1


def test_a_provider_that_sends_no_terminator_but_a_reason_is_believed(provider):
    text, _ = ask("chat", provider.url, model="sim:no-done")
    assert text == expected("chat", 12)


def test_an_error_in_a_stream_is_the_sdks_to_raise(provider):
    with pytest.raises(openai.APIError):
        ask("chat", provider.url, model="sim:error-event=3")
    assert provider.bill()["requests"] == 1


# ---- the library -------------------------------------------------------------------------------------


def test_clients_are_those_that_the_sdks_take():
    with penstock.http_client() as http:
        assert isinstance(http, httpx2.Client)
        assert http.timeout == httpx2.Timeout(600.0, connect=5.0)
        assert "0 known" in repr(http._transport)
    with penstock.http_client(library="httpx") as http:
        assert isinstance(http, httpx.Client)

    async def main():
        async with penstock.async_http_client() as http:
            assert isinstance(http, httpx2.AsyncClient)
        async with penstock.async_http_client(library="httpx") as http:
            assert isinstance(http, httpx.AsyncClient)

    asyncio.run(main())


def test_what_is_passed_besides_goes_to_the_client():
    with penstock.http_client(timeout=3.0, headers={"X-Team": "blue"}) as http:
        assert http.timeout == httpx2.Timeout(3.0)
        assert http.headers["x-team"] == "blue"
    with pytest.raises(TypeError):
        penstock.http_client(attemps=3)
    with pytest.raises(ValueError, match="library"):
        penstock.http_client(library="requests")


def test_the_base_imports_nothing_of_it():
    code = "import sys, penstock; print(sorted({'httpx', 'httpx2', 'anyio', 'msgspec'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
    with pytest.raises(AttributeError):
        penstock.nothing  # noqa: B018


def test_public_names_are_there():
    import penstock.client

    for name in penstock.client.__all__:
        assert getattr(penstock.client, name)


# ---- compression -------------------------------------------------------------------------------------

LONG = {"model": "m", "messages": [{"role": "user", "content": "word " * 1_000}]}
OFFERING = ANSWER.replace(b"\r\n\r\n", b"\r\naccept-encoding: gzip, zstd;q=0.5\r\n\r\n", 1)


def sent_twice(scripts, body=LONG):
    """Two calls to a server that plays these scripts: what it received, statuses and figures."""

    async def main():
        async with ScriptedUpstream(scripts) as upstream:
            async with penstock.async_http_client(trust_env=False, first_delay=0.001) as http:
                url = upstream.url + "/v1/chat/completions"
                answers = [(await http.post(url, json=body)).status_code for _ in range(2)]
            return upstream.received, answers, http.statistics()

    return asyncio.run(main())


def requests_in(received):
    return [head(b"x\r\n" + each) for each in received.split(b"POST ")[1:]]


def test_a_body_is_compressed_once_the_server_has_said_that_it_may_be():
    received, answers, figures = sent_twice([[REQUEST, OFFERING, REQUEST, OFFERING]])
    first, second = requests_in(received[0])
    assert answers == [200, 200]
    assert "content-encoding" not in first
    assert second["content-encoding"] == "zstd"
    packed = received[0][-int(second["content-length"]) :]
    unpacked = zstandard.ZstdDecompressor().decompress(packed)
    assert json.loads(unpacked) == LONG
    assert figures.bytes_saved == len(unpacked) - len(packed)


def test_a_body_is_never_compressed_for_a_server_that_has_said_nothing():
    received, _, _ = sent_twice([[REQUEST, ANSWER, REQUEST, ANSWER]])
    assert ["content-encoding" in each for each in requests_in(received[0])] == [False, False]


def test_what_would_not_become_shorter_is_not_compressed():
    received, _, _ = sent_twice([[REQUEST, OFFERING, REQUEST, OFFERING]], body=BODY)
    assert ["content-encoding" in each for each in requests_in(received[0])] == [False, False]


def test_a_server_that_has_changed_its_mind_gets_it_as_it_is():
    refused = status(415)
    received, answers, _ = sent_twice([[REQUEST, OFFERING, REQUEST, refused], [REQUEST, ANSWER]])
    codings = [each.get("content-encoding") for each in requests_in(b"".join(received))]
    assert codings == [None, "zstd", None]
    assert answers == [200, 200]
