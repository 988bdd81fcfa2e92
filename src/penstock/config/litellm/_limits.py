"""From limits and budgets of deployments, of providers and of the whole proxy to ``limits``.

A limit of LiteLLM's is a deployment's, one of ours an upstream's or a model's name's.  It means the same where nothing
else is asked at that upstream, or by that name; else it is left, rather than made to hold for others too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from penstock.config.litellm._draft import Deployment, Draft
from penstock.config.litellm._values import Plain, number
from penstock.config.patterns import match, resolve

# What a deployment may say of its own limits.
ASKED = ("rpm", "tpm", "max_parallel_requests", "max_budget", "budget_duration")

_RATES = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}
_PERIODS = {
    **dict.fromkeys(("1d", "24h", "1440m", "86400s"), "usd_per_day"),
    **dict.fromkeys(("30d", "1mo"), "usd_per_month"),
}
_PARAMETERS = "model_list[].litellm_params"
_CHECK = "enforce_model_rate_limits"

_NO_NUMBER = "is no number that is at least 0"
_NOTHING = "0 limits nothing in LiteLLM"
_WEIGHS = (
    f"at most the share among the model's candidates: LiteLLM keeps to it with optional_pre_call_checks: [{_CHECK}] or "
    "usage-based routing only. What shall hold stands in `limits.upstreams`, or `limits.models`"
)
_NOT_ALONE = (
    "its upstream is asked for others, too, and no name in `limits.models` would be its alone: give it an upstream of "
    "its own, and limit that in `limits.upstreams`"
)
_DOES_NOT_WAIT = (
    "LiteLLM lets calls wait for their turn; as `concurrent` in `limits.models` it is 429 for those that no other "
    "candidate takes. `concurrency` of an upstream lets them wait"
)
_WINDOW = "days and months are the calendar's, in UTC; LiteLLM's begin with the first call"
_FOR_EVER = "without a budget_duration it never begins anew; a budget is of a day (usd_per_day) or a month"


def take_limits(
    draft: Draft, library: Plain, router: Plain, general: Plain, aliases: Mapping[str, str]
) -> None:
    """Limits of whatever has some.

    :param aliases: names in ``draft.models`` that stand for another, and have its deployments
    """
    deployments = [d for name, each in draft.models.items() if name not in aliases for d in each]
    if whole := {**_whole_budget(draft, library), **_whole_concurrency(draft, general)}:
        _hold(draft, "models", "*", whole)
    rates = _held_to(router)
    for deployment in deployments:
        wanted = _wanted(draft, deployment, rates)
        place = _place(draft, deployment, deployments)
        if place is None:
            for key in wanted:
                draft.leave(f"{_PARAMETERS}.{key}", _NOT_ALONE, deployment.name)
            continue
        table, name = place
        if "max_budget" in wanted:
            draft.leave(f"{_PARAMETERS}.budget_duration", _WINDOW, deployment.name)
        if "max_parallel_requests" in wanted and table == "upstreams":
            draft.concurrency[name] = int(wanted.pop("max_parallel_requests")[1])
        elif "max_parallel_requests" in wanted:
            draft.leave(f"{_PARAMETERS}.max_parallel_requests", _DOES_NOT_WAIT, deployment.name)
        _hold(draft, table, name, dict(wanted.values()))
    _take_providers(draft, router, deployments)


def limit_lines(draft: Draft) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """The tables of ``limits`` that have entries: names, and what stands behind each."""
    for table, entries in draft.limits.items():
        if entries:
            lines = [
                (name, ", ".join(f"{limit}: {value:.15g}" for limit, value in limits.items()))
                for name, limits in entries.items()
            ]
            yield table, lines


def _held_to(router: Plain) -> frozenset[str]:
    """Which rates LiteLLM keeps to: all, with a check of its own or as its way of choosing, or those of requests."""
    checks = router.get("optional_pre_call_checks")
    if isinstance(checks, list) and _CHECK in checks:
        router["optional_pre_call_checks"] = [check for check in checks if check != _CHECK]
        if not router["optional_pre_call_checks"]:
            del router["optional_pre_call_checks"]
        return frozenset(_RATES)
    if str(router.get("routing_strategy")).startswith("usage-based-routing"):
        return frozenset(_RATES)
    return frozenset({"rpm"} if router.get("enable_pre_call_checks") is True else ())


def _wanted(draft: Draft, deployment: Deployment, rates: frozenset[str]) -> dict[str, tuple[str, float]]:
    """What a deployment is limited to: by LiteLLM's name, ours and how much."""
    found: dict[str, tuple[str, float]] = {}

    def leave(key: str, reason: str) -> None:
        draft.leave(f"{_PARAMETERS}.{key}", reason, deployment.name)

    asked = dict(deployment.asked)
    for key, limit in _RATES.items():
        if key not in asked:
            continue
        value = number(asked[key])
        if key not in rates or value is None:
            leave(key, _WEIGHS if key not in rates else _NO_NUMBER)
        else:
            found[key] = limit, int(value)
    if "max_parallel_requests" in asked:
        value = number(asked["max_parallel_requests"])
        if value is None or int(value) == 0:
            leave("max_parallel_requests", _NO_NUMBER if value is None else _NOTHING)
        else:
            found["max_parallel_requests"] = "concurrent", int(value)
    budget, duration = asked.get("max_budget"), asked.get("budget_duration")
    if budget is not None or duration is not None:
        if fault := _budget_fault(budget, duration):
            leave("max_budget", fault)
        else:
            found["max_budget"] = _PERIODS[str(duration)], number(budget) or 0.0
    return found


def _budget_fault(budget: Any, duration: Any) -> str:
    """Why so many dollars in so long a time cannot be said here; empty: they can."""
    amount = number(budget)
    if amount is None:
        return _NO_NUMBER
    if amount == 0:
        return _NOTHING
    if duration is None:
        return _FOR_EVER
    if str(duration) not in _PERIODS:
        return f"a budget is of a day (1d) or a month (30d, 1mo), and this one is of {duration}"
    return ""


def _place(draft: Draft, deployment: Deployment, deployments: list[Deployment]) -> tuple[str, str] | None:
    """The table and the name whose limit is this deployment's alone; None: there is none.

    A name among ``limits.models`` would no longer be counted with ``*``: it is not used beside the whole proxy's.
    """
    others = [other for other in deployments if other is not deployment]
    if all(other.upstream != deployment.upstream for other in others):
        return "upstreams", deployment.upstream
    name = deployment.model or deployment.name
    entry = resolve(draft.models, name)
    if (
        "*" in name
        or "*" in draft.limits["models"]
        or (entry is not None and any(named is not deployment for named in draft.models[entry]))
        or any(other.model and match(other.model, name) is not None for other in others)
    ):
        return None
    return "models", name


def _hold(draft: Draft, table: str, name: str, limits: Mapping[str, float]) -> None:
    """Of several that are of the same kind the least holds."""
    if limits:
        held = draft.limits[table].setdefault(name, {})
        for limit, value in limits.items():
            held[limit] = min(value, held.get(limit, value))


def _whole_budget(draft: Draft, library: Plain) -> dict[str, float]:
    """LiteLLM begins this one anew at midnight UTC, or on the first of a month, as we do."""
    if "max_budget" not in library:
        return {}
    budget, duration = library.pop("max_budget"), library.pop("budget_duration", None)
    if fault := _budget_fault(budget, duration):
        draft.leave("litellm_settings.max_budget", fault)
        return {}
    return {_PERIODS[str(duration)]: number(budget) or 0.0}


def _whole_concurrency(draft: Draft, general: Plain) -> dict[str, float]:
    if "global_max_parallel_requests" not in general:
        return {}
    value = number(general.pop("global_max_parallel_requests"))
    if value is None or int(value) == 0:
        reason = _NO_NUMBER if value is None else _NOTHING
        draft.leave("general_settings.global_max_parallel_requests", reason)
        return {}
    return {"concurrent": int(value)}


def _take_providers(draft: Draft, router: Plain, deployments: list[Deployment]) -> None:
    key = "router_settings.provider_budget_config"
    budgets = router.pop("provider_budget_config", None)
    if budgets is None:
        return
    if not isinstance(budgets, dict):
        draft.leave(key, "is no section of keys")
        return
    for provider, budget in budgets.items():
        said = dict(budget) if isinstance(budget, dict) else {}
        amount = said.pop("budget_limit", said.pop("max_budget", None))
        duration = said.pop("time_period", said.pop("budget_duration", None))
        places = sorted({d.upstream for d in deployments if d.provider == str(provider)})
        if fault := _budget_fault(amount, duration):
            draft.leave(f"{key}.{provider}", fault)
        elif not places:
            draft.leave(f"{key}.{provider}", "no deployment of this provider was converted")
        elif len(places) > 1:
            reason = f"its deployments are at {', '.join(places)}, and each upstream has a budget of its own"
            draft.leave(f"{key}.{provider}", reason)
        elif any(d.upstream == places[0] and d.provider != str(provider) for d in deployments):
            draft.leave(f"{key}.{provider}", f"the upstream {places[0]} is asked for another provider, too")
        else:
            draft.leave(f"{key}.{provider}.time_period", _WINDOW)
            _hold(draft, "upstreams", places[0], {_PERIODS[str(duration)]: number(amount) or 0.0})
        for other in said:
            draft.leave(f"{key}.{provider}.{other}")
