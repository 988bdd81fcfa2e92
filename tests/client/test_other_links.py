"""Links of other kinds than those that break: names that move, pages in the place of answers, IPv6 alone, proxies."""

from __future__ import annotations

import asyncio
import socket

import httpx2
import openai
import pytest
from client_gateway import config, through
from sdks import QUESTION, expected

import penstock
from penstock.testing import GatewayProcess, ScriptedUpstream, Step
from penstock.testing._ports import free_port

REQUEST = Step.REQUEST
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
PAGE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 14\r\n\r\n<html>Log in!\n"
)
LARGE = {"model": "m", "messages": [{"role": "user", "content": "x" * 2_000_000}]}
DELTA = b'id: %d\ndata: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\npenstock-generation: gen_1\r\ncontent-type: text/event-stream\r\n\r\n"
END = b'id: 2\ndata: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\nid: 3\ndata: [DONE]\n\n'


def posted(scripts, body=None, **settings):
    """The answer to one call (or the error), its bytes, how many requests there were, and the figures."""

    async def main():
        async with ScriptedUpstream(scripts) as upstream:
            settings.setdefault("gateways", [upstream.url])
            async with penstock.async_http_client(trust_env=False, first_delay=0.001, **settings) as http:
                url = upstream.url + "/v1/chat/completions"
                try:
                    answer = await http.post(url, json=body or {"model": "m", "messages": QUESTION})
                    content = answer.content
                except httpx2.HTTPError as error:
                    answer, content = error, b""
                return answer, content, len(upstream.received), http.statistics()

    return asyncio.run(main())


# ---- pages in the place of answers: a captive portal, a proxy's notice -------------------------------


def test_a_page_is_no_answer_and_is_asked_past():
    answer, content, requests, figures = posted([[REQUEST, PAGE, Step.CLOSE]] * 2 + [[REQUEST, ANSWER]])
    assert (answer.status_code, content, requests) == (200, b"{}", 3)
    assert (figures.succeeded, figures.broken) == (1, 2)


def test_who_gets_nothing_but_pages_is_told_so():
    answer, _, requests, figures = posted([[REQUEST, PAGE, Step.CLOSE]] * 9, attempts=3)
    assert isinstance(answer, httpx2.RemoteProtocolError)
    assert "a page" in str(answer)
    assert (requests, figures.failed) == (3, 1)


def test_a_page_does_not_make_a_gateway_one_that_takes_no_uploads():
    """A later body would go without what lets it survive a break."""
    complete = ANSWER.replace(b"content-length", b"upload-complete: ?1\r\ncontent-length")
    created = b"HTTP/1.1 201 Created\r\nlocation: /v1/uploads/upload_1\r\ncontent-length: 0\r\n\r\n"
    scripts = [
        [REQUEST, PAGE, Step.CLOSE],
        [REQUEST, created, REQUEST, b"HTTP/1.1 204 No\r\nupload-offset: 0\r\n\r\n"],
    ]
    scripts[1] += [REQUEST, complete]
    answer, content, requests, _ = posted(scripts, LARGE, upload_above=10, dictionary_bytes=0)
    assert (answer.status_code, content) == (200, b"{}")
    assert requests == 2  # connections; the second one has the upload


def test_a_stream_does_not_go_on_with_a_page():
    first = [REQUEST, STREAM + DELTA % (0, b"a"), Step.CLOSE]
    rest = [REQUEST, STREAM + DELTA % (1, b"b") + END, Step.CLOSE]
    _, content, requests, figures = posted([first, [REQUEST, PAGE, Step.CLOSE], rest])
    assert content == DELTA % (0, b"a") + DELTA % (1, b"b") + END
    assert (requests, figures.resumed) == (3, 1)


def test_pages_that_are_asked_for_are_none_of_our_business():
    async def main():
        async with ScriptedUpstream([[REQUEST, PAGE]]) as upstream:
            async with penstock.async_http_client(trust_env=False) as http:
                return (await http.get(upstream.url + "/")).text

    assert asyncio.run(main()) == "<html>Log in!\n"


# ---- names that move ---------------------------------------------------------------------------------


def test_a_name_is_looked_up_for_each_connection(gateway, monkeypatch):
    """What a name meant when the client was made is of no matter; the old address is gone."""
    real, there = socket.getaddrinfo, [free_port(), int(gateway.url.rpartition(":")[2])]

    def moved(host, port, *args, **kwargs):
        if host == "moves.test":
            return real("127.0.0.1", there.pop(0) if len(there) > 1 else there[0], *args, **kwargs)
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", moved)
    with penstock.http_client(trust_env=False, gateways=["http://moves.test:1"], first_delay=0.001) as http:
        client = openai.OpenAI(
            base_url="http://moves.test:1/v1", api_key="any", http_client=http, max_retries=0
        )
        answer = client.chat.completions.create(model="sim", messages=QUESTION, max_tokens=12)
    assert answer.choices[0].message.content == expected("chat", 12)
    assert len(there) == 1


# ---- IPv6 alone --------------------------------------------------------------------------------------


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6, not even to itself")
def test_a_gateway_that_has_ipv6_alone_and_its_client(simulator, tmp_path):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        port = probe.getsockname()[1]
    settings = {**config(simulator), "listen": f"[::1]:{port}"}
    with GatewayProcess(settings, tmp_path):
        with penstock.http_client(trust_env=False, gateways=[f"http://[::1]:{port}"]) as http:
            client = openai.OpenAI(
                base_url=f"http://[::1]:{port}/v1", api_key="any", http_client=http, max_retries=0
            )
            for stream in (False, True):
                answer = client.chat.completions.create(
                    model="sim", messages=QUESTION, max_tokens=12, stream=stream
                )
                text = (
                    "".join(each.choices[0].delta.content or "" for each in answer if each.choices)
                    if stream
                    else answer.choices[0].message.content
                )
                assert text == expected("chat", 12)


# ---- proxies of the environment ----------------------------------------------------------------------


@pytest.mark.parametrize(("unproxied", "asked"), [("", 1), ("127.0.0.1", 0)])
def test_the_environments_proxies_are_used_but_for_who_needs_none(gateway, monkeypatch, unproxied, asked):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    async def main():
        async with ScriptedUpstream([[REQUEST, ANSWER]]) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", unproxied)
            async with penstock.async_http_client(gateways=[gateway.url], attempts=1) as http:
                body = {"model": "sim", "messages": QUESTION, "max_tokens": 3}
                answer = await http.post(gateway.url + "/v1/chat/completions", json=body)
            assert answer.status_code == 200
            assert [each.startswith(b"POST http://127.0.0.1") for each in proxy.received] == [True] * asked

    asyncio.run(main())


# ---- proxies that mean well --------------------------------------------------------------------------


def told(client, **asked):
    answer = client.chat.completions.create(messages=QUESTION, max_tokens=12, temperature=0, **asked)
    if asked.get("stream"):
        return "".join(each.choices[0].delta.content or "" for each in answer if each.choices)
    return answer.choices[0].message.content


def behind(link, **settings):
    http = penstock.http_client(trust_env=False, gateways=[link.url], first_delay=0.01, **settings)
    return openai.OpenAI(base_url=link.url + "/v1", api_key="any", http_client=http, max_retries=0), http


def test_a_plain_answer_that_is_cut_because_it_takes_long_is_asked_for_again_and_computed_once(
    gateway, simulator
):
    before = simulator.bill()["requests"]
    with through(gateway, idle=0.4) as link:
        client, http = behind(link)
        with client:
            assert told(client, model="sim:ttft=1000") == expected("chat", 12)
        assert link.figures.broken >= 1
    assert simulator.bill()["requests"] == before + 1
    assert http.statistics().retries >= 1


def test_a_stream_that_a_proxy_holds_back_comes_when_it_ends(gateway, simulator):
    """Silence, to who waits: it is asked for again in vain, and what there is comes with the end."""
    before = simulator.bill()["requests"]
    with through(gateway, hold=1_000_000) as link:
        client, http = behind(link, stall_timeout=0.3)
        with client:
            assert told(client, model="sim:tps=15", stream=True) == expected("chat", 12)
    assert simulator.bill()["requests"] == before + 1
    assert http.statistics().broken >= 1
    assert http.statistics().reruns == 0
