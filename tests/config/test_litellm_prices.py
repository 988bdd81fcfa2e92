"""Prices of a LiteLLM proxy's deployments, as a price table of ours."""

from decimal import Decimal

import pytest
from test_litellm import ENVIRON, deployment, left

from penstock.config.litellm import convert
from penstock.ledger.prices import PriceTable, Tier
from penstock.messages import Usage

AT = "/etc/penstock/prices.toml"


def table(text, tmp_path):
    conversion = convert(text, "config.yaml", ENVIRON, AT)
    assert f"\nprices: {AT}\n" in conversion.text
    path = tmp_path / "prices.toml"
    path.write_text(conversion.prices, encoding="utf-8")
    return conversion, PriceTable.load(str(path))


def test_tokens_cost_what_they_cost_there(tmp_path):
    params = (
        "{model: openai/mine, input_cost_per_token: 0.000002, output_cost_per_token: '8e-06', "
        "cache_read_input_token_cost: 5e-7, cache_creation_input_token_cost: 0.0000025}"
    )
    info = "model_info: {input_cost_per_token: 9, output_cost_per_reasoning_token: 0.00001}"
    conversion, prices = table(deployment(params, rest=info), tmp_path)
    assert conversion.left == ()
    price = prices.price("openai", "mine")
    assert (price.input, price.output, price.cached_input, price.cache_write, price.reasoning) == (
        Decimal(2),
        Decimal(8),
        Decimal("0.5"),
        Decimal("2.5"),
        Decimal(10),
    )
    assert price.upstream == "openai"
    usage = Usage(input_tokens=1_000, output_tokens=100, cached_input_tokens=400)
    assert prices.cost("openai", "mine", usage) == 600 * 2_000_000 + 400 * 500_000 + 100 * 8_000_000
    assert prices.price("other", "mine") is None


@pytest.mark.parametrize(
    ("said", "ours", "amount"),
    [
        ("input_cost_per_second: 0.0001", "minute", "0.006"),
        ("output_cost_per_image: 0.04", "image", "0.04"),
        ("input_cost_per_character: 0.000015", "characters", "15"),
        ("input_cost_per_query: 0.002", "search", "0.002"),
        ("input_cost_per_audio_token: 0.00004", "audio_input", "40"),
    ],
)
def test_what_is_not_counted_in_tokens_has_the_tables_measure(tmp_path, said, ours, amount):
    _, prices = table(deployment(f"{{model: openai/mine, {said}}}"), tmp_path)
    assert getattr(prices.price("openai", "mine"), ours) == Decimal(amount)


def test_long_prompts_have_prices_of_their_own(tmp_path):
    params = (
        "{model: openai/mine, input_cost_per_token: 0.000001, output_cost_per_token: 0.000002, "
        "input_cost_per_token_above_200k_tokens: 0.000003, cache_read_input_token_cost_above_200k_tokens: 0.0000005}"
    )
    _, prices = table(deployment(params), tmp_path)
    assert prices.price("openai", "mine").tiers == (
        Tier(above=200_000, input=Decimal(3), output=Decimal(2), cached_input=Decimal("0.5")),
    )


def test_the_callers_own_name_is_the_models_where_it_is_that(tmp_path):
    _, prices = table(deployment("{model: openai/m, input_cost_per_token: 0}"), tmp_path)
    assert prices.knows("openai", "m")


@pytest.mark.parametrize("value", ["dear", "-1", "true", ".inf", "'1e999999999'", "1e-30", "[1]"])
def test_what_is_no_price_is_listed(value):
    text = deployment(f"{{model: openai/mine, input_cost_per_token: {value}}}")
    conversion = convert(text, "config.yaml", ENVIRON, AT)
    assert left(conversion) == {"input_cost_per_token": "is no price in US dollars"}
    assert conversion.prices == ""
    assert "prices:" not in conversion.text


def test_a_model_does_one_thing(tmp_path):
    text = deployment("{model: openai/mine, input_cost_per_second: 1, output_cost_per_image: 1}")
    conversion, _ = table(text, tmp_path)
    assert "one thing besides" in left(conversion)["output_cost_per_image"]


def test_two_prices_for_one_thing_are_listed(tmp_path):
    text = deployment("{model: openai/mine, input_cost_per_token: 0.000001}") + (
        "  - {model_name: n, litellm_params: {model: openai/mine, input_cost_per_token: 0.000002}}\n"
        "  - {model_name: o, litellm_params: {model: openai/mine, input_cost_per_token: 0.000001}}\n"
    )
    conversion, prices = table(text, tmp_path)
    assert [(item.key.rpartition(".")[2], item.models) for item in conversion.left] == [
        ("input_cost_per_token", ("n",))
    ]
    assert prices.price("openai", "mine").input == 1


def test_without_a_place_for_them_they_are_listed_by_their_own_names():
    text = deployment("{model: openai/mine, input_cost_per_token_above_200k_tokens: 0.000001}")
    conversion = convert(text, "config.yaml", ENVIRON)
    assert "`input`" in left(conversion)["input_cost_per_token_above_200k_tokens"]
