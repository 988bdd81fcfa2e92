"""The official SDKs take the simulator for the providers."""

from __future__ import annotations

import anthropic
import openai
import pytest
from pydantic import BaseModel

from penstock.testing import expected_text

SAID = [{"role": "user", "content": "Hello, what is this?"}]
BODY = {"model": "sim", "messages": SAID}
TEXT = expected_text(BODY, "/v1/chat/completions", 64)
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Weather(BaseModel):
    city: str
    days: int
    unit: str | None


@pytest.fixture
def client(simulator):
    with openai.OpenAI(base_url=simulator.base_url, api_key="any", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def claude(simulator):
    with anthropic.Anthropic(base_url=simulator.url, api_key="any", max_retries=0, timeout=10) as client:
        yield client


def test_openai_chat(client):
    answer = client.chat.completions.create(model="sim", messages=SAID)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage.total_tokens == 5 + 64
    assert answer._request_id


def test_openai_chat_stream(client):
    with client.chat.completions.stream(
        model="sim", messages=SAID, stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 64


def test_openai_chat_structured(client):
    answer = client.chat.completions.parse(model="sim", messages=SAID, response_format=Weather)
    assert isinstance(answer.choices[0].message.parsed, Weather)
    with client.chat.completions.stream(model="sim", messages=SAID, response_format=Weather) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed


def test_openai_chat_tools_and_their_results(client):
    tools = [openai.pydantic_function_tool(Weather)]
    asked = [{"role": "user", "content": "Call the tool, please"}]
    with client.chat.completions.stream(model="sim:parallel=2", messages=asked, tools=tools) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [isinstance(call.function.parsed_arguments, Weather) for call in message.tool_calls] == [
        True,
        True,
    ]
    assert len({call.id for call in message.tool_calls}) == 2
    asked.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
    asked += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    for call in asked[1]["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    answer = client.chat.completions.create(model="sim", messages=asked, tools=tools)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content


def test_openai_images_reach_the_answer(client):
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    said = [{"role": "user", "content": [{"type": "text", "text": "Hello, what is this?"}, image]}]
    answer = client.chat.completions.create(model="sim", messages=said)
    assert answer.choices[0].message.content != TEXT
    assert answer.usage.prompt_tokens == 5 + 256


def test_openai_completions(client):
    whole = client.completions.create(model="sim", prompt="Once", max_tokens=9)
    pieces = client.completions.create(model="sim", prompt="Once", max_tokens=9, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"


def test_openai_embeddings(client):
    answer = client.embeddings.create(model="sim", input=["a", "b"], dimensions=12)
    assert [len(entry.embedding) for entry in answer.data] == [12, 12]


def test_openai_responses(client):
    answer = client.responses.create(model="sim", input="Hello, what is this?")
    assert answer.output_text == TEXT
    with client.responses.stream(model="sim-thinking", input="Hello, what is this?") as stream:
        numbers = [event.sequence_number for event in stream]
        final = stream.get_final_response()
    assert numbers == list(range(len(numbers)))
    assert final.output_text == TEXT
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.usage.output_tokens_details.reasoning_tokens == 16


def test_openai_responses_tools(client):
    tools = [openai.pydantic_function_tool(Weather)["function"] | {"type": "function"}]
    with client.responses.stream(model="sim-tool", input="hi", tools=tools) as stream:
        final = stream.get_final_response()
    assert isinstance(Weather.model_validate_json(final.output[0].arguments), Weather)


def test_openai_models(client):
    assert "sim" in {model.id for model in client.models.list()}
    assert client.models.retrieve("sim").id == "sim"


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("400-context-length", openai.BadRequestError),
        ("400-content-filter", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("403", openai.PermissionDeniedError),
        ("404", openai.NotFoundError),
        ("422", openai.UnprocessableEntityError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("503", openai.InternalServerError),
        ("reset-before-headers", openai.APIConnectionError),
        ("garbage", openai.APIConnectionError),
    ],
)
def test_openai_errors(client, scenario, error):
    with pytest.raises(error):
        client.chat.completions.create(model=f"sim:{scenario}", messages=SAID)


def test_openai_error_event(client):
    with pytest.raises(openai.APIError, match="had an error"):
        list(client.chat.completions.create(model="sim:error-event", messages=SAID, stream=True))


def test_openai_retries_what_fails_once(simulator):
    with openai.OpenAI(base_url=simulator.base_url, api_key="any", max_retries=1) as client:
        answer = client.chat.completions.create(model="sim:500-once,key=sdk", messages=SAID)
    assert answer.choices[0].message.content == TEXT


def test_anthropic_messages(claude):
    answer = claude.messages.create(model="sim", max_tokens=1_000, messages=SAID)
    assert (answer.content[0].text, answer.stop_reason) == (TEXT, "end_turn")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 64)
    assert answer._request_id


def test_anthropic_stream_with_thinking(claude):
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    with claude.messages.stream(model="sim", max_tokens=2_000, messages=SAID, thinking=thinking) as stream:
        answer = stream.get_final_message()
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[0].signature
    assert answer.content[1].text == TEXT
    assert answer.usage.output_tokens == 64 + 16


def test_anthropic_tools_and_their_results(claude):
    tools = [{"name": "weather", "description": "w", "input_schema": Weather.model_json_schema()}]
    asked = [{"role": "user", "content": "Call the tool"}]
    with claude.messages.stream(
        model="sim:parallel=2", max_tokens=500, messages=asked, tools=tools
    ) as stream:
        answer = stream.get_final_message()
    assert answer.stop_reason == "tool_use"
    assert all(Weather.model_validate(block.input) for block in answer.content)
    plain = claude.messages.create(model="sim:parallel=2", max_tokens=500, messages=asked, tools=tools)
    assert [block.input for block in plain.content] == [block.input for block in answer.content]
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"} for block in answer.content
    ]
    asked += [
        {"role": "assistant", "content": [block.to_dict() for block in answer.content]},
        {"role": "user", "content": results},
    ]
    after = claude.messages.create(model="sim", max_tokens=500, messages=asked, tools=tools)
    assert after.stop_reason == "end_turn"


def test_anthropic_structured_output(claude):
    answer = claude.messages.parse(model="sim", max_tokens=500, messages=SAID, output_format=Weather)
    assert isinstance(answer.parsed_output, Weather)


def test_anthropic_counts_tokens(claude):
    assert claude.messages.count_tokens(model="sim", messages=SAID).input_tokens == 5


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("400-context-length", anthropic.BadRequestError),
        ("401", anthropic.AuthenticationError),
        ("429", anthropic.RateLimitError),
        ("500", anthropic.InternalServerError),
        ("529", anthropic.InternalServerError),
    ],
)
def test_anthropic_errors(claude, scenario, error):
    with pytest.raises(error):
        claude.messages.create(model=f"sim:{scenario}", max_tokens=10, messages=SAID)


def test_anthropic_error_event(claude):
    with (
        pytest.raises(anthropic.APIStatusError, match="Overloaded"),
        claude.messages.stream(model="sim:error-event", max_tokens=100, messages=SAID) as stream,
    ):
        stream.get_final_message()
