"""A new configuration while streams run, and the end of a gateway while streams run."""

import asyncio
import hashlib
import importlib
import sys

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
    held,
    on_uvloop,
    plain,
    read_answer,
    request,
    rows,
    serving,
    until,
)

from penstock.config.model import (
    CacheConfig,
    GenerationsConfig,
    KeyConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
    SemanticConfig,
    TimeoutConfig,
)
from penstock.config.secret import Secret
from penstock.errors import ConfigError
from penstock.messages import Outcome
from penstock.testing import FakeClock, ScriptedUpstream, Step

STREAM = {**PROMPT, "stream": True}
END = delta("b", "stop") + DONE + STREAM_END


def key(name, **more):
    return KeyConfig(name=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest(), **more)


async def begun(port, headers=()):
    """A stream whose first event has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(STREAM, headers=headers))
    await reader.readuntil(b'"a"')
    return reader, writer


def test_a_running_stream_ends_where_it_began_and_new_calls_go_to_the_new_upstream():
    async def main():
        go_on = asyncio.Event()
        old_script = [Step.REQUEST, STREAM_HEAD + delta("a"), go_on, END]
        async with (
            ScriptedUpstream([old_script]) as old,
            ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)]]) as new,
        ):
            async with serving(config(old.url)) as (gateway, port):
                reader, writer = await begun(port)
                retired = gateway.pipeline.snapshot.upstreams["up0"]
                gateway.reload(config(new.url))
                answer = await call(port, PROMPT)
                assert (answer.status, old.connections, new.connections) == (200, 1, 1)
                assert retired.pool.statistics().busy == 1
                go_on.set()
                rest = await reader.readuntil(b"0\r\n\r\n")
                writer.close()
                await until(lambda: not gateway._retired)
                assert retired.pool.statistics().open == 0
                assert retired not in gateway.clock._sweepables
                assert retired.pool not in gateway.clock._sweepables
                return rest, rows(gateway)

    rest, booked = on_uvloop(main)
    assert b"[DONE]" in rest
    assert [row.outcome for row in booked] == [Outcome.COMPLETED] * 2


def test_the_clocks_of_a_retired_upstream_go_on():
    async def main():
        clock = FakeClock()
        timeouts = TimeoutConfig(between_tokens=4)
        async with ScriptedUpstream([[Step.REQUEST, STREAM_HEAD + delta("a")]]) as old:
            async with serving(config(old.url, timeouts=timeouts), clock) as (gateway, port):
                reader, writer = await begun(port)
                gateway.reload(config("http://127.0.0.1:9"))
                await asyncio.sleep(0)
                clock.advance(5)
                rest = await reader.readuntil(b"0\r\n\r\n")
                writer.close()
                return rest

    assert b'"code":"upstream_timeout"' in on_uvloop(main)


def test_a_call_that_retries_after_its_upstream_was_retired_is_served_and_timed():
    async def main():
        clock = FakeClock()
        fail = plain({"error": {"message": "no"}}, "500 no")
        go_on = asyncio.Event()
        scripts = [[Step.REQUEST, go_on, fail, Step.CLOSE], [Step.REQUEST]]
        settings = {"retry": RetryConfig(first_delay=0.0), "timeouts": TimeoutConfig(first_token=10)}
        async with ScriptedUpstream(scripts) as old:
            async with serving(config(old.url, **settings), clock) as (gateway, port):
                calling = asyncio.ensure_future(call(port, PROMPT))
                await old.wait_received(b"hello")
                retired = gateway.pipeline.snapshot.upstreams["up0"]
                gateway.reload(config("http://127.0.0.1:9"))
                await retired.close()  # as if it had been idle between the attempts
                go_on.set()
                await old.wait_received(b"hello", connection=1)
                clock.advance(11)
                answer = await calling
                await until(lambda: not gateway._retired)
                assert retired not in clock._sweepables
                return answer

    answer = on_uvloop(main)
    assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")


def test_an_upstream_that_has_not_changed_keeps_its_connections():
    async def main():
        script = [step for _ in range(3) for step in (Step.REQUEST, plain(COMPLETION))]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                await call(port, PROMPT)
                gateway.reload(config(upstream.url, max_answer_bytes=10_000))
                await call(port, PROMPT)
                return upstream.connections, gateway.config_version

    assert on_uvloop(main) == (1, 2)


def test_keys_come_and_go_at_once():
    async def main():
        script = [step for _ in range(9) for step in (Step.REQUEST, plain(COMPLETION))]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                statuses = []

                async def ask(*names):
                    for name in names:
                        headers = [f"authorization: Bearer {name}"] if name else []
                        statuses.append((await call(port, PROMPT, headers=headers)).status)

                await ask("", "a")
                gateway.reload(config(upstream.url, keys=[key("a")]))
                await ask("", "a", "b")
                gateway.reload(config(upstream.url, keys=[key("b"), key("c", models=["other"])]))
                await ask("a", "b", "c")
                return statuses

    assert on_uvloop(main) == [200, 200, 401, 200, 401, 401, 200, 403]


def test_a_stream_goes_on_though_its_key_is_gone():
    async def main():
        go_on = asyncio.Event()
        async with ScriptedUpstream([[Step.REQUEST, STREAM_HEAD + delta("a"), go_on, END]]) as upstream:
            async with serving(config(upstream.url, keys=[key("a")])) as (gateway, port):
                reader, writer = await begun(port, ["x-api-key: a"])
                gateway.reload(config(upstream.url, keys=[key("b")]))
                go_on.set()
                rest = await reader.readuntil(b"0\r\n\r\n")
                writer.close()
                return rest

    assert b"[DONE]" in on_uvloop(main)


def test_models_come_and_go_at_once():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)]]) as upstream:
            settings = config(upstream.url)
            async with serving(settings) as (gateway, port):
                candidates = settings.models["m"].candidates
                renamed = msgspec.structs.replace(
                    settings, models={"new": ModelConfig(candidates=candidates)}
                )
                gateway.reload(renamed)
                gone = await call(port, PROMPT)
                there = await call(port, {**PROMPT, "model": "new"})
                listed = await call(port, b"", "/v1/models", "GET")
                return gone.status, there.status, [model["id"] for model in listed.json()["data"]]

    assert on_uvloop(main) == (404, 200, ["new"])


def test_a_configuration_that_cannot_be_used_changes_nothing(tmp_path):
    async def main():
        script = [step for _ in range(3) for step in (Step.REQUEST, plain(COMPLETION))]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                before = gateway.pipeline.snapshot
                swept = set(gateway.clock._sweepables)
                bad_prices = config("http://127.0.0.1:9", prices=str(tmp_path / "none.toml"))
                bad_ca = config("http://127.0.0.1:9", "https://127.0.0.1:9")
                up1 = bad_ca.upstreams["up1"]
                bad_ca.upstreams["up1"] = msgspec.structs.replace(up1, ca_file=str(tmp_path / "none.pem"))
                for bad in (bad_prices, bad_ca):
                    with pytest.raises(ConfigError):
                        gateway.reload(bad)
                assert gateway.pipeline.snapshot is before
                assert set(gateway.clock._sweepables) == swept
                assert gateway.config_version == 1
                return (await call(port, PROMPT)).status

    assert on_uvloop(main) == 200


@pytest.mark.parametrize(
    ("missing", "model"),
    [
        ("penstock.cache.tiers.redis", {"cache": ModelCacheConfig()}),
        ("penstock.generation.stores.redis", {"durability": "shared"}),
        ("penstock.cache.semantic.encoder", {"cache": ModelCacheConfig(semantic=SemanticConfig())}),
    ],
)
def test_a_configuration_whose_extra_is_missing_changes_nothing(monkeypatch, missing, model):
    monkeypatch.setitem(sys.modules, missing, None)
    package, _, name = missing.rpartition(".")
    monkeypatch.delattr(importlib.import_module(package), name, raising=False)  # where it was imported before
    nowhere = Secret("redis://127.0.0.1:9")
    present = config("http://127.0.0.1:9", generations=GenerationsConfig(redis=nowhere))
    if "redis" in missing:
        present = msgspec.structs.replace(
            present, cache=CacheConfig(redis=nowhere, seal_key=Secret("s" * 32))
        )
    wanted = msgspec.structs.replace(
        present,
        models={"other": msgspec.structs.replace(present.models["m"], **model)},
    )

    async def main():
        async with serving(present) as (gateway, _):
            before = gateway.pipeline.snapshot
            for _ in range(2):
                with pytest.raises(ConfigError, match="extra"):
                    gateway.reload(wanted)
            assert gateway.pipeline.snapshot is before
            assert gateway.config_version == 1
            assert gateway.cache is None
            gateway.reload(present)

    on_uvloop(main)


# ---- the end --------------------------------------------------------------------------------------


def test_a_drain_lets_a_running_stream_end():
    async def main():
        go_on = asyncio.Event()
        async with ScriptedUpstream([[Step.REQUEST, STREAM_HEAD + delta("a"), go_on, END]]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                reader, writer = await begun(port)
                draining = asyncio.ensure_future(gateway.drain(20))
                await asyncio.sleep(0)
                go_on.set()
                rest = await reader.readuntil(b"0\r\n\r\n")
                writer.close()
                return rest, await draining, rows(gateway)

    rest, left, booked = on_uvloop(main)
    assert b"[DONE]" in rest
    assert left == 0
    assert [row.outcome for row in booked] == [Outcome.COMPLETED]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_at_the_end_of_a_drain_what_still_runs_is_cut_settled_and_told_so(stream):
    async def main():
        script = [Step.REQUEST, STREAM_HEAD + delta("a")] if stream else [Step.REQUEST]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(STREAM if stream else PROMPT))
                await upstream.wait_received(b"hello")
                if stream:
                    await reader.readuntil(b'"a"')
                left = await gateway.drain(0.01)
                late = await call(port, PROMPT)
                assert (late.status, late.json()["error"]["code"]) == (503, "draining")
                await until(lambda: not any(held(gateway).values()))
                end = await reader.readuntil(b"0\r\n\r\n") if stream else (await read_answer(reader)).body
                writer.close()
                return left, end, rows(gateway)

    left, end, booked = on_uvloop(main)
    assert left == 1
    assert b'"code":"draining"' in end
    assert b"[DONE]" not in end
    assert [row.outcome for row in booked] == [Outcome.CANCELLED]


def test_a_gateway_that_is_closed_in_mid_stream_settles_what_came():
    async def main():
        async with ScriptedUpstream(
            [[Step.REQUEST, STREAM_HEAD + delta("a", usage=(5, 1)), Step.GONE]]
        ) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                _, writer = await begun(port)
                await gateway.close()
                writer.close()
                return rows(gateway)

    booked = on_uvloop(main)
    assert [(row.outcome, row.usage.output_tokens) for row in booked] == [(Outcome.CANCELLED, 1)]
