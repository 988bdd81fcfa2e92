"""What is said of an answer that is not kept any more: the same in every process, to its tenant alone."""

import asyncio

import pytest
from durably import keeper_of, stored, two
from serving import COMPLETION, DONE, STREAM_END, STREAM_HEAD, call, config, delta, on_uvloop, plain, serving

from penstock.config.keys import hash_key
from penstock.config.model import CandidateConfig, KeyConfig, ModelConfig
from penstock.testing import ScriptedUpstream, Step

pytestmark = pytest.mark.usefixtures("nothing_comes_back")
KEYS = [KeyConfig(name=name, hash=hash_key(name), tenant=name) for name in "ab"]
OWNER, FOREIGN = ["authorization: Bearer a"], ["authorization: Bearer b"]
BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
STREAM = [Step.REQUEST, STREAM_HEAD, delta("a"), delta("b", "stop"), DONE + STREAM_END]
WAYS = [
    ("GET", "/v1/generations/{}"),
    ("GET", "/v1/generations/{}/events"),
    ("GET", "/v1/generations/{}/events?starting_after=1"),
    ("POST", "/v1/generations/{}/cancel"),
]
KEPT_FOR = 3_600.0  # as the configuration has it where it says nothing


async def said(port, name, headers=OWNER, ways=WAYS):
    answers = [await call(port, b"", path.format(name), method, headers) for method, path in ways]
    return {(one.status, one.json()["error"]["code"]) for one in answers}


async def past(*gateways):
    """The time is over for which answers are kept."""
    for gateway in gateways:
        keeper = keeper_of(gateway)
        await keeper.store.expire(keeper.now() + KEPT_FOR + 1)
        for generation in list(gateway.pipeline.registry._ended.values()):
            gateway.pipeline.registry.drop(generation.id)


def test_what_is_kept_no_more_is_said_to_have_been_there_in_every_process_and_after_a_restart(durable):
    async def main():
        generations = durable(60.0)
        async with two([STREAM], lambda _: generations, keys=KEYS) as (
            (gateway, here),
            (other, there),
            upstream,
        ):
            name = (await call(here, BODY, headers=OWNER)).headers["penstock-generation"]
            await stored(gateway)
            found = (await call(there, b"", f"/v1/generations/{name}", "GET", OWNER)).status
            await past(gateway, other)
            ports = [here, there]
            models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")])}
            settings = config(upstream.url, generations=generations, models=models, keys=KEYS)
            async with serving(settings) as (_, later):
                told = [await said(port, name) for port in (*ports, later)]
                foreign = [await said(port, name, FOREIGN) for port in (*ports, later)]
                made_up = [await said(port, "gen_" + "0" * 32) for port in (*ports, later)]
            return found, told, foreign, made_up, await said(there, "gen_1")

    found, told, foreign, made_up, malformed = on_uvloop(main)
    assert found == 200
    assert told == [{(410, "expired")}] * 3
    assert foreign == made_up == [{(404, "not_found")}] * 3
    assert malformed == {(400, "invalid_request")}


def test_so_is_a_response_that_was_deleted(durable):
    async def main():
        script = [Step.REQUEST, plain(COMPLETION)]
        async with two([script], durable, keys=KEYS) as ((gateway, here), (_, there), _):
            made = (await call(here, {"model": "m", "input": "hello"}, "/v1/responses", headers=OWNER)).json()
            await stored(gateway)
            path = f"/v1/responses/{made['id']}"
            assert (await call(there, b"", path, "DELETE", OWNER)).status == 200
            ways = [("GET", "/v1/responses/{}"), ("DELETE", "/v1/responses/{}")]
            return [
                await said(port, made["id"], headers, ways)
                for headers in (OWNER, FOREIGN)
                for port in (here, there)
            ]

    assert on_uvloop(main) == [{(410, "expired")}] * 2 + [{(404, "not_found")}] * 2


def test_in_memory_as_many_are_known_as_fit(monkeypatch):
    monkeypatch.setattr("penstock.generation.registry.MAX_REMEMBERED", 4)

    async def main():
        async with ScriptedUpstream([STREAM * 6]) as upstream:
            async with serving(config(upstream.url, keys=KEYS)) as (gateway, port):
                names = []
                for _ in range(6):
                    names.append((await call(port, BODY, headers=OWNER)).headers["penstock-generation"])
                    await asyncio.sleep(0)
                    gateway.pipeline.registry.drop(names[-1])
                return [await said(port, name) for name in names], await said(port, names[-1], FOREIGN)

    known, foreign = on_uvloop(main)
    assert known[0] == foreign == {(404, "not_found")}
    assert known[-2:] == [{(410, "expired")}] * 2
