"""``Prefer: respond-async``: the caller is told where the answer will be, and comes back for it."""

import asyncio
import json

import pytest
from durably import stored, two
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    asked,
    call,
    config,
    delta,
    error,
    on_uvloop,
    plain,
    request,
    rows,
    serving,
    until,
)

from penstock.config.keys import hash_key
from penstock.config.model import (
    CacheConfig,
    CandidateConfig,
    KeyConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
    TimeoutConfig,
)
from penstock.gateway.announce import event_of
from penstock.messages import Outcome
from penstock.testing import FakeClock, ScriptedUpstream, Step

ASYNC = ["prefer: respond-async"]
STREAM = {**PROMPT, "stream": True}
STREAMED = STREAM_HEAD + delta("a") + delta("b", "stop") + DONE + STREAM_END
VECTORS = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}
TEXT = {
    "id": "c",
    "object": "text_completion",
    "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
ENDPOINTS = [
    ("/v1/chat/completions", PROMPT, COMPLETION),
    ("/v1/completions", {"model": "m", "prompt": "hello"}, TEXT),
    ("/v1/embeddings", {"model": "m", "input": "hello"}, VECTORS),
    ("/v1/messages", {**PROMPT, "max_tokens": 9}, COMPLETION),
    ("/v1/responses", {"model": "m", "input": "hello"}, COMPLETION),
]


def run(script, test, clock=None, **more):
    """``test(gateway, port, upstream, go_on)``; where the script has an ellipsis, it waits for that event."""

    async def main():
        go_on = asyncio.Event()
        steps = [go_on if step is ... else step for step in script]
        async with ScriptedUpstream([steps]) as upstream:
            async with serving(config(upstream.url, **more), clock) as (gateway, port):
                try:
                    return await test(gateway, port, upstream, go_on)
                finally:
                    go_on.set()
                    await until(lambda: not gateway.pipeline.productions)

    return on_uvloop(main)


def look(port, promised, what="", headers=()):
    return call(port, b"", promised.headers["location"] + what, "GET", headers)


@pytest.mark.parametrize(("path", "body", "answer"), ENDPOINTS)
def test_the_caller_is_told_where_the_answer_will_be_and_finds_it_there(path, body, answer):
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, body, path, headers=ASYNC)
        running = await look(port, promised)
        not_yet = await look(port, promised, "/answer")
        go_on.set()
        await until(lambda: not gateway.pipeline.productions)
        return promised, running, not_yet, await look(port, promised), await look(port, promised, "/answer")

    found = run([Step.REQUEST, ..., plain(answer)], test)
    promised, running, not_yet, ended, whole = found
    generation = promised.headers["penstock-generation"]
    assert (promised.status, promised.headers["preference-applied"]) == (202, "respond-async")
    assert promised.headers["location"] == f"/v1/generations/{generation}"
    assert promised.headers["penstock-status"] == "created"
    state = {"id": generation, "status": "running", "endpoint": path, "object": "generation"}
    assert state.items() <= promised.json().items()
    assert state.items() <= running.json().items()
    assert (not_yet.status, not_yet.json()["status"]) == (202, "running")
    assert "preference-applied" not in not_yet.headers
    assert ended.json()["status"] == "finished"
    assert (whole.status, whole.headers["penstock-status"]) == (200, "resumed")
    if path == "/v1/messages":
        assert whole.json()["content"] == [{"type": "text", "text": "hi"}]
    elif path == "/v1/responses":
        assert whole.json()["output"][0]["content"][0]["text"] == "hi"
    else:
        assert whole.json() == answer


def test_a_stream_is_read_as_events_and_as_a_whole():
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, STREAM, headers=ASYNC)
        reading = asyncio.ensure_future(look(port, promised, "/events"))
        go_on.set()
        return promised, await reading, await look(port, promised, "/answer")

    promised, events, whole = run([Step.REQUEST, ..., STREAMED], test)
    assert promised.status == 202
    assert b'"a"' in events.body
    assert events.body.rstrip().endswith(b"[DONE]")
    assert whole.json()["choices"][0]["message"]["content"] == "ab"


def test_a_plain_answer_can_be_had_as_events_too():
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, PROMPT, headers=ASYNC)
        go_on.set()
        return await look(port, promised, "/events")

    events = run([Step.REQUEST, ..., plain(COMPLETION)], test)
    assert b'"hi"' in events.body
    assert events.body.rstrip().endswith(b"[DONE]")


def test_an_answer_that_comes_in_time_is_given_at_once():
    async def test(gateway, port, upstream, go_on):
        calling = asyncio.ensure_future(call(port, PROMPT, headers=["prefer: respond-async, wait=30"]))
        await until(lambda: gateway.pipeline.promises)
        clock.advance(29.0)
        go_on.set()
        return await calling

    clock = FakeClock()
    answer = run([Step.REQUEST, ..., plain(COMPLETION)], test, clock)
    assert (answer.status, answer.json()) == (200, COMPLETION)
    assert answer.headers["penstock-status"] == "created"


def test_one_that_does_not_is_promised_and_waited_for_again():
    async def test(gateway, port, upstream, go_on):
        calling = asyncio.ensure_future(call(port, PROMPT, headers=["prefer: respond-async, wait=30"]))
        await until(lambda: gateway.pipeline.promises)
        clock.advance(30.1)
        promised = await calling
        once_more = asyncio.ensure_future(look(port, promised, "/answer", ["prefer: wait=5"]))
        await until(lambda: gateway.pipeline.promises)
        clock.advance(5.1)
        not_yet = await once_more
        once_more = asyncio.ensure_future(look(port, promised, "/answer", ["prefer: wait=5"]))
        await until(lambda: gateway.pipeline.promises)
        go_on.set()
        return promised, not_yet, await once_more

    clock = FakeClock()
    promised, not_yet, answer = run([Step.REQUEST, ..., plain(COMPLETION)], test, clock)
    assert (promised.status, promised.headers["preference-applied"]) == (202, "respond-async, wait=30")
    assert (not_yet.status, not_yet.headers["preference-applied"]) == (202, "wait=5")
    assert (answer.status, answer.json()) == (200, COMPLETION)


def test_a_stream_that_begins_in_time_is_streamed():
    async def test(gateway, port, upstream, go_on):
        calling = asyncio.ensure_future(call(port, STREAM, headers=["prefer: respond-async, wait=30"]))
        await until(lambda: gateway.pipeline.promises)
        go_on.set()
        return await calling

    answer = run([Step.REQUEST, ..., STREAMED], test, FakeClock())
    assert answer.status == 200
    assert answer.body.rstrip().endswith(b"[DONE]")


@pytest.mark.parametrize("prefer", ["respond-async", "respond-async, wait=30"])
def test_it_goes_on_when_its_caller_has_left(prefer):
    async def test(gateway, port, upstream, go_on):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(PROMPT, headers=[f"prefer: {prefer}"]))
        await upstream.wait_received(b"hello")
        (generation,) = gateway.pipeline.registry
        writer.close()
        await writer.wait_closed()
        await until(lambda: not gateway.pipeline.promises and not gateway.pipeline.admission.in_progress)
        clock.advance(3_000.0)
        go_on.set()
        await until(lambda: not gateway.pipeline.productions)
        return (await call(port, b"", f"/v1/generations/{generation.id}/answer", "GET")).json()

    clock = FakeClock()
    long = TimeoutConfig(first_token=9_000.0, total=9_000.0)
    assert run([Step.REQUEST, ..., plain(COMPLETION)], test, clock, timeouts=long) == COMPLETION


def test_what_fails_says_so_as_the_call_would_have():
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, PROMPT, headers=ASYNC)
        go_on.set()
        await until(lambda: not gateway.pipeline.productions)
        return await look(port, promised), await look(port, promised, "/answer")

    script = [Step.REQUEST, ..., error("500 no", "out of order")]
    state, answer = run(script, test, retry=RetryConfig(attempts=1))
    assert (state.status, state.json()["status"], state.json()["error"]["code"]) == (
        200,
        "failed",
        "upstream_failed",
    )
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_failed")


def test_what_is_refused_at_once_is_no_promise():
    async def test(gateway, port, upstream, go_on):
        unknown = await call(port, {**PROMPT, "model": "x"}, headers=ASYNC)
        late = await call(port, PROMPT, headers=[*ASYNC, "penstock-deadline: -1"])
        return unknown, late, upstream.connections

    unknown, late, connections = run([Step.REQUEST], test)
    assert (unknown.status, late.status, connections) == (404, 503, 0)


def test_it_can_be_cancelled():
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, PROMPT, headers=ASYNC)
        path = promised.headers["location"]
        cancelled = await call(port, b"", path + "/cancel", "POST")
        await until(lambda: not gateway.pipeline.productions)
        return cancelled.json()["status"], await look(port, promised, "/answer"), rows(gateway)

    status, answer, booked = run([Step.REQUEST, ...], test)
    assert status == "cancelled"
    assert (answer.status, answer.json()["error"]["code"]) == (409, "cancelled")
    assert [row.outcome for row in booked] == [Outcome.CANCELLED]


def test_the_same_key_leads_to_the_same_promise_and_then_to_the_answer():
    async def test(gateway, port, upstream, go_on):
        headers = [*ASYNC, "idempotency-key: k"]
        first, second = [await call(port, PROMPT, headers=headers) for _ in range(2)]
        other = await call(port, {**PROMPT, "seed": 1}, headers=headers)
        go_on.set()
        await until(lambda: not gateway.pipeline.productions)
        return first, second, other, await call(port, PROMPT, headers=headers), asked(upstream)

    first, second, other, third, requests = run([Step.REQUEST, ..., plain(COMPLETION)], test)
    assert (first.status, second.status, other.status, third.status) == (202, 202, 422, 200)
    assert first.headers["location"] == second.headers["location"]
    assert (second.headers["penstock-status"], third.headers["penstock-status"]) == ("attached", "replayed")
    assert (third.json(), requests) == (COMPLETION, 1)


def test_who_comes_to_a_call_that_somebody_reads_is_promised_it_though_that_one_leaves():
    async def test(gateway, port, upstream, go_on):
        key = "idempotency-key: k"
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(PROMPT, headers=[key]))
        await upstream.wait_received(b"hello")
        promised = await call(port, PROMPT, headers=[*ASYNC, key])
        writer.close()
        await writer.wait_closed()
        await until(lambda: not gateway.pipeline.readings)
        clock.advance(60.0)
        go_on.set()
        await until(lambda: not gateway.pipeline.productions)
        return await look(port, promised, "/answer")

    clock = FakeClock()
    assert run([Step.REQUEST, ..., plain(COMPLETION)], test, clock).json() == COMPLETION


def test_what_is_kept_is_given_at_once_and_what_was_promised_is_kept():
    async def test(gateway, port, upstream, go_on):
        body = {**PROMPT, "temperature": 0}
        promised = await call(port, body, headers=ASYNC)
        go_on.set()
        await until(lambda: not gateway.pipeline.productions)
        again = await call(port, body, headers=ASYNC)
        return promised.status, again.status, again.headers["penstock-status"], asked(upstream)

    models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")], cache=ModelCacheConfig())}
    script = [Step.REQUEST, ..., plain(COMPLETION)]
    assert run(script, test, models=models, cache=CacheConfig()) == (202, 200, "cached", 1)


def test_another_tenant_does_not_find_it():
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, PROMPT, headers=[*ASYNC, "authorization: Bearer a"])
        return [
            (await look(port, promised, what, ["authorization: Bearer b"])).status
            for what in ("", "/answer", "/events")
        ]

    keys = [KeyConfig(name=name, tenant=name, hash=hash_key(name)) for name in ("a", "b")]
    assert run([Step.REQUEST, ..., plain(COMPLETION)], test, keys=keys) == [404, 404, 404]


def test_a_response_that_was_promised_is_found_by_its_own_id_too():
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, ENDPOINTS[-1][1], "/v1/responses", headers=ASYNC)
        go_on.set()
        await until(lambda: not gateway.pipeline.productions)
        whole = (await look(port, promised, "/answer")).json()
        return whole, (await call(port, b"", f"/v1/responses/{whole['id']}", "GET")).json()

    whole, found = run([Step.REQUEST, ..., plain(COMPLETION)], test)
    assert (found["id"], found["status"]) == (whole["id"], "completed")
    assert found["output"] == whole["output"]


def test_of_a_background_response_the_body_counts():
    async def test(gateway, port, upstream, go_on):
        return await call(port, {**ENDPOINTS[-1][1], "background": True}, "/v1/responses", headers=ASYNC)

    answer = run([Step.REQUEST, ..., STREAMED], test)
    assert (answer.status, answer.json()["object"], answer.json()["status"]) == (
        200,
        "response",
        "in_progress",
    )


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/messages/count_tokens"])
def test_elsewhere_it_makes_no_difference(path):
    async def test(gateway, port, upstream, go_on):
        body = {"model": "m", "input": "hello", "messages": [{"role": "user", "content": "hello"}]}
        del body["messages" if "count" not in path else "input"]
        return await call(port, body, path, headers=ASYNC)

    answers = {"/v1/moderations": {"id": "a", "model": "m", "results": []}}
    answer = run([Step.REQUEST, plain(answers.get(path, COMPLETION))], test)
    assert answer.status == 200
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([Step.REQUEST, ..., plain(COMPLETION)], "generation.completed"),
        ([Step.REQUEST, ..., error("500 no")], "generation.failed"),
    ],
)
def test_its_end_is_told_by_webhook(script, kind):
    async def test(gateway, port, upstream, go_on):
        told = []
        gateway.pipeline.on_background_end = lambda *what: told.append(event_of(*what))
        promised = await call(port, PROMPT, headers=ASYNC)
        go_on.set()
        await until(lambda: told)
        return told, promised.headers["penstock-generation"]

    told, generation = run(script, test, retry=RetryConfig(attempts=1))
    assert told == [(kind, generation)]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("reason", "kind"), [("stop", "completed"), ("length", "incomplete")])
def test_the_end_of_a_promised_response_is_told_by_the_id_that_it_has(stream, reason, kind):
    async def test(gateway, port, upstream, go_on):
        told = []
        gateway.pipeline.on_background_end = lambda *what: told.append(event_of(*what))
        body = {**ENDPOINTS[-1][1], "stream": stream}
        promised = await call(port, body, "/v1/responses", headers=ASYNC)
        go_on.set()
        await until(lambda: told)
        return told, (await look(port, promised, "/answer")).json()["id"]

    whole = {**COMPLETION, "choices": [{**COMPLETION["choices"][0], "finish_reason": reason}]}
    streamed = STREAM_HEAD + delta("a") + delta("b", reason) + DONE + STREAM_END
    told, response = run([Step.REQUEST, ..., streamed if stream else plain(whole)], test)
    assert told == [(f"response.{kind}", response)]


@pytest.mark.parametrize("body", [PROMPT, STREAM])
def test_it_is_read_in_another_process(durable, body):
    async def main():
        answer = plain(COMPLETION) if body is PROMPT else STREAMED
        async with two([[Step.REQUEST, answer]], durable) as ((gateway, here), (_, there), _):
            promised = await call(here, body, headers=ASYNC)
            await until(lambda: not gateway.pipeline.productions)
            await stored(gateway)
            return [await look(there, promised, what) for what in ("", "/answer", "/events")]

    state, answer, events = on_uvloop(main)
    assert state.json()["status"] == "finished"
    assert answer.json()["choices"][0]["message"]["content"] == ("hi" if body is PROMPT else "ab")
    assert events.body.rstrip().endswith(b"[DONE]")


def test_another_process_makes_it_when_the_first_must_go(durable):
    async def main():
        never = asyncio.Event()
        scripts = [[Step.REQUEST, never], [Step.REQUEST, plain(COMPLETION)]]
        async with two(scripts, durable, lease=2.0) as ((gateway, here), (other, there), upstream):
            promised = await call(here, PROMPT, headers=ASYNC)
            await upstream.wait_received(b"hello")
            await gateway.drain(0.0)
            await until(lambda: rows(other) and not other.pipeline.productions)
            return await look(there, promised, "/answer")

    assert on_uvloop(main).json() == COMPLETION


def test_the_answer_is_asked_for_by_get_alone():
    async def test(gateway, port, upstream, go_on):
        promised = await call(port, PROMPT, headers=ASYNC)
        path = promised.headers["location"] + "/answer"
        return (await call(port, json.dumps({}).encode(), path)).status

    assert run([Step.REQUEST, ..., plain(COMPLETION)], test) == 405
