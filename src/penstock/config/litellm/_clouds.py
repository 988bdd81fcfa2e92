"""Deployments at Bedrock and Vertex AI as LiteLLM's configuration names them.

``bedrock/[converse/|invoke/][REGION/]MODEL`` with ``aws_…`` beside it, and ``vertex_ai/MODEL`` with ``vertex_…``:
https://docs.litellm.ai/docs/providers/bedrock, https://docs.litellm.ai/docs/providers/vertex.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

BEDROCK = frozenset({"bedrock", "bedrock_converse"})
VERTEX = frozenset({"vertex_ai", "vertex_ai_beta"})

_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-\d+")
_NO_CHAT = re.compile(r"embed|rerank|image|nova-(?:canvas|reel|sonic)|stability\.|twelvelabs\.|luma\.")
_Take = Callable[[str], str | None]  # a parameter's text, which is done with then


class Deployment(msgspec.Struct, frozen=True):
    """``credentials``: the keys of that section; ``api``: of the upstream; None: as its model's id says."""

    kind: str
    base_url: str
    model: str
    credentials: tuple[tuple[str, str], ...]
    api: str | None = None


def bedrock(model: str, base: str | None, take: _Take, environ: Mapping[str, str]) -> Deployment:
    """A model at Bedrock that answers chats.

    :raises ValueError: it does something else, or LiteLLM reaches it in a way of its own
    """
    route, _, behind = model.partition("/")
    if route in {"converse", "invoke"}:
        model = behind
    first, _, rest = model.partition("/")
    region = take("aws_region_name")
    if rest and _REGION.fullmatch(first):
        region, model = region or first, rest
    is_arn = model.startswith("arn:")
    if "/" in model and not is_arn:
        raise ValueError(f"its route {first}/ is LiteLLM's own; see docs/providers.md")
    if _NO_CHAT.search(model):
        raise ValueError("of Bedrock's models only those that chat are spoken; see docs/providers.md")
    # What an ARN or a name of one's own does not tell, LiteLLM's user has told by the route.
    tells = "anthropic." in model or (not is_arn and "." in model)
    api = "converse" if route == "converse" and not tells else None
    if region is None:
        names = ("AWS_REGION", "AWS_REGION_NAME", "AWS_DEFAULT_REGION")
        region = "${" + next((name for name in names if name in environ), names[0]) + "}"
    named = {
        "profile": take("aws_profile_name"),
        "access_key": take("aws_access_key_id"),
        "secret_key": take("aws_secret_access_key"),
    }
    if (named["access_key"] is None) != (named["secret_key"] is None):
        raise ValueError("of aws_access_key_id and aws_secret_access_key it has one alone")
    url = base or take("aws_bedrock_runtime_endpoint") or f"https://bedrock-runtime.{region}.amazonaws.com"
    if "amazonaws.com" not in url:
        named["region"] = region
    return Deployment("bedrock", url, model, _section("aws", named), api)


def vertex(model: str, base: str | None, take: _Take, environ: Mapping[str, str]) -> Deployment:
    """A model at Vertex AI: Anthropic's in their own form, Google's in OpenAI's.

    :raises ValueError: it is another one's
    """
    project = take("vertex_project") or _first(environ, "VERTEXAI_PROJECT", "GOOGLE_CLOUD_PROJECT")
    location = take("vertex_location") or _first(environ, "VERTEXAI_LOCATION", "GOOGLE_CLOUD_LOCATION")
    server = "aiplatform" if location == "global" else f"{location}-aiplatform"
    place = base or f"https://{server}.googleapis.com/v1/projects/{project}/locations/{location}"
    credentials = _section("google", {"file": _path(take("vertex_credentials"))})
    if model.startswith("claude"):
        return Deployment("vertex", place, model, credentials)
    if not model.startswith("gemini"):
        raise ValueError(
            "of Vertex AI's models only Anthropic's and Gemini are spoken; see docs/providers.md"
        )
    return Deployment("openai", place.rstrip("/") + "/endpoints/openapi", "google/" + model, credentials)


def _section(source: str, named: Mapping[str, str | None]) -> tuple[tuple[str, str], ...]:
    return (("source", source), *((key, value) for key, value in named.items() if value))


def _path(given: str | None) -> str | None:
    """LiteLLM takes a path here, or the file's own text, which is a secret and stays where it is."""
    if given is not None and given.lstrip().startswith("{"):
        raise ValueError("its vertex_credentials are a key in full: put them into a file, and name that")
    return given


def _first(environ: Mapping[str, str], *names: str) -> str:
    return "${" + next((name for name in names if name in environ), names[0]) + "}"
