"""Parameters of a model, put among the members of a request under the names of its API."""

import json

import msgspec
import pytest

from penstock.config.model import ParametersConfig
from penstock.messages import Endpoint
from penstock.wire import request
from penstock.wire.parameters import PUT, Parameters

BODIES = {
    Endpoint.CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    Endpoint.COMPLETIONS: {"model": "m", "prompt": "hi"},
    Endpoint.RESPONSES: {"model": "m", "input": "hi"},
    Endpoint.EMBEDDINGS: {"model": "m", "input": "hi"},
    Endpoint.MESSAGES: {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 64},
}
ALL = ParametersConfig(
    temperature=0,
    top_p=0.5,
    top_k=4,
    max_tokens=800,
    stop=["END"],
    seed=3,
    frequency_penalty=1,
    presence_penalty=-0.5,
    reasoning_effort="high",
    verbosity="low",
    service_tier="flex",
    dimensions=256,
)


def put(endpoint, defaults=None, overrides=None, most=None, model="m", **asked):
    """The members that are other than the caller's; None: the body keeps its bytes."""
    body = json.dumps({**BODIES[endpoint], **asked}).encode()
    fields = request.read(endpoint, body).fields
    before = dict(fields)
    completed = Parameters(defaults, overrides, most).completed(endpoint, fields, model)
    assert fields == before
    if completed is None:
        return None
    kept = [name for name in fields if name in completed]
    assert list(completed)[: len(kept)] == kept  # a prompt's beginning stays where it is
    changed = {name: value for name, value in completed.items() if value != fields.get(name)}
    gone = {name: None for name in fields if name not in completed}
    assert changed.keys() <= PUT
    return {name: msgspec.json.decode(value) for name, value in changed.items()} | gone


SAMPLED = {"temperature": 0, "top_p": 0.5}
CHOSEN = {**SAMPLED, "top_k": 4, "stop": ["END"], "seed": 3, "frequency_penalty": 1, "presence_penalty": -0.5}


@pytest.mark.parametrize(
    ("endpoint", "members"),
    [
        (
            Endpoint.CHAT,
            {
                **CHOSEN,
                "max_tokens": 800,
                "reasoning_effort": "high",
                "verbosity": "low",
                "service_tier": "flex",
            },
        ),
        (Endpoint.COMPLETIONS, {**CHOSEN, "max_tokens": 800}),
        (
            Endpoint.RESPONSES,
            {
                **SAMPLED,
                "max_output_tokens": 800,
                "reasoning": {"effort": "high"},
                "text": {"verbosity": "low"},
                "service_tier": "flex",
            },
        ),
        (
            Endpoint.MESSAGES,  # whose callers always say how long the answer may be
            {**SAMPLED, "top_k": 4, "stop_sequences": ["END"], "output_config": {"effort": "high"}},
        ),
        (Endpoint.EMBEDDINGS, {"dimensions": 256}),
    ],
)
def test_each_api_gets_them_under_its_own_names(endpoint, members):
    assert put(endpoint, ALL) == members


def test_what_has_no_parameters_is_left_as_it_is():
    assert Parameters(ALL, None, 9).completed(Endpoint.COUNT_TOKENS, {}, "m") is None
    assert put(Endpoint.CHAT) is None
    assert put(Endpoint.CHAT, ParametersConfig(dimensions=3)) is None


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        (Endpoint.CHAT, {"temperature": 1, "max_completion_tokens": 9, "reasoning_effort": "low"}),
        (Endpoint.CHAT, {"temperature": 1, "max_tokens": 9, "thinking": {"type": "disabled"}}),
        (Endpoint.CHAT, {"temperature": 1, "max_tokens": 9, "reasoning": {"max_tokens": 5}}),
        (Endpoint.RESPONSES, {"temperature": 1, "max_output_tokens": 9, "reasoning": {"effort": "low"}}),
        (Endpoint.MESSAGES, {"temperature": 1, "thinking": {"type": "enabled", "budget_tokens": 20}}),
        (Endpoint.MESSAGES, {"temperature": 1, "output_config": {"effort": "low"}}),
    ],
)
def test_what_the_caller_says_counts(endpoint, asked):
    defaults = ParametersConfig(temperature=0, max_tokens=800, reasoning_effort="high")
    assert put(endpoint, defaults, **asked) is None


def test_null_says_nothing():
    defaults = ParametersConfig(temperature=0, max_tokens=800, reasoning_effort="low")
    asked = {"temperature": None, "max_tokens": None, "reasoning_effort": None}
    assert put(Endpoint.CHAT, defaults, **asked) == {
        "temperature": 0,
        "max_tokens": 800,
        "reasoning_effort": "low",
    }
    reasoning = {"effort": None, "summary": "auto"}
    assert put(Endpoint.RESPONSES, defaults, reasoning=reasoning, temperature=1, max_output_tokens=1) == {
        "reasoning": {"effort": "low", "summary": "auto"}
    }


def test_what_is_no_object_is_left_to_who_refuses_it():
    assert put(Endpoint.RESPONSES, ParametersConfig(reasoning_effort="low"), reasoning="much") is None


@pytest.mark.parametrize(("effort", "put_there"), [("minimal", "low"), ("max", "max")])
def test_anthropics_api_gets_its_own_words_for_effort(effort, put_there):
    found = put(Endpoint.MESSAGES, ParametersConfig(reasoning_effort=effort))
    assert found == {"output_config": {"effort": put_there}}


def test_not_to_think_at_all_is_another_member_there():
    none = ParametersConfig(reasoning_effort="none")
    assert put(Endpoint.MESSAGES, none) == {"thinking": {"type": "disabled"}}
    assert put(Endpoint.MESSAGES, none, thinking={"type": "adaptive"}) is None
    assert put(Endpoint.MESSAGES, None, none, thinking={"type": "adaptive"}) == {
        "thinking": {"type": "disabled"}
    }


def test_overrides_hold_whatever_the_caller_says():
    overrides = ParametersConfig(temperature=0, reasoning_effort="low", max_tokens=50)
    asked = {"temperature": 1, "reasoning_effort": "high", "max_tokens": 900}
    assert put(Endpoint.CHAT, None, overrides, **asked) == {
        "temperature": 0,
        "reasoning_effort": "low",
        "max_tokens": 50,
    }
    assert put(Endpoint.CHAT, None, overrides, temperature=0, reasoning_effort="low", max_tokens=50) is None
    assert put(Endpoint.MESSAGES, None, overrides) == {
        "temperature": 0,
        "output_config": {"effort": "low"},
        "max_tokens": 50,
    }


def test_what_would_contradict_an_override_goes():
    overrides = ParametersConfig(reasoning_effort="low")
    found = put(Endpoint.CHAT, None, overrides, reasoning_effort="low", thinking={"type": "enabled"})
    assert found == {"thinking": None}


@pytest.mark.parametrize(
    ("model", "member"),
    [("gpt-5", "max_completion_tokens"), ("openai/o3", "max_completion_tokens"), ("qwen3", "max_tokens")],
)
def test_a_chats_limit_is_called_as_its_model_wants_it(model, member):
    assert put(Endpoint.CHAT, ParametersConfig(max_tokens=8), model=model) == {member: 8}
    assert put(Endpoint.CHAT, None, None, 9, model=model) == {member: 9}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, {"max_tokens": 100}),
        ({"max_tokens": 101}, {"max_tokens": 100}),
        ({"max_tokens": 100}, None),
        ({"max_completion_tokens": 7}, None),
        ({"max_completion_tokens": 7, "max_tokens": 900}, {"max_tokens": 100}),
        ({"max_completion_tokens": 0}, None),
    ],
)
def test_no_answer_is_longer_than_the_longest(asked, found):
    assert put(Endpoint.CHAT, None, None, 100, **asked) == found


def test_a_default_and_the_longest_stand_side_by_side():
    defaults = ParametersConfig(max_tokens=10)
    assert put(Endpoint.CHAT, defaults, None, 100) == {"max_tokens": 10}
    assert put(Endpoint.CHAT, defaults, None, 100, max_tokens=500) == {"max_tokens": 100}
    assert put(Endpoint.MESSAGES, None, None, 10) == {"max_tokens": 10}


def test_a_body_gets_what_it_has_not_and_keeps_the_rest():
    body = b'{"model":"m", "top_k": 1,"x":[ 1 ]}'
    more = {"top_k": msgspec.Raw(b"9"), "y": msgspec.Raw(b'{"a": 1}')}
    assert request.with_members(body, more) == b'{"model":"m","top_k":1,"x":[ 1 ],"y":{"a": 1}}'
    assert request.with_members(body, {"top_k": msgspec.Raw(b"9")}) is body
