"""Amazon's own SDK takes the simulator for Bedrock's Converse."""

from __future__ import annotations

import contextlib

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from penstock.testing import expected_text

LLAMA = "meta.llama3-3-70b-instruct-v1:0"
SAID = [{"role": "user", "content": [{"text": "Hello, what is this?"}]}]
LIMIT = {"maxTokens": 64}
TEXT = expected_text(
    {"model": "m", "messages": [{"role": "user", "content": "Hello, what is this?"}], "max_tokens": 64},
    "/v1/messages",
    64,
)
TOOL = {
    "toolSpec": {
        "name": "weather",
        "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


@pytest.fixture(scope="module")
def client(simulator):
    session = boto3.Session("AKIA", "secret", region_name="us-west-2")
    config = Config(retries={"total_max_attempts": 1}, read_timeout=10, parameter_validation=True)
    made = session.client("bedrock-runtime", endpoint_url=simulator.url, config=config)
    yield made
    made.close()


def streamed(client, **more):
    answer = client.converse_stream(inferenceConfig=LIMIT, **{"messages": SAID, **more})
    with contextlib.closing(answer["stream"]) as stream:  # one that breaks leaves its socket open
        return list(stream)


def only(events, name):
    return [event[name] for event in events if name in event]


def test_an_answer_is_in_the_form_of_converse(client):
    answer = client.converse(modelId=LLAMA, messages=SAID, inferenceConfig=LIMIT)
    assert answer["output"]["message"] == {"role": "assistant", "content": [{"text": TEXT}]}
    assert answer["stopReason"] == "end_turn"
    assert answer["usage"] == {"inputTokens": 5, "outputTokens": 64, "totalTokens": 69}


def test_a_streams_texts_make_the_answer(client):
    events = streamed(client, modelId=LLAMA)
    assert "".join(event["delta"]["text"] for event in only(events, "contentBlockDelta")) == TEXT
    assert only(events, "messageStart") == [{"role": "assistant"}]
    assert only(events, "contentBlockStart") == []
    assert only(events, "messageStop") == [{"stopReason": "end_turn"}]
    assert list(events[-1]) == ["metadata"]
    assert events[-1]["metadata"]["usage"]["outputTokens"] == 64


def test_a_tool_plain_and_streamed(client):
    config = {"tools": [TOOL], "toolChoice": {"any": {}}}
    answer = client.converse(modelId="sim:tool", messages=SAID, toolConfig=config, inferenceConfig=LIMIT)
    call = answer["output"]["message"]["content"][-1]["toolUse"]
    assert call["name"] == "weather"
    assert answer["stopReason"] == "tool_use"
    events = streamed(client, modelId="sim:tool", toolConfig=config)
    [start] = only(events, "contentBlockStart")
    assert start["start"]["toolUse"]["name"] == "weather"
    deltas = [event["delta"] for event in only(events, "contentBlockDelta")]
    assert all(delta["toolUse"]["input"] for delta in deltas)


def test_thoughts_plain_and_streamed(client):
    more = {"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}}}
    answer = client.converse(modelId="sim-thinking", messages=SAID, **more)
    thought, said = answer["output"]["message"]["content"]
    assert thought["reasoningContent"]["reasoningText"]["signature"]
    events = streamed(client, modelId="sim-thinking", **more)
    deltas = [event["delta"] for event in only(events, "contentBlockDelta")]
    assert any("text" in delta.get("reasoningContent", {}) for delta in deltas)
    assert any("signature" in delta.get("reasoningContent", {}) for delta in deltas)
    assert said["text"]


def test_all_kinds_of_blocks_are_read(client):
    turns = [
        {
            "role": "user",
            "content": [
                {"text": "Look."},
                {"image": {"format": "png", "source": {"bytes": PNG}}},
                {"document": {"format": "pdf", "name": "a report", "source": {"bytes": b"%PDF"}}},
                {"cachePoint": {"type": "default"}},
            ],
        },
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "weather", "input": {}}}]},
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t", "content": [{"text": "rain"}], "status": "error"}},
            ],
        },
    ]
    answer = client.converse(
        modelId=LLAMA,
        system=[{"text": "Be brief."}],
        messages=turns,
        inferenceConfig=LIMIT,
        toolConfig={"tools": [TOOL, {"cachePoint": {"type": "default"}}]},
    )
    assert answer["usage"]["inputTokens"] > 5


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("sim:429", "ThrottlingException"),
        ("sim:400", "ValidationException"),
        ("sim:503", "ServiceUnavailableException"),
    ],
)
def test_errors(client, model, error):
    with pytest.raises(ClientError) as raised:
        client.converse(modelId=model, messages=SAID)
    assert raised.value.response["Error"]["Code"] == error


def test_an_error_in_mid_stream(client):
    with pytest.raises(EventStreamError, match="Overloaded"):
        streamed(client, modelId="sim:error-event=3")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"messages": SAID * 2}, "Roles must alternate"),
        ({"messages": [{"role": "assistant", "content": [{"text": "x"}]}]}, "must start with a user"),
        ({"messages": [{"role": "user", "content": [{"text": ""}]}]}, "blank"),
        (
            {
                "messages": [
                    *SAID,
                    {
                        "role": "assistant",
                        "content": [{"toolUse": {"toolUseId": "t", "name": "n", "input": {}}}],
                    },
                ]
            },
            "toolConfig field must be defined",
        ),
    ],
)
def test_what_converse_refuses(client, more, words):
    with pytest.raises(ClientError, match=words):
        client.converse(**{"modelId": LLAMA, "messages": SAID, **more})
