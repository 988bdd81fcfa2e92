"""Resources that stand for a generation: resuming at an offset, state, cancelling, stored responses."""

import asyncio
import json

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
    frame,
    on_uvloop,
    plain,
    request,
    serving,
    until,
)

from penstock.config.keys import hash_key
from penstock.config.model import ContinuationConfig, GenerationsConfig, KeyConfig
from penstock.messages import Outcome
from penstock.testing import FakeClock, ScriptedUpstream, Step

STREAM = {**PROMPT, "stream": True}
REST = delta("c", "stop") + DONE + STREAM_END
SCRIPT = [Step.REQUEST, STREAM_HEAD + delta("a"), delta("b"), REST]
EVENTS = 4
UNKNOWN = "gen_" + "0" * 32


async def events(port, generation, after=None, *, by="header", headers=()):
    path = f"/v1/generations/{generation}/events"
    if after is not None and by == "query":
        path += f"?starting_after={after}"
    elif after is not None:
        headers = [*headers, f"last-event-id: {after}"]
    return await call(port, b"", path, "GET", headers)


def served(script=SCRIPT, body=STREAM, clock=None, **more):
    """Runs a test with the gateway, its port, and the whole first answer."""

    def run(test):
        async def main():
            async with ScriptedUpstream([script]) as upstream:
                async with serving(config(upstream.url, **more), clock) as (gateway, port):
                    answer = await call(port, body)
                    return await test(gateway, port, answer, answer.headers["penstock-generation"])

        return on_uvloop(main)

    return run


@pytest.mark.parametrize("by", ["header", "query"])
def test_a_reader_gets_the_rest_byte_for_byte_from_any_offset(by):
    async def test(gateway, port, whole, generation):
        frames = whole.body.split(b"\n\n")[:-1]
        assert len(frames) == EVENTS
        for after in (None, 0, 1, 2):
            again = await events(port, generation, after, by=by)
            start = 0 if after is None else after + 1
            assert again.status == 200
            assert again.body == b"".join(one + b"\n\n" for one in frames[start:])
            assert again.headers["penstock-status"] == "resumed"
            assert again.headers["penstock-generation"] == generation

    served()(test)


def test_a_repeated_call_has_a_row_that_says_what_it_saved_and_one_who_reads_on_has_none():
    async def main():
        async with ScriptedUpstream([SCRIPT]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                first, *again = [await call(port, STREAM, headers=["idempotency-key: k"]) for _ in range(3)]
                assert {one.headers["penstock-status"] for one in again} == {"replayed"}
                assert {one.body for one in again} == {first.body}
                generation = first.headers["penstock-generation"]
                assert (await events(port, generation, 0)).status == 200
                return generation, gateway.recorder.ledger.recent()

    generation, rows = on_uvloop(main)
    assert [row.outcome for row in rows] == [Outcome.ATTACHED, Outcome.ATTACHED, Outcome.COMPLETED]
    assert {row.generation for row in rows} == {generation}
    assert {row.usage for row in rows} == {rows[2].usage}
    assert rows[2].usage.output_tokens > 0


def test_where_nothing_is_left_the_reader_is_told_to_stop_and_ahead_of_the_head_it_is_refused():
    async def test(gateway, port, whole, generation):
        nothing = await events(port, generation, EVENTS - 1)
        assert (nothing.status, nothing.body) == (204, b"")
        ahead = await events(port, generation, EVENTS)
        assert (ahead.status, ahead.json()["error"]["code"]) == (409, "ahead_of_head")

    served()(test)


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "99999999999", "0x1"])
def test_a_position_that_cannot_be_one_is_refused(after):
    async def test(gateway, port, whole, generation):
        assert (await events(port, generation, after)).status == 400

    served()(test)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v1/generations/{UNKNOWN}", 404),
        (f"/v1/generations/{UNKNOWN}/events", 404),
        (f"/v1/generations/{UNKNOWN}/other", 404),
        ("/v1/generations/gen_1/events", 400),
        ("/v1/generations/..%2f", 400),
        ("/v1/responses/resp_1", 404),
        ("/v1/responses/resp_" + "0" * 32, 404),
    ],
)
def test_what_is_not_there_is_said_to_be_so(path, status):
    async def test(gateway, port, whole, generation):
        answer = await call(port, b"", path, "GET")
        assert answer.status == status
        assert "message" in answer.json()["error"]

    served()(test)


def test_what_is_not_kept_any_more_is_gone_and_not_unknown():
    clock = FakeClock()

    async def test(gateway, port, whole, generation):
        clock.advance(59.0)
        assert (await events(port, generation)).status == 200
        clock.advance(1.0)
        gone = await events(port, generation, 1)
        assert (gone.status, gone.json()["error"]["code"]) == (410, "expired")

    served(clock=clock, generations=GenerationsConfig(kept_for=60.0))(test)


def test_another_tenants_generation_cannot_be_seen():
    keys = [KeyConfig(name=n, hash=hash_key(f"key-{n}"), tenant=n) for n in ("one", "two")]

    async def main():
        async with ScriptedUpstream([SCRIPT]) as upstream:
            async with serving(config(upstream.url, keys=keys)) as (_, port):
                answer = await call(port, STREAM, headers=["authorization: Bearer key-one"])
                generation = answer.headers["penstock-generation"]
                path = f"/v1/generations/{generation}"
                found = []
                for who in ("one", "two"):
                    headers = [f"authorization: Bearer key-{who}"]
                    found.append((await events(port, generation, headers=headers)).status)
                    found.append((await call(port, b"", path, "GET", headers)).status)
                found.append((await events(port, generation)).status)
                headers = ["authorization: Bearer key-two"]
                found.append((await call(port, b"", path + "/cancel", "POST", headers)).status)
                return found

    assert on_uvloop(main) == [200, 200, 404, 404, 401, 404]


def test_a_reader_who_comes_back_while_it_runs_gets_the_rest_as_it_comes():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), delta("b"), go_on, REST]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(STREAM, headers=["idempotency-key: k"]))
                await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
                (generation,) = gateway.pipeline.registry
                writer.transport.abort()
                await until(lambda: not gateway.pipeline.readings)
                again = asyncio.create_task(events(port, generation.id, 0))
                await until(lambda: gateway.pipeline.readings)
                state = await call(port, b"", f"/v1/generations/{generation.id}", "GET")
                ahead = await events(port, generation.id, 2)
                go_on.set()
                return state.json(), ahead.status, await again, await events(port, generation.id)

    state, ahead, rest, whole = on_uvloop(main)
    assert (state["status"], state["events"], state["readers"], state["usage"]) == ("running", 2, 1, None)
    assert ahead == 409
    assert whole.body.endswith(rest.body)
    assert rest.body.startswith(b"id: 1\n")


def test_who_has_every_event_and_comes_back_before_the_end_is_told_to_stop_when_it_comes():
    async def main():
        go_on = asyncio.Event()
        # The terminator is there, and the message is not over: it may yet turn out to be broken.
        script = [Step.REQUEST, STREAM_HEAD + delta("a", "stop") + DONE, go_on, STREAM_END]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                calls = [asyncio.create_task(call(port, STREAM))]
                await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
                (generation,) = gateway.pipeline.registry
                for after in (1, 0, None):
                    calls.append(asyncio.create_task(events(port, generation.id, after)))
                    await until(lambda: len(gateway.pipeline.readings) == len(calls))
                go_on.set()
                return await asyncio.gather(*calls)

    whole, nothing, rest, again = on_uvloop(main)
    assert (nothing.status, nothing.body) == (204, b"")
    assert whole.body.endswith(rest.body)
    assert again.body == whole.body


def test_a_generation_can_be_cancelled_and_what_came_stays_readable():
    async def main():
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), Step.GONE, Step.CLOSE]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                reading = asyncio.create_task(call(port, STREAM))
                await until(lambda: any(one.readable for one in gateway.pipeline.registry))
                (generation,) = gateway.pipeline.registry
                path = f"/v1/generations/{generation.id}"
                state = await call(port, b"", path + "/cancel", "POST")
                first = await reading
                await until(lambda: not gateway.pipeline.productions)
                again = await events(port, generation.id)
                (row,) = gateway.recorder.ledger.recent()
                once_more = await call(port, b"", path + "/cancel", "POST")
                beyond = await events(port, generation.id, 0)
                return state.json(), first, again, row.outcome, once_more.json(), beyond

    state, first, again, outcome, once_more, beyond = on_uvloop(main)
    assert (beyond.status, beyond.json()["error"]["code"]) == (409, "cancelled")
    assert beyond.headers["x-should-retry"] == "false"
    assert (state["status"], state["error"]["code"]) == ("cancelled", "cancelled")
    assert again.body == first.body
    assert b'"a"' in first.body
    assert b'"code":"cancelled"' in first.body
    assert outcome is Outcome.CANCELLED
    assert once_more["status"] == "cancelled"


def test_who_has_all_of_a_failed_answer_is_told_its_error_and_to_ask_no_more():
    async def main():
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), Step.RESET]
        async with ScriptedUpstream([script]) as upstream:
            settings = config(upstream.url, continuation=ContinuationConfig(attempts=0))
            async with serving(settings) as (_, port):
                first = await call(port, STREAM)
                return first, await events(port, first.headers["penstock-generation"], 0)

    first, beyond = on_uvloop(main)
    assert b'"code":"upstream_broken"' in first.body
    assert (beyond.status, beyond.json()["error"]["code"]) == (502, "upstream_broken")
    assert beyond.headers["x-should-retry"] == "false"


def test_a_caller_who_leaves_can_end_what_nobody_else_reads():
    """With an idempotency key the gateway would wait for it to come back."""

    async def main():
        script = [Step.REQUEST, STREAM_HEAD + delta("a"), Step.GONE, Step.CLOSE]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                keyed = ["idempotency-key: k"]
                reading = asyncio.create_task(call(port, STREAM, headers=keyed))
                await until(lambda: any(one.readable for one in gateway.pipeline.registry))
                (generation,) = gateway.pipeline.registry
                path = f"/v1/generations/{generation.id}/cancel?unread=true"
                while_read = (await call(port, b"", path, "POST")).json()["status"]
                reading.cancel()
                await asyncio.wait([reading])
                await until(lambda: not generation.readers)
                after = (await call(port, b"", path, "POST")).json()["status"]
                await until(lambda: not gateway.pipeline.productions)
                return while_read, after

    assert on_uvloop(main) == ("running", "cancelled")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "", "GET"), ("DELETE", "/events", "GET"), ("GET", "/cancel", "POST")],
)
def test_the_right_path_with_the_wrong_method(method, path, allow):
    async def test(gateway, port, whole, generation):
        answer = await call(port, b"", f"/v1/generations/{generation}{path}", method)
        assert (answer.status, answer.headers["allow"]) == (405, allow)

    served()(test)


# ---- responses ----


def response_event(kind, number, **more):
    return frame({"type": kind, "sequence_number": number, **more})


RESPONSE = {"id": "resp_upstreams", "object": "response", "status": "completed", "output": [], "model": "m"}
USED = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
RESPONSE_SCRIPT = [
    Step.REQUEST,
    STREAM_HEAD + response_event("response.created", 0, response={**RESPONSE, "status": "in_progress"}),
    response_event("response.output_text.delta", 1, delta="hel"),
    response_event("response.output_text.delta", 2, delta="lo"),
    response_event("response.completed", 3, response={**RESPONSE, "usage": USED}) + STREAM_END,
]
ASK = {"model": "m", "input": "hello"}


def of_openai(script, test, body=ASK, **more):
    async def main():
        async with ScriptedUpstream([script]) as upstream:
            settings = config(upstream.url, **more)
            native = {
                name: type(one)(kind="openai", base_url=one.base_url, responses=True)
                for name, one in settings.upstreams.items()
            }
            settings = config(upstream.url, upstreams=native, **more)
            async with serving(settings) as (gateway, port):
                return await test(gateway, port, upstream)

    return on_uvloop(main)


def test_a_streamed_response_is_found_by_its_id_and_resumed_after_a_sequence_number():
    async def test(gateway, port, upstream):
        whole = await call(port, {**ASK, "stream": True}, "/v1/responses")
        path = "/v1/responses/resp_upstreams"
        rest = await call(port, b"", path + "?stream=true&starting_after=1", "GET")
        assert whole.body.endswith(rest.body)
        assert rest.body.startswith(b"id: 2\n")
        assert (await call(port, b"", path + "?stream=true&starting_after=3", "GET")).status == 204
        assert (await call(port, b"", path + "?stream=true&starting_after=4", "GET")).status == 409
        assert (await call(port, b"", path + "?stream=true", "GET")).body == whole.body
        plain = (await call(port, b"", path, "GET")).json()
        assert (plain["id"], plain["status"], plain["usage"]) == ("resp_upstreams", "completed", USED)

    of_openai(RESPONSE_SCRIPT, test)


def test_a_plain_response_that_is_streamed_is_resumed_after_a_sequence_number_too():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)]]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                made = (await call(port, ASK, "/v1/responses")).json()
                path = f"/v1/responses/{made['id']}?stream=true"
                whole = await call(port, b"", path, "GET")
                frames = whole.body.split(b"\n\n")[:-1]
                asking = [f"{path}&starting_after={after}" for after in range(len(frames) + 1)]
                return frames, [await call(port, b"", each, "GET") for each in asking]

    frames, rest = on_uvloop(main)
    assert len(frames) > 3
    assert [one.status for one in rest] == [200] * (len(frames) - 1) + [204, 409]
    for start, one in enumerate(rest[:-1], 1):
        assert one.body == b"".join(frame + b"\n\n" for frame in frames[start:])


def test_a_background_response_goes_on_without_a_reader_and_is_fetched_later():
    async def test(gateway, port, upstream):
        promised = (await call(port, {**ASK, "background": True}, "/v1/responses")).json()
        assert (promised["status"], promised["background"]) == ("in_progress", True)
        await until(lambda: not gateway.pipeline.productions)
        sent = json.loads(upstream.received[0].partition(b"\r\n\r\n")[2])
        assert sent["stream"] is True
        assert "background" not in sent
        path = f"/v1/responses/{promised['id']}"
        found = (await call(port, b"", path, "GET")).json()
        assert (found["id"], found["status"], found["background"]) == (promised["id"], "completed", True)
        deleted = (await call(port, b"", path, "DELETE")).json()
        assert deleted["deleted"] is True
        assert (await call(port, b"", path, "GET")).status == 410

    of_openai(RESPONSE_SCRIPT, test)


def test_a_response_that_is_deleted_while_it_runs_is_forgotten_at_once():
    script = [*RESPONSE_SCRIPT[:3], Step.GONE, Step.CLOSE]

    async def test(gateway, port, upstream):
        promised = (await call(port, {**ASK, "background": True}, "/v1/responses")).json()
        path = f"/v1/responses/{promised['id']}"
        await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
        assert (await call(port, b"", path, "DELETE")).json()["deleted"] is True
        assert (await call(port, b"", path, "GET")).status == 410
        await until(lambda: not gateway.pipeline.productions)
        assert (await call(port, b"", path, "GET")).status == 410
        assert (await call(port, b"", path + "?stream=true&starting_after=1", "GET")).status == 410

    of_openai(script, test)


def test_a_background_response_can_be_cancelled():
    script = [*RESPONSE_SCRIPT[:3], Step.GONE, Step.CLOSE]

    async def test(gateway, port, upstream):
        promised = (await call(port, {**ASK, "background": True}, "/v1/responses")).json()
        path = f"/v1/responses/{promised['id']}"
        await until(lambda: any(one.readable == 2 for one in gateway.pipeline.registry))
        assert (await call(port, b"", path, "GET")).json()["status"] == "in_progress"
        cancelled = (await call(port, b"", path + "/cancel", "POST")).json()
        assert (cancelled["id"], cancelled["status"]) == (promised["id"], "cancelled")
        await until(lambda: not gateway.pipeline.productions)
        assert (await call(port, b"", path, "GET")).json()["status"] == "cancelled"

    of_openai(script, test)


def test_a_background_response_that_fails_says_why():
    script = [Step.REQUEST, b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"]

    async def test(gateway, port, upstream):
        promised = (await call(port, {**ASK, "background": True}, "/v1/responses")).json()
        await until(lambda: not gateway.pipeline.productions)
        found = (await call(port, b"", f"/v1/responses/{promised['id']}", "GET")).json()
        assert (found["status"], found["error"]["code"]) == ("failed", "server_error")

    of_openai(script, test)


def test_another_endpoints_generation_is_no_response():
    async def test(gateway, port, whole, generation):
        path = "/v1/responses/resp_" + generation.removeprefix("gen_")
        assert (await call(port, b"", path, "GET")).status == 404

    served()(test)
