"""Compacting a conversation by OpenAI's SDK, through a gateway, before those who have that and those who have not."""

import json

import openai
import pytest
from continuing import simulated
from serving import call, on_uvloop, until

SAID = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


def asked(use, kind="sim"):
    """What ``use`` makes of a client; and that the bill is the ledger's, whose rows there are."""

    async def main():
        async with simulated("tokens=4", kinds=[kind]) as (gateway, port, (simulator,)):
            options = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "none", "max_retries": 0}
            async with openai.AsyncOpenAI(**options) as client:
                found = await use(client, port)
            await until(lambda: not gateway.pipeline.productions)
            rows = gateway.recorder.ledger.recent()
            for figure in ("input_tokens", "output_tokens"):
                billed = simulator.bill.report()[figure]
                assert sum(getattr(row.usage, figure) for row in rows) == billed, figure
            return found, rows

    return on_uvloop(main)


def test_a_conversation_is_compacted_and_gone_on_with():
    async def use(client, port):
        compacted = await client.responses.compact(model="m", input=SAID)
        again = [item.to_dict(warnings=False) for item in compacted.output]
        response = await client.responses.create(
            model="m", input=[*again, {"role": "user", "content": "four"}]
        )
        return compacted, response

    (compacted, response), rows = asked(use)
    assert compacted.object == "response.compaction"
    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    assert compacted.usage.output_tokens == 4
    assert response.output_text
    assert [row.endpoint for row in rows] == ["responses", "compact"]
    assert not rows[1].usage.estimated


def test_what_it_goes_on_from_is_compacted_too():
    async def use(client, port):
        conversation = await client.conversations.create(items=SAID)
        asked = {"model": "m", "input": "and this"}
        alone = await client.responses.compact(**asked)
        more = {"conversation": conversation.id}
        there = await client.responses.compact(**asked, extra_body=more)
        held = [item.type async for item in client.conversations.items.list(conversation.id)]
        return alone, there, held

    (alone, there, held), _ = asked(use)
    assert there.usage.input_tokens > alone.usage.input_tokens
    assert len(held) == len(SAID)  # nothing was said in it


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_whose_upstream_has_nothing_like_it_is_told_so(kind):
    async def use(client, port):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.compact(model="m", input="one")
        item = {"type": "compaction", "encrypted_content": "c"}
        with pytest.raises(openai.BadRequestError) as unread:
            await client.responses.create(model="m", input=[item])
        return refused.value, unread.value

    (refused, unread), rows = asked(use, kind)
    assert (refused.code, refused.param) == ("untranslatable", "model")
    assert "/v1/responses/compact" in refused.message
    assert (unread.code, unread.param) == ("untranslatable", "input[0].type")
    assert rows == []


def test_a_request_that_cannot_be_is_refused():
    async def use(client, port):
        answers = [await call(port, body, "/v1/responses/compact") for body in ({}, {"model": "m"}, b"no")]
        return [(answer.status, json.loads(answer.body)["error"]["code"]) for answer in answers]

    found, _ = asked(use)
    assert found == [(400, "missing_parameter"), (400, "invalid_type"), (400, "invalid_json")]
