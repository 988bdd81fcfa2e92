"""What a LiteLLM proxy keeps, in Redis and elsewhere, and its cooldowns, converted."""

import pytest
from test_litellm import ENVIRON, converted, deployment, left

from penstock.config.model import BreakerConfig, ModelCacheConfig

SEALED = ENVIRON | {"PENSTOCK_SEAL_KEY": "s" * 32}
ONE = deployment("{model: gpt-x}")


# ---- cooldowns ----


@pytest.mark.parametrize(
    ("settings", "breaker"),
    [
        ("router_settings: {allowed_fails: 3, cooldown_time: 30}", (4, 30, 30)),
        ("litellm_settings: {allowed_fails: 0}", (1, 5, 60)),
        ("router_settings: {cooldown_time: '60'}", (5, 60, 60)),
        ("router_settings: {allowed_fails: 1}\nlitellm_settings: {cooldown_time: 9}", (2, 9, 9)),
    ],
)
def test_a_cooldown_is_a_breaker_of_every_upstream(settings, breaker):
    least, open_for, longest = breaker
    conversion, config = converted(ONE + settings)
    assert config.upstreams["openai"].breaker == BreakerConfig(
        least_calls=least, window=60, open_for=open_for, max_open_for=longest
    )
    (listed,) = conversion.left
    assert "LiteLLM counts failures alone" in listed.reason


@pytest.mark.parametrize(
    "settings",
    [
        "{disable_cooldowns: true, cooldown_time: 3, allowed_fails: 2}",
        "{cooldown_time: 0, allowed_fails: 3}",
        "{}",
    ],
)
def test_without_cooldowns_there_is_no_breaker(settings):
    conversion, config = converted(ONE + f"router_settings: {settings}")
    assert config.upstreams["openai"].breaker is None
    assert conversion.left == ()


def test_a_cooldown_that_is_none_is_listed():
    conversion, config = converted(
        ONE + "router_settings: {cooldown_time: long, allowed_fails: 2}\nlitellm_settings: {allowed_fails: 9}"
    )
    assert config.upstreams["openai"].breaker.least_calls == 3
    assert [(item.key, item.reason) for item in conversion.left][:2] == [
        ("router_settings.cooldown_time", "is no number that is at least 0"),
        ("litellm_settings.allowed_fails", "router_settings.allowed_fails goes before it"),
    ]


# ---- what machines share ----


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ("redis_host: h", "redis://h"),
        ("redis_host: h, redis_port: 6380, redis_password: 'p/w@d'", "redis://:p%2Fw%40d@h:6380"),
        (
            "redis_host: os.environ/RH, redis_port: os.environ/RP, redis_password: os.environ/RW",
            "redis://:pw@rh:1",
        ),
        ("redis_url: 'rediss://u:p@h:1/2'", "rediss://u:p@h:1/2"),
        ("redis_url: os.environ/RU", "redis://everything"),
    ],
)
def test_the_routers_redis_is_that_of_limits(settings, address):
    environ = ENVIRON | {"RH": "rh", "RP": "1", "RW": "pw", "RU": "redis://everything"}
    conversion, config = converted(ONE + f"router_settings: {{{settings}}}", environ)
    assert config.limits.redis.reveal() == address
    assert "keep to the same `limits`" in conversion.left[0].reason
    assert set(conversion.variables) - {"OPENAI_API_KEY"} <= {"RH", "RP", "RW", "RU"}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ("redis_port: 1", "redis_port"),
        ("redis_host: 'a b'", "redis_host"),
        ("redis_url: 'http://h'", "redis_url"),
        ("redis_url: 'rediss://h?ssl_cert_reqs=none'", "redis_url"),
        ("redis_host: h, redis_port: x", "redis_host"),
        ("redis_host: h, redis_db: x", "redis_host"),
    ],
)
def test_what_is_no_address_is_listed(settings, key):
    conversion, config = converted(ONE + f"router_settings: {{{settings}}}")
    assert config.limits.redis is None
    assert list(left(conversion)) == [key]


# ---- kept answers ----


def test_kept_answers_are_those_of_each_model_and_in_redis():
    text = ONE + (
        "litellm_settings: {cache: true, cache_params: {type: redis, host: h, port: 6379, password: p, ssl: true, ttl: 600}}"
    )
    conversion, config = converted(text, SEALED)
    assert config.models["m"].cache == ModelCacheConfig(calls="all", ttl=600)
    assert config.cache.redis.reveal() == "rediss://:p@h:6379"
    assert config.cache.seal_key.reveal() == SEALED["PENSTOCK_SEAL_KEY"]
    assert "PENSTOCK_SEAL_KEY" in conversion.variables
    assert "same tenant" in left(conversion)["cache"]
    assert "sealed" in left(conversion)["cache_params"]


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({"REDIS_HOST": "h"}, "redis://h"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_PASSWORD": "p"}, "redis://:p@h:1"),
        ({"REDIS_URL": "redis://u"}, "redis://u"),
    ],
)
def test_where_they_are_litellm_reads_in_the_environment(environ, address):
    _, config = converted(ONE + "litellm_settings: {cache: true}", SEALED | environ)
    assert config.cache.redis.reveal() == address


def test_in_memory_nothing_has_to_be_sealed():
    params = "{type: local, default_in_memory_ttl: 60, namespace: x}"
    conversion, config = converted(ONE + f"litellm_settings: {{cache: true, cache_params: {params}}}")
    assert config.models["m"].cache == ModelCacheConfig(calls="all", ttl=60)
    assert config.cache.redis is None
    assert set(left(conversion)) == {"cache", "namespace"}


def test_only_what_is_kept_there_is_kept_here():
    text = (
        "model_list:\n"
        "  - {model_name: chat, litellm_params: {model: gpt-x}}\n"
        "  - {model_name: embed, litellm_params: {model: text-embedding-3-small}}\n"
        "  - {model_name: hear, litellm_params: {model: whisper-1}}\n"
        "litellm_settings:\n  cache: true\n  cache_params: {type: local, supported_call_types: [aembedding, atranscription]}"
    )
    conversion, config = converted(text)
    assert [name for name, model in config.models.items() if model.cache is not None] == ["embed"]
    assert "chats" in left(conversion)["supported_call_types"]


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ("cache: true, cache_params: {type: qdrant-semantic, qdrant_api_base: x}", "cache", "`semantic`"),
        ("cache: true, cache_params: {type: s3, s3_bucket_name: b}", "cache", "`cache.disk`"),
        ("cache: true, cache_params: {mode: default_off, host: h}", "cache", "who ask for it"),
        ("cache: false, cache_params: {host: h}", "cache_params", "nothing is kept"),
        ("cache: maybe", "cache", "neither true nor false"),
        ("cache: true, cache_params: 3", "cache_params", "no section of keys"),
        (
            "cache: true, cache_params: {redis_startup_nodes: [{host: h}]}",
            "redis_startup_nodes",
            "redis+cluster",
        ),
        ("cache: true, cache_params: {host: 'a/b'}", "host", "no address"),
        ("cache: true, cache_params: {host: h, port: 99999}", "host", "no address"),
    ],
)
def test_what_is_kept_otherwise_is_listed(settings, key, reason):
    conversion, config = converted(ONE + f"litellm_settings: {{{settings}}}")
    assert config.models["m"].cache is None
    assert config.cache.redis is None
    assert reason in left(conversion)[key]


@pytest.mark.parametrize(("ttl", "kept"), [("long", 300), ("9999999", 2_592_000)])
def test_a_time_that_cannot_be_is_listed(ttl, kept):
    params = f"{{type: local, ttl: {ttl}}}"
    conversion, config = converted(ONE + f"litellm_settings: {{cache: true, cache_params: {params}}}")
    assert config.models["m"].cache.ttl == kept
    assert "ttl" in left(conversion)
