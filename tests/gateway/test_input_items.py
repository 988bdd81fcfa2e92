"""What a response was asked with, item by item, as OpenAI's SDK lists it, before upstreams of every API."""

import openai
import pytest
from continuing import simulated
from serving import call, on_uvloop

from penstock.config.keys import hash_key
from penstock.config.model import GenerationsConfig, KeyConfig

CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "done"}
KINDS = ("openai", "anthropic", "sim")


def listed(use, kind="openai", script="tokens=4", **more):
    """What ``use`` makes of a client of a gateway, and of the gateway's port."""

    async def main():
        async with simulated(script, kinds=[kind], **more) as (_, port, _):
            options = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "a", "max_retries": 0}
            async with openai.AsyncOpenAI(**options) as client:
                return await use(client, port)

    return on_uvloop(main)


async def texts(client, response, **query):
    found = [item async for item in client.responses.input_items.list(response, **query)]
    return [item.content[0].text if item.type == "message" else item.type for item in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_a_message_and_has_the_same_id_each_time(kind):
    async def use(client, port):
        made = await client.responses.create(model="m", input="one")
        return [(await client.responses.input_items.list(made.id)).to_dict() for _ in range(2)]

    first, second = listed(use, kind)
    (item,) = first["data"]
    part = {"type": "input_text", "text": "one"}
    assert item == {
        "id": item["id"],
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [part],
    }
    assert item["id"].startswith("msg_")
    assert (
        first
        == second
        == {
            "object": "list",
            "data": [item],
            "first_id": item["id"],
            "last_id": item["id"],
            "has_more": False,
        }
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_response_goes_on_from_is_listed_too(kind, stream):
    async def made(client, text, previous):
        asked = {"model": "m", "input": text, "previous_response_id": previous}
        if not stream:
            return await client.responses.create(**asked)
        async with client.responses.stream(**asked) as events:
            return await events.get_final_response()

    async def use(client, port):
        first = await made(client, "one", None)
        second = await made(client, "two", first.id)
        third = await made(client, [{"role": "user", "content": "three"}], second.id)
        ids = [item.id async for item in client.responses.input_items.list(third.id, limit=2)]
        assert len(set(ids)) == 5
        expected = ["one", first.output_text, "two", second.output_text, "three"]
        return await texts(client, third.id, order="asc"), await texts(client, third.id, limit=2), expected

    forth, back, expected = listed(use, kind)
    assert forth == expected
    assert back == expected[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_listed_as_they_were_sent_page_by_page(kind):
    async def use(client, port):
        asked = [{"role": "user", "content": "one"}, CALL, RESULT]
        made = await client.responses.create(model="m", input=asked)
        page = await client.responses.input_items.list(made.id, order="asc", limit=2)
        rest = await page.get_next_page()
        found = await texts(client, made.id, order="asc", limit=1)
        return page, rest, found

    page, rest, found = listed(use, kind)
    assert (page.has_more, rest.has_more) == (True, False)
    assert page.data[1].to_dict().items() >= CALL.items()
    assert rest.data[0].to_dict().items() >= RESULT.items()
    assert rest.data[0].id.startswith("fco_")
    assert found == ["one", "function_call", "function_call_output"]


def test_items_of_one_id_are_told_apart():
    async def use(client, port):
        said = {"type": "message", "id": "msg_same", "role": "user", "content": "again"}
        made = await client.responses.create(model="m", input=[said, said])
        return [item.id async for item in client.responses.input_items.list(made.id, order="asc", limit=1)]

    first, second = listed(use)
    assert first == "msg_same"
    assert second != first


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("limit=0", 400, "limit"),
        ("limit=101", 400, "limit"),
        ("order=up", 400, "order"),
        ("after=msg_none", 404, "after"),
    ],
)
def test_a_page_that_cannot_be_is_refused(query, status, param):
    async def use(client, port):
        made = await client.responses.create(model="m", input="one")
        refused = await call(port, b"", f"/v1/responses/{made.id}/input_items?{query}", "GET")
        return refused.status, refused.json()["error"]["param"]

    assert listed(use) == (status, param)


def test_a_response_in_the_background_that_failed_still_tells_what_it_was_asked():
    async def use(client, port):
        asked = {"model": "m", "input": "one", "background": True, "metadata": {"a": "b"}}
        made = (await call(port, asked, "/v1/responses")).json()[
            "id"
        ]  # an SDK's could be found by its repetition
        running = await texts(client, made)
        while (failed := await client.responses.retrieve(made)).status == "in_progress":
            pass
        return running, failed, await texts(client, made)

    running, failed, after = listed(use, script="400")
    assert running == after == ["one"]
    assert (failed.status, failed.metadata) == ("failed", {"a": "b"})


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_conversation_held_is_listed_with_what_was_asked_in_it(kind):
    async def use(client, port):
        first = {"role": "developer", "content": "Be brief."}
        conversation = await client.conversations.create(items=[first])
        asked = {"model": "m", "conversation": conversation.id}
        one = await client.responses.create(input="one", **asked)
        two = await client.responses.create(input="two", **asked)
        three = await client.responses.create(model="m", input="three", previous_response_id=two.id)
        expected = ["Be brief.", "one", one.output_text, "two", two.output_text, "three"]
        return [await texts(client, each.id, order="asc") for each in (one, two, three)], expected

    found, expected = listed(use, kind)
    assert found == [expected[:2], expected[:4], expected]


def test_a_response_that_was_deleted_has_no_items():
    async def use(client, port):
        first = await client.responses.create(model="m", input="one")
        second = await client.responses.create(model="m", input="two", previous_response_id=first.id)
        await client.responses.delete(first.id)
        return first.id, [await _status(client, one.id) for one in (first, second)]

    first, (gone, lacking) = listed(use, "sim")
    assert gone == (404, "there is no response of this id here")
    assert lacking[0] == 410
    assert first in lacking[1]


def test_what_is_kept_no_more_and_what_is_anothers_is_not_listed():
    async def use(client, port):
        made = await client.responses.create(model="m", input="one")
        found = [await _status(client, made.id)]
        other = client.with_options(api_key="b")
        return [*found, await _status(other, made.id)]

    keys = [KeyConfig(name=name, hash=hash_key(name), tenant=name) for name in "ab"]
    assert [status for status, _ in listed(use, keys=keys)] == [200, 404]
    short = GenerationsConfig(kept_for=0)
    assert [status for status, _ in listed(use, keys=keys, generations=short)] == [404, 404]


async def _status(client, response):
    try:
        await client.responses.input_items.list(response)
    except openai.APIStatusError as error:
        return error.status_code, error.body["message"]
    return 200, ""
