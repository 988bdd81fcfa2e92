"""Deployments of Azure OpenAI as LiteLLM's configuration names them, at their resource's v1 endpoint.

LiteLLM asks ``RESOURCE/openai/deployments/NAME/...?api-version=...``.  The v1 endpoint of the same resource,
``RESOURCE/openai/v1``, is what OpenAI's SDK takes for a base URL: the deployment's name is the model's, the key
goes as it goes to OpenAI, and there is no version to choose.
https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from penstock.config.litellm._values import text
from penstock.config.references import variables

# Parameters of Entra ID, whose tokens last an hour and have to be fetched.
ENTRA = ("azure_ad_token", "azure_ad_token_provider", "client_id", "client_secret", "tenant_id")

_HOSTS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
# What LiteLLM's users put before a deployment's name to say what kind of model it is.
_KINDS = ("gpt5_series/", "o_series/", "responses/")


def base_url(api_base: str) -> str:
    """The v1 endpoint of a resource, whose address may be a reference to a variable.

    :raises ValueError: it is no resource's address, but a gateway's before it, say
    """
    if variables(api_base):
        return api_base.rstrip("/").removesuffix("/openai/v1") + "/openai/v1"
    parts = urlsplit(api_base)
    if parts.scheme != "https" or not (parts.hostname or "").endswith(_HOSTS):
        raise ValueError("no resource of Azure has this address")
    return f"https://{parts.netloc}/openai/v1"


def credentials(parameters: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The keys of the section that has the tokens of Entra ID fetched for a deployment."""
    scope = text(parameters.get("azure_scope"))
    return (("source", "entra"), *((("scope", scope),) if scope else ()))


def deployment(model: str) -> str:
    """A deployment's name."""
    for kind in _KINDS:
        model = model.removeprefix(kind)
    return model
