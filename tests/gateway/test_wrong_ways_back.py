"""Who comes back wrongly, in every way of coming back: to an answer in any form, which runs or has ended, and whatever
its model's ``durability``.  Where answers are stored, another process is asked than the one that makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

import pytest
from durably import emptied, keeper_of, stored, two
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
    serving,
    until,
)

from needing import needs_redis
from penstock.config.keys import hash_key
from penstock.config.model import GenerationsConfig, KeyConfig
from penstock.config.secret import Secret
from penstock.testing import RedisServer, ScriptedUpstream, Step

KEYS = [KeyConfig(name=name, hash=hash_key(f"key-{name}"), tenant=name) for name in ("one", "two")]
MINE, THEIRS = ([f"authorization: Bearer key-{key.name}"] for key in KEYS)
CLOSES = b"connection: close\r\n\r\n"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
QUESTION = {"model": "m", "input": "hello"}
FORMS = {
    "chat stream": (CHAT, {**PROMPT, "stream": True}),
    "chat plain": (CHAT, PROMPT),
    "response stream": (RESPONSES, {**QUESTION, "stream": True}),
    "response plain": (RESPONSES, QUESTION),
    "response in the background": (RESPONSES, {**QUESTION, "background": True}),
    "response stream in the background": (RESPONSES, {**QUESTION, "stream": True, "background": True}),
}
GENERATION, RESPONSE = "/v1/generations/", "/v1/responses/"
BY_ID = [("GET", GENERATION, rest) for rest in ("", "/events", "/events?starting_after=0", "/answer")] + [
    ("POST", GENERATION, "/cancel"),
    ("POST", GENERATION, "/cancel?unread=true"),
]
BY_RESPONSE = [
    ("GET", RESPONSE, rest) for rest in ("", "?stream=true", "?stream=true&starting_after=0", "/input_items")
] + [("POST", RESPONSE, "/cancel"), ("DELETE", RESPONSE, "")]
NAMES = {"key": ["idempotency-key: k"], "retry": ["x-stainless-retry-count: 1"]}
FIRST = {"key": NAMES["key"], "retry": ["x-stainless-retry-count: 0"]}
NO_POSITIONS = ["x", "-1", "1.5", "9" * 11, "0x1", "٣"]


class Made(NamedTuple):
    """An answer, its call, and whom to ask for it."""

    generation: str
    path: str
    body: dict
    named: str
    port: int
    streams: bool
    finish: object

    def ways(self):
        name = self.generation.removeprefix("gen_")
        ways = [(method, start + "gen_" + name + rest) for method, start, rest in BY_ID]
        if self.path == RESPONSES:
            ways += [(method, start + "resp_" + name + rest) for method, start, rest in BY_RESPONSE]
        return ways

    async def ask(self, method, path, *headers, of=MINE):
        return await call(self.port, b"", path, method, [*of, *headers])

    async def repeat(self, body=None, of=MINE):
        return await call(self.port, body or self.body, self.path, headers=[*of, *NAMES[self.named]])


def script(body, go_on=None):
    """A whole answer of an upstream, which waits for ``go_on`` in its middle."""
    wait = [] if go_on is None else [go_on]
    if body.get("stream") or body.get("background"):
        head = STREAM_HEAD.removesuffix(b"\r\n") + CLOSES
        return [Step.REQUEST, head + delta("a"), delta("b"), *wait, delta("c", "stop") + DONE + STREAM_END]
    return [Step.REQUEST, *wait, plain(COMPLETION, headers=["connection: close"])]


@pytest.fixture(scope="module", params=["memory", "disk", pytest.param("shared", marks=needs_redis)])
def durability(request):
    """One, and its server if it needs one."""
    if request.param != "shared":
        yield request.param, None
        return
    with RedisServer() as redis:
        yield request.param, redis


@pytest.fixture
def gateways(durability, tmp_path, durable_budgets, nothing_comes_back):
    """Runs the gateway where a call is made and the one where all else is asked."""

    @contextlib.asynccontextmanager
    async def running(scripts):
        name, server = durability
        where = (
            {"path": str(tmp_path / "store")} if server is None else {"redis": Secret(emptied(server.url, 0))}
        )
        settings = GenerationsConfig(durability=name, **where)
        if name != "memory":
            async with two(scripts, lambda _lease: settings, keys=KEYS) as (here, there, _):
                yield here, there
            return
        async with ScriptedUpstream(scripts) as upstream:
            async with serving(config(upstream.url, generations=settings, keys=KEYS)) as here:
                yield here, here

    return running


@pytest.fixture(params=list(FORMS))
def form(request):
    return FORMS[request.param]


@pytest.fixture(params=list(NAMES))
def named(request):
    return request.param


@pytest.fixture
def made(gateways, form, named):
    """Makes an answer: one that has ended, or runs until ``finish`` is awaited."""
    path, body = form

    @contextlib.asynccontextmanager
    async def making(*, runs):
        go_on = asyncio.Event()
        async with gateways([script(body, go_on if runs else None), script(body)]) as (here, there):
            (gateway, port), (other, asked) = here, there
            calling = asyncio.create_task(call(port, body, path, headers=[*MINE, *FIRST[named]]))

            async def finish():
                go_on.set()
                await calling
                await until(lambda: not gateway.pipeline.productions)
                if gateway._durable is not None and gateway._durable.keepers:
                    await stored(gateway)

            if not runs:
                await finish()
                generation = (await calling).headers["penstock-generation"]
            else:
                streams = "stream" in body or "background" in body
                await until(
                    lambda: any(one.readable >= 2 or not streams for one in gateway.pipeline.registry)
                )
                (one,) = gateway.pipeline.registry
                generation = one.id
                if gateway._durable is not None and gateway._durable.keepers:
                    while await keeper_of(gateway).load(generation) is None:
                        await asyncio.sleep(0)
            yield Made(generation, path, body, named, asked, bool(body.get("stream")), finish), gateway, other
            await finish()

    return making


def code(answer):
    return (answer.status, answer.json()["error"]["code"] if answer.status >= 400 else None)


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "running"])
def test_another_tenant_is_told_what_he_would_be_told_of_nothing(made, runs):
    async def main():
        async with asyncio.timeout(20), made(runs=runs) as (one, _, _):
            told = {way: code(await one.ask(*way, of=THEIRS)) for way in one.ways()}
            his = await one.repeat(of=THEIRS)
            return told, his, one.generation

    told, his, generation = on_uvloop(main)
    assert set(told.values()) == {(404, "not_found")}, told
    assert his.status == 200
    assert his.headers["penstock-generation"] != generation


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "running"])
def test_a_name_or_a_position_that_cannot_be_one_is_a_bad_request(made, runs):
    async def main():
        async with asyncio.timeout(20), made(runs=runs) as (one, _, _):
            told = {}
            for strange in ("gen_1", "1", one.generation.upper(), one.generation + "0", one.generation[4:]):
                for method, start, rest in BY_ID:
                    told[method, strange, rest] = code(await one.ask(method, start + strange + rest))
            events = f"{GENERATION}{one.generation}/events"
            response = RESPONSE + one.generation.replace("gen_", "resp_") + "?stream=true"
            for after in NO_POSITIONS:
                for where in (events, response) if one.path == RESPONSES else (events,):
                    told[where, after] = code(await one.ask("GET", where, f"last-event-id: {after}"))
                    if after.isascii():
                        mark = "&" if "?" in where else "?"
                        told[where, "?", after] = code(
                            await one.ask("GET", f"{where}{mark}starting_after={after}")
                        )
            return told

    told = on_uvloop(main)
    assert set(told.values()) == {(400, "invalid_request")}, told


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "running"])
def test_who_says_that_he_has_what_is_not_there_is_ahead(made, runs):
    async def main():
        async with asyncio.timeout(20), made(runs=runs) as (one, _, _):
            events = f"{GENERATION}{one.generation}/events"
            response = RESPONSE + one.generation.replace("gen_", "resp_") + "?stream=true"
            ways = [
                (where, *more)
                for where in ((events, response) if one.path == RESPONSES else (events,))
                for more in (("", "last-event-id: 1000"), ("starting_after=1000",))
            ]
            asking = []
            for where, query, *headers in ways:
                mark = "&" if "?" in where else "?"
                asking.append(asyncio.create_task(one.ask("GET", f"{where}{mark}{query}", *headers)))
            if not one.streams:  # it is read when it is whole
                await one.finish()
            return dict(zip(ways, map(code, await asyncio.gather(*asking)), strict=True))

    told = on_uvloop(main)
    assert set(told.values()) == {(409, "ahead_of_head")}, told


@pytest.mark.parametrize("runs", [False, True], ids=["ended", "running"])
def test_a_name_with_another_body_is_refused_and_an_sdks_other_call_is_another(made, runs):
    async def main():
        async with asyncio.timeout(20), made(runs=runs) as (one, _, _):
            again = asyncio.create_task(one.repeat())
            other = await one.repeat({**one.body, "temperature": 0.5})
            await one.finish()
            return one, await again, other

    one, again, other = on_uvloop(main)
    assert (again.status, again.headers["penstock-generation"]) == (200, one.generation)
    if one.named == "key":
        assert code(other) == (422, "idempotency_key_reused")
    else:
        assert other.status == 200
        assert other.headers["penstock-generation"] != one.generation


def test_what_is_kept_no_more_is_gone_by_its_id_and_made_anew_by_its_name(made):
    async def main():
        async with asyncio.timeout(20), made(runs=False) as (one, gateway, other):
            for each in {gateway, other}:
                for keeper in each._durable.keepers.values() if each._durable is not None else ():
                    await keeper.store.expire(keeper.now() + 3_601.0)
                for ended in list(each.pipeline.registry._ended.values()):
                    each.pipeline.registry.drop(ended.id)
            told = {way: code(await one.ask(*way)) for way in one.ways()}
            again = await one.repeat()
            return told, again, one.generation

    told, again, generation = on_uvloop(main)
    assert set(told.values()) == {(410, "expired")}, told
    assert again.status == 200
    assert again.headers["penstock-generation"] != generation
