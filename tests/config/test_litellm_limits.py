"""Limits and budgets of a LiteLLM proxy, converted."""

import pytest
import yaml

from penstock.config.litellm import convert
from penstock.config.load import parse
from penstock.config.model import ConcurrencyConfig, LimitConfig

CHECK = {"optional_pre_call_checks": ["enforce_model_rate_limits"]}
DAILY = {"max_budget": 5, "budget_duration": "1d"}


def deployment(name, model, key="k", **asked):
    return {"model_name": name, "litellm_params": {"model": model, "api_key": key, **asked}}


def converted(*deployments, router=None, **sections):
    """What was left, by the last part of its name, and our configuration as it is read afterwards."""
    source = {"model_list": list(deployments), "router_settings": router or {}, **sections}
    conversion = convert(yaml.safe_dump(source), "config.yaml", {})
    left = {item.key.rpartition(".")[2]: item.reason for item in conversion.left}
    return left, parse(conversion.text, "out.yaml", {})


# ---- whose a limit is ------------------------------------------------------------------------------------


def test_a_deployment_alone_at_its_upstream_has_the_upstreams_limit():
    left, config = converted(
        deployment("m", "openai/x", "k1", rpm=5, tpm=1_000),
        deployment("m", "openai/x", "k2", rpm=7, **DAILY),
        router=CHECK,
    )
    assert config.limits.upstreams == {
        "openai": LimitConfig(requests_per_minute=5, tokens_per_minute=1_000),
        "openai-2": LimitConfig(requests_per_minute=7, usd_per_day=5),
    }
    assert config.limits.models == {}
    assert set(left) == {"budget_duration"}


def test_a_deployment_that_shares_its_upstream_has_the_limit_of_its_models_name_there():
    left, config = converted(
        deployment("m", "openai/x", rpm=5), deployment("y", "openai/y", rpm=6), router=CHECK
    )
    assert config.limits.models == {
        "x": LimitConfig(requests_per_minute=5),
        "y": LimitConfig(requests_per_minute=6),
    }
    assert (config.limits.upstreams, left) == ({}, {})


@pytest.mark.parametrize(
    "others",
    [
        [deployment("m", "openai/x")],
        [deployment("n", "openai/x")],
        [deployment("x", "openai/y")],
        [deployment("z", "openai/z"), deployment("other", "openai/x", "k2")],
        [deployment("n-*", "openai/*")],
        [deployment("*", "openai/*")],
    ],
    ids=["a twin", "another name", "the name is another's", "elsewhere", "a pattern", "every other name"],
)
def test_a_limit_that_would_be_others_too_is_left(others):
    left, config = converted(deployment("m", "openai/x", rpm=5, **DAILY), *others, router=CHECK)
    assert (config.limits.models, config.limits.upstreams) == ({}, {})
    assert set(left) == {"rpm", "max_budget"}
    assert "give it an upstream of its own" in left["rpm"]


def test_a_pattern_that_shares_its_upstream_has_no_name_of_its_own():
    left, config = converted(
        deployment("n-*", "openai/x-*", rpm=5), deployment("m", "openai/y"), router=CHECK
    )
    assert config.limits.models == {}
    assert "no name" in left["rpm"]


def test_an_alias_has_the_limits_of_what_it_stands_for():
    _, config = converted(
        deployment("m", "openai/x", rpm=5), router=CHECK | {"model_group_alias": {"short": "m"}}
    )
    assert config.limits.upstreams == {"openai": LimitConfig(requests_per_minute=5)}
    left, config = converted(
        deployment("m", "openai/x", rpm=5),
        deployment("n", "openai/y"),
        router=CHECK | {"model_group_alias": {"x": "n"}},
    )
    assert config.limits.models == {}
    assert "no name" in left["rpm"]


# ---- rates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("router", "held"),
    [
        (CHECK, LimitConfig(requests_per_minute=5, tokens_per_minute=9)),
        (
            {"routing_strategy": "usage-based-routing-v2"},
            LimitConfig(requests_per_minute=5, tokens_per_minute=9),
        ),
        ({"enable_pre_call_checks": True}, LimitConfig(requests_per_minute=5)),
        ({"routing_strategy": "least-busy"}, None),
        ({}, None),
    ],
)
def test_rates_are_limits_where_litellm_keeps_to_them(router, held):
    left, config = converted(deployment("m", "openai/x", rpm=5, tpm=9), router=router)
    assert config.limits.upstreams.get("openai") == held
    assert ("rpm" in left, "tpm" in left) == (
        held is None,
        held is None or held.tokens_per_minute is None,
    )
    assert ("optional_pre_call_checks" in left) is False


def test_other_checks_are_left():
    left, _ = converted(router={"optional_pre_call_checks": ["enforce_model_rate_limits", "prompt_caching"]})
    assert set(left) == {"optional_pre_call_checks"}


def test_rates_are_shares_all_the_same():
    _, config = converted(
        deployment("m", "openai/x", "k1", rpm=900), deployment("m", "openai/x", "k2", rpm=100), router=CHECK
    )
    assert [candidate.weight for candidate in config.models["m"].candidates] == [900, 100]


# ---- calls at once ---------------------------------------------------------------------------------------


def test_calls_at_once_wait_at_their_upstream_as_they_do_at_litellms():
    left, config = converted(deployment("m", "openai/x", max_parallel_requests=3))
    assert config.upstreams["openai"].concurrency == ConcurrencyConfig(limit=3, adaptive=False)
    assert (config.limits.upstreams, left) == ({}, {})


def test_calls_at_once_of_a_name_do_not_wait_and_that_is_said():
    left, config = converted(
        deployment("m", "openai/x", max_parallel_requests=3), deployment("n", "openai/y")
    )
    assert config.limits.models == {"x": LimitConfig(concurrent=3)}
    assert config.upstreams["openai"].concurrency is None
    assert "429" in left["max_parallel_requests"]


def test_calls_at_once_of_the_proxy_are_those_of_all_models_together():
    left, config = converted(general_settings={"global_max_parallel_requests": 50})
    assert config.limits.models == {"*": LimitConfig(concurrent=50)}
    assert left == {}


@pytest.mark.parametrize(("value", "reason"), [(0, "limits nothing"), ("some", "is no number")])
def test_so_many_calls_at_once_are_none_that_could_be_kept_to(value, reason):
    left, config = converted(
        deployment("m", "openai/x", max_parallel_requests=value),
        general_settings={"global_max_parallel_requests": value},
    )
    assert config.upstreams["openai"].concurrency is None
    assert config.limits.models == {}
    assert reason in left["max_parallel_requests"]
    assert reason in left["global_max_parallel_requests"]


# ---- budgets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "limit"),
    [
        ("1d", LimitConfig(usd_per_day=0.000001)),
        ("24h", LimitConfig(usd_per_day=0.000001)),
        ("30d", LimitConfig(usd_per_month=0.000001)),
        ("1mo", LimitConfig(usd_per_month=0.000001)),
    ],
)
def test_a_budget_of_a_day_or_a_month_comes_along_and_when_it_begins_is_said(duration, limit):
    left, config = converted(deployment("m", "openai/x", max_budget=0.000001, budget_duration=duration))
    assert config.limits.upstreams == {"openai": limit}
    assert "begin with the first call" in left["budget_duration"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"max_budget": 5, "budget_duration": "7d"}, "this one is of 7d"),
        ({"max_budget": 5}, "never begins anew"),
        ({"max_budget": 0, "budget_duration": "1d"}, "0 limits nothing"),
        ({"max_budget": "much", "budget_duration": "1d"}, "is no number"),
        ({"budget_duration": "1d"}, "is no number"),
    ],
)
def test_a_budget_that_cannot_be_said_is_left_with_the_reason(asked, reason):
    left, config = converted(deployment("m", "openai/x", **asked))
    assert config.limits.upstreams == {}
    assert reason in left["max_budget"]


def test_a_budget_of_the_proxy_without_a_duration_is_left():
    left, config = converted(litellm_settings={"max_budget": 5})
    assert config.limits.models == {}
    assert "never begins anew" in left["max_budget"]


def test_an_amount_keeps_its_digits():
    for amount in (1e-12, 1234567.89, 999999999999.0):
        _, config = converted(deployment("m", "openai/x", max_budget=amount, budget_duration="1d"))
        assert config.limits.upstreams["openai"].usd_per_day == amount


def test_the_proxys_budget_is_that_of_all_models_together():
    left, config = converted(
        deployment("m", "openai/x"), litellm_settings={"max_budget": 100, "budget_duration": "30d"}
    )
    assert config.limits.models == {"*": LimitConfig(usd_per_month=100)}
    assert left == {}


def test_beside_the_proxys_no_name_has_a_limit_of_its_own_since_it_would_no_longer_be_counted():
    left, config = converted(
        deployment("m", "openai/x", rpm=5),
        deployment("n", "openai/y"),
        deployment("o", "anthropic/claude-x", rpm=6),
        router=CHECK,
        litellm_settings=DAILY,
    )
    assert config.limits.models == {"*": LimitConfig(usd_per_day=5)}
    assert config.limits.upstreams == {"anthropic": LimitConfig(requests_per_minute=6)}
    assert "rpm" in left


# ---- providers -------------------------------------------------------------------------------------------


def provider(name, limit=10, period="1d", **more):
    return {"provider_budget_config": {name: {"budget_limit": limit, "time_period": period, **more}}}


def test_a_providers_budget_is_its_upstreams():
    left, config = converted(
        deployment("m", "openai/x"), deployment("n", "gpt-4o"), router=provider("openai", 10, "1mo")
    )
    assert config.limits.upstreams == {"openai": LimitConfig(usd_per_month=10)}
    assert set(left) == {"time_period"}


def test_of_a_deployments_budget_and_its_providers_the_smaller_holds():
    for budget, least in ((3, 3), (30, 10)):
        _, config = converted(
            deployment("m", "openai/x", max_budget=budget, budget_duration="1d"), router=provider("openai")
        )
        assert config.limits.upstreams == {"openai": LimitConfig(usd_per_day=least)}


@pytest.mark.parametrize(
    ("router", "reason"),
    [
        (provider("openai"), "its deployments are at openai, openai-2"),
        (provider("azure"), "no deployment of this provider was converted"),
        (provider("anthropic", 0), "0 limits nothing"),
        (provider("anthropic", 5, "10d"), "this one is of 10d"),
        ({"provider_budget_config": {"anthropic": 5}}, "is no number"),
        ({"provider_budget_config": 5}, "is no section of keys"),
        (provider("groq"), "asked for another provider"),
    ],
)
def test_a_providers_budget_that_cannot_be_said_is_left_with_the_reason(router, reason):
    same = {"api_base": "http://h/v1", "api_key": "k"}
    left, config = converted(
        deployment("m", "openai/x", "k1"),
        deployment("m", "openai/x", "k2"),
        deployment("c", "anthropic/claude-x"),
        {"model_name": "g", "litellm_params": {"model": "groq/x", **same}},
        {"model_name": "v", "litellm_params": {"model": "lm_studio/x", **same}},
        router=router,
    )
    assert config.limits.upstreams == {}
    assert reason in next(iter(left.values()))


def test_what_else_is_said_of_a_provider_is_left():
    left, _ = converted(deployment("m", "openai/x"), router=provider("openai", soft_budget=3))
    assert "soft_budget" in left
