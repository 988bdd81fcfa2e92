"""langchain-openai, through a running gateway, to upstreams of either dialect and over either API."""

import openai
import pydantic
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str
    age: int


@tool
def forecast(town: str, days: int) -> str:
    """Tell the weather."""
    return f"Sun over {town} for {days} days."


@pytest.fixture(params=["chat", "responses"])
def model(request, gateway, key, upstream, heard):
    with heard.client() as http:

        def make(name="plain", **more):
            return ChatOpenAI(
                model=f"{upstream}/{name}",
                base_url=gateway.url + "/v1",
                api_key=key,
                max_retries=0,
                http_client=http,
                use_responses_api=request.param == "responses",
                **more,
            )

        yield make


def test_an_answer_is_whole(model, heard):
    answer = model().invoke([("system", "Be brief."), ("human", "What is a penstock?")])
    assert answer.text == heard.expected()
    assert answer.usage_metadata["output_tokens"] == 64


def test_a_stream_adds_up(model, heard):
    chunks = list(model(stream_usage=True).stream("What is a penstock?"))
    assert len(chunks) > 10
    whole = sum(chunks[1:], chunks[0])
    assert whole.text == heard.expected()
    assert whole.usage_metadata["output_tokens"] == 64


@pytest.mark.parametrize("streaming", [False, True])
def test_a_tool_is_called_and_answered(model, heard, streaming):
    bound = model().bind_tools([forecast])
    conversation = [HumanMessage("Please call the tool for Bonn.")]
    if streaming:
        chunks = list(bound.stream(conversation))
        said = sum(chunks[1:], chunks[0])
    else:
        said = bound.invoke(conversation)
    (call,) = said.tool_calls
    assert call["name"] == "forecast"
    assert set(call["args"]) == {"town", "days"}
    result = forecast.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = bound.invoke([*conversation, said, result])
    assert answer.text == heard.expected()


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_parsed(model, method):
    assert isinstance(model().with_structured_output(Person, method=method).invoke("Who?"), Person)


@pytest.mark.parametrize("streaming", [False, True])
def test_reasoning_does_not_get_in_the_way_of_a_tool_loop(model, simulators, upstream, streaming):
    bound = model("thinking").bind_tools([forecast])
    conversation = [HumanMessage("Please call the tool.")]
    if streaming:
        chunks = list(bound.stream(conversation))
        said = sum(chunks[1:], chunks[0])
    else:
        said = bound.invoke(conversation)
    (call,) = said.tool_calls
    assert bound.invoke([*conversation, said, forecast.invoke(call)]).text


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("context-length", openai.BadRequestError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
    ],
)
def test_errors_are_those_of_the_sdk(model, name, error):
    with pytest.raises(error):
        model(name).invoke("hi")


def test_a_stream_that_breaks_raises(model):
    with pytest.raises((openai.APIError, ValueError)):
        list(model("cut").stream("hi"))
