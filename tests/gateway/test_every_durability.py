"""What callers can do with an answer is the same whatever their model's ``durability``; this is the gateway's own suite
over all three.  Where answers are stored, each request but the first comes to another process than made the answer.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from durably import keeper_of, stored, two
from serving import DONE, PROMPT, STREAM_END, STREAM_HEAD, call, config, delta, on_uvloop, serving, until

from penstock.config.keys import hash_key
from penstock.config.model import GenerationsConfig, KeyConfig
from penstock.config.secret import Secret
from penstock.testing import RedisServer, ScriptedUpstream, Step

STREAM = {**PROMPT, "stream": True}
SCRIPT = [Step.REQUEST, STREAM_HEAD + delta("a"), delta("b"), delta("c", "stop") + DONE + STREAM_END]
UNKNOWN = "gen_" + "0" * 32
KEYS = [KeyConfig(name=name, hash=hash_key(f"key-{name}"), tenant=name) for name in ("one", "two")]
MINE, THEIRS = ([f"authorization: Bearer key-{key.name}"] for key in KEYS)
NAMED = [*MINE, "idempotency-key: k"]
DURABILITIES = ["memory", "disk", "shared"]


@pytest.fixture(params=DURABILITIES)
def gateways(request, tmp_path, durable_budgets, nothing_comes_back):
    """Runs the gateway where a call is made, the one where all else is asked, and their upstream."""

    @contextlib.asynccontextmanager
    async def running(script, **more):
        with contextlib.ExitStack() as stack:
            where = {"path": str(tmp_path / "store")}
            if request.param == "shared":
                where = {"redis": Secret(stack.enter_context(RedisServer()).url)}
            settings = GenerationsConfig(durability=request.param, **where, **more)
            if request.param != "memory":
                async with two([script], lambda _lease: settings, keys=KEYS) as (here, there, upstream):
                    yield here, there, upstream
                return
            async with ScriptedUpstream([script]) as upstream:
                async with serving(config(upstream.url, generations=settings, keys=KEYS)) as here:
                    yield here, here, upstream

    return running


async def events(port, generation, after=None, headers=MINE):
    more = [] if after is None else [f"last-event-id: {after}"]
    return await call(port, b"", f"/v1/generations/{generation}/events", "GET", [*headers, *more])


async def made(gateway, port, headers=MINE):
    """A call's answer, which is wherever it is to be."""
    whole = await call(port, STREAM, headers=headers)
    if gateway._durable is not None and gateway._durable.keepers:
        await stored(gateway)
    return whole, whole.headers["penstock-generation"]


def test_a_call_that_is_repeated_by_its_key_gets_the_same_and_another_body_is_refused(gateways):
    async def main():
        async with gateways(SCRIPT) as ((gateway, here), (_, there), upstream):
            whole, _ = await made(gateway, here, NAMED)
            again = await call(there, STREAM, headers=NAMED)
            other = await call(there, PROMPT, headers=NAMED)
            return whole, again, other, upstream.connections

    whole, again, other, connections = on_uvloop(main)
    assert (again.body, again.headers["penstock-status"]) == (whole.body, "replayed")
    assert (other.status, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert connections == 1


def test_the_rest_is_had_from_any_offset_and_no_other(gateways):
    async def main():
        async with gateways(SCRIPT) as ((gateway, here), (_, there), _):
            whole, generation = await made(gateway, here)
            rest = [await events(there, generation, after) for after in (None, 0, 1, 2, 3)]
            wrong = [await events(there, generation, after) for after in (4, "x", "-1")]
            strange = await events(there, "gen_1")
            return whole, rest, [one.status for one in [*wrong, strange]]

    whole, rest, wrong = on_uvloop(main)
    assert [one.status for one in rest] == [200] * 4 + [204]
    assert rest[0].body == whole.body
    assert all(whole.body.endswith(one.body) for one in rest)
    assert [one.body.partition(b"\n")[0] for one in rest[:-1]] == [b"id: %d" % n for n in range(4)]
    assert wrong == [409, 400, 400, 400]


def test_a_reader_comes_to_an_answer_that_runs(gateways):
    async def main():
        go_on = asyncio.Event()
        async with gateways([*SCRIPT[:3], go_on, SCRIPT[3]]) as ((gateway, here), (other, there), _):
            calling = asyncio.create_task(call(here, STREAM, headers=MINE))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            reading = len(other.pipeline.readings)
            rest = asyncio.create_task(events(there, generation.id, 0))
            await until(lambda: len(other.pipeline.readings) > reading)
            go_on.set()
            return await calling, await rest

    whole, rest = on_uvloop(main)
    assert whole.body.endswith(rest.body)
    assert rest.body.startswith(b"id: 1\n")
    assert b"[DONE]" in rest.body


def test_tenants_do_not_see_each_others_answers_nor_anybody_what_is_not_there(gateways):
    async def main():
        async with gateways(SCRIPT) as ((gateway, here), (_, there), _):
            _, generation = await made(gateway, here)
            path = f"/v1/generations/{generation}"
            return [
                (await events(there, generation, headers=THEIRS)).status,
                (await call(there, b"", path, "GET", THEIRS)).status,
                (await call(there, b"", path + "/cancel", "POST", THEIRS)).status,
                (await events(there, UNKNOWN)).status,
                (await events(there, generation)).status,
            ]

    assert on_uvloop(main) == [404, 404, 404, 404, 200]


def test_a_cancelled_answer_ends_for_everybody_and_what_came_stays(gateways):
    async def main():
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), Step.GONE, Step.CLOSE]
        async with gateways(script) as ((gateway, here), (_, there), _):
            calling = asyncio.create_task(call(here, STREAM, headers=MINE))
            await until(lambda: any(one.readable for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            path = f"/v1/generations/{generation.id}/cancel"
            state = (await call(there, b"", path, "POST", MINE)).json()
            if there != here:  # it finds that out with its next write
                keeper = keeper_of(gateway)
                while (await keeper.load(generation.id)).ending is None:
                    await asyncio.sleep(0.01)
                generation.append([b"data: {}\n\n"], gateway.clock.now())
            await calling
            return state, await events(there, generation.id), await events(there, generation.id, 0)

    state, again, beyond = on_uvloop(main)
    assert (state["status"], state["error"]["code"]) == ("cancelled", "cancelled")
    assert b'"content": "a"' in again.body
    assert (beyond.status, beyond.json()["error"]["code"]) == (409, "cancelled")


def test_what_is_kept_no_more_is_gone(gateways):
    async def main():
        async with gateways(SCRIPT, kept_for=0.5) as ((gateway, here), (other, there), _):
            _, generation = await made(gateway, here)
            async with asyncio.timeout(30):
                while True:  # by the store's own clock, which no test can set
                    for keeper in other._durable.keepers.values() if other._durable else ():
                        await keeper.store.expire(keeper.now())
                    gone = await events(there, generation, 1)
                    if gone.status != 200:
                        return gone.status, gone.json()["error"]["code"]
                    await asyncio.sleep(0.05)

    assert on_uvloop(main) == (410, "expired")
