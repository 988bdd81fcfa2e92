"""Calls that the caller has chosen: the whole answer is the call's input, and keeps to its rule."""

from __future__ import annotations

import json

import pytest
from engine_doubles import LetterBackend, LetterTokenizer, SayingBackend
from test_server import ask, chat, error, events

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "other"}}
BY_NAME = {"type": "function", "function": {"name": "weather"}}
CALC = {"type": "custom", "custom": {"name": "calc"}}


def custom(syntax=None, definition=""):
    wanted = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}} if syntax else None
    return {"type": "custom", "custom": {"name": "calc", "description": "adds", "format": wanted}}


def called(answer):
    ((choice,), told) = answer["choices"], answer["choices"][0]["message"]
    assert told["content"] is None
    (call,) = told["tool_calls"]
    return choice["finish_reason"], call


def prepared(backend):
    """The rule that reached the backend."""
    (sampling,) = backend.prepared
    return sampling


@pytest.mark.parametrize(
    ("tools", "choice"),
    [([WEATHER], "required"), ([OTHER, WEATHER], BY_NAME), ([custom(), WEATHER], BY_NAME)],
)
def test_a_function_that_is_named_gets_arguments_of_its_schema(tools, choice):
    backend = SayingBackend('{"city": "Bern"}')
    answer = ask(chat(tools=tools, tool_choice=choice, max_tokens=90), backend=backend).json()
    finish, call = called(answer)
    assert (finish, call["type"]) == ("tool_calls", "function")
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Bern"}'}
    assert json.loads(prepared(backend).schema) == SCHEMA
    assert answer["usage"]["completion_tokens"] == len('{"city": "Bern"}')


@pytest.mark.parametrize(
    ("syntax", "definition", "written"),
    [
        ("lark", 'start: NUM "+" NUM\nNUM: /[0-9]+/', "root ::= "),
        ("gbnf", 'root ::= [0-9]+ "+" [0-9]+', "root ::= ([0-9])+"),
        ("regex", r"\d+\+\d+", "root ::= ([0-9])+"),
    ],
)
def test_a_custom_tool_gets_what_its_grammar_says(syntax, definition, written):
    backend = SayingBackend("1+2")
    body = chat(tools=[custom(syntax, definition)], tool_choice=CALC, max_tokens=90)
    finish, call = called(ask(body, backend=backend).json())
    assert finish == "tool_calls"
    assert {**call, "id": ""} == {"id": "", "type": "custom", "custom": {"name": "calc", "input": "1+2"}}
    assert prepared(backend).grammar.ebnf().startswith(written)


def test_a_custom_tool_without_a_format_gets_any_text():
    backend = SayingBackend("1 and 2")
    _, call = called(
        ask(chat(tools=[custom()], tool_choice="required", max_tokens=90), backend=backend).json()
    )
    assert call["custom"]["input"] == "1 and 2"
    assert backend.prepared == []


def test_a_stream_has_the_call_in_one_chunk():
    body = chat(tools=[WEATHER], tool_choice=BY_NAME, max_tokens=90, stream=True, return_token_ids=True)
    told = events(ask(body, backend=SayingBackend('{"city":"Bern"}')))
    calls = [call for each in told for call in each["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call["function"]["arguments"]) for call in calls] == [(0, '{"city":"Bern"}')]
    assert not any(each["choices"][0]["delta"].get("content") for each in told)
    assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"
    ids = [token for each in told for token in each["choices"][0].get("token_ids", ())]
    assert LetterTokenizer().decode(ids) == '{"city":"Bern"}'


def test_a_call_that_is_cut_says_so():
    body = chat(tools=[WEATHER], tool_choice=BY_NAME, max_tokens=5)
    finish, call = called(ask(body, backend=SayingBackend('{"city":"Bern"}')).json())
    assert (finish, call["function"]["arguments"]) == ("length", '{"cit')


def test_the_model_is_told_of_a_custom_tool_and_of_its_calls():
    backend = SayingBackend("3")
    call = {"id": "c", "type": "custom", "custom": {"name": "calc", "input": "1+2"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "3"},
    ]
    ask(chat(tools=[custom()], tool_choice=CALC, messages=messages), backend=backend)
    assert backend.prompts == [
        "[calc]<assistant>{{'name': 'calc', 'arguments': {'input': '1+2'}}}<tool>3<assistant>"
    ]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [WEATHER, OTHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [OTHER], "tool_choice": BY_NAME}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": CALC}, "tool_choice"),
        ({"tools": [custom()]}, "tools"),
        ({"tools": [custom("lark", "start: x")], "tool_choice": CALC}, "tools"),
        ({"tools": [custom("regex", "(")], "tool_choice": CALC}, "tools"),
        ({"tools": [custom("abnf", "a")], "tool_choice": CALC}, "tools[0].custom.format.grammar.syntax"),
        (
            {
                "tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "grammar"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
        ({"tools": [WEATHER], "tool_choice": BY_NAME, "guided_regex": "a"}, "guided_regex"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_its_name(more, param):
    status, told = error(ask(chat(**more), backend=LetterBackend()))
    assert (status, told["param"]) == (400, param)
