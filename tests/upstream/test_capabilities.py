"""What the package's table says of models, wherever they are hosted."""

import pytest

from penstock.config.model import CapabilitiesConfig, UpstreamConfig
from penstock.upstream.capabilities import capabilities


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-6"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "global.anthropic.claude-opus-4-6-v1"),
        (
            "bedrock",
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-3-haiku-20240307-v1:0",
            "anthropic.claude-sonnet-4-6",
        ),
        ("vertex", "claude-sonnet-4-5@20250929", "claude-opus-4-6"),
    ],
)
def test_anthropics_models_are_known_at_clouds_too(kind, old, new):
    config = UpstreamConfig(kind=kind)
    assert capabilities(config, "example.com", old).prefill == "trailing"
    assert capabilities(config, "example.com", new).prefill == "none"


@pytest.mark.parametrize(
    ("model", "prefill"),
    [
        ("us.amazon.nova-lite-v1:0", "trailing"),
        ("amazon.nova-2-lite-v1:0", "trailing"),
        ("us.meta.llama3-3-70b-instruct-v1:0", "none"),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-pro-v1:0", "trailing"),
    ],
)
def test_other_vendors_models_at_bedrock(model, prefill):
    assert capabilities(UpstreamConfig(kind="bedrock"), "example.com", model).prefill == prefill


def test_the_configuration_goes_before_the_table():
    config = UpstreamConfig(kind="bedrock", capabilities=CapabilitiesConfig(prefill="none"))
    assert capabilities(config, "example.com", "anthropic.claude-3-haiku-20240307-v1:0").prefill == "none"


@pytest.mark.parametrize(
    ("host", "background"), [("api.openai.com", True), ("eu-resource.openai.azure.com", False)]
)
def test_openais_models_at_azure_differ_in_what_runs_on_without_a_connection(host, background):
    config = UpstreamConfig(kind="openai")
    for model, deterministic in {"gpt-4o": True, "gpt-5-mini": False, "o3": False}.items():
        found = capabilities(config, host, model)
        assert (found.prefill, found.deterministic) == ("none", deterministic)
        assert found.background is background


@pytest.mark.parametrize(
    ("model", "prefill"),
    [("llama-3.3-70b-versatile", "trailing"), ("openai/gpt-oss-120b", "none"), ("qwen/qwen3-32b", "none")],
)
def test_at_groq_what_is_said_to_take_a_beginning_is_given_one_and_a_model_that_reasons_is_not(
    model, prefill
):
    assert capabilities(UpstreamConfig(kind="openai"), "api.groq.com", model).prefill == prefill
