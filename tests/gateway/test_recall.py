"""Requests that go on from responses which an upstream without the Responses API has given."""

import json
import re
from unittest.mock import AsyncMock, Mock

import pytest
from gateway_doubles import a_call
from serving import (
    COMPLETION,
    DONE,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    on_uvloop,
    plain,
    serving,
)

from penstock.config.keys import hash_key
from penstock.config.model import GenerationsConfig, KeyConfig, ListenerConfig
from penstock.gateway.stages import recall
from penstock.messages import Endpoint
from penstock.testing import ScriptedUpstream, Step

ANSWER = [Step.REQUEST, plain(COMPLETION)]
STREAM = [Step.REQUEST, STREAM_HEAD + delta("h"), delta("i", "stop") + DONE + STREAM_END]
BODY = re.compile(rb"\r\n\r\n(\{.*?\})(?=POST |$)")
TOLD = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "hi"}]


def respond(port, text, previous=None, key="", **members):
    body = {"model": "m", "input": text, **members}
    if previous is not None:
        body["previous_response_id"] = previous
    return call(port, body, "/v1/responses", headers=[f"authorization: Bearer {key}"] if key else [])


def served(script, test, **more):
    """What a test found, and the messages of every request to the upstream."""

    async def main():
        async with ScriptedUpstream([script]) as upstream, serving(config(upstream.url, **more)) as (_, port):
            found = await test(port)
            return found, [
                json.loads(body)["messages"] for one in upstream.received for body in BODY.findall(one)
            ]

    return on_uvloop(main)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_upstream_is_asked_for_the_whole_conversation(streamed):
    async def test(port):
        made = await respond(port, "first", stream=streamed)
        data = made.body.decode().rsplit("data: ", 1)[1] if streamed else made.body
        found = json.loads(data)
        ids = [(found["response"] if streamed else found)["id"]]
        for text in ("second", "third"):
            ids.append((await respond(port, text, ids[-1])).json()["id"])
        return len(set(ids))

    count, asked = served((STREAM if streamed else ANSWER) + ANSWER * 2, test)
    assert count == 3
    second = [*TOLD, {"role": "user", "content": "second"}]
    assert asked[1] == second
    assert asked[2] == [*second, TOLD[1], {"role": "user", "content": "third"}]


def test_an_item_that_is_referred_to_is_sent():
    async def test(port):
        item = (await respond(port, "first")).json()["output"][0]["id"]
        again = [TOLD[0], {"type": "item_reference", "id": item}, {"role": "user", "content": "second"}]
        return (await respond(port, again)).status

    status, asked = served(ANSWER * 2, test)
    assert status == 200
    assert asked[1] == [*TOLD, {"role": "user", "content": "second"}]


def test_nobody_goes_on_from_anothers_response():
    async def test(port):
        made = (await respond(port, "first", key="a")).json()["id"]
        return [await respond(port, "second", made, key=key) for key in ("b", "a")]

    keys = [KeyConfig(name=name, hash=hash_key(name), tenant=name) for name in "ab"]
    (foreign, own), asked = served(ANSWER * 3, test, keys=keys)
    assert (foreign.status, foreign.json()["error"]["param"]) == (400, "previous_response_id")
    assert own.status == 200
    assert len(asked) == 2


def test_what_is_not_kept_is_refused():
    async def test(port):
        made = (await respond(port, "first")).json()["id"]
        return [await respond(port, "second", each) for each in (made, "resp_" + "0" * 32)]

    answers, asked = served(ANSWER * 3, test, generations=GenerationsConfig(kept_for=0))
    assert [(one.status, one.json()["error"]["code"]) for one in answers] == [(400, "untranslatable")] * 2
    assert len(asked) == 1


def test_a_conversation_that_is_too_long_is_refused():
    async def test(port):
        made = (await respond(port, "first" * 100)).json()["id"]
        return await respond(port, "second" * 50, made)

    answer, asked = served(ANSWER * 2, test, listener=ListenerConfig(max_body_bytes=700))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert len(asked) == 1


def test_who_may_have_reached_the_wrong_worker_is_told_what_would_help():
    async def test(port):
        refused = await respond(port, "second", "resp_" + "0" * 32)
        missing = await call(port, b"", "/v1/responses/resp_" + "0" * 32, "GET")
        return [answer.json()["error"]["message"] for answer in (refused, missing)]

    refused, missing = served(ANSWER, test, workers=2)[0]
    assert "generations.durability" in refused
    assert "another worker may have it" in missing
    assert "generations.durability" in missing
    assert "another" not in served(ANSWER, test)[0][1]


def test_a_prompt_that_is_put_back_is_as_its_caller_left_it():
    """Another process has deleted what it was made of, which is known only later."""
    asked = a_call(Endpoint.RESPONSES, b'{"model":"m","input":"hi"}')
    recalled = recall.Recalled([Mock()], asked.fields, asked.body, left_out=7)
    asked.changed, asked.left_out, asked.body = b"history;count=1", 40, b"something else"
    stored = Mock(has=AsyncMock(return_value=False))
    on_uvloop(lambda: recall.make_sure(asked, recalled, Mock(), stored, 1_000))
    assert (asked.changed, asked.left_out, asked.body) == (b"", 7, recalled.body)
