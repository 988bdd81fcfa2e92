"""From what a LiteLLM proxy keeps: answers, and in Redis what proxies have used together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from penstock.config.litellm._draft import SEAL_KEY, Draft
from penstock.config.litellm._values import Plain, as_list, number, text
from penstock.config.redis_address import Address
from penstock.config.references import expand, variables

_LONGEST = 2_592_000  # seconds for which an answer is kept at most

# What is kept here, by what LiteLLM calls the calls for it.
_KEPT = {
    **dict.fromkeys(("completion", "acompletion", "text_completion", "atext_completion"), "chat"),
    **dict.fromkeys(("responses", "aresponses"), "chat"),
    **dict.fromkeys(("embedding", "aembedding"), "embedding"),
    **dict.fromkeys(("rerank", "arerank"), "rerank"),
}
_KINDS = ("local", "redis")

_OTHER_KIND = (
    "answers are kept in memory, on disk (`cache.disk`) or in Redis; those to questions that only mean the same are "
    "`semantic` in the `cache` of a model; see docs/caching.md"
)
_DIFFERS = (
    "as `cache` of each model: an answer is for callers of the same tenant (`scope: shared`: for everybody), and what a "
    "caller says of it stands in Cache-Control; see docs/caching.md"
)
_SEALED = f"what stands in Redis is sealed: set {SEAL_KEY} to a secret of your own, the same for all gateways"
_OPT_IN = "only answers of callers who ask for it: leave `cache` out of the models that are not meant; see docs/caching.md"
_NOT_KEPT = "of these only answers to chats, completions, responses, embeddings and ranks are kept here"
_LIMITS = "through it gateways keep to the same `limits`; who is left in peace, each finds out by itself"
_ANOTHER = "say its address in `cache.redis` or `limits.redis`: redis+cluster://HOST,HOST or redis+sentinel://HOST,HOST/SERVICE"


def take_router_redis(draft: Draft, router: Plain) -> None:
    """Where the router counts what is used."""
    given = {
        key: router.pop(f"redis_{key}", None) for key in ("url", "host", "port", "password", "username", "db")
    }
    if not (given["url"] or given["host"]):
        for key, value in given.items():
            if value is not None:
                draft.leave(f"router_settings.redis_{key}", "there is no redis_host or redis_url beside it")
        return
    address = _address(given)
    key = "router_settings.redis_url" if given["url"] else "router_settings.redis_host"
    if address is None:
        draft.leave(key, "is no address of a Redis server")
        return
    draft.redis["limits"] = address
    draft.leave(key, _LIMITS)


def take_cache(draft: Draft, library: Plain, environ: Mapping[str, str]) -> None:
    """Which answers are kept, and where."""
    switch, params = library.pop("cache", None), library.pop("cache_params", None)
    if params is not None and not isinstance(params, dict):
        draft.leave("litellm_settings.cache_params", "is no section of keys")
        return
    if switch is not True:
        if switch not in (None, False):
            draft.leave("litellm_settings.cache", "is neither true nor false")
        elif params:
            draft.leave("litellm_settings.cache_params", "without `cache: true` nothing is kept")
        return
    told: Plain = {str(key): value for key, value in (params or {}).items()}
    kind = told.pop("type", "redis")
    if kind not in _KINDS or told.get("mode") == "default_off":
        draft.leave("litellm_settings.cache", _OPT_IN if kind in _KINDS else _OTHER_KIND)
        for key in told:
            draft.leave(f"litellm_settings.cache_params.{key}")
        return
    if told.pop("mode", "default_on") != "default_on":
        draft.leave("litellm_settings.cache_params.mode")
    in_redis = kind == "redis"
    if not in_redis or _take_address(draft, told, environ):
        draft.kept = {"calls": "all", **_ttl(draft, told, in_redis=in_redis)}
        draft.kept_modes = _modes(draft, told)
        draft.leave("litellm_settings.cache", _DIFFERS)
    for key in told:
        draft.leave(f"litellm_settings.cache_params.{key}")


def _take_address(draft: Draft, told: Plain, environ: Mapping[str, str]) -> bool:
    """Where answers are; LiteLLM has variables for that."""
    for key in ("redis_startup_nodes", "startup_nodes", "service_name", "sentinel_nodes"):
        if told.pop(key, None) is not None:
            draft.leave(f"litellm_settings.cache_params.{key}", _ANOTHER)
            return False
    names = ("url", "host", "port", "password", "username", "db", "ssl")
    given = {key: told.pop(key, None) for key in names}
    if not (given["url"] or given["host"]):
        key = "url" if environ.get("REDIS_URL") else "host"
        given[key] = f"os.environ/REDIS_{key.upper()}"
    if not given["url"]:
        for key in ("port", "password"):
            if given[key] is None and environ.get(f"REDIS_{key.upper()}"):
                given[key] = f"os.environ/REDIS_{key.upper()}"
    address = _address(given)
    if address is None:
        draft.leave("litellm_settings.cache_params.host", "is no address of a Redis server")
        return False
    draft.redis["cache"] = address
    draft.leave("litellm_settings.cache_params", _SEALED)
    return True


def _address(given: Plain) -> str | None:
    """As it stands in our file; None: it cannot be one."""
    address = _written(given)
    is_variable = address is not None and variables(address) == {address[2:-1]}
    if address is None or is_variable:
        return address
    try:
        # A variable that is a part of it may be a port, or a database.
        Address.parse(expand(address, dict.fromkeys(variables(address), "9"))[0])
    except ValueError:
        return None
    return address


def _written(given: Plain) -> str | None:
    if given["url"] is not None:
        url = text(given["url"])
        right = url is not None and (
            url.startswith(("redis://", "rediss://")) or (url.startswith("${") and url.endswith("}"))
        )
        return url if right else None
    host = text(given["host"])
    if host is None or not (variables(host) or set(host).isdisjoint("/@?# ,:")):
        return None
    port, user, password = (_part(given[key]) for key in ("port", "username", "password"))
    scheme = "rediss" if given.get("ssl") in (True, "true", "True") else "redis"
    credentials = f"{user}:{password}@" if user or password else ""
    database = f"/{_part(given['db'])}" if given["db"] is not None else ""
    return f"{scheme}://{credentials}{host}{':' + port if port else ''}{database}"


def _part(value: Any) -> str:
    """A piece of an address: what is no reference is written so that it stays one piece."""
    said = text(value)
    if said is None:
        return ""
    return said if variables(said) else quote(str(value), safe="")


def _ttl(draft: Draft, told: Plain, *, in_redis: bool) -> dict[str, Any]:
    """For how long."""
    said = told.pop("ttl", None)
    own = told.pop("default_in_redis_ttl" if in_redis else "default_in_memory_ttl", None)
    value = own if said is None else said
    if value is None:
        return {}
    seconds = number(value)
    if seconds is None:
        draft.leave("litellm_settings.cache_params.ttl", "is no number that is at least 0")
        return {}
    if seconds > _LONGEST:
        draft.leave("litellm_settings.cache_params.ttl", "an answer is kept for 30 days at most")
    return {"ttl": min(seconds, _LONGEST)}


def _modes(draft: Draft, told: Plain) -> frozenset[str]:
    """For what the models are whose answers are kept."""
    said = told.pop("supported_call_types", None)
    if said is None:
        return frozenset(_KEPT.values())
    names = [str(name) for name in as_list(said)]
    if any(name not in _KEPT for name in names):
        draft.leave("litellm_settings.cache_params.supported_call_types", _NOT_KEPT)
    return frozenset(_KEPT[name] for name in names if name in _KEPT)
