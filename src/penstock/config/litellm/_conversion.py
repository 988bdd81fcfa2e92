"""The order in which a LiteLLM proxy's configuration is converted.

Every key of the source is either converted or listed with the reason: nothing is dropped silently.  A key
that is taken is removed from (a copy of) the source, and what remains at the end is what nobody took.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import yaml

from penstock.config._reading import MAX_NODES, NO_TEXT, NO_TEXT_IS, TOO_MANY
from penstock.config.litellm import _settings
from penstock.config.litellm._breakers import take_cooldowns
from penstock.config.litellm._deployments import Deployments
from penstock.config.litellm._draft import Draft, Left
from penstock.config.litellm._groups import check_clocks, check_shares, put_in_order
from penstock.config.litellm._kept import take_cache, take_router_redis
from penstock.config.litellm._ledger import take_ledger
from penstock.config.litellm._limits import take_limits
from penstock.config.litellm._parameters import check_parameters
from penstock.config.litellm._prices import price_lines
from penstock.config.litellm._traces import take_traces
from penstock.config.litellm._values import Plain
from penstock.config.litellm._written import lines
from penstock.config.load import parse
from penstock.config.writing import escaped, scalar
from penstock.errors import ConfigError

# What a configuration without models of its own may consist of: they stand in a database, or other files.
_SECTIONS = frozenset({"model_list", "litellm_settings", "router_settings", "general_settings", "include"})


class Conversion(msgspec.Struct, frozen=True):
    """A configuration of ours as text, what it lacks, and the environment variables that it refers to.

    ``prices``: the price table that it names, as text; empty: it names none.
    """

    text: str
    left: tuple[Left, ...]
    variables: tuple[str, ...]
    upstreams: int
    models: int
    keys: int
    prices: str = ""


class _Loader(yaml.SafeLoader):
    """As PyYAML has it, but what is no text is refused, and values are counted: aliases of aliases multiply at each step."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if NO_TEXT.search(str(value)):
            raise yaml.constructor.ConstructorError(problem=NO_TEXT_IS, problem_mark=node.start_mark)
        return value

    def construct_document(self, node: yaml.Node) -> Any:
        if _amount(node, {}) > MAX_NODES:
            raise yaml.constructor.ConstructorError(problem=TOO_MANY, problem_mark=node.start_mark)
        return super().construct_document(node)


def _amount(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """How many values there are, aliases counted once for each use; of one that holds itself there is no end."""
    if node not in known:
        known[node] = MAX_NODES + 1
        held = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = isinstance(node, yaml.MappingNode)
        within = (each for pair in held for each in pair) if pairs else held
        known[node] = min(MAX_NODES, sum(_amount(each, known) for each in within)) + 1
    return known[node]


def convert(text: str, name: str, environ: Mapping[str, str], prices_path: str = "") -> Conversion:
    """Convert the text of a LiteLLM proxy's configuration.

    :param environ: where the master key is looked up if it is a reference, of which only its hash is kept, and where
        spans go
    :param prices_path: where the price table will be; empty: there will be none, and prices are left
    :raises penstock.errors.ConfigError: it is no YAML, or no section of keys
    """
    try:
        source = yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: is no YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise ConfigError(f"{name}: is no YAML") from None
    if (
        not isinstance(source, dict)
        or not isinstance(source.get("model_list", []), list)
        or _SECTIONS.isdisjoint(source)
    ):
        raise ConfigError(f"{name}: is no configuration of a LiteLLM proxy: it has no model_list")
    draft = Draft()
    draft.prices_path = escaped(prices_path)
    _run(draft, copy.deepcopy(source), environ)
    result = "\n".join(lines(draft, name)) + "\n"
    # Whatever stood in the source, what comes out can be loaded: prove it, with stand-ins for what the
    # variables hold.  The price table is not there yet.
    parse(result, f"{name}, converted", _StandIns(draft.redis.values()))
    prices = "\n".join(price_lines(draft, name))
    if prices:
        result += f"prices: {scalar(draft.prices_path)}\n"
        prices += "\n"
    return Conversion(
        text=result,
        left=draft.left(),
        variables=draft.variables(),
        upstreams=len(draft.upstreams),
        models=len(draft.models),
        keys=len(draft.keys),
        prices=prices,
    )


class _StandIns(Mapping[str, str]):
    """Every variable is set, to something that is right wherever it may stand.

    :param redis: addresses of Redis servers, of which some are variables
    """

    def __init__(self, redis: Iterable[str]) -> None:
        self._redis = tuple(redis)

    def __getitem__(self, name: str) -> str:
        variable = "${" + name + "}"
        if variable in self._redis:
            return "redis://127.0.0.1:9"
        # What is a part of an address may be its host or its port.
        return "9" if any(variable in each for each in self._redis) else "http://127.0.0.1:9"

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def _run(draft: Draft, source: Plain, environ: Mapping[str, str]) -> None:
    library, router = _section(draft, source, "litellm_settings"), _section(draft, source, "router_settings")
    general = _section(draft, source, "general_settings")
    credentials = _settings.take_credentials(draft, source.pop("credential_list", None))
    _settings.take_clocks(draft, library, router)
    _settings.take_retries(draft, library, router)
    _settings.take_log(draft, library)
    take_traces(draft, source, library, environ)
    verify = library.get("ssl_verify") is not False
    if not verify:
        del library["ssl_verify"]
    measured = router.get("enable_pre_call_checks") is True
    drops = library.get("drop_params") is True
    deployments = Deployments(draft, environ, credentials, verify=verify, measured=measured, drops=drops)
    for entry in source.pop("model_list", None) or []:
        deployments.take(entry)
    put_in_order(draft)
    check_parameters(draft, {name: upstream.kind for upstream, name in draft.upstreams.items()})
    chosen_by = _settings.take_strategy(draft, router)
    check_clocks(draft)
    check_shares(draft, chosen_by)
    aliases = _settings.take_aliases(draft, router.pop("model_group_alias", None))
    _settings.take_fallbacks(draft, library, router, aliases)
    _settings.take_master_key(draft, general.pop("master_key", None), environ)
    take_cooldowns(draft, library, router)
    take_router_redis(draft, router)
    take_cache(draft, library, environ)
    take_limits(draft, library, router, general, aliases)
    take_ledger(draft, general, environ)
    if "enable_pre_call_checks" in router:
        _settings.take_pre_call_checks(draft, router)
    for name, section in (
        ("litellm_settings", library),
        ("router_settings", router),
        ("general_settings", general),
        ("", source),
    ):
        for key in section:
            draft.leave(f"{name}.{key}" if name else str(key))


def _section(draft: Draft, source: Plain, name: str) -> Plain:
    section = source.pop(name, None)
    if section is None:
        return {}
    if not isinstance(section, dict):
        draft.leave(name, "is no section of keys")
        return {}
    return {str(key): value for key, value in section.items()}
