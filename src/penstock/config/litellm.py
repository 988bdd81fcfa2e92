"""From the configuration of a LiteLLM proxy to one of ours, and a list of what could not come along.

Every key of the source is either converted or listed with the reason: nothing is dropped silently.  A key
that is taken is removed from (a copy of) the source, and what remains at the end is what nobody took.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

from penstock.config import _azure, _clouds
from penstock.config._litellm_reasons import REASONS
from penstock.config._meaning import header_fault
from penstock.config._reading import MAX_NODES
from penstock.config.address import check_base_url
from penstock.config.keys import hash_key
from penstock.config.load import parse
from penstock.config.model import TimeoutConfig
from penstock.config.patterns import match, resolve
from penstock.config.providers import DEFAULT_BASE_URLS, PROVIDERS, Provider
from penstock.config.references import expand, variables
from penstock.config.writing import escaped, flow_list, scalar
from penstock.errors import ConfigError

Plain = dict[str, Any]

# LiteLLM's prefixes of the providers that we know.
_HOSTED = {provider.name: provider for provider in PROVIDERS}
_HOSTED |= {
    "text-completion-openai": _HOSTED["openai"],
    "together_ai": _HOSTED["together"],
    "fireworks_ai": _HOSTED["fireworks"],
    "nvidia_nim": _HOSTED["nvidia"],
    "dashscope": msgspec.structs.replace(
        _HOSTED["qwen"], base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
    ),
    "text-completion-codestral": msgspec.structs.replace(
        _HOSTED["mistral"], base_url="https://codestral.mistral.ai/v1", key_variables=("CODESTRAL_API_KEY",)
    ),
}
# Prefixes of servers that speak OpenAI's API at an address of their own.
_COMPATIBLE = frozenset(
    {"hosted_vllm", "lm_studio", "openai_like", "custom_openai", "litellm_proxy", "llamafile", "xinference"}
)
_OLLAMA = frozenset({"ollama", "ollama_chat"})
_SERVED_MODES = frozenset(
    {
        *("chat", "completion", "embedding", "responses", "rerank", "moderation"),
        *("image_generation", "image_edit", "audio_transcription", "audio_speech"),
    }
)
# Whose ranks are asked for in the form that goes through, though their chats are not OpenAI's.
_RERANKERS = {
    "cohere": Provider("cohere", "https://api.cohere.com/v2", ("COHERE_API_KEY", "CO_API_KEY")),
    "jina_ai": Provider("jina", "https://api.jina.ai/v1", ("JINA_AI_API_KEY", "JINA_API_KEY")),
    "voyage": Provider("voyage", "https://api.voyageai.com/v1", ("VOYAGE_API_KEY",)),
}

_CLOUDS = _clouds.BEDROCK | _clouds.VERTEX
_NO_COUNTERPART = "has no counterpart in Penstock"
_NOT_SPOKEN = "this provider speaks neither OpenAI's nor Anthropic's API"
_AZURE = (
    "Azure has its v1 endpoint at https://RESOURCE.openai.azure.com/openai/v1; if this leads to one, add it as an "
    "upstream of kind openai"
)
_ENTRA = (
    "the identity is the one that Microsoft's library finds where Penstock runs: set AZURE_TENANT_ID, AZURE_CLIENT_ID "
    "and AZURE_CLIENT_SECRET there, or let it be the machine's"
)
_NO_SLASH = "/openai/v1 stands behind it now: the variable must not end with a slash, or with a path"

# What LiteLLM's ways of choosing among deployments are called here; "": drawn by weight, as without any.
_STRATEGIES = {
    "simple-shuffle": "",
    "least-busy": "least_busy",
    "latency-based-routing": "fastest",
    "cost-based-routing": "cheapest",
}
# What a configuration without models of its own may consist of: they stand in a database, or other files.
_SECTIONS = frozenset({"model_list", "litellm_settings", "router_settings", "general_settings", "include"})
# Said about a model, with no effect on how it is called.
_INFORMATION = frozenset({"id", "description", "mode", "max_tokens", "max_input_tokens", "max_output_tokens"})


class Left(msgspec.Struct, frozen=True):
    """Something that was not converted; ``models`` are those that it was said of, if any."""

    key: str
    reason: str
    models: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" ({', '.join(self.models)})" if self.models else ""
        return f"{self.key}{of}: {self.reason}"


class Conversion(msgspec.Struct, frozen=True):
    """A configuration of ours as text, what it lacks, and the environment variables that it refers to."""

    text: str
    left: tuple[Left, ...]
    variables: tuple[str, ...]
    upstreams: int
    models: int
    keys: int


class _Upstream(msgspec.Struct, frozen=True):
    """Deployments that agree in all of this share an upstream.  Texts are as they stand in the file."""

    kind: str
    base_url: str
    api_key: str | None
    headers: tuple[tuple[str, str], ...] = ()
    responses: bool = False
    running_usage: bool = False
    verify: bool = True
    credentials: tuple[tuple[str, str], ...] = ()
    api: str | None = None


class _Deployment(msgspec.Struct, frozen=True):
    upstream: str
    model: str
    shares: Mapping[str, float]
    clocks: Mapping[str, float]


class _Loader(yaml.SafeLoader):
    """As PyYAML has it, but what ``<<`` merges in is counted: merges of merges multiply at each step."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MAX_NODES:
            raise yaml.constructor.ConstructorError(
                problem=f"`<<` merges more than {MAX_NODES} values", problem_mark=node.start_mark
            )


def convert(text: str, name: str, environ: Mapping[str, str]) -> Conversion:
    """Convert the text of a LiteLLM proxy's configuration.

    :param environ: where the master key is looked up if it is a reference; only its hash is kept
    :raises penstock.errors.ConfigError: it is no YAML, or no section of keys
    """
    try:
        source = yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: is no YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{name}: is no YAML") from None
    if (
        not isinstance(source, dict)
        or not isinstance(source.get("model_list", []), list)
        or _SECTIONS.isdisjoint(source)
    ):
        raise ConfigError(f"{name}: is no configuration of a LiteLLM proxy: it has no model_list")
    converter = _Converter(copy.deepcopy(source), environ)
    converter.run()
    result = converter.written(name)
    # Whatever stood in the source, what comes out can be loaded: prove it, with stand-ins for what the
    # variables hold.
    parse(result, f"{name}, converted", _StandIns())
    return Conversion(
        text=result,
        left=tuple(converter.left()),
        variables=converter.variables(),
        upstreams=len(converter.upstreams),
        models=len(converter.models),
        keys=len(converter.keys),
    )


class _StandIns(Mapping[str, str]):
    """Every variable is set, to something that is right wherever it may stand."""

    def __getitem__(self, name: str) -> str:
        return "http://127.0.0.1:9"

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Converter:
    def __init__(self, source: Plain, environ: Mapping[str, str]) -> None:
        self.upstreams: dict[_Upstream, str] = {}
        self.models: dict[str, list[_Deployment]] = {}
        self.fallbacks: dict[str, list[str]] = {}
        self.keys: list[tuple[str, str]] = []
        self.retries: int | None = None
        self.timeouts: dict[str, float] = {}
        self.log: dict[str, str] = {}
        self.strategy = ""  # of every model
        self._source = source
        self._environ = environ
        self._left: dict[tuple[str, str], list[str]] = {}
        self._verify = True
        self._credentials: dict[str, Plain] = {}

    def __repr__(self) -> str:
        return f"<_Converter {len(self.models)} models, {len(self._left)} left>"

    def left(self) -> Iterable[Left]:
        for (key, reason), models in self._left.items():
            yield Left(key, reason, tuple(dict.fromkeys(models)))

    def variables(self) -> tuple[str, ...]:
        texts = [
            text for u in self.upstreams for text in (u.base_url, u.api_key or "", *dict(u.headers).values())
        ]
        return tuple(sorted(set().union(*map(variables, texts))))

    def _leave(self, key: str, reason: str = "", model: str | None = None) -> None:
        reason = reason or REASONS.get(key.rpartition(".")[2], _NO_COUNTERPART)
        models = self._left.setdefault((key, reason), [])
        if model is not None:
            models.append(model)

    def _section(self, name: str) -> Plain:
        section = self._source.pop(name, None)
        if section is None:
            return {}
        if not isinstance(section, dict):
            self._leave(name, "is no section of keys")
            return {}
        return {str(key): value for key, value in section.items()}

    # ---- the order of conversion ---------------------------------------------------------------------

    def run(self) -> None:
        library, router = self._section("litellm_settings"), self._section("router_settings")
        general = self._section("general_settings")
        self._take_credentials()
        self._take_clocks(library, router)
        self._take_retries(library, router)
        self._take_log(library)
        if library.get("ssl_verify") is False:
            del library["ssl_verify"]
            self._verify = False
        for entry in self._source.pop("model_list", None) or []:
            self._take_deployment(entry)
        self._check_clocks()
        self._check_shares()
        aliases = self._take_aliases(router.pop("model_group_alias", None))
        self._take_fallbacks(library, router, aliases)
        for alias, group in aliases.items():
            for fallback in self.fallbacks.get(group, ()):
                key = f"router_settings.model_group_alias.{alias}"
                self._add_fallback(alias, fallback, key, everywhere=True)
        self._take_master_key(general.pop("master_key", None))
        strategy = router.get("routing_strategy")
        if isinstance(strategy, str) and strategy in _STRATEGIES:
            self.strategy = _STRATEGIES[strategy]
            del router["routing_strategy"]
        for name, section in (
            ("litellm_settings", library),
            ("router_settings", router),
            ("general_settings", general),
            ("", self._source),
        ):
            for key in section:
                self._leave(f"{name}.{key}" if name else str(key))

    def _take_credentials(self) -> None:
        for credential in _list(self._source.pop("credential_list", None)):
            if isinstance(credential, dict) and isinstance(credential.get("credential_values"), dict):
                self._credentials[str(credential.get("credential_name"))] = credential["credential_values"]
            else:
                self._leave("credential_list", "an entry has no credential_values")

    def _take_clocks(self, library: Plain, router: Plain) -> None:
        for section, name, key in (
            (router, "router_settings", "timeout"),
            (library, "litellm_settings", "request_timeout"),
            (router, "router_settings", "stream_timeout"),
        ):
            if key not in section:
                continue
            seconds = _number(section.pop(key))
            clock = "between_tokens" if key == "stream_timeout" else "first_token"
            if seconds is None:
                self._leave(f"{name}.{key}", "is no number")
            elif clock in self.timeouts:
                self._leave(f"{name}.{key}", "router_settings.timeout goes before it")
            else:
                self.timeouts[clock] = seconds
        self.timeouts = _clocks(self.timeouts)

    def _take_retries(self, library: Plain, router: Plain) -> None:
        for name, section in (("router_settings", router), ("litellm_settings", library)):
            if "num_retries" not in section:
                continue
            retries = _number(section.pop("num_retries"))
            if retries is None:
                self._leave(f"{name}.num_retries", "is no number")
            elif self.retries is not None:
                self._leave(f"{name}.num_retries", "router_settings.num_retries goes before it")
            else:
                self.retries = int(retries)

    def _take_log(self, library: Plain) -> None:
        if library.pop("set_verbose", False) is True:
            self.log["level"] = "debug"
        json_logs = library.pop("json_logs", None)
        if json_logs is not None:
            self.log["format"] = "json" if json_logs else "text"

    # ---- deployments ---------------------------------------------------------------------------------

    def _take_deployment(self, entry: Any) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
            self._leave("model_list", "an entry has no litellm_params")
            return
        parameters: Plain = {str(k): v for k, v in entry.pop("litellm_params").items()}
        model = parameters.pop("model", None)
        if not isinstance(model, str) or not model:
            self._leave("model_list", "an entry has no litellm_params.model")
            return
        name = str(entry.pop("model_name", "") or model)
        info = entry.pop("model_info", None) or {}
        if name.count("*") > 1:
            self._leave("model_list[].model_name", "a pattern holds one * at most", name)
            return
        mode = info.get("mode", "chat") if isinstance(info, dict) else "chat"
        if mode not in _SERVED_MODES:
            self._leave("model_list[].model_info.mode", f"{mode} is not served", name)
            return
        credential = parameters.pop("litellm_credential_name", None)
        if credential is not None:
            if str(credential) in self._credentials:
                parameters = {**self._credentials[str(credential)], **parameters}
            else:
                self._leave(
                    "model_list[].litellm_params.litellm_credential_name", "names no credential", name
                )
        try:
            upstream, model, label = self._upstream(model, parameters, name, mode)
        except _CannotConvert as refusal:
            self._leave(f"model_list[].litellm_params.model {model}", str(refusal), name)
            return
        if "*" in model and "*" not in name:
            self._leave(f"model_list[].litellm_params.model {model}", "its * has nothing to stand for", name)
            return
        if model == name:
            model = ""  # the caller's own
        shares = {}
        for key in ("weight", "rpm", "tpm"):
            value = parameters.pop(key, entry.pop(key, None))
            number = _number(value)
            if number is not None:
                shares[key] = number
            elif value is not None and key == "weight":
                self._leave("model_list[].litellm_params.weight", "is no number that is at least 0", name)
            if value is not None and key != "weight":
                reason = (
                    "at most the share among the model's candidates, where none has a weight; what callers may ask of "
                    "a model is `limits.models`"
                )
                self._leave(f"model_list[].litellm_params.{key}", reason, name)
        clocks = {}
        for key, clock in (("timeout", "first_token"), ("stream_timeout", "between_tokens")):
            seconds = _number(parameters.get(key))
            if seconds is not None:
                del parameters[key]
                clocks[clock] = seconds
        for key in parameters:
            self._leave(f"model_list[].litellm_params.{key}", "", name)
        for key in entry:
            self._leave(f"model_list[].{key}", "", name)
        for key in info if isinstance(info, dict) else ():
            if key == "base_model" and str(info[key]).rpartition("/")[2] == (model or name):
                continue
            if key not in _INFORMATION and not str(key).startswith("supports_"):
                self._leave(f"model_list[].model_info.{key}", "", name)
        found = self._named(upstream, label)
        self.models.setdefault(name, []).append(_Deployment(found, model, shares, clocks))

    def _upstream(self, model: str, parameters: Plain, name: str, mode: str) -> tuple[_Upstream, str, str]:
        """The upstream, its name for the model, and what it should be called."""
        prefix, slash, rest = model.partition("/")
        given = parameters.pop("custom_llm_provider", None)
        ranks = _RERANKERS.get(prefix) if mode == "rerank" or "rerank" in rest else None
        known = (
            ranks is not None
            or prefix in _HOSTED
            or prefix in _COMPATIBLE
            or prefix in _OLLAMA
            or prefix == "azure"
            or prefix in _CLOUDS
        )
        if given is not None:
            prefix, rest = str(given), rest if slash and prefix == given else model
        elif not (slash and known):
            hosted = _provider_of(model)
            if hosted is None:
                raise _CannotConvert(_NOT_SPOKEN if slash else "its provider is unknown")
            prefix, rest = hosted.name, model
        base = _text(parameters.pop("api_base", None) or parameters.pop("base_url", None))
        key = _text(parameters.pop("api_key", None))
        headers = self._headers(parameters, name)
        running_usage = prefix == "hosted_vllm"
        credentials: tuple[tuple[str, str], ...] = ()
        api: str | None = None
        hosted = ranks or _HOSTED.get(prefix)
        if hosted is not None:
            kind: str = hosted.kind
            url = base or hosted.base_url
            if kind == "anthropic":
                url = url.rstrip("/").removesuffix("/v1/messages").removesuffix("/v1")
            label = hosted.name if url == hosted.base_url else _label(url, hosted.name)
            # LiteLLM looks the key up by itself; for an address of one's own that is a guess.
            if key is None and (base is None or prefix != "openai"):
                key = (
                    "${"
                    + next((v for v in hosted.key_variables if v in self._environ), hosted.key_variables[0])
                    + "}"
                )
            if hosted.name == "fireworks" and "/" not in rest:
                rest = f"accounts/fireworks/models/{rest}"
        elif prefix in _OLLAMA:
            kind, url, label = "openai", (base or "http://localhost:11434").rstrip("/"), "ollama"
            url = url if url.endswith("/v1") else url + "/v1"
        elif prefix in _COMPATIBLE and base is not None:
            kind, url, label = "openai", base, _label(base, prefix)
        elif prefix in _COMPATIBLE:
            raise _CannotConvert("it has no api_base")
        elif prefix == "azure":
            kind, rest = "openai", _azure.deployment(rest)
            url, key, credentials = self._azure(base, key, parameters, name)
            label = _label(url, "azure").partition(".")[0]
        elif prefix in _CLOUDS:
            found = self._at_a_cloud(prefix, rest, base, parameters)
            kind, url, rest, api = found.kind, found.base_url, found.model, found.api
            credentials = () if key is not None else found.credentials
            label = "gemini-vertex" if kind == "openai" else kind
        else:
            raise _CannotConvert(_NOT_SPOKEN)
        for parameter in ("max_retries", "num_retries"):
            if parameter in parameters and _number(parameters[parameter]) in (self.retries, 0):
                # LiteLLM's own advice is 0 here, because its router retries: ours does, too.
                del parameters[parameter]
        if not variables(url):
            try:
                check_base_url(expand(url, {})[0])
            except ValueError as error:
                raise _CannotConvert(f"its api_base is wrong: {error}") from None
        if key is not None and header_fault("authorization", key):
            raise _CannotConvert("its api_key holds characters that no header may have")
        verify = self._verify
        if parameters.get("ssl_verify") is False:
            del parameters["ssl_verify"]
            verify = False
        upstream = _Upstream(
            kind=kind,
            base_url=url.rstrip("/"),
            api_key=key,
            headers=headers,
            responses=hosted is not None and hosted.responses and url == hosted.base_url,
            running_usage=running_usage,
            verify=verify,
            credentials=credentials,
            api=api,
        )
        return upstream, rest, label

    def _at_a_cloud(self, prefix: str, model: str, base: str | None, parameters: Plain) -> _clouds.Deployment:
        """Such an upstream, its name for the model, and its credentials."""

        def take(parameter: str) -> str | None:
            return _text(parameters.pop(parameter, None))

        if prefix == "bedrock_converse":
            model = "converse/" + model.removeprefix("converse/")
        find = _clouds.bedrock if prefix in _clouds.BEDROCK else _clouds.vertex
        try:
            return find(model, base, take, self._environ)
        except ValueError as error:
            raise _CannotConvert(str(error)) from None

    def _azure(
        self, base: str | None, key: str | None, parameters: Plain, name: str
    ) -> tuple[str, str | None, tuple[tuple[str, str], ...]]:
        """Base URL of a resource of Azure, and key or credentials; LiteLLM has variables for the first two."""
        try:
            url = _azure.base_url(base or "${AZURE_API_BASE}")
        except ValueError:
            raise _CannotConvert(_AZURE) from None
        if variables(url):
            self._leave("model_list[].litellm_params.api_base", _NO_SLASH, name)
        if key is None and any(parameters.get(parameter) for parameter in _azure.ENTRA):
            credentials = _azure.credentials(parameters)
            parameters.pop("azure_scope", None)
            for parameter in _azure.ENTRA:
                if parameters.pop(parameter, None):
                    self._leave(f"model_list[].litellm_params.{parameter}", _ENTRA, name)
            return url, None, credentials
        return url, key or "${AZURE_API_KEY}", ()

    def _headers(self, parameters: Plain, name: str) -> tuple[tuple[str, str], ...]:
        headers: dict[str, str] = {}
        for parameter in ("extra_headers", "headers"):
            extra = parameters.pop(parameter, None)
            if isinstance(extra, dict):
                headers |= {str(k): _text(v) or "" for k, v in extra.items()}
            elif extra is not None:
                self._leave(f"model_list[].litellm_params.{parameter}", "is no section of keys", name)
        organization = _text(parameters.pop("organization", None))
        if organization is not None:
            headers["OpenAI-Organization"] = organization
        right = {}
        for header, value in headers.items():
            if fault := header_fault(header, value):
                self._leave(f"model_list[].litellm_params.extra_headers.{header}", fault, name)
            else:
                right[header] = value
        return tuple(right.items())

    def _named(self, upstream: _Upstream, label: str) -> str:
        if upstream in self.upstreams:
            return self.upstreams[upstream]
        taken, name, count = set(self.upstreams.values()), label, 1
        while name in taken:
            count += 1
            name = f"{label}-{count}"
        self.upstreams[upstream] = name
        return name

    # ---- what stands beside the deployments ----------------------------------------------------------

    def _check_clocks(self) -> None:
        for name, deployments in self.models.items():
            if any(deployment.clocks != deployments[0].clocks for deployment in deployments):
                reason = "a model's candidates have the same clocks; the longest were taken"
                self._leave("model_list[].litellm_params.timeout", reason, name)

    def _check_shares(self) -> None:
        for name, deployments in self.models.items():
            measure = _measure(deployments)
            if measure != "weight" and any("weight" in deployment.shares for deployment in deployments):
                reason = (
                    f"LiteLLM looks at the {measure or 'shares'} of the first of them, which has no weight"
                )
                self._leave("model_list[].litellm_params.weight", reason, name)

    def _take_aliases(self, aliases: Any) -> dict[str, str]:
        taken: dict[str, str] = {}
        if not isinstance(aliases, dict):
            if aliases is not None:
                self._leave("router_settings.model_group_alias", "is no section of keys")
            return taken
        for alias, target in aliases.items():
            group = target.get("model") if isinstance(target, dict) else target
            key = f"router_settings.model_group_alias.{alias}"
            if str(group) not in self.models or "*" in str(group):
                self._leave(key, f"there is no model {group} to stand for")
            elif str(alias) in self.models or "*" in str(alias):
                self._leave(key, "is the name of a model, or a pattern")
            else:
                self.models[str(alias)] = [
                    msgspec.structs.replace(deployment, model=deployment.model or str(group))
                    for deployment in self.models[str(group)]
                ]
                taken[str(alias)] = str(group)
                if isinstance(target, dict) and target.get("hidden"):
                    self._leave(f"{key}.hidden", "GET /v1/models names whatever its caller may use")
        return taken

    def _take_fallbacks(self, library: Plain, router: Plain, aliases: Mapping[str, str]) -> None:
        key = "router_settings.fallbacks" if router.get("fallbacks") else "litellm_settings.fallbacks"
        pairs = router.pop("fallbacks", None) or library.pop("fallbacks", None)
        if library.pop("fallbacks", None):
            self._leave("litellm_settings.fallbacks", "router_settings.fallbacks goes before it")
        general: list[Any] = []
        for pair in _list(pairs):
            if not isinstance(pair, dict):
                self._leave(key, "an entry is not a model with its fallbacks")
                continue
            for model, targets in pair.items():
                if model == "*" and "*" not in self.models:
                    general += _list(targets)
                elif str(model) not in self.models:
                    self._leave(f"{key}.{model}", "there is no such model among those converted")
                else:
                    for target in _list(targets):
                        self._add_fallback(str(model), target, key)
        for name, section in (("router_settings", router), ("litellm_settings", library)):
            defaults = section.pop("default_fallbacks", None)
            for target in [*_list(defaults), *general]:
                for model in (
                    name for name in self.models if name not in aliases
                ):  # an alias has its group's
                    self._add_fallback(model, target, f"{name}.default_fallbacks", everywhere=True)
            general = []

    def _add_fallback(self, model: str, target: Any, key: str, *, everywhere: bool = False) -> None:
        if not isinstance(target, str) or "*" in target:
            self._leave(f"{key}.{model}", "a fallback is the name of one model")
            return
        entry = resolve(self.models, target)
        if entry is None:
            self._leave(f"{key}.{model}", f"there is no model {target} among those converted")
        elif target in self.fallbacks.get(model, []) or (everywhere and entry == model):
            return
        elif entry == model:
            self._leave(f"{key}.{model}", f"{model} falls back on itself")
        else:
            self.fallbacks.setdefault(model, []).append(target)

    def _take_master_key(self, key: Any) -> None:
        if key is None or key == "":
            return
        text = str(key)
        if text.startswith("os.environ/"):
            variable = text.removeprefix("os.environ/")
            if not self._environ.get(variable):
                reason = f"{variable} is not set here; set it and convert again, or use `penstock key hash`"
                self._leave("general_settings.master_key", reason)
                return
            text = self._environ[variable]
        self.keys.append(("master", hash_key(text)))

    # ---- the result ----------------------------------------------------------------------------------

    def written(self, name: str) -> str:
        """The configuration as text, with comments."""
        return "\n".join(self._lines(name)) + "\n"

    def _lines(self, name: str) -> Iterable[str]:
        yield f"# Converted from {_one_line(name)} by `penstock import-litellm`."
        if self._left:
            yield "#"
            yield "# Not converted:"
            yield from (f"#   {_one_line(str(left))}" for left in self.left())
        yield ""
        if not (self.upstreams or self.log or self.retries is not None or self.timeouts or self.keys):
            yield "log: {}"  # a configuration is never empty
        if self.log:
            yield f"log: {{{', '.join(f'{key}: {value}' for key, value in self.log.items())}}}"
        if self.retries is not None:
            yield f"retry:\n  attempts: {self.retries + 1}  # the first and {self.retries} more, at one candidate"
        if self.timeouts:
            yield "timeouts:"
            yield from (f"  {clock}: {seconds:g}" for clock, seconds in self.timeouts.items())
        if self.upstreams:
            yield "upstreams:"
        for upstream, label in self.upstreams.items():
            yield from _upstream_lines(upstream, label)
        if self.models:
            yield "models:"
        for model, deployments in self.models.items():
            yield f"  {scalar(model)}:"
            if self.strategy and len(deployments) > 1:
                yield f"    strategy: {self.strategy}"
            yield "    candidates:"
            for deployment, weight in zip(deployments, self._weights(deployments), strict=True):
                yield f"      - upstream: {scalar(deployment.upstream)}"
                if deployment.model:
                    yield f"        model: {scalar(escaped(deployment.model))}"
                if weight is not None:
                    yield f"        weight: {weight:g}"
            if clocks := self._model_clocks(deployments):
                yield "    timeouts:"
                yield from (f"      {clock}: {seconds:g}" for clock, seconds in clocks.items())
            if fallbacks := self.fallbacks.get(model):
                yield f"    fallbacks: {flow_list(map(escaped, fallbacks))}"
        if self.keys:
            yield "keys:"
        for label, hashed in self.keys:
            yield f"  - name: {scalar(label)}"
            yield f"    hash: {hashed}"

    def _model_clocks(self, deployments: list[_Deployment]) -> dict[str, float]:
        """One set for all of a model's candidates: of different ones the longest."""
        own = {clock for deployment in deployments for clock in deployment.clocks}
        if not own:
            return {}
        defaults = {
            "first_token": TimeoutConfig().first_token,
            "between_tokens": TimeoutConfig().between_tokens,
        }
        defaults |= self.timeouts
        longest = {
            clock: max(d.clocks.get(clock, defaults[clock]) for d in deployments) for clock in sorted(own)
        }
        return _clocks({**{c: s for c, s in self.timeouts.items() if c != "total"}, **longest})

    def _weights(self, deployments: list[_Deployment]) -> list[float | None]:
        """As simple-shuffle does it; none where all have the same."""
        measure = _measure(deployments)
        weights: list[float | None] = [d.shares.get(measure, 0.0) for d in deployments]
        return weights if len(set(weights)) > 1 else [None] * len(deployments)


def _measure(deployments: list[_Deployment]) -> str:
    """What simple-shuffle draws by: the first of weight, rpm, tpm that the first deployment has."""
    return next((key for key in ("weight", "rpm", "tpm") if key in deployments[0].shares), "")


def _upstream_lines(upstream: _Upstream, label: str) -> Iterable[str]:
    yield f"  {scalar(label)}:"
    yield f"    kind: {upstream.kind}"
    if upstream.base_url != DEFAULT_BASE_URLS[upstream.kind]:
        yield f"    base_url: {scalar(upstream.base_url)}"
    if upstream.api_key is not None:
        plain = "" if variables(upstream.api_key) else "  # better in the environment: ${NAME}"
        yield f"    api_key: {scalar(upstream.api_key)}{plain}"
    if upstream.credentials:
        yield "    credentials:"
        yield from (f"      {key}: {scalar(value)}" for key, value in upstream.credentials)
    if upstream.headers:
        yield "    headers:"
        yield from (f"      {scalar(header)}: {scalar(value)}" for header, value in upstream.headers)
    if upstream.api is not None:
        yield f"    api: {upstream.api}"
    for switch in ("responses", "running_usage"):
        if getattr(upstream, switch):
            yield f"    {switch}: true"
    if not upstream.verify:
        yield "    verify: false"


class _CannotConvert(Exception):
    """An outcome of one deployment: listed, never shown as an error."""


def _clocks(clocks: dict[str, float]) -> dict[str, float]:
    """LiteLLM's timeout is how long it waits for bytes; ours of that kind are the first two clocks.

    Without a stream_timeout of its own a stream waits as long for each further token as for the first.
    """
    if "first_token" in clocks:
        clocks = {"between_tokens": clocks["first_token"], **clocks}
        if clocks["first_token"] > TimeoutConfig().total:
            clocks["total"] = clocks["first_token"]
    return clocks


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _number(value: Any) -> float | None:
    """A number that is at least 0, also one in quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1e15 else None


def _text(value: Any) -> str | None:
    """The text as it stands in our file: ``os.environ/NAME`` becomes ``${NAME}``."""
    if value is None or isinstance(value, dict | list) or value == "":
        return None
    text = str(value)
    variable = text.removeprefix("os.environ/")
    if variable != text and _VARIABLE.match(variable):
        return "${" + variable + "}"
    return escaped(text)


def _provider_of(model: str) -> Provider | None:
    """Who is meant by a name without prefix."""
    for provider in PROVIDERS:
        if any(match(pattern, model) is not None for pattern in provider.models):
            return provider
    return None


def _label(url: str, otherwise: str) -> str:
    """A name for the server at the URL: its host, with its port if it says one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return otherwise
    if not host or "$" in host or "{" in host:
        return otherwise
    return f"{host}-{port}" if port else host


def _one_line(text: str) -> str:
    return " ".join(text.split()) if text.isprintable() else repr(text)


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
