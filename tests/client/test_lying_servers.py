"""Servers that say what is not so: the call ends, soon and as the SDKs know it, and whatever can be had is had."""

from __future__ import annotations

import asyncio
import base64
import random
from contextlib import asynccontextmanager

import httpx2
import openai
import pytest

import penstock
from penstock.client import _async_httpx2, putting
from penstock.testing import ScriptedUpstream, Step

REQUEST, CLOSE, RESET = Step.REQUEST, Step.CLOSE, Step.RESET
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\npenstock-generation: gen_1\r\ncontent-type: text/event-stream\r\n\r\n"
BODY = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
LARGE = {
    "model": "m",
    "messages": [
        {"role": "user", "content": base64.b64encode(random.Random(1).randbytes(1_000_000)).decode()}
    ],
}
TOLD = [
    *(b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % each for each in (b"a", b"b")),
    b"data: [DONE]\n\n",
]


def events(first, last):
    return b"".join(b"id: %d\n%b" % each for each in enumerate(TOLD) if first <= each[0] < last)


def status(code, *headers):
    head = b"".join(each + b"\r\n" for each in headers)
    return b"HTTP/1.1 %d Other\r\n%bcontent-length: 2\r\n\r\n{}" % (code, head)


@asynccontextmanager
async def talking_to(*scripts, **settings):
    async with ScriptedUpstream(scripts) as server:
        settings = {"gateways": [server.url], "first_delay": 0.001, "trust_env": False, **settings}
        async with asyncio.timeout(30), penstock.async_http_client(**settings) as http:
            yield server, http


async def streamed(url, http, **asked):
    client = openai.AsyncOpenAI(base_url=url, api_key="any", http_client=http, max_retries=0)
    chunks = await client.chat.completions.create(**BODY, stream=True, **asked)
    return "".join([each.choices[0].delta.content or "" async for each in chunks])


async def posted(url, http, body=BODY, **headers):
    return await http.post(url + "/v1/chat/completions", json=body, headers=headers)


# ---- streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "again",
    [events(2, 3), events(0, 1), b": hb\n", b"id: 1\ndata: no end"],
    ids=["an event is missing", "the same events", "signs of life", "half an event"],
)
def test_a_stream_of_which_nothing_new_comes_is_given_up(again):
    async def main():
        first, then = [REQUEST, STREAM + events(0, 1), CLOSE], [REQUEST, STREAM + again, CLOSE]
        async with talking_to(first, then, resume_for=0.5) as (server, http):
            with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
                await streamed(server.url + "/v1", http)
            return server.connections

    assert asyncio.run(main()) < 15


def test_an_event_beyond_all_measure_is_not_asked_for_again():
    async def main():
        async with talking_to([REQUEST, STREAM + events(0, 1) + b"id: 1\ndata: " + b"x" * 20_000_000]) as (
            server,
            http,
        ):
            with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
                await streamed(server.url + "/v1", http)
            return server.connections

    assert asyncio.run(main()) == 1


def test_what_is_made_once_more_each_time_it_breaks_has_so_many_attempts_as_any_call():
    """Each of them is computed, and billed."""
    scripts = []
    for number in range(50):
        scripts.append([REQUEST, STREAM.replace(b"gen_1", b"gen_%d" % number) + events(0, 1), CLOSE])
        scripts.append([REQUEST, status(404), CLOSE])

    async def main():
        async with talking_to(*scripts, attempts=4) as (server, http):
            with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
                await streamed(server.url + "/v1", http, temperature=0)
            asked = sum(each.startswith(b"POST") for each in server.received)
            return asked, http.statistics()

    asked, figures = asyncio.run(main())
    assert (asked, figures.attempts, figures.reruns, figures.failed) == (4, 4, 3, 1)


def test_an_id_that_is_no_number_to_count_with_ends_in_no_error_of_ours():
    async def main():
        odd = b"id: " + b"9" * 5_000 + b"\n" + TOLD[1]
        async with talking_to([REQUEST, STREAM + events(0, 1) + odd + events(1, 3), CLOSE]) as (server, http):
            return await streamed(server.url + "/v1", http)

    assert asyncio.run(main()) == "abb"


@pytest.mark.parametrize("of", [b"gen_2", b"", b"gen_1, gen_2"])
def test_an_answer_does_not_go_on_with_the_words_of_another(of):
    async def main():
        first = [REQUEST, STREAM + events(0, 1), CLOSE]
        other = [REQUEST, STREAM.replace(b"gen_1", of) + events(1, 3), CLOSE]
        async with talking_to(first, other, [REQUEST, STREAM + events(1, 3), CLOSE]) as (server, http):
            return await streamed(server.url + "/v1", http), server.connections, http.statistics()

    text, connections, figures = asyncio.run(main())
    assert (text, connections, figures.resumed, figures.broken) == ("ab", 3, 1, 2)


def test_a_verdict_without_end_is_not_read_to_it():
    endless = b"HTTP/1.1 502 Other\r\npenstock-generation: gen_1\r\nx-should-retry: false\r\n"
    endless += b"content-length: 1000000000\r\n\r\n" + b" " * 2_000_000  # and nothing more, for ever

    async def main():
        first = [REQUEST, STREAM + events(0, 1), CLOSE]
        async with talking_to(first, [REQUEST, endless], stall_timeout=300.0) as (server, http):
            with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
                await streamed(server.url + "/v1", http)
            return server.connections

    assert asyncio.run(main()) == 2


@pytest.mark.parametrize("name", ["gen ü/../x?y#z".encode(), b"a b"])
def test_a_generation_of_any_name_is_asked_for_by_it(name):
    async def main():
        first = [REQUEST, STREAM.replace(b"gen_1", name) + events(0, 1), CLOSE]
        then = [REQUEST, STREAM.replace(b"gen_1", name) + events(1, 3), CLOSE]
        async with talking_to(first, then) as (server, http):
            return await streamed(server.url + "/v1", http), server.received[1]

    text, again = asyncio.run(main())
    assert text == "ab"
    assert again.startswith(b"GET /v1/generations/")
    assert again.partition(b" HTTP")[0].endswith(b"/events")


def test_a_path_of_any_name_is_found_again():
    async def main():
        first = [REQUEST, STREAM + events(0, 1), CLOSE]
        async with talking_to(first, [REQUEST, STREAM + events(1, 3), CLOSE]) as (server, http):
            text = await streamed(server.url + "/a b/ü/v1", http)
            return text, [each.split(b" ")[1] for each in server.received]

    text, (asked, again) = asyncio.run(main())
    assert text == "ab"
    assert again == asked.replace(b"chat/completions", b"generations/gen_1/events")


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [b"86400", b"31536000", b"1e400"])
def test_who_asks_for_a_day_is_the_answer(seconds):
    async def main():
        async with talking_to([REQUEST, status(503, b"retry-after: " + seconds), CLOSE]) as (server, http):
            return (await posted(server.url, http)).status_code, server.connections

    assert asyncio.run(main()) == (503, 1)


def test_a_day_that_one_gateway_asks_for_is_not_waited_for_at_the_other():
    """Also where the other one rests: nothing but its own rest is waited for."""
    refusing = [REQUEST, status(503, b"retry-after: 86400"), CLOSE]

    async def main():
        async with ScriptedUpstream([refusing]) as other, ScriptedUpstream([refusing]) as one:
            gateways = [one.url, other.url]
            async with (
                asyncio.timeout(30),
                penstock.async_http_client(
                    gateways=gateways, first_delay=0.001, trust_env=False, timeout=None
                ) as http,
            ):
                answer = await posted(one.url, http)
            return answer.status_code, one.connections, other.connections

    assert asyncio.run(main()) == (503, 3, 3)


def test_what_comes_drop_by_drop_is_not_read_beyond_the_deadline():
    async def main():
        drop = ANSWER.replace(b"length: 2", b"length: 1000")
        async with talking_to([REQUEST, drop], deadline=60.0) as (server, http):
            now = http._calls.now
            http._calls.now = lambda: now() + (100.0 if server.received else 0.0)
            with pytest.raises(httpx2.ReadTimeout, match="deadline"):
                await posted(server.url, http)
            return http.statistics()

    figures = asyncio.run(main())
    assert (figures.failed, figures.attempts) == (1, 1)


@asynccontextmanager
async def repeating(first, again):
    """A server that begins to answer, and goes on with the same for as long as somebody reads it."""

    async def answer(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            while True:
                writer.write(again)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


INTERIM = b"", b"HTTP/1.1 102 Processing\r\n\r\n"


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize("clocks", [{"deadline": 0.2}, {"timeout": 0.2}], ids=["deadline", "timeout"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_interim_answers_without_end_are_no_answer(kind, clocks, library):
    """Of a plain provider: nothing but the caller's clocks ends it."""
    settings = {"attempts": 1, "trust_env": False, "library": library, **clocks}

    def in_thread(url):
        with penstock.http_client(**settings) as http:
            http.post(url + "/v1/chat/completions", json=BODY)

    async def main():
        async with repeating(*INTERIM) as url, asyncio.timeout(30):
            if kind == "sync":
                await asyncio.to_thread(in_thread, url)
            else:
                async with penstock.async_http_client(**settings) as http:
                    await posted(url, http)

    hx = pytest.importorskip(library)
    with pytest.raises(hx.ReadTimeout):
        asyncio.run(main())


def test_the_rest_of_a_stream_is_not_waited_for_behind_interim_answers():
    async def main():
        async with repeating(*INTERIM) as url:
            begun = [REQUEST, STREAM + events(0, 1), RESET]
            settings = {"timeout": 0.5, "resume_for": 0.1}
            async with talking_to(begun, gateways=[], **settings) as (server, http):
                send = http._transport.send

                async def elsewhere(request, *args):  # where the rest is asked for, only that comes
                    if request.method == "GET":
                        request.url = httpx2.URL(url)
                    return await send(request, *args)

                http._transport.send = elsewhere
                with pytest.raises(openai.APIError):
                    await streamed(server.url, http)

    asyncio.run(main())


def test_a_deadline_that_is_no_number_is_the_gateways_to_refuse():
    async def main():
        async with talking_to([REQUEST, ANSWER]) as (server, http):
            answer = await posted(server.url, http, **{"Penstock-Deadline": "nan"})
            return answer.status_code, server.received[0]

    code, received = asyncio.run(main())
    assert code == 200
    assert b"penstock-deadline: nan\r\n" in received.lower()


def test_where_a_call_is_redirected_it_is_as_safe_as_where_it_began():
    """As from http to https, by what stands before a gateway: each attempt goes there under the same key."""
    moved = status(308, b"location: /elsewhere/v1/chat/completions")

    async def main():
        scripts = [REQUEST, moved, CLOSE], [REQUEST, RESET], [REQUEST, ANSWER]
        async with talking_to(*scripts) as (server, http):
            return (await posted(server.url, http)).status_code, server.received

    code, received = asyncio.run(main())
    assert code == 200
    assert [each.split(b" ")[1] for each in received[1:]] == [b"/elsewhere/v1/chat/completions"] * 2
    keys = {
        line
        for each in received
        for line in each.lower().split(b"\r\n")
        if line.startswith(b"idempotency-key")
    }
    assert len(keys) == 1


# ---- uploads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    ["http://[", "/ü", "", "http://a", "relative"],
    ids=["none", "letters", "empty", "host", "relative"],
)
def test_an_upload_that_lies_nowhere_is_none_and_the_body_goes_as_it_is(location):
    async def main():
        created = status(201, b"location: " + location.encode())
        scripts = [REQUEST, RESET], [REQUEST, created, CLOSE], [REQUEST, ANSWER]
        async with talking_to(*scripts) as (server, http):
            answer = await posted(server.url, http, LARGE)
            return answer.status_code, b"upload-complete" in server.received[2].lower()

    assert asyncio.run(main()) == (200, False)


@pytest.mark.parametrize("offset", ["²", "9" * 5_000, "-1", "1e3", " "])
def test_an_offset_that_is_no_number_is_no_basis(offset):
    async def main():
        created = status(201, b"location: /u", b"upload-limit: max-append-size=" + offset.encode())
        told = status(204, b"upload-offset: " + offset.encode()).replace(
            b"content-length: 2\r\n\r\n{}", b"\r\n"
        )
        scripts = [REQUEST, RESET], [REQUEST, created, CLOSE], [REQUEST, told, CLOSE], [REQUEST, ANSWER]
        async with talking_to(*scripts) as (server, http):
            return (await posted(server.url, http, LARGE)).status_code

    assert asyncio.run(main()) == 200


@pytest.mark.parametrize("size", [10, putting.LEAST_TOLD])
def test_a_page_is_no_file_that_was_put(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    page = httpx2.MockTransport(lambda _: httpx2.Response(200, html="<p>log in first</p>"))
    with httpx2.Client(transport=page) as client, pytest.raises(putting.PutError, match="status 200"):
        putting.put(client, "http://a:1", path)


# ---- several threads ---------------------------------------------------------------------------------


def test_event_loops_of_other_threads_may_come_while_one_is_looked_for(monkeypatch):
    """Their connections are not lost by it either."""
    http = penstock.async_http_client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200)))
    inner = http._transport._inner

    def meanwhile(home):
        inner[f"loop {len(inner)}"] = {}
        return isinstance(home, asyncio.AbstractEventLoop) and home.is_closed()

    asyncio.run(http.get("http://a/"))
    monkeypatch.setattr(_async_httpx2, "is_over", meanwhile)
    asyncio.run(http.get("http://a/"))
    assert "loop 1" in inner
    assert len(inner) == 2


def test_what_is_asked_twice_at_once_and_fails_twice_has_two_keys_to_go_on_with():
    """The SDK's repetitions of both are recognised, and neither is computed once more than it has to be."""

    async def main():
        async with talking_to([REQUEST, RESET], attempts=1) as (server, http):
            for _ in range(2):
                with pytest.raises(httpx2.HTTPError):
                    await posted(server.url, http)
            for _ in range(2):
                with pytest.raises(httpx2.HTTPError):
                    await posted(server.url, http, **{"x-stainless-retry-count": "1"})
            return [
                line
                for each in server.received
                for line in each.lower().split(b"\r\n")
                if line.startswith(b"idempotency-key")
            ]

    keys = asyncio.run(main())
    assert len(keys) == 4
    assert set(keys[:2]) == set(keys[2:])
    assert len(set(keys)) == 2
