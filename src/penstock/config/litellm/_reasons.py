"""Why a key of LiteLLM's does not come along, or where it is said here: a sentence for each.

A key that is not here is said to have no counterpart (``litellm``).
"""

from __future__ import annotations

_VERSION = "the resource is asked at its v1 endpoint (/openai/v1), which has no versions"
_FIXED_PARAMETER = "Penstock sends what the caller sends and sets no parameters of its own"
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
    "temperature": _FIXED_PARAMETER,
    "top_p": _FIXED_PARAMETER,
    "max_tokens": _FIXED_PARAMETER,
    "max_completion_tokens": _FIXED_PARAMETER,
    "seed": _FIXED_PARAMETER,
    "stop": _FIXED_PARAMETER,
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
    "order": "a candidate that shall be asked only when others have failed has `weight: 0`",
}
# What LiteLLM's prices are called in the price table, where they are per million tokens or characters, and per minute.
_PRICES = {
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
    key: f"prices stand in a table of their own, where this is `{ours}`; see `prices` in docs/configuration-reference.md"
    for key, ours in _PRICES.items()
}
