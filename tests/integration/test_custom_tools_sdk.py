"""Custom tools, as OpenAI's SDK has them, before upstreams of either API that know functions alone."""

import json

import openai
import pytest

ASKED = "Please call the tool for Bonn."
CUSTOM = {"name": "shell", "description": "Runs a command."}


@pytest.mark.parametrize("stream", [False, True])
def test_a_custom_tool_of_a_response_is_called_and_answered(stream, openai_client, simulators, upstream):
    asked = {"model": f"{upstream}/plain", "tools": [{"type": "custom", **CUSTOM}]}
    items = [{"role": "user", "content": ASKED}]
    if stream:
        with openai_client.responses.stream(input=items, **asked) as opened:
            deltas = [e.delta for e in opened if e.type == "response.custom_tool_call_input.delta"]
            response = opened.get_final_response()
    else:
        response = openai_client.responses.create(input=items, **asked)
    (call,) = [item for item in response.output if item.type == "custom_tool_call"]
    assert (call.name, response.status) == ("shell", "completed")
    assert call.input
    assert not call.input.startswith("{")
    assert not stream or "".join(deltas) == call.input
    items += [
        *response.output,
        {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "done"},
    ]
    assert openai_client.responses.create(input=items, **asked).output_text
    assert json.dumps(call.input)[1:-1] in json.loads(
        json.dumps(simulators[upstream].requests()[-1]["body"])
    ).replace('\\"', '"')


@pytest.mark.parametrize("stream", [False, True])
def test_a_custom_tool_of_a_chat_is_called_and_answered(stream, openai_client):
    asked = {"model": "anthropic/plain", "tools": [{"type": "custom", "custom": CUSTOM}]}
    messages = [{"role": "user", "content": ASKED}]
    if stream:
        told = ""
        for chunk in openai_client.chat.completions.create(messages=messages, stream=True, **asked):
            for delta in chunk.choices[0].delta.tool_calls or ():
                told += delta.to_dict()["custom"]["input"]
        assert told
        return
    message = openai_client.chat.completions.create(messages=messages, **asked).choices[0].message
    (call,) = message.tool_calls
    assert (call.type, call.custom.name) == ("custom", "shell")
    assert call.custom.input
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    assert openai_client.chat.completions.create(messages=messages, **asked).choices[0].message.content


def test_a_grammar_is_refused_by_name(openai_client, upstream):
    form = {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.responses.create(
            model=f"{upstream}/plain", input=ASKED, tools=[{"type": "custom", **CUSTOM, "format": form}]
        )
    assert (refused.value.code, refused.value.param) == ("untranslatable", "tools[0].format")
