"""The model list, where patterns answer: what the upstreams say that they have, and no error if they do not."""

import asyncio
import json

import msgspec
import pytest
from serving import call, config, on_uvloop, plain, serving

from penstock.config.model import CandidateConfig, ModelConfig
from penstock.gateway.beside import listing
from penstock.testing import ScriptedUpstream, Step


def saying(*names):
    return [
        Step.REQUEST,
        plain(json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()),
    ]


def routed(**models):
    return {
        pattern: ModelConfig(candidates=[CandidateConfig(upstream=upstream, model=model)])
        for pattern, (upstream, model) in models.items()
    }


async def listed(port, headers=()):
    answer = await call(port, b"", "/v1/models", "GET", headers=headers)
    assert answer.status == 200
    return [model["id"] for model in answer.json()["data"]]


MANY = {
    "*": ("up0", ""),
    "gpt-*": ("up1", ""),
    "other/*": ("up1", "*"),
    "all-*-alike": ("up0", "fixed"),
    "named": ("up0", ""),
}


def test_patterns_list_what_their_upstreams_have_by_the_names_that_lead_there():
    async def main():
        first, second = saying("named", "llama", "gpt-of-first"), saying("gpt-5", "o9")
        async with ScriptedUpstream([first]) as one, ScriptedUpstream([second]) as two:
            settings = config(one.url, two.url, models=routed(**MANY))
            async with serving(settings) as (_, port):
                return await listed(port), one.received, two.received

    names, asked, _ = on_uvloop(main)
    assert sorted(names) == ["gpt-5", "llama", "named", "other/gpt-5", "other/o9"]
    assert b"GET /v1/models HTTP/1.1" in asked[0]


def test_a_list_is_kept_and_renewed_behind_the_answer(monkeypatch):
    async def main():
        async with ScriptedUpstream([saying("a") + saying("a", "b")]) as upstream:
            settings = config(upstream.url, models=routed(**{"*": ("up0", "")}))
            async with serving(settings) as (_, port):
                seen = [await listed(port) for _ in range(3)]
                asked = upstream.received[0].count(b"GET")
                monkeypatch.setattr(listing, "FRESH", 0.0)
                seen.append(await listed(port))
                async with asyncio.timeout(30):
                    while (now := await listed(port)) == ["a"]:
                        await asyncio.sleep(0)
                return seen, asked, now

    assert on_uvloop(main) == ([["a"]] * 4, 1, ["a", "b"])


@pytest.mark.parametrize(
    "answer",
    [
        plain(b"no", "500 Internal Server Error"),
        plain(b"[1]"),
        plain(b"\xff"),
        plain(json.dumps({"data": [{"id": "x" * 300}]}).encode()),
        b"nonsense",
    ],
)
def test_an_upstream_that_does_not_say_is_no_error(answer):
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, answer, Step.CLOSE]]) as upstream:
            models = {
                **routed(**{"*": ("up0", "")}),
                "m": ModelConfig(candidates=[CandidateConfig(upstream="up0")]),
            }
            async with serving(config(upstream.url, models=models)) as (_, port):
                return await listed(port)

    assert on_uvloop(main) == ["m"]


def test_an_upstream_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(listing, "PATIENCE", 0.01)

    async def main():
        async with ScriptedUpstream([[Step.REQUEST]]) as upstream:
            settings = config(upstream.url, models=routed(**{"gpt-*": ("up0", ""), "m": ("up0", "")}))
            async with serving(settings) as (_, port):
                return await listed(port)

    assert on_uvloop(main) == ["m"]


def test_anthropics_upstream_is_asked_in_its_own_way():
    async def main():
        async with ScriptedUpstream([saying("claude-x")]) as upstream:
            settings = config(upstream.url, kind="anthropic", models=routed(**{"claude-*": ("up0", "")}))
            async with serving(settings) as (_, port):
                return await listed(port, ["anthropic-version: 2023-06-01"]), upstream.received[0]

    names, asked = on_uvloop(main)
    assert names == ["claude-x"]
    assert b"GET /v1/models?limit=1000 HTTP/1.1" in asked
    assert b"anthropic-version: 2023-06-01" in asked


def test_what_a_reload_sends_elsewhere_is_asked_anew():
    async def main():
        async with ScriptedUpstream([saying("a")]) as one, ScriptedUpstream([saying("b")]) as two:
            settings = config(one.url, models=routed(**{"*": ("up0", "")}))
            async with serving(settings) as (gateway, port):
                before = await listed(port)
                fresh = config(two.url, models=settings.models)
                gateway.reload(msgspec.structs.replace(settings, upstreams=fresh.upstreams))
                return before, await listed(port)

    assert on_uvloop(main) == (["a"], ["b"])
