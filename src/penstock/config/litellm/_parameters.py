"""From what a deployment says of its calls to ``parameters`` of the model, and ``extra_body`` of the candidate.

LiteLLM's parameters are a deployment's, and hold where the caller says nothing; ours are the model's.  Where a model's
deployments agree they become its parameters; where they differ, each candidate's extras, if its API has the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec

from penstock.config._bodies import extra_body_fault
from penstock.config.litellm._draft import Deployment, Draft
from penstock.config.litellm._values import Plain, as_list, text
from penstock.config.model import ParametersConfig
from penstock.config.writing import escaped

_KEY = "model_list[].litellm_params"
_OURS = {
    **{name: name for name in ParametersConfig.__struct_fields__},
    **dict.fromkeys(("max_completion_tokens", "max_output_tokens"), "max_tokens"),
}
# What servers of OpenAI's API take besides, each its own: vLLM, SGLang, OpenRouter, Gemini, Qwen, xAI, OpenAI itself.
_EXTRAS = frozenset(
    {
        *("chat_template_kwargs", "ignore_eos", "include_stop_str_in_output", "length_penalty", "min_p"),
        *("min_tokens", "mm_processor_kwargs", "repetition_penalty", "skip_special_tokens", "stop_token_ids"),
        *("plugins", "provider", "reasoning", "route", "top_a", "transforms"),
        *("enable_thinking", "safety_settings", "search_parameters", "thinking_budget"),
        *("logit_bias", "modalities", "parallel_tool_calls", "prediction", "prompt_cache_key"),
        *("prompt_cache_retention", "safety_identifier", "user"),
    }
)
_ANTHROPICS = frozenset({"anthropic", "vertex"})  # kinds that are asked in Anthropic's form
_THEIRS = frozenset({"temperature", "top_p", "top_k"})  # called alike there
_NOT_SO_ELSEWHERE = frozenset({"max_tokens"})  # has two names, and is counted before a call is asked

_DEEPEST = 32  # levels of values

_NO_VALUE = "is no value that `parameters` takes"
_DIFFER = "the parameters of a model hold for all its candidates, whose values differ: say it in `parameters`"
_ELSEWHERE = "say in `extra_body` of the candidate, in its own API, what it is asked with besides"


def take_parameters(
    draft: Draft, parameters: Plain, kind: str, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a deployment by our names, and what its upstream is asked with besides, taken out.

    :param kind: of the upstream
    """
    found: dict[str, Any] = {}
    for theirs in [key for key in parameters if key in _OURS]:
        value, ours = parameters.pop(theirs), _OURS[theirs]
        if value is None:
            continue
        taken = _value(ours, value)
        if taken is None:
            draft.leave(f"{_KEY}.{theirs}", _NO_VALUE, name)
        else:
            found.setdefault(ours, taken)
    return found, _extras(draft, parameters, kind, name)


def _value(ours: str, value: Any) -> Any:
    """As ``parameters`` has it; None: it takes no such."""
    if ours == "stop":
        value = [text(one) for one in as_list(value)]
    elif isinstance(value, bool | dict | list) or (
        isinstance(value, str) and value.startswith("os.environ/")
    ):
        return None
    try:
        read = msgspec.convert({ours: value}, ParametersConfig, strict=False)
    except msgspec.ValidationError:
        return None
    taken = getattr(read, ours)
    return escaped(taken) if ours == "service_tier" else taken or (taken if taken == 0 else None)


def _extras(draft: Draft, parameters: Plain, kind: str, name: str) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    given = parameters.pop("extra_body", None)
    if isinstance(given, dict) and kind == "openai":
        wanted = {f"extra_body.{member}": value for member, value in given.items()}
    elif given is not None:
        reason = _ELSEWHERE if isinstance(given, dict) else "is no section of keys"
        draft.leave(f"{_KEY}.extra_body", reason, name)
    taken = _EXTRAS if kind == "openai" else {"thinking"} if kind in _ANTHROPICS else frozenset()
    wanted |= {member: parameters.pop(member) for member in [key for key in parameters if key in taken]}
    extras: dict[str, Any] = {}
    for place, value in wanted.items():
        member = place.removeprefix("extra_body.")
        try:
            plain = _plain(value)
        except ValueError:
            plain = None
        if fault := extra_body_fault(member):
            draft.leave(f"{_KEY}.{place}", fault, name)
        elif not member or (plain is None and value is not None):
            draft.leave(f"{_KEY}.{place}", "is nothing that JSON can say", name)
        else:
            extras.setdefault(member, plain)
    return extras


def _plain(value: Any, depth: int = 0) -> Any:
    """As JSON has it, with references as we write them.

    :raises ValueError: it cannot be had so
    """
    if depth > _DEEPEST:
        raise ValueError
    if isinstance(value, dict):
        if "" in value:
            raise ValueError
        return {str(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not (isfinite(value) and -(2**63) <= value < 2**63):
            raise ValueError
        return value
    return value if value is None or isinstance(value, bool) else text(value) or ""


def parameters_of(deployments: list[Deployment]) -> dict[str, Any]:
    """What all deployments of a model say alike."""
    first, *others = (deployment.parameters for deployment in deployments)
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def check_parameters(draft: Draft, kinds: Mapping[str, str]) -> None:
    """What a model's deployments do not say alike becomes each one's own, or is left.

    :param kinds: of the upstreams, by name
    """
    for name, deployments in draft.models.items():
        alike = parameters_of(deployments)
        for index, deployment in enumerate(deployments):
            extras = dict(deployment.extras)
            for parameter, value in deployment.parameters.items():
                if parameter in alike:
                    continue
                if _is_called_so(parameter, kinds[deployment.upstream]):
                    extras.setdefault(parameter, value)
                else:
                    draft.leave(f"{_KEY}.{parameter}", _DIFFER, name)
            deployments[index] = msgspec.structs.replace(deployment, extras=extras, parameters=alike)


def _is_called_so(parameter: str, kind: str) -> bool:
    if kind == "openai":
        return parameter not in _NOT_SO_ELSEWHERE
    return kind in _ANTHROPICS and parameter in _THEIRS
