"""Which extras of the package a configuration wants, and which of them are not installed here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from penstock.config.model import Config

_MODULE = {  # that an extra brings, and that nothing works without
    "aws": "botocore",
    "brotli": "brotli",
    "entra": "azure.identity",
    "google": "google.auth",
    "http2": "hpack",
    "otel": "opentelemetry.sdk",
    "redis": "hiredis",
    "s3": "obstore",
    "semantic": "tokenizers",
    "triton": "tritonclient",
}


def missing_extras(config: Config) -> list[tuple[str, str]]:
    """Key and extra of what cannot be started here; of a key that comes often, the first."""
    first = {extra: key for key, extra in reversed(list(_wanted(config)))}
    return sorted((key, extra) for extra, key in first.items() if not installed(extra))


def _wanted(config: Config) -> Iterator[tuple[str, str]]:
    for key, section in (
        ("limits", config.limits),
        ("generations", config.generations),
        ("uploads", config.uploads),
        ("cache", config.cache),
    ):
        if section.redis is not None:
            yield f"{key}.redis", "redis"
    if config.uploads.s3 is not None:
        yield "uploads.s3", "s3"
    if config.traces.endpoint:
        yield "traces.endpoint", "otel"
    if "br" in config.codings.answers:
        yield "codings.answers", "brotli"
    for name, upstream in config.upstreams.items():
        if upstream.http2:
            yield f"upstreams.{name}.http2", "http2"
        if upstream.kind == "triton":
            yield f"upstreams.{name}", "triton"
        if upstream.credentials is not None and upstream.credentials.source in _MODULE:
            yield f"upstreams.{name}.credentials", upstream.credentials.source
    for name, model in config.models.items():
        if model.cache is not None and model.cache.semantic is not None:
            yield f"models.{name}.cache.semantic", "semantic"


def installed(extra: str) -> bool:
    """Whether what this extra brings is there."""
    try:
        return importlib.util.find_spec(_MODULE[extra]) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False
