"""Custom tools before upstreams that know functions: what they are asked, and what their callers are told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import Dialect, Endpoint, Usage
from penstock.wire import chat, responses, sse
from penstock.wire.conversation import (
    Answer,
    Finished,
    PartDelta,
    PartEnded,
    PartStarted,
    Started,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from penstock.wire.custom_tools import arguments_of, custom_names, input_of
from penstock.wire.translate import translation

RESPONSES_TOOL = {"type": "custom", "name": "run", "description": "Runs code."}
CHAT_TOOL = {"type": "custom", "custom": {"name": "run", "description": "Runs code."}}
GRAMMAR = {"syntax": "regex", "definition": "a+"}
CODE = 'print("hi")\n\\ é'


def asked(endpoint, **members):
    if endpoint is Endpoint.CHAT:
        body = {"messages": [{"role": "user", "content": "hi"}], "tools": [CHAT_TOOL]}
    else:
        body = {"input": "hi", "tools": [RESPONSES_TOOL]}
    return json.dumps({"model": "m", **body, **members}).encode()


both = pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES])


@both
@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_upstream_is_offered_a_function_with_one_string(endpoint, dialect):
    choice = {"type": "custom", "name": "run"}
    if endpoint is Endpoint.CHAT:
        choice = {"type": "custom", "custom": {"name": "run"}}
    body = asked(endpoint, tool_choice=choice)
    sent = json.loads(translation(endpoint, dialect, body).request(body, "theirs"))
    tool = sent["tools"][0]
    tool = tool.get("function", tool)
    assert (tool["name"], tool["description"]) == ("run", "Runs code.")
    schema = tool.get("parameters") or tool["input_schema"]
    assert (schema["required"], schema["properties"]["input"]["type"]) == (["input"], "string")
    assert "run" in json.dumps(sent["tool_choice"])


def test_calls_and_results_of_the_history_come_along():
    items = [
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "run", "input": CODE},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "hi"},
    ]
    calls = [{"id": "c", "type": "custom", "custom": {"name": "run", "input": CODE}}]
    messages = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c", "content": "hi"},
    ]
    for prompt in (
        responses.decode_prompt(asked(Endpoint.RESPONSES, input=items)),
        chat.decode_prompt(asked(Endpoint.CHAT, messages=messages)),
    ):
        call, result = (part for turn in prompt.turns for part in turn.parts)
        assert (call.id, call.name, json.loads(call.arguments)) == ("c", "run", {"input": CODE})
        assert result == ToolResult("c", (Text("hi"),))


def test_allowed_tools_may_be_custom_ones():
    other = {"type": "function", "name": "other", "parameters": {}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "run"}]}
    prompt = responses.decode_prompt(
        asked(Endpoint.RESPONSES, tools=[other, RESPONSES_TOOL], tool_choice=allowed)
    )
    assert [tool.name for tool in prompt.tools] == ["run"]
    assert prompt.tool_choice == ToolChoice("any")


@both
def test_a_grammar_is_refused_and_a_text_is_not(endpoint):
    def with_format(form):
        if endpoint is Endpoint.CHAT:
            return asked(endpoint, tools=[{"type": "custom", "custom": {"name": "run", "format": form}}])
        return asked(endpoint, tools=[{**RESPONSES_TOOL, "format": form}])

    ways = translation(endpoint, Dialect.ANTHROPIC)
    grammar = (
        {"type": "grammar", "grammar": GRAMMAR}
        if endpoint is Endpoint.CHAT
        else {"type": "grammar", **GRAMMAR}
    )
    with pytest.raises(Untranslatable, match="grammar") as refused:
        ways.request(with_format(grammar), "m")
    assert refused.value.param in {"tools[0].format", "tools[0].custom.format"}
    with pytest.raises(BadRequest):
        ways.request(with_format({"type": "odd"}), "m")
    assert ways.request(with_format({"type": "text"}), "m")


ANSWER = Answer(
    id="a",
    model="m",
    parts=(
        Text("Sure."),
        ToolCall("c1", "run", arguments_of(CODE)),
        ToolCall("c2", "other", '{"input":"x"}'),
    ),
    stop="tool_calls",
    usage=Usage(1, 1),
)


def events(pieces):
    yield Started("a", "m")
    for part in ANSWER.parts:
        if isinstance(part, Text):
            yield PartStarted(Text(""))
            yield PartDelta(part.text)
        else:
            yield PartStarted(ToolCall(part.id, part.name, ""))
            size = max(1, len(part.arguments) // pieces)
            for at in range(0, len(part.arguments), size):
                yield PartDelta(part.arguments[at : at + size])
        yield PartEnded()
    yield Finished("tool_calls", Usage(1, 1))


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_callers_of_responses_are_told_of_a_custom_call(pieces):
    asks = translation(Endpoint.RESPONSES, Dialect.ANTHROPIC, asked(Endpoint.RESPONSES), "gen_1")._asks
    plain = json.loads(asks.encode_answer(ANSWER))["output"]
    encoder = asks.StreamEncoder()
    frames = [frame for event in events(pieces) for frame in encoder.feed(event)]
    told = [json.loads(sse.data_of(frame)) for frame in frames]
    assert told[-1]["response"]["output"] == plain
    _, custom, function = plain
    assert custom == {
        "type": "custom_tool_call", "id": "ctc_1_1", "status": "completed", "call_id": "c1", "name": "run", "input": CODE,
    }  # fmt: skip
    assert (function["type"], function["arguments"]) == ("function_call", '{"input":"x"}')
    kinds = [each["type"] for each in told if "custom" in each["type"]]
    assert kinds == ["response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"]
    assert next(each for each in told if each["type"].endswith("input.done"))["input"] == CODE
    assert [
        each["item"]["input"]
        for each in told
        if each["type"] == "response.output_item.added" and "input" in each["item"]
    ] == [""]


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_callers_of_chats_are_told_of_a_custom_call(pieces):
    asks = translation(Endpoint.CHAT, Dialect.ANTHROPIC, asked(Endpoint.CHAT))._asks
    custom, function = json.loads(asks.encode_answer(ANSWER))["choices"][0]["message"]["tool_calls"]
    assert custom == {"id": "c1", "type": "custom", "custom": {"name": "run", "input": CODE}}
    assert function["function"] == {"name": "other", "arguments": '{"input":"x"}'}
    encoder = asks.StreamEncoder()
    frames = [frame for event in events(pieces) for frame in encoder.feed(event)]
    deltas = [
        delta
        for frame in frames[:-1]
        for choice in json.loads(sse.data_of(frame))["choices"]
        for delta in choice["delta"].get("tool_calls", ())
    ]
    assert [delta for delta in deltas if delta["index"] == 0] == [
        {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "run", "input": ""}},
        {"index": 0, "custom": {"input": CODE}},
    ]
    assert (
        "".join(delta["function"]["arguments"] for delta in deltas if delta["index"] == 1) == '{"input":"x"}'
    )


@given(st.text(), st.integers(0, 400))
def test_an_input_that_was_cut_is_as_much_as_came(text, cut):
    arguments = arguments_of(text)
    assert input_of(arguments) == text
    shown = input_of(arguments[: len('{"input":"') + cut])
    assert text.startswith(shown)


@pytest.mark.parametrize("arguments", ["", "{}", "ls", '{"cmd":"ls"}', '{"input":1}', '{"input":"a","b":1}'])
def test_arguments_of_another_form_are_the_input_themselves(arguments):
    assert input_of(arguments) == arguments


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"custom"',
        b'{"tools":"custom"}',
        b'{"tools":[{"type":"custom"}]}',
        b'{"tools":[{"type":"custom","name":1}]}',
    ],
)
def test_what_is_no_custom_tool_has_no_name(body):
    assert custom_names(body) == frozenset()


def test_a_custom_tool_in_a_namespace_is_known_by_both_names():
    space = {"type": "namespace", "name": "n", "tools": [RESPONSES_TOOL]}
    body = asked(Endpoint.RESPONSES, tools=[space])
    assert custom_names(body) == {"n__run"}
    asks = translation(Endpoint.RESPONSES, Dialect.OPENAI, body)._asks
    parts = (ToolCall("c", "n__run", arguments_of("x")),)
    (item,) = json.loads(
        asks.encode_answer(Answer(id="a", model="m", parts=parts, stop="stop", usage=Usage()))
    )["output"]
    assert (item["type"], item["namespace"], item["name"], item["input"]) == (
        "custom_tool_call",
        "n",
        "run",
        "x",
    )
