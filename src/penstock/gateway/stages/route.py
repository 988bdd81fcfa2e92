"""Which upstreams can answer this model, and in which order are they tried?

A model's name, or the most specific pattern that fits it, leads to candidates.  One is drawn by weight, so
that a canary gets its share, or chosen as the model's ``strategy`` has it (``flow.choose``); the others follow, then
those of weight 0, then the candidates of the model's fallbacks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from penstock.config.model import (
    Config,
    ContinuationConfig,
    ModelCacheConfig,
    ModelConfig,
    PromptConfig,
    TimeoutConfig,
)
from penstock.config.patterns import match
from penstock.errors import UnknownModel, UpstreamError
from penstock.flow import choose
from penstock.flow.choose import Option, Standing
from penstock.messages import Attempt, Call, Usage
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.prompt_cache import PromptCare
from penstock.upstream.transfer import Transfer
from penstock.wire.usage import estimate_tokens

PREFIX_BYTES = 4_096  # of a prompt's beginning, by which the strategy prefix goes: about 1,000 tokens
LIKELY_OUTPUT = 1_000  # tokens of an answer, for comparing prices, where the call sets no limit
_WATCHING = frozenset({"fastest", "least_busy", "prefix"})
_PROMPTS = ("messages", "input", "prompt")
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
        price: Callable[[str, str, Usage], int | None] = lambda *_: None,
    ) -> None:
        self._config = config
        self._upstreams = upstreams
        self._rand = rand
        self._price = price  # of a call at an upstream's model; None: it is not known
        self._exact = {name: model for name, model in config.models.items() if "*" not in name}
        # The longest pattern is the most specific one: "gpt-4*" before "gpt-*" before "*".
        self._patterns = sorted((name for name in config.models if "*" in name), key=len, reverse=True)
        self._tidies = any(model.prompt is not None for model in config.models.values())
        self._care = {
            name: PromptCare(model.prompt_cache)
            for name, model in config.models.items()
            if model.prompt_cache is not None
        }
        self._single: dict[str, tuple[Candidate, ...]] = {}
        self._versions: dict[str, str] = {}
        for name in self._exact:
            routes = self._candidates(name, set(), None)
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
        candidates = self._candidates(call.model, set(), call)
        if not candidates:
            raise UnknownModel(f"the model {call.model!r} is not known here", param="model")
        if len(candidates) > 1:
            return candidates
        found = _sole(candidates[0])
        if len(self._single) < MAX_REMEMBERED:
            self._single[call.model] = found
        return found

    def route_name(self, model: str) -> str | None:
        """The entry of the configuration that a name leads to."""
        entry = self._entry(model)
        return None if entry is None else entry[0]

    def regular(self, model: str) -> list[Candidate]:
        """The candidates of the model itself that get calls even if nothing fails."""
        return [candidate for candidate in self._own(model) if candidate.weight]

    def load(self, model: str, now: float) -> float:
        """That of the model's least loaded upstream; see :meth:`penstock.flow.gate.Gate.load`."""
        loads = [
            candidate.upstream.gate.load(candidate.model, now) if candidate.upstream.gate is not None else 0.0
            for candidate in self.regular(model)
        ]
        return min(loads, default=0.0)

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

    def tidying(self, model: str) -> PromptConfig | None:
        """What is left out of this model's prompts; None: nothing."""
        if not self._tidies:
            return None
        entry = self._entry(model)
        return None if entry is None else entry[1].prompt

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

    def _candidates(self, model: str, passed: set[str], call: Call | None) -> list[Candidate]:
        """The candidates of a model and of its fallbacks; each name once, however many lead to it."""
        entry = self._entry(model)
        if entry is None or model in passed:
            return []
        passed.add(model)
        _, config = entry
        ordered = self._in_order(self._own(model), config.strategy, call)
        for fallback in config.fallbacks:
            ordered += self._candidates(fallback, passed, call)
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

    @property
    def watched(self) -> set[str]:
        """The upstreams among which models choose by what they have been like."""
        return {
            candidate.upstream
            for model in self._config.models.values()
            if model.strategy in _WATCHING and len(model.candidates) > 1
            for candidate in model.candidates
        }

    def _in_order(self, candidates: list[Candidate], strategy: str, call: Call | None) -> list[Candidate]:
        if len(candidates) < 2:
            return candidates
        regular = [candidate for candidate in candidates if candidate.weight]
        reserve = [candidate for candidate in candidates if not candidate.weight]
        weights = [candidate.weight for candidate in regular]
        if call is None or len(regular) < 2 or strategy == "weighted":
            order = choose.drawn(weights, self._rand)
        elif strategy == "cheapest":
            order = choose.cheapest(weights, self._prices(regular, call), self._rand)
        else:
            order = self._by_standing(regular, strategy, call)
        return [regular[i] for i in order] + reserve

    def _prices(self, candidates: list[Candidate], call: Call) -> list[int | None]:
        usage = Usage(estimate_tokens(len(call.body)), call.max_output_tokens or LIKELY_OUTPUT)
        return [self._price(candidate.upstream.name, candidate.model, usage) for candidate in candidates]

    def _by_standing(self, candidates: list[Candidate], strategy: str, call: Call) -> list[int]:
        options = [_option(candidate) for candidate in candidates]
        if strategy == "fastest":
            return choose.fastest(options, self._rand, call.received, call.max_output_tokens)
        if strategy == "least_busy":
            return choose.least_busy(options, self._rand, call.received)
        return choose.by_prefix(options, _prefix(call))


def _option(candidate: Candidate) -> Option:
    upstream, model = candidate.upstream, candidate.model
    assert upstream.standings is not None, "it is one of those that Router.watched names"
    return Option(f"{upstream.name}/{model}", candidate.weight, upstream.standings.of(model))


def _prefix(call: Call) -> bytes:
    """The beginning of the prompt, as long as it must be for a provider's cache to be worth anything."""
    fields = call.fields
    pieces = [fields[name] for name in ("system", "instructions", "tools", *_PROMPTS) if name in fields]
    return b"".join(bytes(piece)[:PREFIX_BYTES] for piece in pieces)[:PREFIX_BYTES]


# ---- what is learnt of an upstream ----


def count_in(candidate: Candidate) -> Standing | None:
    """A call goes to this candidate; None: nobody wants to know."""
    standings = candidate.upstream.standings
    if standings is None:
        return None
    standing = standings.of(candidate.model)
    standing.begin()
    return standing


def count_out(
    standing: Standing, transfer: Transfer, attempt: Attempt, failure: BaseException | None
) -> None:
    """It has ended, one way or another."""
    standing.end()
    now = transfer.now()
    if transfer.lost:
        standing.outlived(now - transfer.sent, now)
    elif isinstance(failure, UpstreamError) and not transfer.cancelled:
        standing.failed(now - transfer.sent, now)
    elif failure is None and not transfer.cancelled:
        tokens = attempt.usage.output_tokens
        if transfer.job.call.stream and transfer.seen:
            took = now - transfer.seen
            pace = (tokens - 1) / took if tokens > 1 and took > 0 else None
            standing.answered(transfer.seen - transfer.sent, tokens, pace, now)
        else:
            standing.answered_whole(now - transfer.sent, tokens, now)


def _sole(candidate: Candidate) -> tuple[Candidate, ...]:
    return (msgspec.structs.replace(candidate, sole=True),)


def _named(template: str, pattern: str, model: str) -> str:
    """The upstream's name: "" keeps the caller's, ``*`` stands for what the pattern's ``*`` matched."""
    if not template:
        return model
    star = match(pattern, model) if "*" in pattern else None
    return template if star is None else template.replace("*", star, 1)
