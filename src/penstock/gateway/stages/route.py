"""Which upstreams can answer this model, and in which order are they tried?

A model's name, or the most specific pattern that fits it, leads to candidates.  One is drawn by weight, so
that a canary gets its share, or chosen as the model's ``strategy`` has it (``flow.choose``); the others follow, then
those of weight 0, then the candidates of the model's fallbacks.

A call keeps to one version of its model, where there are several: the one that its caller names (``alias@version``, or
``Penstock-Version``), which then is the only one that is asked; or, while a new one is on trial (``gateway.versions``),
the one that is drawn for it.  Where the new one fails, the others are asked; it never stands in for them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Literal

import msgspec

from penstock.config.model import CandidateConfig, Config, ModelCacheConfig, ModelConfig, PromptConfig
from penstock.config.patterns import match
from penstock.config.sunset import sunset_of
from penstock.errors import Gone, UnknownModel
from penstock.flow.limits import Limiter
from penstock.flow.reservation import Reached
from penstock.gateway.stages.allot import Allotments
from penstock.gateway.stages.candidate import (
    Candidate,
    alone,
    named_there,
    notices_of,
    signature_of,
    standing_behind,
)
from penstock.gateway.stages.choice import WATCHING, Choosing
from penstock.gateway.stages.substitute import Substitutes, has_any, stand_in
from penstock.gateway.versions import Canary
from penstock.ledger.prices import CacheTerms
from penstock.messages import Call, Endpoint, Headers, Usage
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.prompt_cache import PromptCare
from penstock.wire.parameters import Parameters

_encode = msgspec.json.Encoder().encode

_CONVERSATIONS = ("prompt_cache_key", "user")  # what APIs have to tell conversations apart
MAX_REMEMBERED = 1_024  # names that fit a pattern and have one candidate; callers invent names


class Router:
    """The routes of one configuration."""

    def __init__(
        self,
        config: Config,
        upstreams: Mapping[str, HTTPUpstream],
        rand: Callable[[], float] = random.random,
        price: Callable[[str, str, Usage], int | None] = lambda *_: None,
        terms: Callable[[str, str], CacheTerms] = lambda *_: CacheTerms(),
        canaries: Mapping[str, Canary] | None = None,
        now: Callable[[], float] = time.time,
        limiter: Callable[[], Limiter | None] = lambda: None,
    ) -> None:
        self._config = config
        self._upstreams = upstreams
        self._rand = rand
        self._canaries = canaries or {}  # by entry
        self._now = now  # Unix time
        # Whether callers can ask for a version.
        self.has_versions = any(
            candidate.version for model in config.models.values() for candidate in model.candidates
        )
        # Seconds that a call of a tier may take which does not say, where it has such a limit.
        self.deadlines = {name: tier.deadline for name, tier in config.tiers.items() if tier.deadline}
        self._exact = {name: model for name, model in config.models.items() if "*" not in name}
        # The longest pattern is the most specific one: "gpt-4*" before "gpt-*" before "*".
        self._patterns = sorted((name for name in config.models if "*" in name), key=len, reverse=True)
        self._tidies = any(model.prompt is not None for model in config.models.values())
        self._parameters = {
            name: Parameters(model.parameters, model.overrides, model.max_output_tokens)
            for name, model in config.models.items()
            if model.parameters or model.overrides or model.max_output_tokens
        }
        # Whether the calls of any model get some.
        self.has_parameters = bool(self._parameters)
        self._care = {
            name: PromptCare(model.prompt_cache, terms)
            for name, model in config.models.items()
            if model.prompt_cache is not None
        }
        self._sunsets = {
            (name, index): sunset
            for name, model in config.models.items()
            for index, candidate in enumerate(model.candidates)
            if (sunset := sunset_of(candidate)) is not None
        }
        self._extra = {
            (name, index): {key: msgspec.Raw(_encode(value)) for key, value in candidate.extra_body.items()}
            for name, model in config.models.items()
            for index, candidate in enumerate(model.candidates)
            if candidate.extra_body
        }
        self._choosing = Choosing(config.region, rand, price)
        self._allotments: Allotments | None = None  # None: neither upstreams nor models are limited
        if config.limits.upstreams or config.limits.models:
            self._allotments = Allotments(config.limits, price, limiter)
        # None: no model is asked in another's stead for what a prompt is like.
        self.substitutes: Substitutes | None = None
        if has_any(config.models):
            self.substitutes = Substitutes(
                self._entry, self._own, lambda model, call: self._candidates(model, set(), call)
            )
        self._reached: dict[tuple[str, str, str], Reached | None] = {}
        self._single: dict[str, tuple[Candidate, ...]] = {}
        self._regular: dict[str, Sequence[Candidate]] = {}  # by name, where they stay the same
        self._versions: dict[str, str] = {}
        for name in self._exact:
            routes = self._candidates(name, set(), None)
            if len(routes) == 1 and not self.changes(name):
                self._single[name] = alone(routes[0])

    def __repr__(self) -> str:
        return f"<Router of {len(self._config.models)} models, {len(self._upstreams)} upstreams>"

    @property
    def enumerable(self) -> set[str]:
        """The upstreams whose own lists say which names patterns answer."""
        return {candidate.upstream for _, candidate in self._open()}

    def names(self, known: Mapping[str, Sequence[str]]) -> list[str]:
        """The models that can be listed: names, and what the patterns let through.

        :param known: what upstreams have, by their names
        """
        names = dict.fromkeys(self._exact)
        for pattern, candidate in self._open():
            for has in known.get(candidate.upstream, ()):
                stands_for = match(candidate.model or pattern, has)
                if stands_for is None:
                    continue
                name = pattern.replace("*", stands_for, 1)
                entry = self._entry(name)
                if entry is not None and entry[0] == pattern:
                    names[name] = None
        return list(names)

    def _open(self) -> Iterator[tuple[str, CandidateConfig]]:
        """The patterns, with those candidates that callers name."""
        for pattern in self._patterns:
            for candidate in self._config.models[pattern].candidates:
                if not candidate.model or "*" in candidate.model:
                    yield pattern, candidate

    def route(self, call: Call) -> Sequence[Candidate]:
        """The candidates for a call, in the order in which they are to be tried.

        :raises UnknownModel: nothing here answers this name
        :raises Gone: what has answered it has come to its end
        """
        if call.version:
            return self._pinned(call)
        found = self._single.get(call.model)
        if found is not None:
            return found
        candidates = self._candidates(call.model, set(), call)
        if not candidates:
            raise self._nobody(call.model, "")
        if len(candidates) > 1:
            return candidates
        found = alone(candidates[0])
        if len(self._single) < MAX_REMEMBERED and not self.changes(call.model):
            self._single[call.model] = found
        return found

    def route_name(self, model: str) -> str | None:
        """The entry of the configuration that a name leads to."""
        entry = self._entry(model)
        return None if entry is None else entry[0]

    def wanted(self, name: str, headers: Headers) -> tuple[str, str]:
        """The model that a caller names, and the version that it wants of it; empty: any.

        ``Penstock-Version`` says it, or what follows the last ``@`` of the name, if the model has such a version; names
        that stand in the configuration as they are, are no such names.
        """
        told = headers.get(b"penstock-version")
        if told is not None:
            return name, told.decode("latin-1")
        return self.split(name)

    def split(self, name: str) -> tuple[str, str]:
        """The model and the version of ``model@version``; the version is empty if the model has none of that name."""
        model, at, version = name.rpartition("@")
        if at and model and name not in self._exact:
            entry = self._entry(model)
            if entry is not None and any(one.version == version for one in entry[1].candidates if version):
                return model, version
        return name, ""

    def _pinned(self, call: Call) -> list[Candidate]:
        """The candidates of the version that the caller wants."""
        entry = self._entry(call.model)
        wanted = self._of_version(call.model, call.version)
        if entry is None or not wanted:
            error = self._nobody(call.model, call.version)
            if isinstance(error, UnknownModel) or (entry is not None and entry[1].after_sunset == "refuse"):
                raise error
            instead = self._candidates(call.model, set(), call)
            if not instead:
                raise error
            return instead
        return self._choosing.in_order(wanted, entry[1].strategy, call)

    def _nobody(self, model: str, version: str) -> UnknownModel | Gone:
        """Why there are no candidates: of this version, if one is wanted."""
        entry = self._entry(model)
        ended = [
            candidate.sunset
            for candidate in (entry[1].candidates if entry is not None else [])
            if candidate.sunset and (not version or candidate.version == version)
        ]
        named = f"the version {version!r} of the model {model!r}" if version else f"the model {model!r}"
        if ended:
            return Gone(f"{named} has ended on {max(ended)}", param="model")
        if version and entry is not None:
            return UnknownModel(f"the model {model!r} has no version {version!r}", param="model")
        return UnknownModel(f"the model {model!r} is not known here", param="model")

    def changes(self, model: str) -> bool:
        """Whether its candidates are others at another time, by a trial or by their end."""
        if not self._canaries and not self._sunsets:
            return False
        entry = self._entry(model)
        return entry is not None and (
            entry[0] in self._canaries or any(name == entry[0] for name, _ in self._sunsets)
        )

    def version_of(self, model: str, upstream: str, upstream_model: str) -> str:
        """The version whose answer this is; empty: none that still is one."""
        candidate = self.own_candidate(model, upstream, upstream_model)
        return candidate.version if candidate is not None else ""

    def regular(self, model: str) -> list[Candidate]:
        """The candidates of the model itself that get calls even if nothing fails."""
        canary = self._canary(model)
        if canary is not None:
            return [
                candidate
                for candidate in self._own(model)
                if (candidate.version == canary.config.version) == canary.is_promoted
                and (candidate.weight or canary.is_promoted)
            ]
        return [candidate for candidate in self._own(model) if candidate.weight]

    def _canary(self, model: str) -> Canary | None:
        if not self._canaries:
            return None
        entry = self._entry(model)
        return None if entry is None else self._canaries.get(entry[0])

    def load(self, model: str, now: float, version: str | None = None) -> float:
        """That of the model's least loaded upstream; see :meth:`penstock.flow.gate.Gate.load`.

        :param version: of those that have this version; None: of those that regularly get calls
        """
        candidates = self._regular.get(model) if version is None else self._of_version(model, version)
        if candidates is None:
            candidates = self.regular(model)
            if candidates and len(self._regular) < MAX_REMEMBERED and not self.changes(model):
                self._regular[model] = candidates
        least = inf if candidates else 0.0
        for candidate in candidates:
            upstream = candidate.upstream
            if upstream.departure is None:
                if (gate := upstream.gate) is None:
                    return 0.0
                load = gate.load(candidate.model, now)
                if load < least:  # noqa: PLR1730 - for each call, and a call costs more
                    least = load
        return least

    def _of_version(self, model: str, version: str) -> list[Candidate]:
        return [candidate for candidate in self._own(model) if candidate.version == version]

    def smaller(self, model: str, *, below: float, now: float) -> str:
        """The next smaller model that has less to do than this; empty: there is none."""
        passed = {model}
        entry = self._entry(model)
        while entry is not None and entry[1].smaller and entry[1].smaller not in passed:
            name = entry[1].smaller
            passed.add(name)
            if self.load(name, now) < below:
                return name
            entry = self._entry(name)
        return ""

    def knows(self, model: str) -> bool:
        return self._entry(model) is not None

    def grace(self, model: str) -> float | None:
        """How long a call of this model waits for readers to come back, in seconds, if that is configured."""
        entry = self._entry(model)
        return None if entry is None else entry[1].grace

    def strategy(self, model: str) -> str:
        """How one of this model's candidates is chosen."""
        entry = self._entry(model)
        return "" if entry is None else entry[1].strategy

    def joining(self, model: str) -> Literal["auto", "always", "never"]:
        """Which of this model's calls share an answer with identical ones in flight."""
        entry = self._entry(model)
        return "never" if entry is None else entry[1].join

    def caching(self, model: str) -> ModelCacheConfig | None:
        """Which of this model's answers are kept; None: none is."""
        entry = self._entry(model)
        return None if entry is None else entry[1].cache

    def tidying(self, model: str) -> PromptConfig | None:
        """What is left out of this model's prompts; None: nothing."""
        if not self._tidies:
            return None
        entry = self._entry(model)
        return None if entry is None else entry[1].prompt

    def completed(
        self, endpoint: Endpoint, model: str, fields: Mapping[str, msgspec.Raw]
    ) -> dict[str, msgspec.Raw] | None:
        """The members of a call with the model's parameters among them; None: nothing is added or changed."""
        entry = self._entry(model)
        parameters = self._parameters.get(entry[0]) if entry is not None else None
        if entry is None or parameters is None:
            return None
        first = entry[1].candidates[0].model
        return parameters.completed(endpoint, fields, named_there(first, entry[0], model))

    @property
    def prefetches(self) -> bool:
        """Whether any answer may be fetched before it is asked for."""
        return any(model.cache and model.cache.prefetch for model in self._config.models.values())

    def version(self, model: str, wanted: str = "") -> str:
        """What stands behind a model's name now: it changes when another model may give the answers.

        :param wanted: the version that the caller wants; empty: any
        """
        if wanted or self.changes(model):
            canary = self._canary(model)
            return standing_behind(
                [
                    candidate
                    for candidate in self._own(model)
                    if (candidate.version == wanted if wanted else _may_answer(candidate, canary))
                ]
            )
        known = self._versions.get(model)
        if known is None:
            if len(self._versions) >= MAX_REMEMBERED:
                self._versions.clear()
            known = self._versions[model] = standing_behind(self._own(model))
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
        indices: Sequence[int] = range(len(config.candidates))
        if self._sunsets:
            now = self._now()
            indices = [
                index
                for index in indices
                if (sunset := self._sunsets.get((pattern, index))) is None or sunset.ends > now
            ]
        return [self._candidate(index, pattern, config, model) for index in indices]

    def durability(self, model: str) -> str:
        """What the answers of this model outlive."""
        entry = self._entry(model)
        return (entry[1].durability if entry is not None else None) or self._config.generations.durability

    def entry_of(self, model: str) -> str:
        """The entry of the configuration that answers this name; empty: none does any more."""
        entry = self._entry(model)
        return entry[0] if entry is not None else ""

    def _entry(self, model: str) -> tuple[str, ModelConfig] | None:
        entry = self._exact.get(model)
        if entry is not None:
            return model, entry
        for pattern in self._patterns:
            if match(pattern, model) is not None:
                return pattern, self._config.models[pattern]
        return None

    def _candidates(self, model: str, passed: set[str], call: Call | None) -> list[Candidate]:
        """The candidates of a model and of its fallbacks; each name once, however many lead to it."""
        entry = self._entry(model)
        if entry is None or model in passed:
            return []
        passed.add(model)
        route, config = entry
        canary = self._canaries.get(route) if call is not None else None
        if call is not None and canary is not None:
            ordered = self._on_trial(self._own(model), config.strategy, call, canary)
        else:
            ordered = self._choosing.in_order(self._own(model), config.strategy, call)
        if not ordered and config.after_sunset == "refuse":
            return ordered
        for fallback in config.fallbacks:
            ordered += self._candidates(fallback, passed, call)
        return ordered

    def _on_trial(
        self, candidates: list[Candidate], strategy: str, call: Call, canary: Canary
    ) -> list[Candidate]:
        """Those of the version that is drawn for the call, then those that stand in for it."""
        new = [candidate for candidate in candidates if candidate.version == canary.config.version]
        others = [candidate for candidate in candidates if candidate.version != canary.config.version]
        key = _sticks_to(call, canary.config.sticky)
        is_new = canary.gets(self._rand() if key is None else canary.point(key)) or not others
        sample = canary.sample(is_new=is_new)
        drawn = self._choosing.in_order(new if is_new else others, strategy, call)
        if sample is not None:
            drawn = [msgspec.structs.replace(candidate, sample=sample) for candidate in drawn]
        return drawn + self._choosing.in_order(others, strategy, call) if is_new else drawn

    def _candidate(self, index: int, pattern: str, config: ModelConfig, model: str) -> Candidate:
        chosen = config.candidates[index]
        upstream = self._upstreams[chosen.upstream]
        allotments = self._allotments
        named = named_there(chosen.model, pattern, model)
        notices: tuple[tuple[bytes, bytes], ...] = ()
        if self._sunsets and (sunset := self._sunsets.get((pattern, index))) is not None:
            notices = notices_of(sunset)
        if self._config.show_upstream:
            notices += signature_of(chosen.upstream, named, chosen.version)
        return Candidate(
            upstream=upstream,
            model=named,
            route=pattern,
            version=chosen.version,
            weight=chosen.weight,
            timeouts=config.timeouts or upstream.config.timeouts or self._config.timeouts,
            continuation=config.continuation or self._config.continuation,
            care=self._care.get(pattern),
            notices=notices,
            allotment=allotments.of(chosen.upstream, model, named) if allotments is not None else None,
            context_window=chosen.context_window or 0,
            extra=self._extra.get((pattern, index)) if self._extra else None,
        )

    def reaches(self, model: str, upstream: str, upstream_model: str) -> Reached | None:
        """The candidate of a model or of its fallbacks, as far as limits are concerned; None: none hold there."""
        place = model, upstream, upstream_model
        allotments = self._allotments
        if allotments is None or place in self._reached:
            return self._reached.get(place)
        allotment = allotments.of(upstream, upstream_model, upstream_model)  # if it only was one
        for candidate in self.whoever(model):
            if candidate.upstream.name == upstream and candidate.model == upstream_model:
                allotment = candidate.allotment
                break
        if len(self._reached) >= MAX_REMEMBERED:
            self._reached.clear()
        found = self._reached[place] = allotment.reached if allotment is not None else None
        return found

    def sole(self, call: Call) -> Candidate | None:
        """The only candidate that may come to answer a call, where that is known; None: there are several, or it is not."""
        if self.substitutes is not None or call.version:
            return None
        found = self._single.get(call.model)
        return None if found is None else found[0]

    def may_answer(self, call: Call) -> Sequence[Candidate]:
        """All candidates that may come to answer a call; see :meth:`route`."""
        candidates = self.route(call)
        if self.substitutes is None or call.version:
            return candidates
        return self.substitutes.all_of(call.model)

    def whoever(self, model: str) -> list[Candidate]:
        """All candidates that may come to answer for a model, in any order."""
        if self.substitutes is not None:
            return self.substitutes.all_of(model)
        return self._candidates(model, set(), None)

    def falls_back(self, model: str) -> bool:
        """Whether other models stand in for this one."""
        entry = self._entry(model)
        return entry is not None and stand_in(entry[1])

    @property
    def watched(self) -> set[str]:
        """The upstreams among which models choose by what they have been like."""
        return {
            candidate.upstream
            for model in self._config.models.values()
            if model.strategy in WATCHING and len(model.candidates) > 1
            for candidate in model.candidates
        }


def _may_answer(candidate: Candidate, canary: Canary | None) -> bool:
    """Whether a version gets any calls now, beyond those whose callers want it."""
    if canary is None or canary.share == 0.0:
        return canary is None or candidate.version != canary.config.version
    return not canary.is_promoted or candidate.version == canary.config.version


def _sticks_to(call: Call, sticky: str) -> bytes | None:
    """By what all calls are known that keep to one version; None: each is drawn by itself."""
    if sticky == "call":
        return None
    tenant = call.tenant.name.encode()
    if sticky == "tenant":
        return tenant
    session = call.headers.get(b"penstock-session") or next(
        (bytes(call.fields[name]) for name in _CONVERSATIONS if name in call.fields), None
    )
    return None if session is None else tenant + b"\0" + session
