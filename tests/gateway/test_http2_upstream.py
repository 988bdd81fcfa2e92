"""A whole gateway before an upstream that speaks HTTP/2 (hypercorn): calls, streams, the four clocks, and leaving."""

import asyncio
import contextlib
import json
import socket
import sys

import hypercorn.asyncio
import hypercorn.config
import msgspec
import pytest
from serving import COMPLETION, PROMPT, call, config, on_uvloop, request, serving, until

from penstock.config.model import TimeoutConfig, UpstreamConfig
from penstock.config.secret import Secret
from penstock.errors import ConfigError
from penstock.net.clock import Clock
from penstock.net.origin import Origin
from penstock.testing import FakeClock
from penstock.upstream import http
from proxying import ForwardProxy

EVENT = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


class Model:
    """Answers as OpenAI does, and stops where the script says."""

    def __init__(self):
        self.versions = []
        self.stops_after = None  # events of a stream; None: it goes through
        self.silent = False
        self.gone = asyncio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError  # so that hypercorn does without lifespan
        self.versions.append(scope["http_version"])
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body)
        if self.silent:
            await self._wait(receive)
            return
        kind = b"text/event-stream" if asked.get("stream") else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if not asked.get("stream"):
            await send({"type": "http.response.body", "body": json.dumps(COMPLETION).encode()})
            return
        for number in range(3):
            if number == self.stops_after:
                await self._wait(receive)
                return
            await self._event(send, json.dumps(EVENT if number < 2 else LAST))
        await self._event(send, "[DONE]")
        await send({"type": "http.response.body"})

    async def _event(self, send, data):
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

    async def _wait(self, receive):
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()


@contextlib.asynccontextmanager
async def before_a_model(clock=None, *, proxied=False, **timeouts):
    """``(model, gateway, port)``; with a proxy also that.

    :param proxied: the model is behind an HTTP proxy, which alone knows its name
    """
    model, end = Model(), asyncio.Event()
    settings = hypercorn.config.Config()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        settings.bind, settings.errorlog, settings.graceful_timeout = [f"fd://{sock.fileno()}"], None, 0.1
        running = asyncio.ensure_future(hypercorn.asyncio.serve(model, settings, shutdown_trigger=end.wait))
        there = sock.getsockname()[1]
        try:
            async with contextlib.AsyncExitStack() as stack:
                proxy, found = None, ()
                base_url = f"http://127.0.0.1:{there}/v1"
                if proxied:
                    through = await stack.enter_async_context(ForwardProxy(there))
                    proxy, found = Secret(f"http://127.0.0.1:{through.port}"), (through,)
                    base_url = "http://api.example.com/v1"
                upstream = UpstreamConfig(kind="openai", base_url=base_url, http2=True, proxy=proxy)
                made = config("http://unused", timeouts=TimeoutConfig(**timeouts))
                made = msgspec.structs.replace(made, upstreams={"up0": upstream})
                yield model, *await stack.enter_async_context(serving(made, clock)), *found
        finally:
            end.set()
            await running
            sock.detach()  # hypercorn has closed it


@pytest.mark.parametrize("stream", [False, True])
def test_calls_go_over_one_connection(stream):
    async def main():
        async with before_a_model() as (model, gateway, port):
            answers = await asyncio.gather(*(call(port, {**PROMPT, "stream": stream}) for _ in range(5)))
            assert {answer.status for answer in answers} == {200}
            if stream:
                assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers)
            else:
                assert all(answer.json() == COMPLETION for answer in answers)
            assert set(model.versions) == {"2"}
            (upstream,) = gateway.pipeline.snapshot.upstreams.values()
            assert upstream.pool.statistics().opened_total == 1

    on_uvloop(main)


@pytest.mark.parametrize("stream", [False, True])
def test_calls_go_over_one_connection_through_a_proxy(stream):
    async def main():
        async with before_a_model(proxied=True) as (model, gateway, port, proxy):
            answers = await asyncio.gather(*(call(port, {**PROMPT, "stream": stream}) for _ in range(5)))
            assert {answer.status for answer in answers} == {200}
            if stream:
                assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers)
            else:
                assert all(answer.json() == COMPLETION for answer in answers)
            assert set(model.versions) == {"2"}
            assert proxy.targets == ["api.example.com:80"]
            (upstream,) = gateway.pipeline.snapshot.upstreams.values()
            assert upstream.pool.statistics().opened_total == 1

    on_uvloop(main)


@pytest.mark.parametrize("stops_after", [None, 1])
def test_who_leaves_has_the_upstream_stop(stops_after):
    async def main():
        async with before_a_model() as (model, gateway, port):
            model.silent, model.stops_after = stops_after is None, stops_after
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request({**PROMPT, "stream": True}))
            if stops_after is None:
                await until(lambda: model.versions)
            else:
                await reader.readuntil(b"hi")
            writer.close()
            async with asyncio.timeout(10):
                await model.gone.wait()
            await gateway.pipeline.wait_idle()

    on_uvloop(main)


@pytest.mark.parametrize(
    ("clocks", "stops_after"),
    [({"first_token": 5.0}, None), ({"between_tokens": 5.0}, 1), ({"total": 5.0}, None), ({"total": 5.0}, 1)],
)
def test_the_clocks_of_an_answer_run_out(clocks, stops_after):
    async def main():
        clock = FakeClock()
        async with before_a_model(clock, **clocks) as (model, gateway, port):
            model.silent, model.stops_after = stops_after is None, stops_after
            asked = asyncio.ensure_future(call(port, {**PROMPT, "stream": True}))
            await until(lambda: model.versions)
            if stops_after:
                await until(lambda: any(each.events for each in gateway.pipeline.registry))
            clock.advance(6.0)
            answer = await asked
            if stops_after:
                assert b"upstream_timeout" in answer.body
            else:
                assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
            await model.gone.wait()

    on_uvloop(main)


def test_where_nobody_listens_the_caller_is_told():
    async def main():
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            upstream = UpstreamConfig(
                kind="openai", base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", http2=True
            )
            made = msgspec.structs.replace(config("http://unused"), upstreams={"up0": upstream})
            async with serving(made) as (_, port):
                answer = await call(port, PROMPT)
                assert answer.status == 502
                assert "127.0.0.1" not in answer.json()["error"]["message"]

    on_uvloop(main)


def test_without_the_extra_the_configuration_is_wrong(monkeypatch):
    monkeypatch.setitem(sys.modules, "penstock.net.http2", None)
    upstream = UpstreamConfig(kind="openai", base_url="http://a", http2=True)
    with pytest.raises(ConfigError, match="extra 'http2'"):
        http._pool(Origin("http", "a", 1), upstream, Clock(), 0.0)
