"""Answers that outlive their process: several gateways, which know each other only by their store."""

import asyncio
import contextlib
import json
import time

import pytest
from durably import keeper_of, stored, two
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
    rows,
    serving,
    until,
)

from penstock.config.keys import hash_key
from penstock.config.model import (
    CandidateConfig,
    GenerationsConfig,
    KeyConfig,
    ModelConfig,
    RetryConfig,
    TierConfig,
)
from penstock.config.secret import Secret
from penstock.generation import reading
from penstock.generation.attention import ATTENDED
from penstock.generation.store import Bill, StoreUnavailable, Tail
from penstock.testing import RedisServer, ScriptedUpstream, Step

STREAM = {**PROMPT, "stream": True}
SCRIPT = [Step.REQUEST, STREAM_HEAD + delta("a"), delta("b"), delta("c", "stop") + DONE + STREAM_END]
KEY = ["idempotency-key: k"]
FIRST = ["x-stainless-retry-count: 0"]
RETRY = ["x-stainless-retry-count: 1"]


@contextlib.asynccontextmanager
async def running(durable, **more):
    """An answer that has two events in one of two gateways: it, its call, what lets it go on, and the other gateway."""
    go_on = asyncio.Event()
    script = [*SCRIPT[:3], go_on, SCRIPT[3]]
    async with two([script], durable, **more) as ((gateway, here), there, _):
        calling = asyncio.create_task(call(here, STREAM))
        await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
        (generation,) = gateway.pipeline.registry
        yield generation, calling, go_on, there


def events(port, generation, after=None):
    headers = [] if after is None else [f"last-event-id: {after}"]
    return call(port, b"", f"/v1/generations/{generation}/events", "GET", headers)


def test_an_answer_that_has_ended_is_read_in_another_process(durable):
    async def main():
        async with two([SCRIPT], durable) as ((gateway, here), (_, there), _):
            whole = await call(here, STREAM)
            await stored(gateway)
            generation = whole.headers["penstock-generation"]
            again = await events(there, generation)
            rest = await events(there, generation, 1)
            nothing = await events(there, generation, 3)
            state = (await call(there, b"", f"/v1/generations/{generation}", "GET")).json()
            return whole, again, rest, nothing, state

    whole, again, rest, nothing, state = on_uvloop(main)
    assert again.body == whole.body
    assert whole.body.endswith(rest.body)
    assert rest.body.startswith(b"id: 2\n")
    assert nothing.status == 204
    assert (state["status"], state["events"]) == ("finished", 4)
    assert state["usage"] is not None


def test_an_answer_that_runs_is_followed_in_another_process_which_keeps_it_alive(durable):
    async def main():
        go_on = asyncio.Event()
        script = [*SCRIPT[:3], go_on, SCRIPT[3]]
        async with two([script], durable, grace=0.3) as ((gateway, here), (other, there), upstream):
            _, writer = await asyncio.open_connection("127.0.0.1", here)
            writer.write(request(STREAM))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            again = asyncio.create_task(events(there, generation.id, 0))
            await until(lambda: any(one.readable == 2 for one in other.pipeline.registry))
            writer.transport.abort()
            await until(lambda: not gateway.pipeline.readings)
            for _ in range(3):  # well beyond the grace time, by the gateway's own clock
                gateway.pipeline.registry.sweep(gateway.clock.now() + 10.0)
                await until(lambda: not gateway.pipeline.waiting)
            go_on.set()
            return await again, await events(here, generation.id), upstream.connections

    again, whole, connections = on_uvloop(main)
    assert connections == 1
    assert whole.body.endswith(again.body)
    assert again.body.startswith(b"id: 1\n")
    assert b"[DONE]" in again.body


@pytest.mark.parametrize("apart", [True, False], ids=["after the other", "at once"])
def test_a_reader_in_another_process_may_leave_and_come_back(durable, apart):
    async def main():
        async with running(durable) as (generation, calling, go_on, (other, there)):
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", there)
                writer.write(request(b"", f"/v1/generations/{generation.id}/events", "GET"))
                await reader.readuntil(b"id: 1\n")
                writer.transport.abort()
                if apart:
                    await until(lambda: not other.pipeline.readings)
            again = asyncio.create_task(events(there, generation.id, 0))
            await until(lambda: any(one.readable == 2 and one.readers for one in other.pipeline.registry))
            go_on.set()
            return await calling, await again

    whole, again = on_uvloop(main)
    assert again.status == 200
    assert whole.body.endswith(again.body)
    assert again.body.startswith(b"id: 1\n")


@pytest.mark.parametrize("method", ["events", "claim"], ids=["reading it", "saying that it is read"])
def test_an_answer_that_could_not_be_read_once_is_read_the_next_time(durable, monkeypatch, method):
    async def main():
        async with running(durable, troubled=True) as (generation, calling, go_on, (other, there)):
            with monkeypatch.context() as trouble:
                trouble.setattr(keeper_of(other).store, method, unavailable)
                trying = asyncio.create_task(events(there, generation.id))
                await until(
                    lambda: trying.done() or any(one.readable == 2 for one in other.pipeline.registry)
                )
            again = asyncio.create_task(events(there, generation.id))
            go_on.set()
            return await calling, await trying, await again

    whole, tried, again = on_uvloop(main)
    if method == "events":
        assert b"this answer cannot be read now" in tried.body
    else:
        assert tried.body == whole.body
    assert again.body == whole.body


async def unavailable(*_args, **_more):
    raise StoreUnavailable("it went away just now")


@pytest.mark.parametrize("headers", [(KEY, KEY), (FIRST, RETRY)], ids=["key", "retry"])
def test_a_name_that_its_store_did_not_hear_of_is_told_when_it_is_back(durable, monkeypatch, headers):
    async def main():
        go_on = asyncio.Event()
        script = [*SCRIPT[:3], go_on, SCRIPT[3]]
        async with two([script], durable, troubled=True) as ((gateway, here), (other, there), upstream):
            keeper = keeper_of(gateway)
            with monkeypatch.context() as trouble:
                trouble.setattr(keeper.store, "write", unavailable)
                trouble.setattr(keeper.store, "claim", unavailable)
                calling = asyncio.create_task(call(here, STREAM, headers=headers[0]))
                await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
                await until(lambda: keeper.journal.statistics().errors)
            claims = []
            claim = keeper.store.claim

            async def noted(*args, **more):
                answer = await claim(*args, **more)
                claims.append(answer)
                return answer

            monkeypatch.setattr(keeper.store, "claim", noted)
            await until(lambda: all(one.durable for one in gateway.pipeline.registry))
            await until(lambda: claims or headers[0] is FIRST)  # which takes its name with its beginning
            again = asyncio.create_task(call(there, STREAM, headers=headers[1]))
            await until(lambda: any(one.readers for one in other.pipeline.registry))
            go_on.set()
            return await calling, await again, claims, upstream.connections

    whole, again, claims, connections = on_uvloop(main)
    assert again.body == whole.body
    assert connections == 1
    assert all(claim.won for claim in claims)


@pytest.mark.parametrize("kind", ["disk", "shared"])
def test_an_answer_that_nobody_has_an_event_of_is_known_again_after_its_store_lost_everything(
    tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("penstock.generation.names.CLAIM_BUDGET", 60.0)

    async def main():
        with contextlib.ExitStack() as stack:
            if kind == "shared":
                redis = stack.enter_context(RedisServer())

                def lose():
                    redis.kill()
                    redis.start()

                where = {"redis": Secret(redis.url)}
            else:

                def lose():
                    for file in tmp_path.glob("store*"):
                        file.unlink()

                where = {"path": str(tmp_path / "store")}

            def settings(lease):
                return GenerationsConfig(durability=kind, lease=lease, **where)

            go_on = asyncio.Event()
            script = [Step.REQUEST, go_on, plain(COMPLETION)]
            async with two([script], settings, troubled=True) as ((gateway, here), (other, there), upstream):
                calling = asyncio.create_task(call(here, PROMPT, headers=KEY))
                await upstream.wait_connections(1)
                (generation,) = gateway.pipeline.registry
                keeper, elsewhere = keeper_of(gateway), keeper_of(other)
                while await elsewhere.load(generation.id) is None:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(lose)
                await until(lambda: keeper.store.losses and elsewhere.store.losses)
                record = None
                while record is None:
                    with contextlib.suppress(StoreUnavailable):
                        record = await elsewhere.load(generation.id)
                    await asyncio.sleep(0.01)
                await until(lambda: keeper.names.unnamed == 0)
                again = asyncio.create_task(call(there, PROMPT, headers=KEY))
                await until(lambda: any(one.readers for one in other.pipeline.registry))
                go_on.set()
                return await calling, await again, upstream.connections

    whole, again, connections = on_uvloop(main)
    assert whole.status == 200
    assert again.body == whole.body
    assert connections == 1


def test_who_has_seen_more_in_one_process_than_another_has_heard_of_is_not_ahead_there(durable, monkeypatch):
    monkeypatch.setattr("penstock.generation.following.POLL", 3_600.0)  # nobody looks by himself

    async def main():
        go_on = asyncio.Event()
        async with two([[*SCRIPT[:2], go_on, *SCRIPT[2:]]], durable) as ((gateway, here), (other, there), _):
            asking = asyncio.create_task(call(here, STREAM))
            await until(lambda: any(one.readable == 1 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            early = asyncio.create_task(events(there, generation.id))
            await until(lambda: any(one.readable == 1 for one in other.pipeline.registry))
            go_on.set()
            whole = await asking
            rest = await asyncio.gather(*(events(there, generation.id, at) for at in (1, 2, 3, 4)))
            return whole, await early, rest

    whole, early, rest = on_uvloop(main)
    assert [one.status for one in rest] == [200, 200, 204, 409]
    assert early.body == whole.body
    assert all(whole.body.endswith(one.body) for one in rest[:2])


@pytest.mark.parametrize("body", [STREAM, PROMPT], ids=["stream", "plain"])
@pytest.mark.parametrize("headers", [(KEY, KEY), (FIRST, RETRY)], ids=["key", "retry"])
def test_a_repeated_call_finds_its_answer_in_another_process(durable, headers, body):
    script = SCRIPT if body is STREAM else [Step.REQUEST, plain(COMPLETION)]

    async def main():
        async with two([script], durable) as ((gateway, here), (_, there), upstream):
            first = await call(here, body, headers=headers[0])
            await until(lambda: not gateway.pipeline.waiting)
            await stored(gateway)
            return first, await call(there, body, headers=headers[1]), upstream.connections

    first, again, connections = on_uvloop(main)
    assert connections == 1
    assert (first.headers["penstock-status"], again.headers["penstock-status"]) == ("created", "replayed")
    assert again.headers["penstock-generation"] == first.headers["penstock-generation"]
    assert again.body == first.body


@pytest.mark.parametrize(
    ("headers", "patience", "calls"),
    [((KEY, KEY), 60.0, 1), ((KEY, KEY), 0.0, 2), ((FIRST, RETRY), 60.0, 2)],
    ids=["key", "key at a store that is too slow", "retry"],
)
def test_a_slow_store_is_waited_for_where_the_caller_has_named_his_call(
    stores, monkeypatch, headers, patience, calls
):
    async def main():
        async with two([SCRIPT], stores, troubled=True) as ((gateway, here), (other, there), upstream):
            first = await call(here, STREAM, headers=headers[0])
            await until(lambda: not gateway.pipeline.waiting)
            await stored(gateway)
            monkeypatch.setattr("penstock.generation.names.CLAIM_BUDGET", 0.0)
            monkeypatch.setattr("penstock.generation.names.KEY_PATIENCE", patience)
            again = await call(there, STREAM, headers=headers[1])
            asked = upstream.connections
            return first, again, asked, keeper_of(other).names.unclaimed

    first, again, asked, unclaimed = on_uvloop(main)
    assert asked == calls
    assert unclaimed == calls - 1
    assert (again.headers["penstock-generation"] == first.headers["penstock-generation"]) == (calls == 1)


def test_of_two_calls_with_one_key_at_two_processes_one_is_made(durable):
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, go_on, plain(COMPLETION)]
        async with two([script, script], durable) as ((gateway, here), (other, there), upstream):
            calls = [asyncio.create_task(call(port, PROMPT, headers=KEY)) for port in (here, there)]
            await until(lambda: gateway.pipeline.readings and other.pipeline.readings)
            go_on.set()
            return await asyncio.gather(*calls), upstream.connections

    answers, connections = on_uvloop(main)
    assert connections == 1
    assert {one.headers["penstock-status"] for one in answers} == {"created", "attached"}
    assert answers[0].body == answers[1].body


def test_the_same_key_with_another_body_is_refused_in_another_process_too(durable):
    async def main():
        async with two([SCRIPT], durable) as ((_, here), (_, there), _):
            await call(here, STREAM, headers=KEY)
            return await call(there, PROMPT, headers=KEY)

    assert on_uvloop(main).status == 422


def test_a_failed_call_is_made_anew_in_another_process(durable):
    async def main():
        scripts = [[Step.REQUEST, plain({"error": {}}, "400 Bad Request")], [Step.REQUEST, plain(COMPLETION)]]
        async with two(scripts, durable) as ((gateway, here), (_, there), _):
            first = await call(here, PROMPT, headers=KEY)
            await stored(gateway)
            return first.status, (await call(there, PROMPT, headers=KEY)).status

    assert on_uvloop(main) == (400, 200)


def test_the_id_of_a_background_response_leads_to_it_in_another_process(durable):

    async def main():
        async with two([SCRIPT], durable) as ((gateway, here), (_, there), _):
            body = {"model": "m", "input": "hello", "background": True}
            promised = (await call(here, body, "/v1/responses")).json()
            await stored(gateway)
            found = (await call(there, b"", f"/v1/responses/{promised['id']}", "GET")).json()
            return promised, found

    promised, found = on_uvloop(main)
    assert (found["id"], found["status"]) == (promised["id"], "completed")
    assert found["output"][0]["content"][0]["text"] == "abc"


def test_a_conversation_goes_on_in_another_process(durable):
    """Which asks its upstream for all of it, though it has seen the end alone."""

    async def main():
        script = [Step.REQUEST, plain(COMPLETION)]
        async with two([script, script], durable) as ((gateway, here), (_, there), upstream):
            body = {"model": "m", "input": "first"}
            made = (await call(here, body, "/v1/responses")).json()
            await stored(gateway)
            more = {"model": "m", "input": "second", "previous_response_id": made["id"]}
            unknown = {**more, "previous_response_id": "resp_" + "0" * 32}
            statuses = [(await call(there, each, "/v1/responses")).status for each in (more, unknown)]
            return statuses, json.loads(upstream.received[1].partition(b"\r\n\r\n")[2])["messages"]

    statuses, asked = on_uvloop(main)
    assert statuses == [200, 400]
    assert [one["content"] for one in asked] == ["first", "hi", "second"]


def test_what_is_deleted_while_it_runs_is_deleted_in_the_store_too(durable, caplog):
    async def main():
        never = asyncio.Event()
        script = [*SCRIPT[:3], never]
        async with two([script], durable) as ((gateway, here), (_, there), _):
            body = {"model": "m", "input": "hello", "background": True}
            promised = (await call(here, body, "/v1/responses")).json()
            path = f"/v1/responses/{promised['id']}"
            await until(lambda: any(one.readable >= 2 for one in gateway.pipeline.registry))
            deleted = (await call(here, b"", path, "DELETE")).json()["deleted"]
            await until(lambda: not (gateway.pipeline.productions or gateway.pipeline.waiting))
            statuses = [(await call(port, b"", path, "GET")).status for port in (here, there)]
            return deleted, statuses

    assert on_uvloop(main) == (True, [410, 410])
    assert "not ours" not in caplog.text


def test_a_response_is_said_to_be_deleted_when_the_store_has_it_no_more(durable):
    async def main():
        deleting, go_on = asyncio.Event(), asyncio.Event()
        async with two([[Step.REQUEST, plain(COMPLETION)]], durable) as ((gateway, here), (_, there), _):
            made = (await call(here, {"model": "m", "input": "hello"}, "/v1/responses")).json()
            await stored(gateway)
            (keeper,) = gateway.pipeline.durable.keepers.values()
            delete = keeper.store.delete

            async def later(generation_id):
                deleting.set()
                await go_on.wait()
                await delete(generation_id)

            keeper.store.delete = later
            path = f"/v1/responses/{made['id']}"
            asked = asyncio.create_task(call(here, b"", path, "DELETE"))
            await deleting.wait()
            found = (await call(there, b"", path, "GET")).status
            assert not asked.done()
            go_on.set()
            told = (await asked).json()
            gone = [(await call(port, b"", path, "GET")).status for port in (here, there)]
            return found, told, gone, made["id"]

    found, told, gone, response_id = on_uvloop(main)
    assert found == 200
    assert told == {"id": response_id, "object": "response.deleted", "deleted": True}
    assert set(gone) <= {404, 410}


def test_nobody_goes_on_from_a_response_that_another_process_has_deleted(durable):
    async def main():
        answer = [Step.REQUEST, plain(COMPLETION)]
        async with two([answer * 4], durable) as ((gateway, here), (_, there), upstream):
            first, second = [
                (await call(here, {"model": "m", "input": text}, "/v1/responses")).json()
                for text in ("first", "second")
            ]
            await stored(gateway)
            deleted = (await call(there, b"", f"/v1/responses/{first['id']}", "DELETE")).json()["deleted"]
            reference = {"type": "item_reference", "id": first["output"][0]["id"]}
            asked = [
                {"input": "third", "previous_response_id": first["id"]},
                {"input": "third", "previous_response_id": second["id"]},
                {"input": [{"role": "user", "content": "third"}, reference]},
            ]
            answers = [await call(here, {"model": "m", **each}, "/v1/responses") for each in asked]
            name = "gen_" + first["id"].removeprefix("resp_")
            return deleted, [one.status for one in answers], (await events(here, name)).status, upstream

    deleted, statuses, seen, upstream = on_uvloop(main)
    assert (deleted, statuses) == (True, [400, 200, 400])
    assert seen in (404, 410)
    shown = json.loads(upstream.received[0].rpartition(b"\r\n\r\n")[2])["messages"]
    assert [one["content"] for one in shown] == ["second", "hi", "third"]


def test_who_goes_on_where_the_store_is_away_goes_on_from_what_is_here(durable):
    async def main():
        answer = [Step.REQUEST, plain(COMPLETION)]
        async with two([answer * 2], durable, troubled=True) as ((gateway, here), _, _):
            made = (await call(here, {"model": "m", "input": "first"}, "/v1/responses")).json()
            await stored(gateway)
            (keeper,) = gateway.pipeline.durable.keepers.values()

            async def away(generation_id):
                raise StoreUnavailable("nobody is there")

            keeper.store.load = away
            more = {"model": "m", "input": "second", "previous_response_id": made["id"]}
            return (await call(here, more, "/v1/responses")).status

    assert on_uvloop(main) == 200


def test_what_is_no_response_is_not_deleted_as_one(durable):
    async def main():
        async with two([SCRIPT], durable) as ((gateway, here), (_, there), _):
            name = (await call(here, STREAM)).headers["penstock-generation"]
            await stored(gateway)
            path = f"/v1/responses/resp_{name.removeprefix('gen_')}"
            deleted = [(await call(port, b"", path, "DELETE")).status for port in (here, there)]
            found = [
                (await call(port, b"", f"/v1/generations/{name}", "GET")).status for port in (here, there)
            ]
            return deleted, found

    assert on_uvloop(main) == ([404, 404], [200, 200])


def test_a_response_that_has_ended_and_is_not_stored_yet_is_there(durable):
    async def main():
        go_on = asyncio.Event()
        async with two([[Step.REQUEST, go_on, plain(COMPLETION)]], durable) as ((gateway, here), _, _):
            (keeper,) = gateway.pipeline.durable.keepers.values()
            write = keeper.store.write

            async def later(writes):
                await go_on.wait()
                return await write(writes)

            keeper.store.write = later
            asked = {"model": "m", "input": "hello", "background": True}
            path = f"/v1/responses/{(await call(here, asked, '/v1/responses')).json()['id']}"
            cancelled = await call(here, b"", f"{path}/cancel", "POST")
            found = await call(here, b"", path, "GET")
            go_on.set()
            await stored(gateway)
            return [each.json()["status"] for each in (cancelled, found, await call(here, b"", path, "GET"))]

    assert on_uvloop(main) == ["cancelled"] * 3


def test_a_response_that_the_store_does_not_delete_is_not_said_to_be_deleted(durable):
    async def main():
        script = [Step.REQUEST, plain(COMPLETION)]
        async with two([script], durable, troubled=True) as ((gateway, here), (_, there), _):
            made = (await call(here, {"model": "m", "input": "hello"}, "/v1/responses")).json()
            await stored(gateway)
            (keeper,) = gateway.pipeline.durable.keepers.values()
            delete = keeper.store.delete

            async def refused(generation_id):
                raise StoreUnavailable("there is no room")

            keeper.store.delete = refused
            path = f"/v1/responses/{made['id']}"
            failed = await call(here, b"", path, "DELETE")
            found = (await call(there, b"", path, "GET")).status
            keeper.store.delete = delete
            again = await call(here, b"", path, "DELETE")
            return failed, found, again.json()["deleted"], (await call(there, b"", path, "GET")).status

    failed, found, deleted, gone = on_uvloop(main)
    assert (failed.status, found, deleted) == (503, 200, True)
    assert "cannot be deleted now" in failed.json()["error"]["message"]
    assert gone in (404, 410)


@pytest.mark.parametrize("thinks", [False, True], ids=["which goes on", "which thinks"])
def test_what_is_cancelled_in_another_process_is_paid_for_no_longer(durable, thinks):
    async def main():
        go_on = asyncio.Event()
        never = asyncio.Event()
        script = [*SCRIPT[:3], go_on, delta("c"), never]
        async with two([script], durable) as ((gateway, here), (other, there), upstream):
            reading = asyncio.create_task(call(here, STREAM))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            told = await call(there, b"", f"/v1/generations/{generation.id}/cancel", "POST")
            await until(lambda: not other.pipeline.waiting)  # the store knows
            if not thinks:
                go_on.set()
            await until(lambda: not gateway.pipeline.productions)
            return told.json(), await reading, upstream.connections

    told, broken, connections = on_uvloop(main)
    assert told["status"] == "cancelled"
    assert b"cancelled it" in broken.body
    assert connections == 1


def test_the_store_hears_that_an_answer_was_cancelled_elsewhere_once_it_is_back(durable, monkeypatch):
    monkeypatch.setattr("penstock.gateway.inheritance._TRY_AGAIN", 0.01)

    async def main():
        never, tried = asyncio.Event(), asyncio.Event()
        script = [*SCRIPT[:3], never]
        async with two([script], durable, troubled=True) as ((gateway, here), (other, there), _):
            reading = asyncio.create_task(call(here, STREAM))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            path = f"/v1/generations/{generation.id}"
            await call(there, b"", path, "GET")
            keeper = keeper_of(other)

            async def away(*_):
                tried.set()
                raise StoreUnavailable("it went away just now")

            with monkeypatch.context() as trouble:
                trouble.setattr(keeper.store, "cut", away)
                told = await call(there, b"", f"{path}/cancel", "POST")
                await tried.wait()
            await until(lambda: not other.pipeline.waiting)
            record = await keeper.load(generation.id)
            reading.cancel()
            return told.json()["status"], record.ending is not None

    assert on_uvloop(main) == ("cancelled", True)


def test_who_only_asks_how_far_an_answer_is_does_not_keep_it_going_in_another_process(durable, monkeypatch):
    monkeypatch.setattr("penstock.generation.following.ATTENDED", 0.5)

    async def main():
        script = [*SCRIPT[:3], Step.GONE, Step.CLOSE]
        async with two([script], durable, grace=0.1) as ((gateway, here), (other, there), _):
            reading = asyncio.create_task(call(here, STREAM))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            path = f"/v1/generations/{generation.id}"
            states = [(await call(there, b"", path, "GET")).json()["status"] for _ in range(2)]
            reading.cancel()
            await until(lambda: not generation.readers)
            other.pipeline.registry.sweep(other.clock.now() + 2 * ATTENDED)  # nobody has asked again
            followed = len(other.pipeline.registry)
            await until(lambda: not gateway.pipeline.productions)
            return states, followed

    assert on_uvloop(main) == (["running", "running"], 0)


async def dismissed(port, generation):
    """What a gateway says to a caller who will not come back for what another one produces."""
    return (await call(port, b"", f"/v1/generations/{generation}/cancel?unread=true", "POST")).json()[
        "status"
    ]


def test_who_tells_another_process_that_he_will_not_come_back_is_not_waited_for(durable, monkeypatch):
    monkeypatch.setattr("penstock.generation.attention.ATTENDED", 0.2)

    async def main():
        script = [*SCRIPT[:3], Step.GONE, Step.CLOSE]
        async with two([script], durable, grace=3600.0) as ((gateway, here), (other, there), _):
            reading = asyncio.create_task(call(here, STREAM))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            reading.cancel()
            await until(lambda: not generation.readers)
            told = await dismissed(there, generation.id)
            await until(lambda: not gateway.pipeline.productions)
            await until(lambda: not other.pipeline.registry)  # it is followed no more
            return told

    assert on_uvloop(main) == "running"


def test_what_somebody_reads_goes_on_when_another_process_is_told_that_nobody_will(durable):
    async def main():
        async with running(durable) as (generation, calling, go_on, (other, there)):
            told = await dismissed(there, generation.id)
            await until(lambda: not other.pipeline.waiting)  # the store knows
            go_on.set()
            return told, await calling

    told, whole = on_uvloop(main)
    assert told == "running"
    assert b"[DONE]" in whole.body


def test_what_runs_in_the_background_goes_on_when_its_reader_leaves_another_process(durable):
    async def main():
        go_on = asyncio.Event()
        script = [*SCRIPT[:3], go_on, SCRIPT[3]]
        async with two([script], durable) as ((gateway, here), (other, there), _):
            body = {"model": "m", "input": "x", "background": True}
            made = (await call(here, body, "/v1/responses")).json()
            await until(lambda: any(one.readable for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            await dismissed(there, generation.id)
            await until(lambda: not other.pipeline.waiting)
            await keeper_of(gateway)._end_dismissed(gateway.pipeline.durable)
            go_on.set()
            await stored(gateway)
            return (await call(here, b"", f"/v1/responses/{made['id']}", "GET")).json()["status"]

    assert on_uvloop(main) == "completed"


def test_what_runs_when_a_process_must_go_is_finished_by_another(durable):
    async def main():
        never = asyncio.Event()
        first = [*SCRIPT[:3], never]
        none = RetryConfig(budget_floor=0, budget_ratio=0)  # to go on with what was left is no retry
        twice = two([first, SCRIPT], durable, lease=2.0, retry=none)
        async with twice as ((gateway, here), (other, there), upstream):
            body = {**STREAM, "temperature": 0}
            reading = asyncio.create_task(call(here, body, headers=["penstock-label: search"]))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            cut = await gateway.drain(0.0)
            broken = await reading
            generation = broken.headers["penstock-generation"]
            await until(lambda: keeper_of(other).taken_over == 1)
            rest = await events(there, generation, 1)
            await until(lambda: rows(other))
            return cut, broken, rest, upstream.connections, rows(other)

    cut, broken, rest, connections, booked = on_uvloop(main)
    assert connections == 2
    assert b'"draining"' in broken.body
    assert rest.body.startswith(b"id: 2\n")
    assert b"[DONE]" in rest.body
    assert rest.body.count(b'"c"') == 1
    assert cut == 0
    assert {row.label for row in booked} == {"search"}


def test_what_its_process_is_writing_down_anew_is_not_said_to_be_unknown(durable, monkeypatch):
    """As in the moment after a Redis came back empty, or behind."""

    async def main():
        async with running(durable) as (generation, calling, go_on, (other, there)):
            keeper = keeper_of(other)
            find, asked = keeper.find, []

            async def not_yet(*which):
                asked.append(which)
                return None if len(asked) < 3 else await find(*which)

            monkeypatch.setattr(keeper, "find", not_yet)
            again = asyncio.create_task(events(there, generation.id, 1))
            await until(lambda: any(one.readers for one in other.pipeline.registry))
            unknown = await events(there, "gen_" + "0" * 32)
            go_on.set()
            return await calling, await again, unknown

    whole, again, unknown = on_uvloop(main)
    assert again.status == 200
    assert whole.body.endswith(again.body)
    assert unknown.status == 404


def test_a_reader_stays_while_the_store_does_not_know_its_answer_for_a_moment(durable, monkeypatch):
    async def main():
        async with running(durable) as (generation, calling, go_on, (other, there)):
            again = asyncio.create_task(events(there, generation.id, 0))
            await until(lambda: any(one.readers for one in other.pipeline.registry))
            store, looks = keeper_of(other).store, []
            tail = store.tail

            async def empty(wanted):
                looks.append(wanted)
                return {one: Tail([], None) for one in wanted} if len(looks) < 5 else await tail(wanted)

            async def nothing(_):
                return None

            with monkeypatch.context() as lost:
                lost.setattr(store, "tail", empty)
                lost.setattr(store, "load", nothing)
                await until(lambda: len(looks) > 4)
            go_on.set()
            return await calling, await again

    whole, again = on_uvloop(main)
    assert whole.body.endswith(again.body)
    assert b"[DONE]" in again.body


async def take_over(gateway, generation_id, bill=None):
    """As if its owner's lease had run out.

    :param bill: where what it has cost stands, if not in our ledger
    """
    keeper = keeper_of(gateway)
    record = await keeper.store.take_over(generation_id, keeper.lease.owner, time.time() + 3_600)
    record.bill = bill or record.bill
    gateway._durable.go_on(record, await reading.events(keeper.store, generation_id, record.events), keeper)


def test_what_another_process_has_taken_over_may_come_back(durable):
    """As after a Redis that came back empty: everybody was taken for dead for a moment."""

    async def main():
        never, go_on = asyncio.Event(), asyncio.Event()
        first = [*SCRIPT[:3], go_on, delta("x"), never]
        second = [*SCRIPT[:3], never]
        async with two([first, second, SCRIPT], durable) as ((gateway, here), (other, _), upstream):
            reading = asyncio.create_task(call(here, {**STREAM, "temperature": 0}))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            await take_over(other, generation.id)
            await until(lambda: upstream.connections == 2)
            go_on.set()  # what comes now is not stored any more
            broken = await reading
            await take_over(gateway, generation.id)
            return broken, await events(here, generation.id, 1)

    broken, rest = on_uvloop(main)
    assert b'"draining"' in broken.body
    assert b'"x"' not in broken.body
    assert rest.body.startswith(b"id: 2\n")
    assert b"[DONE]" in rest.body


@pytest.mark.parametrize("limit", [{}, {"max_tokens": 3}], ids=["without a limit", "at its limit"])
def test_an_answer_that_is_whole_when_it_is_taken_over_gets_no_second_end(durable, monkeypatch, limit):
    """Who received it was stopped between its last event and saying that this was its last."""
    monkeypatch.setattr("penstock.upstream.transfer.LAST_BYTES", 3_600.0)

    async def main():
        never = asyncio.Event()
        script = [*SCRIPT[:3], delta("c", "stop") + DONE, never]
        async with two([script, SCRIPT], durable) as ((gateway, here), (other, there), upstream):
            reading = asyncio.create_task(call(here, {**STREAM, **limit}))
            await until(lambda: any(one.readable == 4 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            await take_over(other, generation.id)
            rest = await events(there, generation.id, 0)
            reading.cancel()
            return rest.body, upstream.connections

    body, asked = on_uvloop(main)
    assert body.count(b"[DONE]") == body.count(b'"stop"') == 1
    assert b"error" not in body
    assert asked == 1


@pytest.mark.parametrize("said", [["penstock-deadline: 300"], []], ids=["its caller's", "its tier's"])
@pytest.mark.parametrize("late", [True, False])
def test_who_takes_over_what_nobody_has_begun_to_answer_keeps_to_its_deadline(durable, said, late):
    async def main():
        never = asyncio.Event()
        key = KeyConfig(name="k", hash=hash_key("sk-k"), tier="quick")
        tiers = {"quick": TierConfig(deadline=300.0)}
        scripts = [[Step.REQUEST, never], SCRIPT]
        async with two(scripts, durable, keys=[key], tiers=tiers) as (
            (gateway, here),
            (other, _),
            upstream,
        ):
            headers = ["authorization: Bearer sk-k", *said, *KEY]
            reading = asyncio.create_task(call(here, STREAM, headers=headers))
            await upstream.wait_connections(1)
            (generation,) = gateway.pipeline.registry
            keeper = keeper_of(other)
            while await keeper.load(generation.id) is None:
                await asyncio.sleep(0.01)
            time_there = keeper.now
            keeper.now = lambda: time_there() + (301.0 if late else 200.0)
            await take_over(other, generation.id)
            await until(lambda: not other.pipeline.productions)
            reading.cancel()
            (taken,) = other.pipeline.registry
            return taken.error and taken.error.code, upstream.connections

    assert on_uvloop(main) == (("deadline_unreachable", 1) if late else (None, 2))


def test_a_process_ends_though_its_store_does_not_take_the_word_for_another_ledger(
    durable, monkeypatch, caplog
):
    async def main():
        go_on, tried = asyncio.Event(), asyncio.Event()

        async def away(*_):
            tried.set()
            raise StoreUnavailable("it went away just now")

        first = [*SCRIPT[:3], go_on, delta("x"), Step.GONE]
        async with (
            asyncio.timeout(20.0),
            two([first, SCRIPT], durable, troubled=True) as ((gateway, here), (other, _), _),
        ):
            monkeypatch.setattr(keeper_of(other).store, "book", away)
            reading = asyncio.create_task(call(here, STREAM))
            await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
            (generation,) = gateway.pipeline.registry
            await take_over(other, generation.id, Bill("another ledger", "process", 1, {}, "up0", "m"))
            await tried.wait()
            go_on.set()
            await reading
            return generation.id

    generation_id = on_uvloop(main)
    (said,) = [one.getMessage() for one in caplog.records if "is not stored" in one.getMessage()]
    assert f"what {generation_id} had cost" in said


def test_while_the_store_is_silent_callers_get_their_bytes_and_nothing_is_called_durable(caplog):
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD, delta("a"), go_on, delta("b", "stop") + DONE + STREAM_END]
        with RedisServer() as redis:
            generations = GenerationsConfig(durability="shared", redis=Secret(redis.url))
            models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")])}
            async with ScriptedUpstream([script]) as upstream:
                settings = config(upstream.url, generations=generations, models=models)
                async with serving(settings) as (gateway, port):
                    told = []

                    async def state():
                        (one,) = [*gateway.pipeline.registry, *gateway.pipeline.registry._ended.values()]
                        path = f"/v1/generations/{one.id}"
                        told.append((await call(port, b"", path, "GET")).json()["durable"])

                    reading = asyncio.create_task(call(port, STREAM))
                    await until(lambda: any(one.readable == 1 for one in gateway.pipeline.registry))
                    await state()
                    redis.freeze()
                    go_on.set()
                    whole = await reading
                    await state()
                    shown = gateway.metrics.collect()
                    redis.thaw()
                    await stored(gateway)
                    await state()
                    return whole, told, shown

    whole, told, shown = on_uvloop(main)
    assert b"[DONE]" in whole.body
    assert told == [True, False, True]
    assert "penstock_generations_behind" in str(shown)
    assert "readers do not wait for it" in caplog.text


def test_a_file_that_cannot_be_written_costs_callers_nothing(tmp_path, caplog):
    async def main():
        path = tmp_path / "not there" / "generations.sqlite"
        generations = GenerationsConfig(durability="disk", path=str(path))
        models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")])}
        async with ScriptedUpstream([SCRIPT]) as upstream:
            settings = config(upstream.url, generations=generations, models=models)
            async with serving(settings, troubled=True) as (gateway, port):
                whole = await call(port, STREAM)
                again = await events(port, whole.headers["penstock-generation"], 1)
                state = await call(
                    port, b"", f"/v1/generations/{whole.headers['penstock-generation']}", "GET"
                )
                trouble = keeper_of(gateway).journal.statistics().trouble
                return whole, again, state.json(), trouble

    whole, again, state, trouble = on_uvloop(main)
    assert whole.body.endswith(again.body)
    assert state["durable"] is False
    assert "not there" in trouble
    assert "not durable" in caplog.text
