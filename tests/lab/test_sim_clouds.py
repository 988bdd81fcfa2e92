"""The clouds' own SDKs take the simulator for Bedrock and for Vertex AI."""

from __future__ import annotations

import anthropic
import pytest

from penstock.testing import expected_text

SAID = [{"role": "user", "content": "Hello, what is this?"}]
BODY = {"max_tokens": 64, "messages": SAID}
TEXT = expected_text({"model": "sim", **BODY}, "/v1/messages", 64)
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
def bedrock(simulator):
    keys = {"aws_access_key": "AKIA", "aws_secret_key": "secret", "aws_region": "us-west-2"}
    with anthropic.AnthropicBedrock(base_url=simulator.url, max_retries=0, timeout=10, **keys) as client:
        yield client


@pytest.fixture
def vertex(simulator):
    place = {"project_id": "p", "region": "us-east5", "access_token": "token"}
    url = simulator.url + "/v1"
    with anthropic.AnthropicVertex(base_url=url, max_retries=0, timeout=10, **place) as client:
        yield client


@pytest.fixture(params=["bedrock", "vertex"])
def client(request):
    return request.getfixturevalue(request.param)


def test_a_message(client):
    answer = client.messages.create(model="sim", **BODY)
    assert answer.content[0].text == TEXT
    assert answer.usage.output_tokens == 64


def test_a_stream(client):
    with client.messages.stream(model="sim", **BODY) as stream:
        answer = stream.get_final_message()
    assert answer.content[0].text == TEXT
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == 64


def test_a_stream_at_its_pace(client):
    with client.messages.stream(model="sim:tokens=5,tps=500", **BODY) as stream:
        assert "".join(stream.text_stream) == expected_text({"model": "sim", **BODY}, "/v1/messages", 5)


def test_a_tool(client):
    with client.messages.stream(model="sim:tool", tools=[TOOL], **BODY) as stream:
        assert stream.get_final_message().content[-1].name == "weather"


def test_errors(client):
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(model="sim:429", **BODY)
    with pytest.raises(anthropic.BadRequestError, match="The request is wrong"):
        client.messages.create(model="sim:400", **BODY)


def test_an_error_in_mid_stream(client):
    with (
        pytest.raises(anthropic.APIStatusError),
        client.messages.stream(model="sim:error-event=3", **BODY) as stream,
    ):
        stream.get_final_message()


def test_vertex_counts_tokens(vertex):
    assert vertex.messages.count_tokens(model="sim", messages=SAID).input_tokens == 5


def test_the_version_must_be_said(simulator):
    with anthropic.Anthropic(base_url=simulator.url, api_key="any", max_retries=0, timeout=10) as client:
        with pytest.raises(anthropic.BadRequestError):
            client.post("/model/sim/invoke", body=dict(BODY), cast_to=object)
