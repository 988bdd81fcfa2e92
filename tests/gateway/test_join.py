"""Identical calls in flight: one upstream call, one bill, an answer for everybody in the form that they asked for."""

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

from penstock.config.model import CandidateConfig, ModelConfig
from penstock.gateway.stages import attach
from penstock.ledger.prices import Price, PriceTable
from penstock.messages import Outcome
from penstock.testing import ScriptedUpstream, Step

SAME = {**PROMPT, "temperature": 0}
STREAM = {**SAME, "stream": True}
WITH_USAGE = {**STREAM, "stream_options": {"include_usage": True}}
ALWAYS = {"models": {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")], join="always")}}


def texts(answer):
    """The text of a stream or of a body, and the tokens that it tells."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        body = answer.json()
        return body["choices"][0]["message"]["content"], body["usage"]["completion_tokens"]
    chunks = [
        json.loads(line[6:])
        for line in answer.body.decode().split("\n")
        if line.startswith("data: ") and line != "data: [DONE]"
    ]
    text = "".join(choice["delta"].get("content") or "" for one in chunks for choice in one["choices"])
    told = [one["usage"]["completion_tokens"] for one in chunks if one.get("usage")]
    return text, told[0] if told else None


def joined(bodies, script, *, headers=None, **more):
    """The answers to calls that come while the first is under way, and the ledger's rows."""

    async def main():
        go_on = asyncio.Event()
        played = [Step.REQUEST, *(go_on if step is None else step for step in script)]
        async with ScriptedUpstream([played, played]) as upstream:
            async with serving(config(upstream.url, **more)) as (gateway, port):
                calls = []
                for number, body in enumerate(bodies):
                    calls.append(
                        asyncio.create_task(call(port, body, headers=(headers or {}).get(number, ())))
                    )
                    await until(lambda: len(gateway.pipeline.readings) == len(calls))
                go_on.set()
                answers = await asyncio.gather(*calls)
                rows = [row for row in gateway.recorder.ledger.recent() if row.outcome is Outcome.COMPLETED]
                return answers, rows, upstream.connections

    return on_uvloop(main)


USAGE = frame({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
STREAMED = [
    STREAM_HEAD + delta("he"),
    None,
    delta("llo", "stop") + USAGE + DONE + STREAM_END,
]
WHOLE = [None, plain(COMPLETION)]


@pytest.mark.parametrize("script", [STREAMED, WHOLE], ids=["streamed log", "plain log"])
def test_streaming_and_plain_callers_read_one_answer_each_in_its_own_form(script):
    first = STREAM if script is STREAMED else SAME
    bodies = [first, STREAM, SAME, WITH_USAGE, STREAM, SAME]
    answers, rows, connections = joined(bodies, script)
    assert connections == 1
    assert len(rows) == 1
    text = "hello" if script is STREAMED else "hi"
    assert [texts(one) for one in answers] == [
        (text, 2 if body in (SAME, WITH_USAGE) else None) for body in bodies
    ]
    status = [one.headers["penstock-status"] for one in answers]
    assert status == ["created"] + ["joined"] * 5
    assert len({one.headers["penstock-generation"] for one in answers}) == 1
    with_usage = answers[3].body
    if script is STREAMED:  # the number stands with the event: who has lost that comes back for both
        assert with_usage.split(b"\n\n")[-3].startswith(b"data: ")
        assert with_usage.split(b"\n\n")[-2] == answers[0].body.split(b"\n\n")[-2]
    streams = {one.body for one, body in zip(answers, bodies, strict=True) if body is STREAM}
    assert len(streams) == 1


def test_who_joined_has_a_row_that_costs_nothing_and_says_what_was_saved():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, STREAMED[0], go_on, STREAMED[2]]
        async with ScriptedUpstream([script]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                gateway.recorder.ledger.use_prices(PriceTable([Price(models=("*",), input=1, output=2)]))
                calls = [asyncio.create_task(call(port, body)) for body in (STREAM, SAME)]
                await until(lambda: len(gateway.pipeline.readings) == 2)
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(STREAM))
                await until(lambda: len(gateway.pipeline.readings) == 3)
                writer.transport.abort()
                await until(lambda: len(gateway.pipeline.readings) == 2)
                go_on.set()
                first, _ = await asyncio.gather(*calls)
                generation = first.headers["penstock-generation"]
                return generation, gateway.recorder.ledger.recent(), gateway.recorder.ledger.totals()

    generation, rows, totals = on_uvloop(main)
    assert {row.generation for row in rows} == {generation}
    told = [(row.outcome, row.usage.output_tokens, row.cost, row.saved, row.error) for row in reversed(rows)]
    dollars = 7 * 10**6  # 3 tokens of the prompt and twice 2 of the answer, in microdollars
    assert told[0] == (Outcome.JOINED, 0, 0, 0, "client_gone")  # nobody knows what it would have taken
    assert sorted(told[1:], key=str) == [
        (Outcome.COMPLETED, 2, dollars, 0, ""),
        (Outcome.JOINED, 2, 0, dollars, ""),
    ]
    assert totals[Outcome.JOINED].cost == 0


@pytest.mark.parametrize("script", [STREAMED, WHOLE], ids=["streamed log", "plain log"])
def test_who_joined_comes_back_by_its_own_key_and_gets_the_same_in_its_own_form(script):
    first = STREAM if script is STREAMED else SAME
    keys = [[f"idempotency-key: {name}"] for name in "abc"]

    async def main():
        go_on = asyncio.Event()
        played = [Step.REQUEST, *(go_on if step is None else step for step in script)]
        async with ScriptedUpstream([played]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                asked = list(zip([first, SAME, WITH_USAGE], keys, strict=True))
                calls = []
                for body, key in asked:
                    calls.append(asyncio.create_task(call(port, body, headers=key)))
                    await until(lambda: len(gateway.pipeline.readings) == len(calls))
                running = asyncio.create_task(call(port, SAME, headers=keys[1]))
                await until(lambda: len(gateway.pipeline.readings) == 4)
                go_on.set()
                answers = await asyncio.gather(*calls)
                again = [await call(port, body, headers=key) for body, key in asked]
                other = await call(port, {**SAME, "seed": 1}, headers=keys[2])
                return answers, again, await running, other, upstream.connections

    answers, again, running, other, connections = on_uvloop(main)
    assert connections == 1
    assert [one.headers["penstock-status"] for one in answers] == ["created", "joined", "joined"]
    assert {one.headers["penstock-status"] for one in again} == {"replayed"}
    assert [one.body for one in again] == [one.body for one in answers]
    assert (running.headers["penstock-status"], running.body) == ("attached", answers[1].body)
    assert (other.status, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("script", [STREAMED, WHOLE], ids=["streamed log", "plain log"])
def test_an_sdk_that_joined_and_lost_its_answer_gets_it_once_more(script):
    """Whoever asked first was no SDK, and asked in another form; and all of it has ended."""
    first = STREAM if script is STREAMED else SAME
    bodies = [SAME, WITH_USAGE] if script is STREAMED else [STREAM, WITH_USAGE]
    tries = [[f"x-stainless-retry-count: {n}"] for n in (0, 1)]

    async def main():
        go_on = asyncio.Event()
        played = [Step.REQUEST, *(go_on if step is None else step for step in script)]
        refused = [Step.REQUEST, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", Step.CLOSE]
        async with ScriptedUpstream([[*played, Step.CLOSE], refused]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                calls = [asyncio.create_task(call(port, first))]
                for body in bodies:
                    await until(lambda: len(gateway.pipeline.readings) == len(calls))
                    calls.append(asyncio.create_task(call(port, body, headers=tries[0])))
                await until(lambda: len(gateway.pipeline.readings) == len(calls))
                go_on.set()
                answers = await asyncio.gather(*calls)
                again = [await call(port, body, headers=tries[1]) for body in bodies]
                connections = upstream.connections
                other = await call(port, {**SAME, "seed": 1}, headers=tries[1])
                for generation in gateway.pipeline.registry._ended.values():
                    generation.ended -= attach.RECENT
                late = await call(port, bodies[1], headers=tries[1])
                return answers[1:], again, connections, other, late

    answers, again, connections, other, late = on_uvloop(main)
    assert connections == 1
    assert [one.headers["penstock-status"] for one in again] == ["replayed"] * 2
    assert [one.body for one in again] == [one.body for one in answers]
    assert [one.status for one in (other, late)] == [400] * 2  # they are new calls


def test_who_streams_a_plain_answer_comes_back_to_the_event_that_it_has():
    async def main():
        go_on = asyncio.Event()
        async with ScriptedUpstream([[Step.REQUEST, go_on, plain(COMPLETION)]]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                calls = []
                for body in (SAME, STREAM):
                    calls.append(
                        asyncio.create_task(call(port, body, headers=["idempotency-key: " + str(body)]))
                    )
                    await until(lambda: len(gateway.pipeline.readings) == len(calls))
                go_on.set()
                _, whole = await asyncio.gather(*calls)
                path = f"/v1/generations/{whole.headers['penstock-generation']}/events?starting_after="
                last = whole.body.count(b"\nid: ")
                return whole.body, last, [await call(port, b"", f"{path}{n}", "GET") for n in range(last + 1)]

    whole, last, rest = on_uvloop(main)
    assert last > 1
    assert [one.status for one in rest] == [200] * last + [204]
    assert all(whole.endswith(one.body) for one in rest)
    assert [one.body.partition(b"\n")[0] for one in rest[:-1]] == [b"id: %d" % n for n in range(1, last + 1)]


def test_a_caller_who_wants_no_usage_joins_one_who_does():
    answers, rows, connections = joined([WITH_USAGE, STREAM], STREAMED)
    assert (connections, len(rows)) == (1, 1)
    assert [texts(one) for one in answers] == [("hello", 2), ("hello", None)]
    assert all(b"[DONE]" in one.body for one in answers)


@pytest.mark.parametrize(
    ("bodies", "more", "headers", "upstream_calls"),
    [
        ([PROMPT, PROMPT], {}, {}, 2),
        ([PROMPT, PROMPT], ALWAYS, {}, 1),
        ([{**PROMPT, "seed": 7}] * 2, {}, {}, 1),
        ([SAME, {**SAME, "max_tokens": 3}], {}, {}, 2),
        ([SAME, SAME], {}, {1: ["penstock-join: never"]}, 2),
        ([PROMPT, PROMPT], {}, {0: ["penstock-join: always"], 1: ["penstock-join: always"]}, 1),
        ([{**SAME, "store": True}] * 2, {}, {}, 2),
    ],
    ids=["sampled", "always", "seed", "other", "never", "header", "effects"],
)
def test_which_calls_are_joined(bodies, more, headers, upstream_calls):
    _, rows, connections = joined(bodies, WHOLE, headers=headers, **more)
    assert (connections, len(rows)) == (upstream_calls, upstream_calls)


def test_a_wish_that_cannot_be_understood_is_refused():
    async def main():
        async with ScriptedUpstream([[]]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                return await call(port, SAME, headers=["penstock-join: perhaps"])

    answer = on_uvloop(main)
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "penstock-join"
