"""From the deployments of a model list to upstreams and candidates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from penstock.config._meaning import header_fault
from penstock.config.address import check_base_url
from penstock.config.litellm import _azure, _clouds
from penstock.config.litellm._draft import Deployment, Draft, Upstream
from penstock.config.litellm._groups import SHARES
from penstock.config.litellm._limits import ASKED
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


class Deployments:
    """Takes one deployment after the other.

    :param credentials: what ``credential_list`` has, by name
    :param verify: whether certificates are looked at, unless a deployment says otherwise
    """

    def __init__(
        self, draft: Draft, environ: Mapping[str, str], credentials: Mapping[str, Plain], *, verify: bool
    ) -> None:
        self._draft = draft
        self._environ = environ
        self._credentials = credentials
        self._verify = verify

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
        asked_model = model
        if mode not in _SERVED_MODES:
            self._draft.leave("model_list[].model_info.mode", f"{mode} is not served", name)
            return
        credential = parameters.pop("litellm_credential_name", None)
        if credential is not None:
            if str(credential) in self._credentials:
                parameters = {**self._credentials[str(credential)], **parameters}
            else:
                self._draft.leave(
                    "model_list[].litellm_params.litellm_credential_name", "names no credential", name
                )
        try:
            upstream, model, label, provider = self._upstream(model, parameters, name, mode)
        except _CannotConvert as refusal:
            self._draft.leave(f"model_list[].litellm_params.model {model}", str(refusal), name)
            return
        if "*" in model and "*" not in name:
            self._draft.leave(
                f"model_list[].litellm_params.model {model}", "its * has nothing to stand for", name
            )
            return
        if model == name:
            model = ""  # the caller's own
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
        clocks = {}
        for key, clock in (("timeout", "first_token"), ("stream_timeout", "between_tokens")):
            seconds = number(parameters.get(key))
            if seconds is not None:
                del parameters[key]
                clocks[clock] = seconds
        for key in parameters:
            self._draft.leave(f"model_list[].litellm_params.{key}", "", name)
        for key in entry:
            self._draft.leave(f"model_list[].{key}", "", name)
        for key in info if isinstance(info, dict) else ():
            if key == "base_model" and str(info[key]).rpartition("/")[2] == (model or name):
                continue
            if key not in _INFORMATION and not str(key).startswith("supports_"):
                self._draft.leave(f"model_list[].model_info.{key}", "", name)
        self._draft.modes.setdefault(name, _purpose(mode, asked_model))
        found = self._draft.named(upstream, label)
        self._draft.models.setdefault(name, []).append(
            Deployment(name, found, model, provider, shares, clocks, asked)
        )

    def _upstream(
        self, model: str, parameters: Plain, name: str, mode: str
    ) -> tuple[Upstream, str, str, str]:
        """The upstream, its name for the model, what it should be called, and LiteLLM's name of the provider."""
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
        base = text(parameters.pop("api_base", None) or parameters.pop("base_url", None))
        key = text(parameters.pop("api_key", None))
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
            if parameter in parameters and number(parameters[parameter]) in (self._draft.retries, 0):
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
        upstream = Upstream(
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
        return upstream, rest, label, "bedrock" if prefix in _clouds.BEDROCK else prefix

    def _at_a_cloud(self, prefix: str, model: str, base: str | None, parameters: Plain) -> _clouds.Deployment:
        """Such an upstream, its name for the model, and its credentials."""

        def take(parameter: str) -> str | None:
            return text(parameters.pop(parameter, None))

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
            self._draft.leave("model_list[].litellm_params.api_base", _NO_SLASH, name)
        if key is None and any(parameters.get(parameter) for parameter in _azure.ENTRA):
            credentials = _azure.credentials(parameters)
            parameters.pop("azure_scope", None)
            for parameter in _azure.ENTRA:
                if parameters.pop(parameter, None):
                    self._draft.leave(f"model_list[].litellm_params.{parameter}", _ENTRA, name)
            return url, None, credentials
        return url, key or "${AZURE_API_KEY}", ()

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
