"""Whole configurations of LiteLLM proxies, as its documentation and its users have them: nothing is dropped silently."""

import copy

import pytest
import yaml
from test_litellm import ENVIRON, left

from penstock.config.litellm import convert
from penstock.config.load import parse

PRICES = "/etc/penstock/prices.toml"
SET = ENVIRON | dict.fromkeys(
    ("AZURE_API_KEY", "PENSTOCK_SEAL_KEY", "MASTER", "SLACK", "DB", "OTEL", "PW", "GROQ_API_KEY"), "k"
)

PRODUCTION = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://eu.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY
      api_version: "2024-08-01-preview"
      rpm: 900
      tpm: 100000
      order: 1
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
    model_info: {id: eu, mode: chat, base_model: azure/gpt-4o, team_id: research, access_groups: [beta]}
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      order: 2
      organization: org-1
      max_retries: 3
      tags: [paid]
  - model_name: careful
    litellm_params:
      model: openai/o3
      reasoning_effort: high
      max_completion_tokens: 8000
      timeout: 300
      stream_timeout: 20
      max_budget: 20
      budget_duration: 1d
      service_tier: flex
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      temperature: 0.2
      thinking: {type: enabled, budget_tokens: 1024}
      extra_headers: {anthropic-beta: x}
      drop_params: true
      cache_control_injection_points: [{location: message, role: system}]
  - model_name: qwen
    litellm_params:
      model: hosted_vllm/qwen3
      api_base: http://gpu:8000/v1
      api_key: none
      max_parallel_requests: 20
      extra_body: {chat_template_kwargs: {enable_thinking: false}, top_k: 20}
      mock_response: hello
    model_info: {supports_function_calling: true, max_input_tokens: 32768, input_cost_per_token: 0.0000001}
  - model_name: "groq/*"
    litellm_params: {model: "groq/*"}
litellm_settings:
  num_retries: 2
  request_timeout: 600
  drop_params: true
  fallbacks: [{gpt-4o: [claude]}]
  context_window_fallbacks: [{qwen: [gpt-4o]}]
  default_fallbacks: [careful]
  allowed_fails: 3
  success_callback: [langfuse]
  failure_callback: [sentry]
  callbacks: [prometheus]
  cache: true
  cache_params: {type: redis, host: cache, port: 6379, password: os.environ/PW, ttl: 600, namespace: x}
  turn_off_message_logging: true
  json_logs: true
  redact_user_api_key_info: true
  modify_params: true
  default_team_settings: [{team_id: a, success_callback: [langfuse]}]
  max_budget: 100
  budget_duration: 30d
router_settings:
  routing_strategy: latency-based-routing
  routing_strategy_args: {ttl: 10}
  model_group_alias: {gpt-4: gpt-4o, hidden: {model: claude, hidden: true}}
  cooldown_time: 30
  retry_after: 5
  enable_pre_call_checks: true
  redis_host: state
  redis_port: 6379
  redis_password: os.environ/PW
  allowed_fails_policy: {BadRequestErrorAllowedFails: 1000}
  retry_policy: {TimeoutErrorRetries: 3}
  enable_tag_filtering: true
  provider_budget_config: {openai: {budget_limit: 5, time_period: 1d}}
general_settings:
  master_key: os.environ/MASTER
  database_url: os.environ/DB
  store_model_in_db: true
  alerting: [slack]
  alerting_threshold: 300
  proxy_batch_write_at: 60
  max_parallel_requests: 100
  global_max_parallel_requests: 1000
  background_health_checks: true
  health_check_interval: 300
  pass_through_endpoints: [{path: /v1/rerank2, target: "https://x"}]
  enable_jwt_auth: true
  custom_auth: my.auth
guardrails:
  - {guardrail_name: pii, litellm_params: {guardrail: presidio, mode: pre_call}}
mcp_servers: {github: {url: "https://mcp"}}
vector_store_registry: [{vector_store_name: docs}]
environment_variables: {LANGFUSE_PUBLIC_KEY: x}
"""

SMALL_TEAM = """
model_list:
  - model_name: chat
    litellm_params: {model: openai/gpt-4o-mini, temperature: 0, top_p: 0.9, stop: ["###"], weight: 3}
  - model_name: chat
    litellm_params: {model: openai/gpt-4o, temperature: 0, top_p: 0.8, stop: ["###"], weight: 1, seed: 5}
  - model_name: embed
    litellm_params: {model: openai/text-embedding-3-small, dimensions: 256, input_cost_per_token: 0.00000002}
  - model_name: draw
    litellm_params: {model: openai/gpt-image-1, output_cost_per_image: 0.04}
    model_info: {mode: image_generation}
  - model_name: hear
    litellm_params: {model: openai/whisper-1, input_cost_per_second: 0.0001}
    model_info: {mode: audio_transcription}
litellm_settings:
  set_verbose: true
  cache: true
  cache_params: {type: local, supported_call_types: [aembedding, atranscription]}
general_settings: {master_key: sk-1234}
"""

AT_CLOUDS = """
credential_list:
  - {credential_name: aws, credential_values: {aws_region_name: eu-west-1}, credential_info: {description: x}}
model_list:
  - model_name: nova
    litellm_params:
      {model: bedrock/converse/eu.amazon.nova-pro-v1:0, litellm_credential_name: aws, temperature: 0, guardrailConfig: {}}
  - model_name: claude
    litellm_params: {model: bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0, aws_region_name: eu-west-1, extra_body: {a: 1}}
  - model_name: gemini
    litellm_params: {model: vertex_ai/gemini-2.5-pro, vertex_project: p, vertex_location: global, max_tokens: 100}
  - model_name: titan
    litellm_params: {model: bedrock/amazon.titan-embed-text-v2:0, aws_region_name: eu-west-1}
router_settings: {disable_cooldowns: true, cooldown_time: 9, num_retries: 0, timeout: 30}
litellm_settings: {cache: true, cache_params: {type: s3, s3_bucket_name: b}}
"""

# What is so in LiteLLM, too, where it is not said, or is said of what is not converted.
USUAL = {
    "model_list.0.model_info.id",
    "model_list.0.model_info.mode",
    "model_list.0.litellm_params.api_key",  # the variable that is looked up anyway
    "model_list.1.litellm_params.api_key",
    "model_list.1.litellm_params.order",  # those without one come last
    "model_list.3.litellm_params.drop_params",  # as for all
    "model_list.4.model_info.supports_function_calling",
    "model_list.5.model_name",  # the model's
    *(f"model_list.{n}.model_info{rest}" for n in (3, 4) for rest in ("", ".mode")),  # their names tell that
    "model_list.3.litellm_params.aws_region_name",
    "credential_list.0.credential_info",
    "credential_list.0.credential_info.description",
    "router_settings.disable_cooldowns",
    "router_settings.cooldown_time",
}


def paths(value, path=()):
    """Those of all keys of sections."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(value, dict):
            yield (*path, key)
        yield from paths(inner, (*path, key))


def without(source, path):
    left_over = copy.deepcopy(source)
    inner = left_over
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return left_over


def said(source):
    return convert(yaml.safe_dump(source), "config.yaml", SET, PRICES)


def written(source):
    conversion = said(source)
    return conversion.text + conversion.prices


@pytest.mark.parametrize("text", [PRODUCTION, SMALL_TEAM, AT_CLOUDS], ids=["production", "small", "clouds"])
def test_every_key_is_converted_or_named(text):
    source = yaml.safe_load(text)
    whole = written(source)
    named = {item.key.rpartition(".")[2] for item in said(source).left}
    silent = []
    for path in paths(source):
        name = ".".join(map(str, path))
        # What is left is named as a whole, so what is within it makes no difference.
        within = any(step in named for step in path[:-1])
        if name not in USUAL and not within and written(without(source, path)) == whole:
            silent.append(name)
    assert silent == []


@pytest.mark.parametrize("text", [PRODUCTION, SMALL_TEAM, AT_CLOUDS], ids=["production", "small", "clouds"])
def test_what_comes_out_is_a_configuration(text):
    conversion = convert(text, "config.yaml", SET)
    config = parse(conversion.text, "out.yaml", SET)
    assert conversion.models == len(config.models) > 2


def test_what_a_team_goes_by_has_come_along():
    conversion = convert(PRODUCTION, "config.yaml", SET)
    config = parse(conversion.text, "out.yaml", SET)
    models = config.models
    assert [(each.upstream, each.weight) for each in models["gpt-4o"].candidates] == [
        ("eu", 1),
        ("openai", 0),
    ]
    assert models["careful"].parameters.reasoning_effort == "high"
    assert models["careful"].parameters.max_tokens == 8_000
    assert models["claude"].parameters.temperature == 0.2
    assert models["claude"].candidates[0].extra_body == {
        "thinking": {"type": "enabled", "budget_tokens": 1024}
    }
    assert models["qwen"].candidates[0].extra_body["top_k"] == 20
    assert models["qwen"].cache.ttl == 600
    assert config.cache.redis.reveal() == "redis://:k@cache:6379"
    assert config.limits.redis.reveal() == "redis://:k@state:6379"
    assert config.upstreams["eu"].breaker.open_for == 30
    assert "ASGI application" in left(conversion)["guardrails"]
    assert "MCP" in left(conversion)["mcp_servers"]
