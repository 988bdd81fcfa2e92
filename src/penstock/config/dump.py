"""A configuration as plain values, for people and the control port: without a single secret."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.config.model import Config
from penstock.config.secret import Secret

REDACTED = "…"


def dump(config: Config) -> dict[str, Any]:
    """Plain dicts and lists, in the order of the model; secrets and header values are redacted.

    Header values go too, and what stands in ``extra_body``: there providers with their own ways take their keys.
    """
    plain: dict[str, Any] = msgspec.to_builtins(config, enc_hook=_redact)
    for upstream in plain["upstreams"].values():
        upstream["headers"] = dict.fromkeys(upstream["headers"], REDACTED)
    for model in plain["models"].values():
        for candidate in model["candidates"]:
            candidate["extra_body"] = dict.fromkeys(candidate["extra_body"], REDACTED)
    return plain


def dump_yaml(config: Config) -> str:
    """What :func:`dump` gives, as YAML."""
    import yaml  # noqa: PLC0415 - only who prints it needs it

    text: str = yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True)
    return text


def _redact(value: object) -> object:
    if isinstance(value, Secret):
        return REDACTED
    raise TypeError(f"{type(value).__name__} has no plain form")
