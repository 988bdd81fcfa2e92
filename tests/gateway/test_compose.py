import asyncio
import hashlib
import sqlite3

import msgspec
import pytest
from serving import (
    COMPLETION,
    DONE,
    NOTHING,
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
)

from penstock.config.model import Config, KeyConfig, LedgerConfig, UpstreamConfig
from penstock.errors import ConfigError, LeaseWanted
from penstock.gateway.compose import build
from penstock.metrics import render
from penstock.testing import FakeClock, ScriptedUpstream, Step

KEY = KeyConfig(name="k", hash="sha256:" + hashlib.sha256(b"s").hexdigest())


def test_what_is_in_flight_can_be_seen_and_is_gone_afterwards():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), go_on, delta("b", "stop") + DONE + STREAM_END]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                parent = f"traceparent: 00-{'a' * 32}-{'b' * 16}-00"
                writer.write(request({**PROMPT, "stream": True}, headers=[parent]))
                await reader.readuntil(b'"a"')
                during = gateway.state()
                go_on.set()
                await reader.readuntil(b"0\r\n\r\n")
                writer.close()
                await gateway.pipeline.wait_idle()
                return during, gateway.state()

    during, after = on_uvloop(main)
    (one,) = during["generations"]
    assert (one["endpoint"], one["model"], one["events"], one["readers"]) == ("chat", "m", 1, 1)
    assert one["trace"] == "a" * 32
    assert during["pools"]["up0"]["busy"] == 1
    assert during["held"]["calls"] == during["held"]["open_attempts"] == 1
    assert after["generations"] == []
    assert after["pools"]["up0"]["busy"] == 0
    assert after["ledger"]["completed"]["attempts"] == 1
    assert after["held"] == {
        **dict.fromkeys(("calls", "readings", "productions", "generations", "log_bytes", "open_attempts"), 0),
        "tasks": after["held"]["tasks"],
    }
    text = render(after["metrics"]).decode()
    assert 'penstock_requests_total{endpoint="chat",status="200"} 1' in text
    msgspec.json.encode({**during, "metrics": None})  # it crosses a process boundary


def test_what_was_asked_outlives_the_process_in_a_file(tmp_path):
    path = tmp_path / "ledger.db"

    async def main():
        script = [step for _ in range(3) for step in (Step.REQUEST, plain(COMPLETION))]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url, ledger=LedgerConfig(path=str(path)))) as (_, port):
                for _ in range(3):
                    await call(port, PROMPT)

    on_uvloop(main)
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT outcome, input_tokens, output_tokens FROM attempts").fetchall()
    database.close()
    assert rows == [("completed", 3, 2)] * 3


def test_a_gateway_that_was_never_asked_can_be_closed():
    async def main():
        async with serving(config("http://127.0.0.1:9")) as (gateway, _):
            assert "0 productions" in repr(gateway)
        return gateway

    assert set(NOTHING.values()) == {0}
    assert on_uvloop(main).clock._handle is None


@pytest.mark.parametrize("wrong", ["ca_file", "prices"])
def test_what_cannot_be_used_is_said_at_the_start(tmp_path, wrong):
    missing = str(tmp_path / "missing")
    upstream = {"kind": "openai", "base_url": "https://127.0.0.1:9/v1"}
    more = {"prices": missing} if wrong == "prices" else {}
    if wrong == "ca_file":
        upstream["ca_file"] = missing
    with pytest.raises(ConfigError, match="missing"):
        build(Config(upstreams={"u": UpstreamConfig(**upstream)}, **more), clock=FakeClock())


def test_a_defect_while_a_call_waits_to_be_admitted_is_500_and_leaks_nothing(monkeypatch, caplog):
    async def main():
        from gateway_doubles import BODY, FakeExchange

        gateway = build(config("http://127.0.0.1:9"), clock=FakeClock())
        exchange, admission = FakeExchange(), gateway.pipeline.admission
        exchange.whole_body = lambda: BODY
        assert gateway.reception.opening(exchange) > 0

        def wanted(*_, **__):
            raise LeaseWanted("a moment")

        monkeypatch.setattr(type(admission), "acquire", wanted)  # and there is no limiter to wait for
        gateway.reception(exchange)
        await gateway.pipeline.wait_idle()
        return exchange.status, admission.in_progress, len(gateway.pipeline.registry)

    assert on_uvloop(main) == (500, 0, 0)
    assert "defect while admitting" in caplog.text


def test_a_defect_while_answering_is_500_and_leaks_nothing(monkeypatch):
    """Whatever goes wrong in our own code, the caller is answered and what was taken is given back."""

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)]]) as upstream:
            clock = FakeClock()
            gateway = build(config(upstream.url), clock=clock)
            from gateway_doubles import BODY, FakeExchange

            exchange = FakeExchange()
            exchange.whole_body = lambda: BODY
            assert gateway.reception.opening(exchange) > 0
            monkeypatch.setattr(gateway.pipeline.registry, "_names", None)
            exchange.headers[b"idempotency-key"] = b"k"
            with pytest.raises(AttributeError):
                gateway.reception(exchange)
            return gateway.pipeline.admission.in_progress, len(gateway.pipeline.registry)

    assert on_uvloop(main) == (0, 0)
