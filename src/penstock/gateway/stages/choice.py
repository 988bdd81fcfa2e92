"""In which order are a model's candidates asked?  By its ``strategy``; those of weight 0 come last."""

from __future__ import annotations

from collections.abc import Callable

from penstock.flow import choose
from penstock.flow.choose import Option
from penstock.flow.preferred import Choice, by_preference
from penstock.gateway.stages.candidate import Candidate, has_room
from penstock.messages import Call, Usage
from penstock.wire.usage import estimate_tokens

PREFIX_BYTES = 4_096  # of a prompt's beginning, by which the strategy prefix goes: about 1,000 tokens
LIKELY_OUTPUT = 1_000  # tokens of an answer, for comparing prices, where the call sets no limit
WATCHING = frozenset({"fastest", "least_busy", "nearest", "prefix"})  # go by what upstreams have been like
_PREFERRING = frozenset({"nearest", "spot_first"})
_PROMPTS = ("messages", "input", "prompt")


class Choosing:
    """The strategies of one configuration.

    :param region: the gateway's own
    :param rand: from 0 to 1
    :param price: of a call at an upstream's model; None: it is not known
    """

    def __init__(
        self,
        region: str,
        rand: Callable[[], float],
        price: Callable[[str, str, Usage], int | None],
    ) -> None:
        self._region = region
        self._rand = rand
        self._price = price

    def __repr__(self) -> str:
        return f"<Choosing in {self._region or 'no region'}>"

    def in_order(self, candidates: list[Candidate], strategy: str, call: Call | None) -> list[Candidate]:
        """:param call: None: in any order"""
        if len(candidates) < 2:
            return candidates
        regular = [candidate for candidate in candidates if candidate.weight]
        reserve = [candidate for candidate in candidates if not candidate.weight]
        weights = [candidate.weight for candidate in regular]
        if call is None or len(regular) < 2 or strategy == "weighted":
            order = choose.drawn(weights, self._rand)
            if call is not None:
                now = call.received
                order.sort(key=lambda i: not has_room(regular[i], now))
        elif strategy == "cheapest":
            order = choose.cheapest(weights, self._prices(regular, call), self._rand)
        elif strategy in _PREFERRING:
            order = self._by_preference(regular, strategy, call)
        else:
            order = self._by_standing(regular, strategy, call)
        return [regular[i] for i in order] + reserve

    def _prices(self, candidates: list[Candidate], call: Call) -> list[int | None]:
        usage = Usage(estimate_tokens(len(call.body)), call.max_output_tokens or LIKELY_OUTPUT)
        return [self._price(candidate.upstream.name, candidate.model, usage) for candidate in candidates]

    def _by_preference(self, candidates: list[Candidate], strategy: str, call: Call) -> list[int]:
        now, tokens = call.received, estimate_tokens(len(call.body))
        spot = strategy == "spot_first"
        costs: list[int | None] | list[float] = (
            self._prices(candidates, call)
            if spot
            else [_option(candidate).standing.first_token(now) for candidate in candidates]
        )
        choices = []
        for candidate, cost in zip(candidates, costs, strict=True):
            config = candidate.upstream.config
            preferred = config.capacity == "spot" if spot else config.region == self._region
            choices.append(Choice(candidate.weight, preferred, has_room(candidate, now, tokens), cost))
        return by_preference(choices, self._rand)

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
