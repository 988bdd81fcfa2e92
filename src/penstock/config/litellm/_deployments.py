"""From the deployments of a model list to upstreams and candidates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Any
from urllib.parse import urlsplit

import msgspec

from penstock.config._upstream_meaning import header_fault
from penstock.config.address import check_base_url
from penstock.config.litellm import _azure, _clouds
from penstock.config.litellm._draft import Deployment, Draft, Upstream
from penstock.config.litellm._dropped import take_dropped
from penstock.config.litellm._groups import SHARES
from penstock.config.litellm._limits import ASKED
from penstock.config.litellm._parameters import take_parameters
from penstock.config.litellm._prices import take_prices
from penstock.config.litellm._values import Plain, number, text
from penstock.config.patterns import CONTROL, match
from penstock.config.providers import PROVIDERS, Provider
from penstock.config.references import expand, variables

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

_TEXT = frozenset({"chat", "completion", "responses"})
# What models are for whose names say so; LiteLLM has a table of all that it knows.
_PURPOSES = {
    "image_generation": re.compile(r"dall-e|gpt-image|imagen|stable-diffusion|flux"),
    "audio_transcription": re.compile(r"whisper|transcribe"),
    "audio_speech": re.compile(r"\btts\b"),
    "embedding": re.compile(r"embed"),
    "moderation": re.compile(r"moderation"),
    "rerank": re.compile(r"rerank"),
}

_CLOUDS = _clouds.BEDROCK | _clouds.VERTEX
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

# Said about a model, with no effect on how it is called.
_INFORMATION = frozenset({"id", "description", "mode", "max_tokens", "max_input_tokens", "max_output_tokens"})


class _Place(msgspec.Struct, frozen=True):
    """Where a deployment is called.

    :param model: its name there
    :param label: what the upstream should be called
    """

    kind: str
    url: str
    model: str
    label: str
    key: str | None
    credentials: tuple[tuple[str, str], ...] = ()
    api: str | None = None


class Deployments:
    """Takes one deployment after the other.

    :param credentials: what ``credential_list`` has, by name
    :param verify: whether certificates are looked at, unless a deployment says otherwise
    :param measured: whether LiteLLM looks how long prompts are before it sends them
    :param drops: whether it drops parameters that a model has not, unless a deployment says otherwise
    """

    def __init__(
        self,
        draft: Draft,
        environ: Mapping[str, str],
        credentials: Mapping[str, Plain],
        *,
        verify: bool,
        measured: bool,
        drops: bool,
    ) -> None:
        self._draft = draft
        self._environ = environ
        self._credentials = credentials
        self._verify = verify
        self._measured = measured
        self._drops = drops

    def _window(self, info: Any) -> int | None:
        """How many tokens a prompt may have, where that is looked at."""
        tokens = number(info.get("max_input_tokens")) if isinstance(info, dict) and self._measured else None
        return int(tokens) if tokens is not None and tokens >= 1 else None

    def take(self, entry: Any) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
            self._draft.leave("model_list", "an entry has no litellm_params")
            return
        parameters: Plain = {str(k): v for k, v in entry.pop("litellm_params").items()}
        model = parameters.pop("model", None)
        if not isinstance(model, str) or not model:
            self._draft.leave("model_list", "an entry has no litellm_params.model")
            return
        name = str(entry.pop("model_name", "") or model)
        info = entry.pop("model_info", None) or {}
        if name.count("*") > 1:
            self._draft.leave("model_list[].model_name", "a pattern holds one * at most", name)
            return
        if CONTROL.search(name):
            self._draft.leave("model_list[].model_name", "a name holds no control characters", ascii(name))
            return
        mode = info.get("mode", "chat") if isinstance(info, dict) else "chat"
        if not isinstance(mode, str) or mode not in _SERVED_MODES:
            self._draft.leave("model_list[].model_info.mode", f"{mode} is not served", name)
            return
        parameters = self._with_credential(parameters, name)
        try:
            upstream, there, label, provider = self._upstream(model, parameters, name, mode)
        except _CannotConvert as refusal:
            self._draft.leave(f"model_list[].litellm_params.model {model}", str(refusal), name)
            return
        if "*" in there and "*" not in name:
            self._draft.leave(
                f"model_list[].litellm_params.model {there}", "its * has nothing to stand for", name
            )
            return
        if there == name:
            there = ""  # the caller's own
        shares, asked = self._amounts(parameters, entry, name)
        clocks = _clocks(parameters)
        order = self._order(parameters, entry, name)
        said, extras = take_parameters(self._draft, parameters, upstream.kind, name)
        found = self._draft.named(upstream, label)
        take_prices(self._draft, parameters, info, (found, there or name), name)
        self._leave_the_rest(parameters, entry, info, name, there)
        self._draft.modes.setdefault(name, _purpose(mode, model))
        self._draft.models.setdefault(name, []).append(
            Deployment(
                name,
                found,
                there,
                provider,
                shares,
                clocks,
                asked,
                self._window(info),
                order,
                said,
                extras,
            )
        )

    def _order(self, parameters: Plain, entry: Plain, name: str) -> float:
        """When it is asked: those of the least order first, the others if these fail, those without one last."""
        value = parameters.pop("order", entry.pop("order", None))
        order = number(value)
        if value is not None and order is None:
            self._draft.leave("model_list[].litellm_params.order", "is no number that is at least 0", name)
        return inf if order is None else order

    def _with_credential(self, parameters: Plain, name: str) -> Plain:
        """The parameters, and behind them those of the credential that they name."""
        credential = parameters.pop("litellm_credential_name", None)
        if credential is None:
            return parameters
        if str(credential) in self._credentials:
            return {**self._credentials[str(credential)], **parameters}
        self._draft.leave("model_list[].litellm_params.litellm_credential_name", "names no credential", name)
        return parameters

    def _amounts(self, parameters: Plain, entry: Plain, name: str) -> tuple[dict[str, float], Plain]:
        """What says how much of the calls the deployment gets, and what is asked for as a limit."""
        shares, asked = {}, {}
        for key in ("weight", *ASKED):
            value = parameters.pop(key, entry.pop(key, None))
            share = number(value)
            if key in ASKED and value is not None:
                asked[key] = value
            if key in SHARES and share is not None:
                shares[key] = share
            elif value is not None and key == "weight":
                self._draft.leave(
                    "model_list[].litellm_params.weight", "is no number that is at least 0", name
                )
        return shares, asked

    def _leave_the_rest(self, parameters: Plain, entry: Plain, info: Any, name: str, there: str) -> None:
        for key in parameters:
            self._draft.leave(f"model_list[].litellm_params.{key}", "", name)
        for key in entry:
            self._draft.leave(f"model_list[].{key}", "", name)
        for key in info if isinstance(info, dict) else ():
            if key == "base_model" and str(info[key]).rpartition("/")[2] == (there or name):
                continue
            if key not in _INFORMATION and not str(key).startswith("supports_"):
                self._draft.leave(f"model_list[].model_info.{key}", "", name)

    def _upstream(
        self, model: str, parameters: Plain, name: str, mode: str
    ) -> tuple[Upstream, str, str, str]:
        """The upstream, its name for the model, what it should be called, and LiteLLM's name of the provider."""
        prefix, there, ranks = _provider(model, parameters.pop("custom_llm_provider", None), mode)
        base = text(parameters.pop("api_base", None) or parameters.pop("base_url", None))
        key = text(parameters.pop("api_key", None))
        headers = self._headers(parameters, name)
        hosted = ranks or _HOSTED.get(prefix)
        if hosted is not None:
            place = self._hosted(hosted, there, base, key, of_openai=prefix == "openai")
        elif prefix in _COMPATIBLE or prefix in _OLLAMA:
            place = _own_server(prefix, there, base, key)
        elif prefix == "azure":
            place = self._azure(there, base, key, parameters, name)
        elif prefix in _CLOUDS:
            place = self._at_a_cloud(prefix, there, base, key, parameters)
        else:
            raise _CannotConvert(_NOT_SPOKEN)
        self._drop_retries(parameters)
        _check(place)
        verify = self._verify
        if parameters.get("ssl_verify") is False:
            del parameters["ssl_verify"]
            verify = False
        upstream = Upstream(
            kind=place.kind,
            base_url=place.url.rstrip("/"),
            api_key=place.key,
            headers=headers,
            responses=hosted is not None and hosted.responses and place.url == hosted.base_url,
            running_usage=prefix == "hosted_vllm",
            verify=verify,
            credentials=place.credentials,
            api=place.api,
            leave_out=take_dropped(self._draft, parameters, place.kind, name, drops=self._drops),
        )
        return upstream, place.model, place.label, "bedrock" if prefix in _clouds.BEDROCK else prefix

    def _drop_retries(self, parameters: Plain) -> None:
        """LiteLLM's own advice is 0 of them at a deployment, because its router retries: ours does, too."""
        for parameter in ("max_retries", "num_retries"):
            if parameter in parameters and number(parameters[parameter]) in (self._draft.retries, 0):
                del parameters[parameter]

    def _hosted(
        self, hosted: Provider, model: str, base: str | None, key: str | None, *, of_openai: bool
    ) -> _Place:
        """At a provider that we know, or at an address that speaks as it does."""
        url = base or hosted.base_url
        if hosted.kind == "anthropic":
            url = url.rstrip("/").removesuffix("/v1/messages").removesuffix("/v1")
        # LiteLLM looks the key up by itself; for an address of one's own that is a guess.
        if key is None and (base is None or not of_openai):
            names = hosted.key_variables
            key = "${" + next((name for name in names if name in self._environ), names[0]) + "}"
        if hosted.name == "fireworks" and "/" not in model:
            model = f"accounts/fireworks/models/{model}"
        label = hosted.name if url == hosted.base_url else _label(url, hosted.name)
        return _Place(hosted.kind, url, model, label, key)

    def _at_a_cloud(
        self, prefix: str, model: str, base: str | None, key: str | None, parameters: Plain
    ) -> _Place:

        def take(parameter: str) -> str | None:
            return text(parameters.pop(parameter, None))

        if prefix == "bedrock_converse":
            model = "converse/" + model.removeprefix("converse/")
        find = _clouds.bedrock if prefix in _clouds.BEDROCK else _clouds.vertex
        try:
            found = find(model, base, take, self._environ)
        except ValueError as error:
            raise _CannotConvert(str(error)) from None
        label = "gemini-vertex" if found.kind == "openai" else found.kind
        credentials = () if key is not None else found.credentials
        return _Place(found.kind, found.base_url, found.model, label, key, credentials, found.api)

    def _azure(self, model: str, base: str | None, key: str | None, parameters: Plain, name: str) -> _Place:
        """At a resource of Azure; LiteLLM has variables for its URL and key."""
        try:
            url = _azure.base_url(base or "${AZURE_API_BASE}")
        except ValueError:
            raise _CannotConvert(_AZURE) from None
        if variables(url):
            self._draft.leave("model_list[].litellm_params.api_base", _NO_SLASH, name)
        label = _label(url, "azure").partition(".")[0]
        place = _Place("openai", url, _azure.deployment(model), label, key or "${AZURE_API_KEY}")
        if key is None and any(parameters.get(parameter) for parameter in _azure.ENTRA):
            credentials = _azure.credentials(parameters)
            parameters.pop("azure_scope", None)
            for parameter in _azure.ENTRA:
                if parameters.pop(parameter, None):
                    self._draft.leave(f"model_list[].litellm_params.{parameter}", _ENTRA, name)
            return msgspec.structs.replace(place, key=None, credentials=credentials)
        return place

    def _headers(self, parameters: Plain, name: str) -> tuple[tuple[str, str], ...]:
        headers: dict[str, str] = {}
        for parameter in ("extra_headers", "headers"):
            extra = parameters.pop(parameter, None)
            if isinstance(extra, dict):
                headers |= {str(k): text(v) or "" for k, v in extra.items()}
            elif extra is not None:
                self._draft.leave(f"model_list[].litellm_params.{parameter}", "is no section of keys", name)
        organization = text(parameters.pop("organization", None))
        if organization is not None:
            headers["OpenAI-Organization"] = organization
        right = {}
        for header, value in headers.items():
            if fault := header_fault(header, value):
                self._draft.leave(f"model_list[].litellm_params.extra_headers.{header}", fault, name)
            else:
                right[header] = value
        return tuple(right.items())


class _CannotConvert(Exception):
    """An outcome of one deployment: listed, never shown as an error."""


def _provider(model: str, given: Any, mode: str) -> tuple[str, str, Provider | None]:
    """LiteLLM's name of the provider, the model's name there, and whom its ranks are asked of, if it makes such.

    :param given: its ``custom_llm_provider``
    """
    prefix, slash, rest = model.partition("/")
    ranks = _RERANKERS.get(prefix) if mode == "rerank" or "rerank" in rest else None
    if given is not None:
        return str(given), rest if slash and prefix == given else model, ranks
    named = prefix in _HOSTED or prefix in _COMPATIBLE or prefix in _OLLAMA
    if slash and (ranks is not None or named or prefix == "azure" or prefix in _CLOUDS):
        return prefix, rest, ranks
    hosted = _provider_of(model)
    if hosted is None:
        raise _CannotConvert(_NOT_SPOKEN if slash else "its provider is unknown")
    return hosted.name, model, ranks


def _own_server(prefix: str, model: str, base: str | None, key: str | None) -> _Place:
    """At a server that speaks OpenAI's API."""
    if prefix in _OLLAMA:
        url = (base or "http://localhost:11434").rstrip("/")
        return _Place("openai", url if url.endswith("/v1") else url + "/v1", model, "ollama", key)
    if base is None:
        raise _CannotConvert("it has no api_base")
    return _Place("openai", base, model, _label(base, prefix), key)


def _check(place: _Place) -> None:
    """Whether the gateway could call it."""
    if not variables(place.url):
        try:
            check_base_url(expand(place.url, {})[0])
        except ValueError as error:
            raise _CannotConvert(f"its api_base is wrong: {error}") from None
    if place.key is not None and header_fault("authorization", place.key):
        raise _CannotConvert("its api_key holds characters that no header may have")


def _clocks(parameters: Plain) -> dict[str, float]:
    """The time limits among them, taken out."""
    clocks = {}
    for key, clock in (("timeout", "first_token"), ("stream_timeout", "between_tokens")):
        seconds = number(parameters.get(key))
        if seconds is not None:
            del parameters[key]
            clocks[clock] = seconds
    return clocks


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


def _purpose(mode: str, model: str) -> str:
    """For what a model is; all that writes text is alike."""
    if mode != "chat":
        return "chat" if mode in _TEXT else mode
    named = (purpose for purpose, names in _PURPOSES.items() if names.search(model.lower()))
    return next(named, "chat")
