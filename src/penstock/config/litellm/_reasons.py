"""Why a key of LiteLLM's does not come along, or where it is said here: a sentence for each.

A key that is not here is said to have no counterpart (``litellm``).
"""

from __future__ import annotations

_VERSION = "the resource is asked at its v1 endpoint (/openai/v1), which has no versions"
_EXTRA = "say in `extra_body` of the candidate, in its own API, what it is asked with besides"
_AROUND = "an ASGI application of your own around the gateway may have it; see docs/operating.md"
_NO_TAGS = "calls have no tags; what they are for is said in Penstock-Label, and who may use what at the key"
_STATE = "what machines share is configured by itself: `limits.redis`, `cache.redis`, `generations.redis`"
_DATABASE = "keys, teams and budgets in LiteLLM's database are not read; its keys can stay as they are, see docs/providers.md"
_CALLBACK = "Penstock has no callbacks; it has a ledger, metrics, a log and, for `otel`, traces"
_CACHE = "which answers are kept is said for each model (`cache`), and where, at the top; see docs/caching.md"
_COOLDOWN = "an upstream that fails is left in peace where it has a `breaker`; see docs/flow.md"
_BUDGET = "say whose it is, under `limits`: keys, tenants, tiers, models or upstreams, by day or month; see docs/flow.md"
_UNCLEAR = (
    "LiteLLM's documentation calls it a deployment's, and its schema a key's: say `concurrent` in `limits.upstreams` or "
    "`limits.keys`; see docs/flow.md"
)
_EACH_AT_ONCE = "how many calls an upstream gets at once is its `concurrency`; see docs/flow.md"
_NEW_ONES = 'what each key, or each tenant, may use that has no entry of its own is `"*"` in `limits.keys` and `limits.tenants`'
_NEW_KEYS = f"{_NEW_ONES}; how long one lasts (`duration`) is said where it is made, by `--expires`"
_IN_OR_OUT = "tokens of prompts and answers are counted together: `tokens_per_minute` in `limits`"

REASONS = {
    "thinking": _EXTRA,
    "response_format": "what form an answer has is the caller's to say",
    "drop_params": "what Anthropic's API and Converse have not is in `leave_out` of their upstreams; whatever else an "
    "upstream cannot express is refused",
    "redis_host": _STATE,
    "redis_port": _STATE,
    "redis_password": _STATE,
    "redis_url": _STATE,
    "cache": _CACHE,
    "cache_params": _CACHE,
    "cache_responses": _CACHE,
    "callbacks": _CALLBACK,
    "success_callback": _CALLBACK,
    "failure_callback": _CALLBACK,
    "service_callback": _CALLBACK,
    "service_callbacks": _CALLBACK,
    "alerting": "alerts are made of metrics; see docs/metrics.md",
    "max_budget": _BUDGET,
    "budget_duration": _BUDGET,
    "max_parallel_requests": _UNCLEAR,
    "default_max_parallel_requests": _EACH_AT_ONCE,
    "default_internal_user_params": _NEW_ONES,
    "default_key_generate_params": _NEW_KEYS,
    "upperbound_key_generate_params": _NEW_KEYS,
    "default_team_params": _NEW_ONES,
    "default_team_settings": _NEW_ONES,
    "tag_budget_config": "calls have no tags: " + _BUDGET,
    "itpm": _IN_OR_OUT,
    "otpm": _IN_OR_OUT,
    "enable_pre_call_checks": "each deployment's `rpm` stands in `limits`; how long a prompt may be, no deployment says (`model_info.max_input_tokens`): "
    "say it as `context_window` of the candidates; see docs/routing.md",
    "api_version": _VERSION,
    "database_url": _DATABASE,
    "store_model_in_db": _DATABASE,
    "allowed_fails": _COOLDOWN,
    "allowed_fails_policy": _COOLDOWN,
    "cooldown_time": _COOLDOWN,
    "disable_cooldowns": _COOLDOWN,
    "retry_policy": "retries are the same for every kind of failure that another attempt may mend",
    "retry_after": "the delay before a retry is retry.first_delay, or what the upstream asks for",
    "routing_strategy": "it has no counterpart: candidates are drawn by weight, unless `strategy` says otherwise",
    "include": "convert each included file by itself",
    "base_model": "a price goes by the name that the upstream is asked for; say what this one costs in `prices`",
    "environment_variables": "set them where Penstock is started",
    "guardrails": _AROUND,
    "guardrail_name": _AROUND,
    "default_guardrails": _AROUND,
    "custom_auth": _AROUND,
    "enable_jwt_auth": _AROUND,
    "litellm_jwtauth": _AROUND,
    "pass_through_endpoints": _AROUND,
    "mcp_servers": "tools pass through; MCP servers are asked by who calls",
    "search_tools": "tools pass through, and none is run here",
    "vector_store_registry": "vector stores are asked by who calls",
    "prompts": "prompts are the caller's",
    "tags": _NO_TAGS,
    "tag_regex": _NO_TAGS,
    "enable_tag_filtering": _NO_TAGS,
    "team_id": "which models a key may use stands at the key (`models`)",
    "access_groups": "which models a key may use stands at the key (`models`), which takes patterns",
    "allowed_routes": "what the port answers stands in docs/http-api.md; the control port is one of its own",
    "turn_off_message_logging": "prompts and answers are in no log; see `transcripts` for what is written down",
    "redact_user_api_key_info": "keys are told by name, and never by themselves",
    "redact_messages_in_exceptions": "errors that go out have no prompts",
    "store_prompts_in_spend_logs": "prompts and answers are in no log; see `transcripts` for what is written down",
    "database_connection_pool_limit": _DATABASE,
    "use_redis_transaction_buffer": _DATABASE,
    "proxy_batch_write_at": _DATABASE,
    "disable_spend_logs": "without `ledger.path` the ledger is in memory only",
    "maximum_spend_logs_retention_period": "without `ledger.path` the ledger is in memory only; how long rows are kept is "
    "`ledger.keep_days`",
    "proxy_budget_rescheduler_min_time": "budgets begin anew by the clock, at midnight UTC",
    "health_check_interval": "upstreams are asked how they are where they have `health`; see docs/routing.md",
    "background_health_checks": "upstreams are asked how they are where they have `health`; see docs/routing.md",
    "max_request_size_mb": "`listener.max_body_bytes`",
    "max_response_size_mb": "`max_answer_bytes`",
    "force_ipv4": "addresses are tried as the resolver gives them",
    "forward_client_headers_to_llm_api": "which of a caller's header fields reach an upstream stands in docs/http-api.md",
    "modify_params": "requests are not mended; what an upstream shall not be told is in its `leave_out`",
    "model_group_retry_policy": "retries are the same for every kind of failure that another attempt may mend",
    "optional_pre_call_checks": "conversations keep to where their beginning is with `strategy: prefix`; see docs/routing.md",
    "mock_response": "a model for trying out is an upstream of the kind `sim`; see docs/simulator.md",
    "configurable_clientside_auth_params": "callers choose no address; without `keys` their own key goes on to its provider",
    "use_in_pass_through": "nothing is passed through but what stands in docs/http-api.md",
}
# What LiteLLM's prices are called in the price table, where they are per million tokens or characters, and per minute.
PRICES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "input_cost_per_image": "image",
    "output_cost_per_image": "image",
    "input_cost_per_second": "minute",
    "output_cost_per_second": "minute",
    "input_cost_per_character": "characters",
    "input_cost_per_query": "search",
}
REASONS |= {
    key: f"prices stand in a table of their own, where this is `{ours}`: with --output it is written, too"
    for key, ours in PRICES.items()
}
