"""What has been converted so far, and what has been left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

import msgspec

from penstock.config.litellm._reasons import REASONS
from penstock.config.references import variables

SEAL_KEY = "PENSTOCK_SEAL_KEY"  # the variable for `cache.seal_key`, which LiteLLM has not
_NO_COUNTERPART = "has no counterpart in Penstock"


class Left(msgspec.Struct, frozen=True):
    """Something that was not converted; ``models`` are those that it was said of, if any."""

    key: str
    reason: str
    models: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" ({', '.join(self.models)})" if self.models else ""
        return f"{self.key}{of}: {self.reason}"


class Upstream(msgspec.Struct, frozen=True):
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
    leave_out: tuple[str, ...] = ()


class Deployment(msgspec.Struct, frozen=True):
    """``name``: of its model; ``provider``: as LiteLLM calls it; ``asked``: its limits, as they stand in the file;
    ``window``: of its prompts, in tokens, where LiteLLM goes by that; ``order``: those of a lesser one are asked first;
    ``parameters``: what its calls have; ``extras``: what it is asked with besides.
    """

    name: str
    upstream: str
    model: str
    provider: str
    shares: Mapping[str, float]
    clocks: Mapping[str, float]
    asked: Mapping[str, Any]
    window: int | None = None
    order: float = inf
    parameters: Mapping[str, Any] = {}
    extras: Mapping[str, Any] = {}


class Traces(msgspec.Struct, frozen=True):
    """Where spans go.  Texts are as they stand in the file."""

    endpoint: str
    headers: Mapping[str, str]
    service_name: str | None
    sample: float | None


def _texts(value: Any) -> Iterable[str]:
    """All texts in what JSON can say."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


class Draft:
    """What the parts of a conversion add to, each its own."""

    def __init__(self) -> None:
        self.upstreams: dict[Upstream, str] = {}
        self.models: dict[str, list[Deployment]] = {}
        self.fallbacks: dict[str, list[str]] = {}
        self.context_length_fallbacks: dict[str, list[str]] = {}
        self.content_filter_fallbacks: dict[str, list[str]] = {}
        self.modes: dict[str, str] = {}  # of models: for what they are made, where that is said
        self.keys: list[tuple[str, str]] = []
        self.concurrency: dict[str, int] = {}  # of upstreams, by name
        self.limits: dict[str, dict[str, dict[str, float]]] = {"models": {}, "upstreams": {}}
        self.retries: int | None = None
        self.timeouts: dict[str, float] = {}
        self.log: dict[str, str] = {}
        self.strategy = ""  # of every model
        self.traces: Traces | None = None
        self.breaker: dict[str, float] = {}  # of every upstream
        self.ledger: dict[str, Any] = {}  # where what calls cost is written, and for how long
        self.redis: dict[str, str] = {}  # by section: what machines share, as it stands in the file
        self.kept: dict[str, Any] = {}  # the `cache` of models
        self.kept_modes: frozenset[str] = frozenset()  # for what the models are that have it
        # Where the price table will be, as our file says it; empty: nowhere, and prices are left.
        self.prices_path = ""
        self.prices: dict[tuple[str, str], dict[str, Any]] = {}  # by upstream and its model
        self._left: dict[tuple[str, str], list[str]] = {}

    def __repr__(self) -> str:
        return f"<Draft {len(self.models)} models, {len(self._left)} left>"

    def left(self) -> tuple[Left, ...]:
        """What is not converted, in the order in which that was found."""
        return tuple(
            Left(key, reason, tuple(dict.fromkeys(models))) for (key, reason), models in self._left.items()
        )

    def variables(self) -> tuple[str, ...]:
        """The environment variables that upstreams and traces refer to, sorted."""
        texts = [
            text
            for u in self.upstreams
            for text in (
                u.base_url,
                u.api_key or "",
                *dict(u.headers).values(),
                *dict(u.credentials).values(),
            )
        ]
        texts += self.redis.values()
        texts += [
            text
            for deployments in self.models.values()
            for deployment in deployments
            for text in _texts([deployment.extras, deployment.parameters])
        ]
        if "cache" in self.redis:
            texts.append("${" + SEAL_KEY + "}")
        if self.traces is not None:
            texts += [self.traces.endpoint, self.traces.service_name or ""]
        return tuple(sorted(set().union(*map(variables, texts))))

    def kept_for(self, model: str) -> dict[str, Any]:
        """The ``cache`` of a model; empty: it has none."""
        return self.kept if self.modes.get(model) in self.kept_modes else {}

    def leave(self, key: str, reason: str = "", model: str | None = None) -> None:
        """List what is not converted; without a reason, with the one that its name has."""
        reason = reason or REASONS.get(key.rpartition(".")[2], _NO_COUNTERPART)
        models = self._left.setdefault((key, reason), [])
        if model is not None:
            models.append(model)

    def named(self, upstream: Upstream, label: str) -> str:
        """The name of an upstream, which deployments that agree share."""
        if upstream in self.upstreams:
            return self.upstreams[upstream]
        taken, name, count = set(self.upstreams.values()), label, 1
        while name in taken:
            count += 1
            name = f"{label}-{count}"
        self.upstreams[upstream] = name
        return name
