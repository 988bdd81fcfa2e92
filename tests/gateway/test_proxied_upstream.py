"""A whole gateway whose upstream is behind an HTTP proxy, as callers meet it."""

import asyncio
import contextlib
import json
import logging

import msgspec
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
    on_uvloop,
    plain,
    request,
    serving,
    until,
)

from penstock.config.model import HealthConfig, UpstreamConfig
from penstock.config.secret import Secret
from penstock.errors import ConfigError
from penstock.testing import FakeClock, ScriptedUpstream, Step
from proxying import ForwardProxy

ELSEWHERE = "http://api.example.com/v1"  # nobody looks it up but the proxy
ANSWER = [Step.REQUEST, plain(COMPLETION)]


def behind(proxy, base_url=ELSEWHERE, **more):
    upstream = UpstreamConfig(kind="openai", base_url=base_url, proxy=proxy and Secret(proxy), **more)
    return msgspec.structs.replace(config("http://unused"), upstreams={"up0": upstream})


@contextlib.asynccontextmanager
async def before(*scripts, login=None, clock=None, **more):
    """``(gateway, port, proxy, upstream)``."""
    async with ScriptedUpstream(list(scripts)) as upstream:
        there = int(upstream.url.rpartition(":")[2])
        async with ForwardProxy(there, login="me:secret" if login else None) as proxy:
            url = f"http://{login + '@' if login else ''}127.0.0.1:{proxy.port}"
            async with serving(behind(url, **more), clock) as (gateway, port):
                yield gateway, port, proxy, upstream


def test_calls_go_through_it_to_the_upstream_as_if_it_were_not_there():
    async def main():
        async with before([*ANSWER, *ANSWER], login="me:secret") as (_, port, proxy, upstream):
            for _ in range(2):
                answer = await call(port, PROMPT)
                assert answer.json() == COMPLETION
            assert proxy.targets == ["api.example.com:80"]
            (received,) = upstream.received
            assert received.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
            assert b"\r\nhost: api.example.com\r\n" in received.lower()
            assert b"proxy-authorization" not in received.lower()

    on_uvloop(main)


def test_a_stream_comes_through_it_event_by_event():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), go_on, delta("b", "stop") + DONE + STREAM_END]
        async with before(script) as (_, port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request({**PROMPT, "stream": True}))
            await reader.readuntil(b'"a"')
            go_on.set()
            await reader.readuntil(b"[DONE]")
            writer.close()

    on_uvloop(main)


def test_a_login_that_is_wrong_is_told_without_the_password(caplog):
    caplog.set_level(logging.DEBUG)

    async def main():
        async with before(ANSWER, login="me:sesame") as (gateway, port, _, upstream):
            answer = await call(port, PROMPT)
            assert answer.status == 502
            said = json.dumps(answer.json())
            assert "the proxy" in said
            assert "407" in said
            assert "sesame" not in said + caplog.text + repr(gateway.pipeline.snapshot.upstreams)
            assert upstream.received == []

    on_uvloop(main)


def test_questions_how_it_is_go_the_same_way():
    async def main():
        clock = FakeClock()
        health = HealthConfig()
        async with before([Step.REQUEST, plain({})], clock=clock, health=health) as (_, _, proxy, upstream):
            clock.advance(11.1)
            await until(lambda: upstream.received and upstream.received[0].endswith(b"\r\n\r\n"))
            assert upstream.received[0].startswith(b"GET /health HTTP/1.1\r\n")
            assert proxy.targets == ["api.example.com:80"]

    on_uvloop(main)


def test_a_new_configuration_brings_it_and_takes_it_away():
    async def main():
        async with ScriptedUpstream([ANSWER, ANSWER]) as one, ScriptedUpstream([ANSWER]) as other:
            there = int(other.url.rpartition(":")[2])
            async with (
                ForwardProxy(there) as proxy,
                serving(behind(None, f"{one.url}/v1")) as (gateway, port),
            ):
                assert (await call(port, PROMPT)).status == 200
                gateway.reload(behind(f"http://127.0.0.1:{proxy.port}"))
                assert (await call(port, PROMPT)).status == 200
                assert (len(one.received), len(other.received), len(proxy.asked)) == (1, 1, 1)
                gateway.reload(behind(None, f"{one.url}/v1"))
                assert (await call(port, PROMPT)).status == 200
                assert (len(one.received), len(other.received), len(proxy.asked)) == (2, 1, 1)

    on_uvloop(main)


@pytest.mark.parametrize("excepted", [False, True])
def test_the_environments_proxy_is_used_where_it_is_asked_for_and_not_excepted(monkeypatch, excepted):
    async def main():
        async with ScriptedUpstream([ANSWER]) as upstream:
            async with ForwardProxy(int(upstream.url.rpartition(":")[2])) as proxy:
                monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
                # Excepted, it is looked up by us, and does not exist: RFC 6761, 6.4.
                settings = behind("environment", "http://api.example.com.invalid/v1")
                monkeypatch.setenv("no_proxy", "invalid" if excepted else "example.org")
                async with serving(settings) as (_, port):
                    assert (await call(port, PROMPT)).status == (502 if excepted else 200)
                assert len(proxy.asked) == (0 if excepted else 1)

    on_uvloop(main)


@pytest.mark.parametrize("wanted", [None, "environment"])
def test_what_is_on_this_machine_never_goes_through_it(monkeypatch, wanted):
    async def main():
        async with ScriptedUpstream([ANSWER]) as upstream, ForwardProxy(1) as proxy:
            for name in ("http_proxy", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            async with serving(behind(wanted, f"{upstream.url}/v1")) as (_, port):
                assert (await call(port, PROMPT)).status == 200
            assert proxy.asked == []

    on_uvloop(main)


def test_a_proxy_of_another_kind_in_the_environment_is_no_configuration(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://me:secret@127.0.0.1:1080")

    async def main():
        with pytest.raises(ConfigError, match="HTTP_PROXY of the environment must begin") as caught:
            async with serving(behind("environment")):
                pass
        assert "secret" not in str(caught.value)

    on_uvloop(main)
