"""Which upstreams can answer this model, and in which order are they tried?

A model's name, or the most specific pattern that fits it, leads to candidates.  One is drawn by weight, so
that a canary gets its share; the others follow by falling weight, then the candidates of the model's
fallbacks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from penstock.config.model import Config, ContinuationConfig, ModelCacheConfig, ModelConfig, TimeoutConfig
from penstock.config.patterns import match
from penstock.errors import UnknownModel
from penstock.messages import Call
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.prompt_cache import PromptCare

MAX_REMEMBERED = 1_024  # names that fit a pattern and have one candidate; callers invent names


class Candidate(msgspec.Struct, frozen=True, eq=False):
    """One way to answer; ``model`` is the upstream's name for it, ``route`` the entry in the configuration."""

    upstream: HTTPUpstream
    model: str
    route: str
    version: str
    weight: float
    timeouts: TimeoutConfig
    sole: bool = False  # there is no other for this name
    continuation: ContinuationConfig = ContinuationConfig()
    care: PromptCare | None = None  # for the upstream's prompt cache


class Router:
    """The routes of one configuration."""

    def __init__(
        self,
        config: Config,
        upstreams: Mapping[str, HTTPUpstream],
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._upstreams = upstreams
        self._rand = rand
        self._exact = {name: model for name, model in config.models.items() if "*" not in name}
        # The longest pattern is the most specific one: "gpt-4*" before "gpt-*" before "*".
        self._patterns = sorted((name for name in config.models if "*" in name), key=len, reverse=True)
        self._care = {
            name: PromptCare(model.prompt_cache)
            for name, model in config.models.items()
            if model.prompt_cache is not None
        }
        self._single: dict[str, tuple[Candidate, ...]] = {}
        self._versions: dict[str, str] = {}
        for name in self._exact:
            routes = self._candidates(name, set())
            if len(routes) == 1:
                self._single[name] = _sole(routes[0])

    def __repr__(self) -> str:
        return f"<Router of {len(self._config.models)} models, {len(self._upstreams)} upstreams>"

    def names(self) -> list[str]:
        """The models that can be listed: names, not patterns."""
        return list(self._exact)

    def route(self, call: Call) -> Sequence[Candidate]:
        """The candidates for a call, in the order in which they are to be tried.

        :raises UnknownModel: nothing here answers this name
        """
        found = self._single.get(call.model)
        if found is not None:
            return found
        candidates = self._candidates(call.model, set())
        if not candidates:
            raise UnknownModel(f"the model {call.model!r} is not known here", param="model")
        if len(candidates) > 1:
            return candidates
        found = _sole(candidates[0])
        if len(self._single) < MAX_REMEMBERED:
            self._single[call.model] = found
        return found

    def knows(self, model: str) -> bool:
        return self._entry(model) is not None

    def grace(self, model: str) -> float | None:
        """How long a call of this model waits for readers to come back, in seconds, if that is configured."""
        entry = self._entry(model)
        return None if entry is None else entry[1].grace

    def joining(self, model: str) -> Literal["auto", "always", "never"]:
        """Which of this model's calls share an answer with identical ones in flight."""
        entry = self._entry(model)
        return "never" if entry is None else entry[1].join

    def caching(self, model: str) -> ModelCacheConfig | None:
        """Which of this model's answers are kept; None: none is."""
        entry = self._entry(model)
        return None if entry is None else entry[1].cache

    @property
    def caches(self) -> bool:
        """Whether any answer is kept."""
        return any(model.cache is not None for model in self._config.models.values())

    @property
    def prefetches(self) -> bool:
        """Whether any answer may be fetched before it is asked for."""
        return any(
            model.cache is not None and model.cache.prefetch is not None
            for model in self._config.models.values()
        )

    @property
    def compares(self) -> bool:
        """Whether any answer may be given to a question that only means the same."""
        return any(
            model.cache is not None and model.cache.semantic is not None
            for model in self._config.models.values()
        )

    def version(self, model: str) -> str:
        """What stands behind a model's name now: it changes when another model may give the answers."""
        known = self._versions.get(model)
        if known is None:
            if len(self._versions) >= MAX_REMEMBERED:
                self._versions.clear()
            known = self._versions[model] = msgspec.json.encode(
                [
                    [
                        candidate.upstream.config.kind,
                        candidate.upstream.config.base_url,
                        candidate.model,
                        candidate.version,
                    ]
                    for candidate in self._own(model)
                ]
            ).decode()
        return known

    def own_candidate(self, model: str, upstream: str, upstream_model: str) -> Candidate | None:
        """The candidate of the model itself, not of a fallback, that answered; None: there is no such."""
        for candidate in self._own(model):
            if candidate.upstream.name == upstream and candidate.model == upstream_model:
                return candidate
        return None

    def _own(self, model: str) -> list[Candidate]:
        entry = self._entry(model)
        if entry is None:
            return []
        pattern, config = entry
        return [self._candidate(index, pattern, config, model) for index in range(len(config.candidates))]

    def durability(self, model: str) -> str:
        """What the answers of this model outlive."""
        entry = self._entry(model)
        return (entry[1].durability if entry is not None else None) or self._config.generations.durability

    def _entry(self, model: str) -> tuple[str, ModelConfig] | None:
        entry = self._exact.get(model)
        if entry is not None:
            return model, entry
        for pattern in self._patterns:
            if match(pattern, model) is not None:
                return pattern, self._config.models[pattern]
        return None

    def _candidates(self, model: str, passed: set[str]) -> list[Candidate]:
        """The candidates of a model and of its fallbacks; each name once, however many lead to it."""
        entry = self._entry(model)
        if entry is None or model in passed:
            return []
        passed.add(model)
        _, config = entry
        ordered = self._in_order(self._own(model))
        for fallback in config.fallbacks:
            ordered += self._candidates(fallback, passed)
        return ordered

    def _candidate(self, index: int, pattern: str, config: ModelConfig, model: str) -> Candidate:
        chosen = config.candidates[index]
        upstream = self._upstreams[chosen.upstream]
        return Candidate(
            upstream=upstream,
            model=_named(chosen.model, pattern, model),
            route=pattern,
            version=chosen.version,
            weight=chosen.weight,
            timeouts=config.timeouts or upstream.config.timeouts or self._config.timeouts,
            continuation=config.continuation or self._config.continuation,
            care=self._care.get(pattern),
        )

    def _in_order(self, candidates: list[Candidate]) -> list[Candidate]:
        if len(candidates) < 2:
            return candidates
        rest = sorted(candidates, key=lambda candidate: candidate.weight, reverse=True)
        point = self._rand() * sum(candidate.weight for candidate in rest)
        for candidate in rest:
            point -= candidate.weight
            if point < 0:
                rest.remove(candidate)
                rest.insert(0, candidate)
                break
        return rest


def _sole(candidate: Candidate) -> tuple[Candidate, ...]:
    return (msgspec.structs.replace(candidate, sole=True),)


def _named(template: str, pattern: str, model: str) -> str:
    """The upstream's name: "" keeps the caller's, ``*`` stands for what the pattern's ``*`` matched."""
    if not template:
        return model
    star = match(pattern, model) if "*" in pattern else None
    return template if star is None else template.replace("*", star, 1)
