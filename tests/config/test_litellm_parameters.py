"""What a LiteLLM proxy's deployments say of their calls, and the order in which they are asked, converted."""

import pytest
import yaml
from test_litellm import ENVIRON, converted, deployment, group, left

from penstock.config.model import ParametersConfig


def test_parameters_come_along():
    params = (
        "{model: gpt-x, temperature: 0, top_p: '0.5', top_k: 3, max_tokens: 800, stop: END, seed: 3, "
        "frequency_penalty: 0.5, presence_penalty: -0.5, reasoning_effort: high, verbosity: low, service_tier: flex}"
    )
    conversion, config = converted(deployment(params))
    assert conversion.left == ()
    assert config.models["m"].parameters == ParametersConfig(
        temperature=0,
        top_p=0.5,
        top_k=3,
        max_tokens=800,
        stop=["END"],
        seed=3,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        reasoning_effort="high",
        verbosity="low",
        service_tier="flex",
    )
    assert config.models["m"].candidates[0].extra_body == {}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_an_output_limit_has_one_name_here(name):
    _, config = converted(deployment(f"{{model: gpt-x, {name}: 9}}"))
    assert config.models["m"].parameters == ParametersConfig(max_tokens=9)


def test_embeddings_keep_their_length():
    _, config = converted(deployment("{model: text-embedding-3-small, dimensions: 256}"))
    assert config.models["m"].parameters == ParametersConfig(dimensions=256)


@pytest.mark.parametrize(
    "said",
    ["temperature: hot", "temperature: 3", "temperature: true", "max_tokens: 0", "reasoning_effort: {a: b}"],
)
def test_what_is_no_value_is_listed(said):
    conversion, config = converted(deployment(f"{{model: gpt-x, {said}}}"))
    assert config.models["m"].parameters is None
    assert left(conversion) == {said.partition(":")[0]: "is no value that `parameters` takes"}


def test_a_group_that_agrees_has_parameters_and_what_differs_is_each_ones_own():
    text = group("temperature: 0, top_p: 0.5, max_tokens: 5", "temperature: 0, top_p: 1, max_tokens: 6")
    conversion, config = converted(text)
    assert config.models["m"].parameters == ParametersConfig(temperature=0)
    assert [each.extra_body for each in config.models["m"].candidates] == [{"top_p": 0.5}, {"top_p": 1}]
    assert list(left(conversion)) == ["max_tokens"]


def test_what_another_api_calls_otherwise_is_listed_where_it_differs():
    text = """
model_list:
  - {model_name: m, litellm_params: {model: anthropic/claude-x, temperature: 0, stop: [A]}}
  - {model_name: m, litellm_params: {model: openai/x, temperature: 1, stop: [B]}}
"""
    conversion, config = converted(text)
    assert config.models["m"].parameters is None
    assert [each.extra_body for each in config.models["m"].candidates] == [
        {"temperature": 0},
        {"temperature": 1, "stop": ["B"]},
    ]
    assert list(left(conversion)) == ["stop"]


def test_what_one_provider_alone_takes_is_its_extra():
    params = (
        "{model: hosted_vllm/m, api_base: 'http://h:1/v1', repetition_penalty: 1.1, chat_template_kwargs: {a: true}, "
        "extra_body: {top_k: 40, deep: {b: [1, null, 'x ${Y}', os.environ/URL]}, n: 2, response_format: {}}}"
    )
    conversion, config = converted(deployment(params))
    assert config.models["m"].candidates[0].extra_body == {
        "top_k": 40,
        "deep": {"b": [1, None, "x ${Y}", "http://box:1"]},
        "repetition_penalty": 1.1,
        "chat_template_kwargs": {"a": True},
    }
    assert set(left(conversion)) == {"n", "response_format"}


def test_thinking_is_an_extra_of_anthropics_api():
    thinking = "thinking: {type: enabled, budget_tokens: 1024}"
    conversion, config = converted(deployment(f"{{model: anthropic/claude-x, {thinking}}}"))
    assert config.models["m"].candidates[0].extra_body["thinking"]["budget_tokens"] == 1024
    assert conversion.left == ()
    conversion, _ = converted(deployment(f"{{model: openai/x, {thinking}}}"))
    assert "`extra_body`" in left(conversion)["thinking"]


@pytest.mark.parametrize("value", [".inf", "9999999999999999999999999", "{'': 1}", "[" * 40 + "]" * 40])
def test_what_json_cannot_say_is_listed(value):
    conversion, config = converted(deployment(f"{{model: openai/x, extra_body: {{odd: {value}, even: 1}}}}"))
    assert config.models["m"].candidates[0].extra_body == {"even": 1}
    assert left(conversion) == {"odd": "is nothing that JSON can say"}


def test_text_stays_text():
    extra = {"a": "yes", "b": "1", "c": "😀: {x}", "d": "\x85\u2028", "<<": "null", "e": ""}
    source = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/x", "stop": ["\n", "#"], "extra_body": extra},
            }
        ]
    }
    _, config = converted(yaml.safe_dump(source))
    assert config.models["m"].candidates[0].extra_body == extra
    assert config.models["m"].parameters == ParametersConfig(stop=["\n", "#"])


def test_those_of_a_later_order_are_asked_when_the_first_fail():
    conversion, config = converted(
        group("order: 2, rpm: 9", "order: 1, rpm: 3", "weight: 5", "order: 1, rpm: 1"), ENVIRON
    )
    told = [(candidate.model, candidate.weight) for candidate in config.models["m"].candidates]
    assert told == [("x1", 3), ("x3", 1), ("x0", 0), ("x2", 0)]
    assert "order" not in left(conversion)


def test_those_of_one_later_order_are_not_drawn():
    conversion, config = converted(group("order: 1", "order: 2", "order: '2'", "order: last"))
    assert [candidate.weight for candidate in config.models["m"].candidates] == [1, 0, 0, 0]
    reasons = [item.reason for item in conversion.left]
    assert reasons == [
        "is no number that is at least 0",
        "those of a later order are asked one after the other, and none of them is drawn",
    ]
