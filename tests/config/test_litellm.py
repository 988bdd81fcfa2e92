"""The configuration of a LiteLLM proxy, converted."""

import hashlib
import tomllib

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.keys import hash_key
from penstock.config.litellm import convert
from penstock.config.load import parse
from penstock.config.model import CandidateConfig, Config, TimeoutConfig
from penstock.errors import ConfigError
from penstock.ledger.prices import Price

ENVIRON = {"OPENAI_API_KEY": "k1", "ANTHROPIC_API_KEY": "k2", "URL": "http://box:1"}


def converted(text, environ=ENVIRON):
    """The conversion, and our configuration as it is read afterwards."""
    conversion = convert(text, "config.yaml", environ)
    return conversion, parse(conversion.text, "out.yaml", environ)


def deployment(params, name="m", rest=""):
    return f"model_list:\n  - model_name: {name}\n    litellm_params: {params}\n    {rest}\n"


def left(conversion):
    return {item.key.rpartition(".")[2]: item.reason for item in conversion.left}


# ---- what is dropped -------------------------------------------------------------------------------------

LACKING = ["frequency_penalty", "logit_bias", "logprobs", "n", "presence_penalty", "seed", "top_logprobs"]


@pytest.mark.parametrize(
    ("params", "library", "left_out"),
    [
        ("model: anthropic/claude-x", "{drop_params: true}", LACKING),
        ("model: anthropic/claude-x, drop_params: true", "{}", LACKING),
        ("model: anthropic/claude-x, drop_params: false", "{drop_params: true}", []),
        ("model: anthropic/claude-x", "{}", []),
        ("model: bedrock/meta.llama3, aws_region_name: us-east-1", "{drop_params: true}", LACKING),
        ("model: openai/gpt-4o", "{drop_params: true}", []),  # it has them itself
        ("model: openai/gpt-4o, additional_drop_params: [user, seed, user]", "{}", ["user", "seed"]),
    ],
)
def test_what_litellm_drops_is_left_out(params, library, left_out):
    conversion, config = converted(deployment("{" + params + "}") + f"litellm_settings: {library}\n")
    (upstream,) = config.upstreams.values()
    assert upstream.leave_out == left_out
    assert ("drop_params" in left(conversion)) == ("drop" in library)


@pytest.mark.parametrize("member", ["messages", "stream_options", "'tools[*].input_examples'", "3"])
def test_what_cannot_be_left_out_is_listed(member):
    conversion, config = converted(deployment(f"{{model: openai/x, additional_drop_params: [{member}]}}"))
    assert config.upstreams["openai"].leave_out == []
    assert "additional_drop_params" in left(conversion)


# ---- providers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "kind", "url", "model"),
    [
        ("{model: openai/gpt-4o}", "openai", "https://api.openai.com/v1", "gpt-4o"),
        ("{model: gpt-4o}", "openai", "https://api.openai.com/v1", "gpt-4o"),
        ("{model: gpt-4o, custom_llm_provider: openai}", "openai", "https://api.openai.com/v1", "gpt-4o"),
        ("{model: text-completion-openai/davinci}", "openai", "https://api.openai.com/v1", "davinci"),
        ("{model: anthropic/claude-x}", "anthropic", "https://api.anthropic.com", "claude-x"),
        ("{model: claude-x}", "anthropic", "https://api.anthropic.com", "claude-x"),
        (
            "{model: anthropic/claude-x, api_base: 'https://p.example/a/v1/messages'}",
            "anthropic",
            "https://p.example/a",
            "claude-x",
        ),
        ("{model: deepseek/deepseek-chat}", "openai", "https://api.deepseek.com/v1", "deepseek-chat"),
        ("{model: groq/openai/gpt-oss}", "openai", "https://api.groq.com/openai/v1", "openai/gpt-oss"),
        ("{model: openrouter/a/b}", "openai", "https://openrouter.ai/api/v1", "a/b"),
        (
            "{model: fireworks_ai/llama}",
            "openai",
            "https://api.fireworks.ai/inference/v1",
            "accounts/fireworks/models/llama",
        ),
        ("{model: openai/m1, api_base: 'http://h:1/v1/'}", "openai", "http://h:1/v1", "m1"),
        ("{model: openai/m1, base_url: os.environ/URL}", "openai", "http://box:1", "m1"),
        ("{model: hosted_vllm/org/m1, api_base: 'http://h:1/v1'}", "openai", "http://h:1/v1", "org/m1"),
        ("{model: ollama/llama3}", "openai", "http://localhost:11434/v1", "llama3"),
        ("{model: ollama_chat/llama3, api_base: os.environ/URL}", "openai", "http://box:1/v1", "llama3"),
    ],
)
def test_a_deployment_becomes_a_candidate_at_an_upstream(params, kind, url, model):
    environ = dict.fromkeys(
        ("GROQ_API_KEY", "DEEPSEEK_API_KEY", "OPENROUTER_API_KEY", "FIREWORKS_API_KEY"), "k"
    )
    conversion, config = converted(deployment(params), ENVIRON | environ)
    (candidate,) = config.models["m"].candidates
    upstream = config.upstreams[candidate.upstream]
    assert (upstream.kind, upstream.base_url, candidate.model) == (kind, url, model)
    assert conversion.left == ()


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("{model: azure/gpt-4o, api_base: 'https://apim.example/x'}", "Azure"),
        ("{model: bedrock/amazon.titan-embed-text-v2:0}", "of Bedrock's models only those that chat"),
        ("{model: bedrock/anthropic.claude-v2, aws_secret_access_key: s}", "has one alone"),
        ("{model: bedrock/agent/L1RT58GYRW/MFPSBCXYTW}", "its route agent/ is LiteLLM's own"),
        ("{model: vertex_ai/mistral-large}", "only Anthropic's and Gemini"),
        ("{model: vertex_ai/claude-x, vertex_credentials: '{\"type\": 1}'}", "put them into a file"),
        ("{model: whatever}", "its provider is unknown"),
        ("{model: hosted_vllm/m}", "it has no api_base"),
        ("{model: openai/m, api_base: 'nonsense'}", "its api_base is wrong"),
        ('{model: openai/m, api_key: "a\\nb"}', "no header may have"),
        ("{model: 'openai/*'}", "nothing to stand for"),
    ],
)
def test_what_cannot_be_converted_is_listed_with_its_reason(params, reason):
    conversion, config = converted(deployment(params))
    assert config.models == {}
    (item,) = conversion.left
    assert item.models == ("m",)
    assert reason in item.reason
    assert f"#   {item}" in conversion.text


@pytest.mark.parametrize(
    "base",
    [
        "https://eu.openai.azure.com",
        "https://eu.openai.azure.com/",
        "https://eu.openai.azure.com/openai/v1/",
        "https://eu.openai.azure.com/openai/deployments/gpt4",
    ],
)
def test_a_deployment_of_azure_is_asked_at_its_resources_v1_endpoint(base):
    conversion, config = converted(
        deployment(f"{{model: azure/o_series/mine, api_base: '{base}', api_key: k, api_version: 2024-10-21}}")
    )
    (candidate,) = config.models["m"].candidates
    assert (candidate.upstream, candidate.model) == ("eu", "mine")
    assert config.upstreams["eu"].base_url == "https://eu.openai.azure.com/openai/v1"
    assert left(conversion) == {
        "api_version": "the resource is asked at its v1 endpoint (/openai/v1), which has no versions"
    }


AT_VERTEX = "https://{}aiplatform.googleapis.com/v1/projects/{}/locations/{}"


@pytest.mark.parametrize(
    ("params", "kind", "url", "model", "credentials"),
    [
        (
            "{model: bedrock/us.anthropic.claude-sonnet-4-6, aws_region_name: eu-west-1, aws_profile_name: p}",
            "bedrock",
            "https://bedrock-runtime.eu-west-1.amazonaws.com",
            "us.anthropic.claude-sonnet-4-6",
            {"source": "aws", "profile": "p"},
        ),
        (
            "{model: bedrock/converse/us-west-2/anthropic.claude-v2, aws_access_key_id: AKIA, aws_secret_access_key: s}",
            "bedrock",
            "https://bedrock-runtime.us-west-2.amazonaws.com",
            "anthropic.claude-v2",
            {"source": "aws", "access_key": "AKIA"},
        ),
        (
            "{model: bedrock/anthropic.claude-v2}",
            "bedrock",
            "https://bedrock-runtime.ap-south-1.amazonaws.com",
            "anthropic.claude-v2",
            {"source": "aws"},
        ),
        (
            "{model: bedrock/anthropic.claude-v2, api_base: 'https://vpce.internal', aws_region_name: eu-west-1}",
            "bedrock",
            "https://vpce.internal",
            "anthropic.claude-v2",
            {"source": "aws", "region": "eu-west-1"},
        ),
        (
            "{model: bedrock/converse/us.meta.llama3-3-70b-instruct-v1:0, aws_region_name: eu-west-1}",
            "bedrock",
            "https://bedrock-runtime.eu-west-1.amazonaws.com",
            "us.meta.llama3-3-70b-instruct-v1:0",
            {"source": "aws"},
        ),
        (
            "{model: bedrock/us-east-1/amazon.nova-pro-v1:0}",
            "bedrock",
            "https://bedrock-runtime.us-east-1.amazonaws.com",
            "amazon.nova-pro-v1:0",
            {"source": "aws"},
        ),
        (
            "{model: vertex_ai/claude-sonnet-4-5@20250929, vertex_project: p, vertex_location: us-east5}",
            "vertex",
            AT_VERTEX.format("us-east5-", "p", "us-east5"),
            "claude-sonnet-4-5@20250929",
            {"source": "google"},
        ),
        (
            "{model: vertex_ai/gemini-2.5-pro, vertex_location: global}",
            "openai",
            AT_VERTEX.format("", "mine", "global") + "/endpoints/openapi",
            "google/gemini-2.5-pro",
            {"source": "google"},
        ),
        (
            "{model: azure/gpt-4o, api_base: 'https://x.openai.azure.com', azure_scope: s}",
            "openai",
            "https://x.openai.azure.com/openai/v1",
            "gpt-4o",
            None,
        ),
    ],
)
def test_a_deployment_at_a_cloud(params, kind, url, model, credentials):
    environ = {"AWS_REGION": "ap-south-1", "VERTEXAI_PROJECT": "mine", "AZURE_API_KEY": "k"}
    _, config = converted(deployment(params), ENVIRON | environ)
    (candidate,) = config.models["m"].candidates
    upstream = config.upstreams[candidate.upstream]
    assert (upstream.kind, upstream.base_url, candidate.model) == (kind, url, model)
    if credentials is None:
        assert upstream.credentials is None
    else:
        assert {key: getattr(upstream.credentials, key) for key in credentials} == credentials


@pytest.mark.parametrize(
    ("model", "api"),
    [
        ("bedrock/converse/arn:aws:bedrock:us-east-1:1:application-inference-profile/x", "converse"),
        ("bedrock_converse/arn:aws:bedrock:us-east-1:1:application-inference-profile/x", "converse"),
        ("bedrock/arn:aws:bedrock:us-east-1:1:application-inference-profile/x", None),
        ("bedrock/converse/amazon.nova-pro-v1:0", None),
        ("bedrock/converse/us.anthropic.claude-sonnet-4-6", None),
    ],
)
def test_the_api_of_bedrock_is_said_where_the_model_does_not_tell_it(model, api):
    _, config = converted(deployment(f"{{model: '{model}'}}"), ENVIRON | {"AWS_REGION": "us-east-1"})
    (candidate,) = config.models["m"].candidates
    assert config.upstreams[candidate.upstream].api == api
    assert candidate.model == model.partition("/")[2].removeprefix("converse/")


def test_tokens_of_entra_are_fetched_and_whose_is_told():
    params = "{model: azure/gpt-4o, api_base: 'https://x.openai.azure.com', tenant_id: t, client_id: c}"
    conversion, config = converted(deployment(params))
    assert config.upstreams["x"].credentials.source == "entra"
    assert config.upstreams["x"].api_key is None
    assert "AZURE_CLIENT_ID" in left(conversion)["client_id"]


def test_an_address_of_azure_that_is_a_variable_gets_the_v1_endpoints_path():
    conversion, config = converted(
        deployment("{model: azure/mine, api_base: os.environ/URL}"), ENVIRON | {"AZURE_API_KEY": "k3"}
    )
    assert config.upstreams["azure"].base_url == "http://box:1/openai/v1"
    assert config.upstreams["azure"].api_key.reveal() == "k3"
    assert "must not end with a slash" in left(conversion)["api_base"]


def test_variables_of_azure_are_those_that_litellm_looks_up():
    assert converted(
        deployment("{model: azure/mine}"), ENVIRON | {"AZURE_API_KEY": "k3", "AZURE_API_BASE": "https://a"}
    )[0].variables == ("AZURE_API_BASE", "AZURE_API_KEY")


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("router_settings: {cache_responses: true}", "docs/caching.md"),
        ("router_settings: {allowed_fails_policy: {}}", "`breaker`"),
        ("general_settings: {max_budget: 5}", "`limits`"),
        ("general_settings: {max_parallel_requests: 5}", "`limits.keys`"),
        ("router_settings: {default_max_parallel_requests: 5}", "`concurrency`"),
    ],
)
def test_what_has_to_be_said_anew_is_listed_with_the_place_for_it(setting, where):
    conversion, _ = converted(setting)
    (item,) = conversion.left
    assert where in item.reason


@pytest.mark.parametrize(
    ("params", "mode", "url", "model", "key"),
    [
        ("model: dall-e-3", "image_generation", "https://api.openai.com/v1", "dall-e-3", "OPENAI_API_KEY"),
        (
            "model: openai/gpt-image-1",
            "image_edit",
            "https://api.openai.com/v1",
            "gpt-image-1",
            "OPENAI_API_KEY",
        ),
        ("model: tts-1", "audio_speech", "https://api.openai.com/v1", "tts-1", "OPENAI_API_KEY"),
        (
            "model: whisper-1",
            "audio_transcription",
            "https://api.openai.com/v1",
            "whisper-1",
            "OPENAI_API_KEY",
        ),
        (
            "model: groq/whisper-x",
            "audio_transcription",
            "https://api.groq.com/openai/v1",
            "whisper-x",
            "GROQ_API_KEY",
        ),
        (
            "model: omni-moderation-latest",
            "moderation",
            "https://api.openai.com/v1",
            "omni-moderation-latest",
            "OPENAI_API_KEY",
        ),
        ("model: cohere/rerank-v3.5", "rerank", "https://api.cohere.com/v2", "rerank-v3.5", "COHERE_API_KEY"),
        (
            "model: jina_ai/jina-reranker-v2",
            "",
            "https://api.jina.ai/v1",
            "jina-reranker-v2",
            "JINA_AI_API_KEY",
        ),
        ("model: voyage/rerank-2.5", "rerank", "https://api.voyageai.com/v1", "rerank-2.5", "VOYAGE_API_KEY"),
    ],
)
def test_what_is_no_chat_model_is_converted(params, mode, url, model, key):
    rest = f"model_info: {{mode: {mode}}}" if mode else ""
    environ = {name: f"the value of {name}" for name in (key, "OPENAI_API_KEY")}
    conversion, config = converted(deployment("{" + params + "}", rest=rest), ENVIRON | environ)
    (candidate,) = config.models["m"].candidates
    upstream = config.upstreams[candidate.upstream]
    assert (upstream.kind, upstream.base_url, candidate.model) == ("openai", url, model)
    assert upstream.api_key.reveal() == (ENVIRON | environ)[key]
    assert conversion.left == ()


@pytest.mark.parametrize("mode", ["video_generation", "[]"])
def test_what_is_not_served_is_listed(mode):
    conversion, config = converted(deployment("{model: openai/sora-2}", rest=f"model_info: {{mode: {mode}}}"))
    assert config.models == {}
    assert left(conversion) == {"mode": f"{mode} is not served"}


def test_chats_of_who_ranks_are_not_asked_for():
    conversion, config = converted(deployment("{model: cohere/command-r}"))
    assert config.models == {}
    assert "speaks neither" in next(iter(left(conversion).values()))


def test_a_key_from_the_environment_stays_there_and_a_literal_one_is_marked():
    conversion, config = converted(deployment("{model: openai/m, api_key: os.environ/OPENAI_API_KEY}"))
    assert "api_key: ${OPENAI_API_KEY}\n" in conversion.text
    assert conversion.variables == ("OPENAI_API_KEY",)
    assert config.upstreams["openai"].api_key.reveal() == "k1"
    conversion, config = converted(deployment("{model: openai/m, api_key: 'sk-${x}'}"))
    assert "better in the environment" in conversion.text
    assert config.upstreams["openai"].api_key.reveal() == "sk-${x}"


def test_headers_and_organization_come_along():
    _, config = converted(
        deployment("{model: openai/m, organization: o, extra_headers: {X-A: os.environ/URL}}")
    )
    assert config.upstreams["openai"].headers == {"X-A": "http://box:1", "OpenAI-Organization": "o"}


def test_credentials_by_name_are_looked_up():
    text = deployment("{model: openai/m, litellm_credential_name: c}") + (
        "credential_list: [{credential_name: c, credential_values: {api_key: os.environ/URL}, credential_info: {}}]"
    )
    conversion, config = converted(text)
    assert config.upstreams["openai"].api_key.reveal() == "http://box:1"
    assert conversion.left == ()


def test_deployments_that_agree_share_an_upstream():
    text = deployment("{model: openai/a}") + "  - {model_name: n, litellm_params: {model: openai/b}}"
    conversion, config = converted(text)
    assert list(config.upstreams) == ["openai"]
    assert (conversion.upstreams, conversion.models) == (1, 2)


def test_wildcards_stay_wildcards():
    text = """
model_list:
  - {model_name: "*", litellm_params: {model: "openai/*"}}
  - {model_name: "anthropic/*", litellm_params: {model: "anthropic/*"}}
  - {model_name: "my-*", litellm_params: {model: "openai/gpt-*"}}
"""
    _, config = converted(text)
    assert config.models["*"].candidates == [CandidateConfig(upstream="openai")]
    assert config.models["anthropic/*"].candidates == [CandidateConfig(upstream="anthropic", model="*")]
    assert config.models["my-*"].candidates == [CandidateConfig(upstream="openai", model="gpt-*")]


# ---- groups ----------------------------------------------------------------------------------------------


def group(*params):
    entries = "".join(
        f"  - {{model_name: m, litellm_params: {{model: openai/x{i}, {p}}}}}\n" for i, p in enumerate(params)
    )
    return f"model_list:\n{entries}"


@pytest.mark.parametrize(
    ("params", "weights"),
    [
        (("weight: 2", "weight: 1"), [2, 1]),
        (("rpm: 900", "rpm: 100"), [900, 100]),
        (("tpm: '900'", "tpm: 100"), [900, 100]),
        (("weight: 2", "rpm: 100"), [2, 0]),
        (("tpm: 2345678", "tpm: 1000000"), [2_345_678, 1_000_000]),
        (("rpm: 5", "rpm: 5"), [1, 1]),
        (("seed: 1", "rpm: 5"), [1, 1]),
        (("weight: 0", "weight: 0"), [1, 1]),
    ],
)
def test_shares_are_those_of_simple_shuffle(params, weights):
    _, config = converted(group(*params))
    assert [candidate.weight for candidate in config.models["m"].candidates] == weights


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (("seed: 1", "weight: 5"), "LiteLLM looks at the shares of the first of them, which has no weight"),
        (("rpm: 1", "weight: 5"), "LiteLLM looks at the rpm of the first of them, which has no weight"),
        (("weight: heavy", "weight: 5"), "is no number that is at least 0"),
        (("weight: 1", "weight: -5"), "is no number that is at least 0"),
    ],
)
def test_a_weight_that_counts_for_nothing_is_listed(params, reason):
    conversion, _ = converted(group(*params))
    listed = [item for item in conversion.left if item.key.endswith(".weight")]
    assert reason in {item.reason for item in listed}
    assert {item.models for item in listed} == {("m",)}


def test_what_is_left_of_several_models_is_listed_once_with_their_names():
    text = (
        group("rpm: 5, mock_response: a", "rpm: 6, mock_response: b")
        + "  - {model_name: n, litellm_params: {model: gpt-x, mock_response: c}}"
    )
    conversion, _ = converted(text)
    listed = {item.key: item.models for item in conversion.left}
    assert listed["model_list[].litellm_params.mock_response"] == ("m", "n")
    assert listed["model_list[].litellm_params.rpm"] == ("m",)


def test_clocks_of_a_model_go_with_it():
    text = group("timeout: 20, stream_timeout: 5") + "router_settings: {timeout: 30}\n"
    _, config = converted(text)
    assert config.timeouts == TimeoutConfig(first_token=30, between_tokens=30)
    assert config.models["m"].timeouts == TimeoutConfig(first_token=20, between_tokens=5)


def test_different_clocks_of_one_model_become_the_longest_and_are_listed():
    conversion, config = converted(group("timeout: 20", "timeout: 1200"))
    assert config.models["m"].timeouts == TimeoutConfig(first_token=1200, between_tokens=1200, total=1200)
    assert "the longest" in left(conversion)["timeout"]


def test_the_library_s_settings_come_along_and_the_router_s_go_before_them():
    conversion, config = converted(
        deployment("{model: gpt-x}")
        + "litellm_settings: {num_retries: 5, request_timeout: 700, set_verbose: true, json_logs: false, ssl_verify: false}\n"
        + "router_settings: {num_retries: 1, routing_strategy: simple-shuffle}\n"
    )
    assert config.retry.attempts == 2
    assert config.timeouts == TimeoutConfig(first_token=700, between_tokens=700, total=700)
    assert (config.log.level, config.log.format) == ("debug", "text")
    assert config.upstreams["openai"].verify is False
    assert left(conversion) == {"num_retries": "router_settings.num_retries goes before it"}


def test_a_way_of_choosing_that_makes_no_sense_is_left_out():
    conversion, config = converted(
        deployment("{model: gpt-x}") + "router_settings: {routing_strategy: [x]}\n"
    )
    assert config.models["m"].strategy == "weighted"
    assert "drawn by weight" in left(conversion)["routing_strategy"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("simple-shuffle", "weighted"),
        ("least-busy", "least_busy"),
        ("latency-based-routing", "fastest"),
        ("cost-based-routing", "cheapest"),
    ],
)
def test_the_way_of_choosing_comes_along_where_there_is_a_choice(theirs, ours):
    models = "model_list:\n" + "".join(
        f"  - {{model_name: {name}, litellm_params: {{model: openai/{model}}}}}\n"
        for name, model in [("two", "a"), ("two", "b"), ("one", "c")]
    )
    conversion, config = converted(models + f"router_settings: {{routing_strategy: {theirs}}}\n")
    assert config.models["two"].strategy == ours
    assert config.models["one"].strategy == "weighted"
    assert left(conversion) == {}


@pytest.mark.parametrize("theirs", ["least-busy", "latency-based-routing", "cost-based-routing"])
def test_where_litellm_draws_by_nothing_no_candidate_is_set_back_for_want_of_a_share(theirs):
    models = "model_list:\n" + "".join(
        f"  - {{model_name: m, litellm_params: {{model: openai/{model}{share}}}}}\n"
        for model, share in [("a", ", rpm: 600"), ("b", ""), ("c", ", weight: 2")]
    )
    conversion, config = converted(models + f"router_settings: {{routing_strategy: {theirs}}}\n")
    assert [candidate.weight for candidate in config.models["m"].candidates] == [1, 1, 1]
    assert left(conversion)["weight"] == f"LiteLLM's {theirs} does not look at it"


# ---- aliases, fallbacks, keys ----------------------------------------------------------------------------

THREE = "model_list:\n" + "".join(
    f"  - {{model_name: {n}, litellm_params: {{model: openai/{n}}}}}\n" for n in "abc"
)


def test_fallbacks_come_along():
    conversion, config = converted(THREE + "litellm_settings: {fallbacks: [{a: [b, c]}, {b: c}]}")
    assert {name: model.fallbacks for name, model in config.models.items()} == {
        "a": ["b", "c"],
        "b": ["c"],
        "c": [],
    }
    assert conversion.left == ()


def test_fallbacks_for_what_a_prompt_is_like_come_along():
    text = THREE + (
        "router_settings: {context_window_fallbacks: [{a: [b]}, {b: c}], model_group_alias: {x: a}}\n"
        "litellm_settings: {content_policy_fallbacks: [{c: [a]}, {'*': [b]}], context_window_fallbacks: [{c: a}]}"
    )
    conversion, config = converted(text)
    assert {name: model.context_length_fallbacks for name, model in config.models.items()} == {
        "a": ["b"],
        "b": ["c"],
        "c": [],
        "x": ["b"],
    }
    assert {name: model.content_filter_fallbacks for name, model in config.models.items()} == {
        "a": ["b"],
        "b": [],
        "c": ["a", "b"],
        "x": ["b"],
    }
    assert left(conversion) == {
        "context_window_fallbacks": "router_settings.context_window_fallbacks goes before it"
    }


@pytest.mark.parametrize(
    ("checks", "said", "window", "listed"),
    [
        ("true", "max_input_tokens: 8192", 8192, False),
        ("true", "max_input_tokens: '8192'", 8192, False),
        ("true", "max_input_tokens: 0", None, True),
        ("true", "max_tokens: 8192", None, True),
        ("false", "max_input_tokens: 8192", None, False),
    ],
)
def test_how_long_prompts_may_be_comes_along_where_they_are_measured(checks, said, window, listed):
    text = (
        "model_list:\n"
        f"  - {{model_name: a, litellm_params: {{model: openai/a}}, model_info: {{{said}}}}}\n"
        f"router_settings: {{enable_pre_call_checks: {checks}}}"
    )
    conversion, config = converted(text)
    assert config.models["a"].candidates[0].context_window == window
    assert ("enable_pre_call_checks" in left(conversion)) is listed


def test_default_fallbacks_are_everybody_s_last():
    for settings_ in (
        "litellm_settings: {default_fallbacks: [c]}",
        "router_settings: {fallbacks: [{'*': [c]}]}",
    ):
        conversion, config = converted(THREE + settings_)
        assert [model.fallbacks for model in config.models.values()] == [["c"], ["c"], []]
        assert conversion.left == ()


def test_default_fallbacks_are_of_models_that_do_the_same():
    listed = THREE + (
        "  - {model_name: draws, litellm_params: {model: openai/x}, model_info: {mode: image_generation}}\n"
        "  - {model_name: speaks, litellm_params: {model: openai/tts-1}}\n"
        "  - {model_name: hears, litellm_params: {model: openai/whisper-1}}\n"
        "  - {model_name: hears-too, litellm_params: {model: openai/y}, model_info: {mode: audio_transcription}}\n"
        "  - {model_name: writes, litellm_params: {model: openai/z}, model_info: {mode: responses}}\n"
        "router_settings: {model_group_alias: {draws-too: draws}}\n"
        "litellm_settings: {default_fallbacks: [c, hears-too]}"
    )
    _, config = converted(listed)
    assert {name: model.fallbacks for name, model in config.models.items() if model.fallbacks} == {
        "a": ["c"],
        "b": ["c"],
        "hears": ["hears-too"],
        "writes": ["c"],
    }


@pytest.mark.parametrize(
    ("fallbacks", "reason"),
    [
        ("[{a: [zz]}]", "there is no model zz"),
        ("[{zz: [a]}]", "no such model"),
        ("[{a: [{model: b}]}]", "the name of one model"),
        ("[nonsense]", "not a model with its fallbacks"),
        ("[{a: [a]}]", "a falls back on itself"),
    ],
)
def test_fallbacks_that_cannot_be_are_listed(fallbacks, reason):
    conversion, _ = converted(THREE + f"router_settings: {{fallbacks: {fallbacks}}}")
    (item,) = conversion.left
    assert reason in item.reason


def test_an_alias_is_its_group_under_another_name_with_its_fallbacks():
    text = (
        THREE
        + "router_settings: {model_group_alias: {x: a, y: {model: b, hidden: true}}, fallbacks: [{a: [c]}]}"
    )
    conversion, config = converted(text)
    assert left(conversion) == {"hidden": "GET /v1/models names whatever its caller may use"}
    assert config.models["x"].candidates == [CandidateConfig(upstream="openai", model="a")]
    assert config.models["x"].fallbacks == ["c"]
    assert config.models["y"].candidates == [CandidateConfig(upstream="openai", model="b")]


def test_an_alias_has_its_own_fallbacks_first_then_its_groups_then_everybodys():
    text = (
        THREE.replace(
            "- {model_name: c", "- {model_name: d, litellm_params: {model: openai/d}}\n  - {model_name: c"
        )
        + "router_settings: {model_group_alias: {x: a}, fallbacks: [{a: [b]}, {x: [d]}], default_fallbacks: [c, x]}"
    )
    _, config = converted(text)
    assert config.models["a"].fallbacks == ["b", "c", "x"]
    assert config.models["x"].fallbacks == ["d", "b", "c"]


def test_a_name_with_control_characters_is_listed_and_not_taken():
    entry = {"model_name": "a\x1fb", "litellm_params": {"model": "openai/gpt-x"}}
    good = {"model_name": "a", "litellm_params": {"model": "openai/gpt-x"}}
    source = {"model_list": [entry, good], "router_settings": {"model_group_alias": {"c\x7f": "a"}}}
    conversion, config = converted(yaml.safe_dump(source))
    assert set(config.models) == {"a"}
    assert left(conversion) == {
        "model_name": "a name holds no control characters",
        "model_group_alias": "a name holds no control characters",
    }


def test_an_alias_of_nothing_is_listed():
    conversion, _ = converted(THREE + "router_settings: {model_group_alias: {x: zz, b: a}}")
    assert left(conversion) == {
        "x": "there is no model zz to stand for",
        "b": "is the name of a model, or a pattern",
    }


def test_the_master_key_becomes_a_key_and_only_its_hash_is_written():
    for text, environ in (("sk-master", {}), ("os.environ/MASTER", {"MASTER": "sk-master"})):
        conversion, config = converted(THREE + f"general_settings: {{master_key: {text}}}", ENVIRON | environ)
        assert [(key.name, key.hash) for key in config.keys] == [("master", hash_key("sk-master"))]
        assert "sk-master" not in conversion.text


def test_the_master_key_may_stand_in_litellms_variable_alone():
    environ = ENVIRON | {"LITELLM_MASTER_KEY": "sk-variable"}
    for general, key in (("{}", "sk-variable"), ("{master_key: sk-file}", "sk-file")):
        _, config = converted(THREE + f"general_settings: {general}", environ)
        assert [each.hash for each in config.keys] == [hash_key(key)]


@pytest.mark.parametrize(
    "params",
    [
        "model: bedrock/anthropic.claude-x, aws_region_name: eu-west-1, aws_access_key_id: a, aws_secret_access_key: os.environ/X",
        "model: openai/gpt-4o, extra_body: {a: [{b: os.environ/X}]}",
        "model: openai/gpt-4o, stop: [os.environ/X]",
        "model: azure/gpt-4o, api_base: 'https://x.openai.azure.com', tenant_id: t, azure_scope: os.environ/X",
    ],
)
def test_every_variable_that_is_referred_to_is_named(params):
    conversion = convert(deployment("{" + params + "}"), "config.yaml", {})
    assert "${X}" in conversion.text
    assert "X" in conversion.variables


def test_a_master_key_that_is_not_set_here_is_listed():
    conversion, config = converted(THREE + "general_settings: {master_key: os.environ/MASTER}")
    assert config.keys == []
    assert "MASTER is not set here" in left(conversion)["master_key"]


def test_everything_that_nobody_took_is_listed():
    conversion, _ = converted(
        THREE
        + "litellm_settings: {drop_params: true, strange: 1}\ngeneral_settings: {database_url: x}\n"
        + "router_settings: {redis_host: x, routing_strategy: usage-based-routing}\nguardrails: []\nenvironment_variables: {A: b}\n"
    )
    assert set(left(conversion)) == {
        "drop_params",
        "strange",
        "database_url",
        "redis_host",
        "routing_strategy",
        "guardrails",
        "environment_variables",
    }
    assert left(conversion)["strange"] == "has no counterpart in Penstock"


@pytest.mark.parametrize(("name", "listed"), [("mine", {"base_model"}), ("gpt-4o", set())])
def test_a_model_whose_name_does_not_tell_its_price_is_listed(name, listed):
    text = "model_list:\n- {model_name: m, litellm_params: {model: azure/NAME, api_key: k}, model_info: {base_model: azure/gpt-4o}}\n"
    conversion, _ = converted(text.replace("NAME", name), ENVIRON | {"AZURE_API_BASE": "https://a"})
    assert set(left(conversion)) - {"api_base"} == listed


def test_the_key_of_a_litellm_database_is_a_hash_of_ours():
    hashed = hashlib.sha256(b"sk-virtual").hexdigest()  # as its hash_token() makes the column "token"
    assert hash_key("sk-virtual") == f"sha256:{hashed}"


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("output_cost_per_image", "image"),
        ("input_cost_per_second", "minute"),
        ("output_cost_per_token", "output"),
    ],
)
def test_a_price_is_left_to_the_price_table_and_named_as_it_is_there(key, ours):
    text = "model_list:\n- {model_name: a, litellm_params: {model: openai/a, api_key: k, KEY: 0.04}}\n"
    conversion, _ = converted(text.replace("KEY", key))
    assert f"`{ours}`" in left(conversion)[key]
    assert ours in Price.__struct_fields__


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "[]", "a", "model_list: 3", "a: [", "\x00", "!!python/object:os.system x", "[" * 2000]
)
def test_what_is_no_litellm_configuration_is_refused(text):
    with pytest.raises(ConfigError, match=r"^config.yaml"):
        convert(text, "config.yaml", {})


@pytest.mark.parametrize("level", ["{{<<: [{}]}}", "[{}]"])
@pytest.mark.parametrize(
    "name", ["model_name: *a12", "model_name: b, litellm_params: {model: openai/b, extra_body: *a12}"]
)
def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(level, name):
    levels = "".join(f"a{n + 1}: &a{n + 1} {level.format(', '.join([f'*a{n}'] * 9))}\n" for n in range(12))
    with pytest.raises(ConfigError, match="more than 200000 values, aliases counted"):
        convert("a0: &a0 {k: 1}\n" + levels + f"model_list: [{{{name}}}]", "config.yaml", ENVIRON)


def test_what_holds_itself_is_refused():
    with pytest.raises(ConfigError, match="more than 200000 values"):
        convert("model_list: &a [*a]", "config.yaml", ENVIRON)


def test_a_configuration_without_models_gives_one_that_can_be_loaded():
    conversion, config = converted("model_list: []")
    assert config == Config()
    assert conversion.text.startswith("# Converted from config.yaml")


_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5000)
    | st.floats()
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.sampled_from(
        [
            "openai/gpt-x",
            "openai/*",
            "*",
            "os.environ/URL",
            "a",
            "b",
            "http://h/v1",
            "${X}",
            "no",
            "1d",
            "30d",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3), inner, max_size=3
        )
    ),
    max_leaves=5,
)
_PARAMS = st.dictionaries(
    st.sampled_from(
        [
            "api_key",
            "api_base",
            "timeout",
            "stream_timeout",
            "rpm",
            "max_parallel_requests",
            "max_budget",
            "budget_duration",
            "weight",
            "extra_headers",
            "organization",
            "max_retries",
            "order",
            "temperature",
            "max_tokens",
            "stop",
            "service_tier",
            "dimensions",
            "extra_body",
            "chat_template_kwargs",
            "thinking",
            "input_cost_per_token",
            "output_cost_per_image",
            "input_cost_per_token_above_200k_tokens",
            "x",
        ]
    ),
    _VALUE,
    max_size=4,
)
_MODEL = (
    st.sampled_from(
        ["openai/gpt-x", "gpt-x", "openai/*", "anthropic/claude", "ollama/x", "hosted_vllm/x", "nope"]
    )
    | _VALUE
)
_ENTRY = st.builds(
    lambda name, params, model, extra: {
        "model_name": name,
        "litellm_params": {**params, "model": model},
        **extra,
    },
    st.sampled_from(["a", "b", "*", "x*", "a*b*"]) | _VALUE,
    _PARAMS,
    _MODEL,
    st.dictionaries(st.sampled_from(["model_info", "tpm", "y"]), _VALUE, max_size=2),
)
_SETTINGS = st.dictionaries(
    st.sampled_from(
        [
            "fallbacks",
            "context_window_fallbacks",
            "content_policy_fallbacks",
            "enable_pre_call_checks",
            "num_retries",
            "timeout",
            "request_timeout",
            "model_group_alias",
            "default_fallbacks",
            "master_key",
            "json_logs",
            "optional_pre_call_checks",
            "provider_budget_config",
            "max_budget",
            "budget_duration",
            "global_max_parallel_requests",
            "cache",
            "cache_params",
            "cooldown_time",
            "allowed_fails",
            "disable_cooldowns",
            "redis_host",
            "redis_port",
            "redis_password",
        ]
    ),
    _VALUE
    | st.lists(st.dictionaries(st.sampled_from(["a", "b", "*"]), st.lists(st.sampled_from(["a", "b", "c"])))),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.fixed_dictionaries(
        {"model_list": st.lists(_ENTRY | _VALUE, max_size=4)},
        optional=dict.fromkeys(
            ["litellm_settings", "router_settings", "general_settings", "credential_list"], _SETTINGS | _VALUE
        ),
    )
)
def test_whatever_the_source_the_result_can_be_loaded(source):
    try:
        conversion = convert(yaml.safe_dump(source), "config.yaml", {}, "/dev/null")
    except ConfigError as error:
        raise AssertionError(error.mistakes) from error
    parse(conversion.text, "out.yaml", dict.fromkeys(conversion.variables, "http://127.0.0.1:1"))
    tomllib.loads(conversion.prices)
