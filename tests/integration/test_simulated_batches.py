"""The simulator's batches, as the providers' own SDKs use them."""

from __future__ import annotations

import contextlib
import io
import json

import anthropic
import httpx2
import openai
import pytest
from gateway_books import wait_until

from penstock.testing import SimulatorProcess, expected_text

CHATS = "/v1/chat/completions"


@pytest.fixture
def simulator():
    with SimulatorProcess() as running:
        yield running


@pytest.fixture
def http():
    with httpx2.Client(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def client(simulator, http):
    return openai.OpenAI(base_url=simulator.base_url, api_key="any", max_retries=0, http_client=http)


@pytest.fixture
def batches(simulator, http):
    made = anthropic.Anthropic(base_url=simulator.url, api_key="any", max_retries=0, http_client=http)
    return made.messages.batches


def body(i, model="sim:tokens=8"):
    return {"model": model, "messages": [{"role": "user", "content": f"question {i}"}], "max_tokens": 64}


def created(client, bodies, options=""):
    lines = [
        json.dumps({"custom_id": f"c{i}", "method": "POST", "url": CHATS, "body": each})
        for i, each in enumerate(bodies)
    ]
    file = client.files.create(file=("in.jsonl", io.BytesIO("\n".join(lines).encode())), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=CHATS,
        completion_window="24h",
        metadata={"job": "one"},
        extra_headers={"x-sim-batch": options},
    )


def ended(client, batch):
    def look():
        now = client.batches.retrieve(batch.id)
        return now if now.status in {"completed", "failed", "expired", "cancelled"} else None

    return wait_until(look, what="the batch's end")


def results(client, file_id):
    return {line["custom_id"]: line for line in map(json.loads, client.files.content(file_id).iter_lines())}


def test_each_request_is_answered_as_it_would_be_alone_at_half_the_price(simulator, client):
    done = ended(client, created(client, [*map(body, range(3)), body(3, "sim:429")]))
    assert (done.status, done.metadata) == ("completed", {"job": "one"})
    assert (done.request_counts.completed, done.request_counts.failed) == (3, 1)
    output = results(client, done.output_file_id)
    for i in range(3):
        said = output[f"c{i}"]["response"]["body"]["choices"][0]["message"]["content"]
        assert said == expected_text(body(i), CHATS, 8)
    (error,) = results(client, done.error_file_id).values()
    assert error["response"]["status_code"] == 429
    halved = simulator.reset_bill()
    assert (halved["requests"], halved["batched"]) == (4, 4)
    for i in range(3):
        client.chat.completions.create(**body(i))
    whole = simulator.bill()
    assert whole["batched"] == 0
    assert whole["input_tokens"] == halved["input_tokens"]
    assert whole["cost"] == 2 * halved["cost"] == (whole["input_tokens"] + 2 * whole["output_tokens"]) * 10**6


def test_a_batch_can_expire_fail_be_cancelled_and_be_listed(client):
    bodies = list(map(body, range(4)))
    expired = ended(client, created(client, bodies, "expire-after=2"))
    assert (expired.status, expired.request_counts.completed) == ("expired", 2)
    codes = [line["error"]["code"] for line in results(client, expired.error_file_id).values()]
    assert codes == ["batch_expired"] * 2
    failed = ended(client, created(client, bodies, "fail"))
    assert (failed.status, failed.errors.data[0].code) == ("failed", "invalid_json_line")
    crowded = ended(client, created(client, bodies, "crowded"))
    assert (crowded.status, crowded.errors.data[0].code) == ("failed", "token_limit_exceeded")
    assert ended(client, second := created(client, bodies, "crowded")).status == "completed"
    batch = created(client, bodies, "latency=60000")
    assert client.batches.cancel(batch.id).status == "cancelling"
    cancelled = ended(client, batch)
    assert (cancelled.status, cancelled.output_file_id) == ("cancelled", None)
    first, *others = list(client.batches.list(limit=1))  # the SDK asks for the other pages
    assert [first.id, *(each.id for each in others)] == [
        batch.id,
        second.id,
        crowded.id,
        failed.id,
        expired.id,
    ]


def test_a_creation_may_go_unanswered_and_lists_may_lag_behind(client):
    with pytest.raises(openai.APIConnectionError):
        created(client, [body(0)], "lost,latency=0")
    (batch,) = client.batches.list()
    assert ended(client, batch).status == "completed"
    late = created(client, [body(1)], "late=600000")
    assert [each.id for each in client.batches.list()] == [batch.id]
    assert ended(client, late).status == "completed"


def test_message_batches_tell_what_became_of_each_request(simulator, batches):
    asked = [{"custom_id": f"c{i}", "params": body(i)} for i in range(3)]
    asked.append({"custom_id": "bad", "params": body(9, "sim:529")})
    batch = batches.create(requests=asked, extra_headers={"x-sim-batch": "expire-after=5"})
    assert batch.processing_status == "in_progress"

    def look():
        now = batches.retrieve(batch.id)
        return now if now.processing_status == "ended" else None

    told = wait_until(look, what="the batch's end").request_counts
    assert (told.processing, told.succeeded, told.errored, told.expired) == (0, 3, 1, 0)
    came = {result.custom_id: result.result for result in batches.results(batch.id)}
    for i in range(3):
        assert came[f"c{i}"].message.content[0].text == expected_text(body(i), "/v1/messages", 8)
    assert came["bad"].error.error.type == "overloaded_error"
    assert simulator.bill()["batched"] == 4
    assert [each.id for each in batches.list()] == [batch.id]
    batches.delete(batch.id)
    assert list(batches.list()) == []


def test_what_is_wrong_with_a_batch_is_said(client, batches):
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-none", endpoint=CHATS, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="no such option"):
        created(client, [body(0)], "sooner")
    with pytest.raises(anthropic.BadRequestError):
        batches.create(requests=[])
    with contextlib.closing(client.files.with_raw_response.list().http_response):
        assert len(client.files.list().data) == 1
