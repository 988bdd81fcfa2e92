"""A configuration as plain values, for people and the control port: without a single secret."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from penstock.config.model import Config
from penstock.config.secret import Secret

REDACTED = "…"


def dump(config: Config) -> dict[str, Any]:
    """Plain dicts and lists, in the order of the model; secrets and header values are redacted.

    Header values go too, what stands in ``extra_body``, where providers with their own ways take their keys, and of a
    webhook's URL all but its host.
    """
    plain: dict[str, Any] = msgspec.to_builtins(config, enc_hook=_redact)
    for upstream in plain["upstreams"].values():
        upstream["headers"] = dict.fromkeys(upstream["headers"], REDACTED)
    for model in plain["models"].values():
        for candidate in model["candidates"]:
            candidate["extra_body"] = dict.fromkeys(candidate["extra_body"], REDACTED)
    for endpoint in plain["webhooks"]["endpoints"]:
        endpoint["url"] = _whom(endpoint["url"])
    return plain


def dump_yaml(config: Config) -> str:
    """What :func:`dump` gives, as YAML."""
    import yaml  # noqa: PLC0415 - only who prints it needs it

    text: str = yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True)
    return text


def _whom(url: str) -> str:
    """Whose address it is: who knows all of it may often post there, as with chats' incoming webhooks."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}/{REDACTED}"


def _redact(value: object) -> object:
    if isinstance(value, Secret):
        return REDACTED
    raise TypeError(f"{type(value).__name__} has no plain form")
