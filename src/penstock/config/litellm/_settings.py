"""From what stands beside the deployments: clocks, retries, log, aliases, fallbacks, and the master key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.config.keys import hash_key
from penstock.config.litellm._draft import Draft
from penstock.config.litellm._groups import clocks
from penstock.config.litellm._values import Plain, as_list, number
from penstock.config.patterns import CONTROL, resolve

# What LiteLLM's ways of choosing among deployments are called here; "": drawn by weight, as without any.
_STRATEGIES = {
    "simple-shuffle": "",
    "least-busy": "least_busy",
    "latency-based-routing": "fastest",
    "cost-based-routing": "cheapest",
}

_MASTER_KEY = "LITELLM_MASTER_KEY"  # LiteLLM's variable, where its file does not say it


def take_credentials(draft: Draft, listed: Any) -> dict[str, Plain]:
    """Sets of parameters that deployments refer to, by name."""
    credentials = {}
    for credential in as_list(listed):
        if isinstance(credential, dict) and isinstance(credential.get("credential_values"), dict):
            credentials[str(credential.get("credential_name"))] = credential["credential_values"]
        else:
            draft.leave("credential_list", "an entry has no credential_values")
    return credentials


def take_clocks(draft: Draft, library: Plain, router: Plain) -> None:
    for section, name, key in (
        (router, "router_settings", "timeout"),
        (library, "litellm_settings", "request_timeout"),
        (router, "router_settings", "stream_timeout"),
    ):
        if key not in section:
            continue
        seconds = number(section.pop(key))
        clock = "between_tokens" if key == "stream_timeout" else "first_token"
        if seconds is None:
            draft.leave(f"{name}.{key}", "is no number")
        elif clock in draft.timeouts:
            draft.leave(f"{name}.{key}", "router_settings.timeout goes before it")
        else:
            draft.timeouts[clock] = seconds
    draft.timeouts = clocks(draft.timeouts)


def take_retries(draft: Draft, library: Plain, router: Plain) -> None:
    for name, section in (("router_settings", router), ("litellm_settings", library)):
        if "num_retries" not in section:
            continue
        retries = number(section.pop("num_retries"))
        if retries is None:
            draft.leave(f"{name}.num_retries", "is no number")
        elif draft.retries is not None:
            draft.leave(f"{name}.num_retries", "router_settings.num_retries goes before it")
        else:
            draft.retries = int(retries)


def take_log(draft: Draft, library: Plain) -> None:
    if library.pop("set_verbose", False) is True:
        draft.log["level"] = "debug"
    json_logs = library.pop("json_logs", None)
    if json_logs is not None:
        draft.log["format"] = "json" if json_logs else "text"


def take_aliases(draft: Draft, aliases: Any) -> dict[str, str]:
    taken: dict[str, str] = {}
    if not isinstance(aliases, dict):
        if aliases is not None:
            draft.leave("router_settings.model_group_alias", "is no section of keys")
        return taken
    for alias, target in aliases.items():
        group = target.get("model") if isinstance(target, dict) else target
        key = f"router_settings.model_group_alias.{alias}"
        if str(group) not in draft.models or "*" in str(group):
            draft.leave(key, f"there is no model {group} to stand for")
        elif str(alias) in draft.models or "*" in str(alias):
            draft.leave(key, "is the name of a model, or a pattern")
        elif CONTROL.search(str(alias)):
            draft.leave(
                "router_settings.model_group_alias", "a name holds no control characters", ascii(alias)
            )
        else:
            draft.models[str(alias)] = [
                msgspec.structs.replace(deployment, model=deployment.model or str(group))
                for deployment in draft.models[str(group)]
            ]
            draft.modes[str(alias)] = draft.modes[str(group)]
            taken[str(alias)] = str(group)
            if isinstance(target, dict) and target.get("hidden"):
                draft.leave(f"{key}.hidden", "GET /v1/models names whatever its caller may use")
    return taken


def take_fallbacks(draft: Draft, library: Plain, router: Plain, aliases: Mapping[str, str]) -> None:
    general = _take_pairs(draft, draft.fallbacks, "fallbacks", library, router)
    for name, section in (("router_settings", router), ("litellm_settings", library)):
        defaults = section.pop("default_fallbacks", None)
        _add_everywhere(
            draft, draft.fallbacks, [*as_list(defaults), *general], f"{name}.default_fallbacks", aliases
        )
        general = []
    for theirs, ours in (
        ("context_window_fallbacks", draft.context_length_fallbacks),
        ("content_policy_fallbacks", draft.content_filter_fallbacks),
    ):
        general = _take_pairs(draft, ours, theirs, library, router)
        _add_everywhere(draft, ours, general, f"router_settings.{theirs}", aliases)
    for alias, group in aliases.items():
        for table in (draft.fallbacks, draft.context_length_fallbacks, draft.content_filter_fallbacks):
            for fallback in list(table.get(group, ())):
                key = f"router_settings.model_group_alias.{alias}"
                _add_fallback(draft, table, alias, fallback, key, everywhere=True)


def take_pre_call_checks(draft: Draft, router: Plain) -> None:
    """Prompts are measured where LiteLLM measures them, and the deployment says how long they may be."""
    checks = router.get("enable_pre_call_checks")
    if checks is False or any(each.window for deployments in draft.models.values() for each in deployments):
        del router["enable_pre_call_checks"]


def _take_pairs(
    draft: Draft, table: dict[str, list[str]], name: str, library: Plain, router: Plain
) -> list[Any]:
    """Models with their fallbacks, from the one or the other section; those of all models are returned."""
    key = f"router_settings.{name}" if router.get(name) else f"litellm_settings.{name}"
    pairs = router.pop(name, None) or library.pop(name, None)
    if library.pop(name, None):
        draft.leave(f"litellm_settings.{name}", f"router_settings.{name} goes before it")
    general: list[Any] = []
    for pair in as_list(pairs):
        if not isinstance(pair, dict):
            draft.leave(key, "an entry is not a model with its fallbacks")
            continue
        for model, targets in pair.items():
            if model == "*" and "*" not in draft.models:
                general += as_list(targets)
            elif str(model) not in draft.models:
                draft.leave(f"{key}.{model}", "there is no such model among those converted")
            else:
                for target in as_list(targets):
                    _add_fallback(draft, table, str(model), target, key)
    return general


def _add_everywhere(
    draft: Draft, table: dict[str, list[str]], targets: list[Any], key: str, aliases: Mapping[str, str]
) -> None:
    for target in targets:
        for model in (name for name in draft.models if name not in aliases):  # an alias has its group's
            if _is_of_use(draft, model, target):
                _add_fallback(draft, table, model, target, key, everywhere=True)


def _add_fallback(
    draft: Draft, table: dict[str, list[str]], model: str, target: Any, key: str, *, everywhere: bool = False
) -> None:
    if not isinstance(target, str) or "*" in target:
        draft.leave(f"{key}.{model}", "a fallback is the name of one model")
        return
    entry = resolve(draft.models, target)
    if entry is None:
        draft.leave(f"{key}.{model}", f"there is no model {target} among those converted")
    elif target in table.get(model, []) or (everywhere and entry == model):
        return
    elif entry == model:
        draft.leave(f"{key}.{model}", f"{model} falls back on itself")
    else:
        table.setdefault(model, []).append(target)


def _is_of_use(draft: Draft, model: str, target: Any) -> bool:
    """Whether a fallback of all models is one for this: a chat model cannot stand in for one that draws.

    Of a target that is no model somebody else says so.
    """
    entry = resolve(draft.models, target) if isinstance(target, str) else None
    return entry is None or draft.modes.get(model) == draft.modes.get(entry)


def take_master_key(draft: Draft, key: Any, environ: Mapping[str, str]) -> None:
    text = str(key or environ.get(_MASTER_KEY, ""))
    if not text:
        return
    if text.startswith("os.environ/"):
        variable = text.removeprefix("os.environ/")
        if not environ.get(variable):
            reason = f"{variable} is not set here; set it and convert again, or use `penstock key hash`"
            draft.leave("general_settings.master_key", reason)
            return
        text = environ[variable]
    draft.keys.append(("master", hash_key(text)))


def take_strategy(draft: Draft, router: Plain) -> str:
    """How LiteLLM chooses, where that is known here."""
    strategy = router.get("routing_strategy")
    if not isinstance(strategy, str) or strategy not in _STRATEGIES:
        return ""
    draft.strategy = _STRATEGIES[strategy]
    del router["routing_strategy"]
    return strategy
