"""In which order are a model's candidates asked?  By its ``strategy``; those of weight 0 come last."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from penstock.flow import choose, prefix_blocks
from penstock.flow.choose import Option
from penstock.flow.gate import Asked
from penstock.flow.preferred import Choice, by_preference
from penstock.flow.prefix import Place, by_prefix
from penstock.flow.prefix_blocks import Prompt
from penstock.gateway.stages.candidate import Candidate, has_room
from penstock.messages import Call, Usage
from penstock.wire.usage import estimate_tokens

LIKELY_OUTPUT = 1_000  # tokens of an answer, for comparing prices, where the call sets no limit
WATCHING = frozenset({"fastest", "least_busy", "nearest", "prefix"})  # go by what upstreams have been like
_PREFERRING = frozenset({"nearest", "spot_first"})
# What is computed of one prompt is of use to another with the same salt (vLLM), and the same parts in this order.
_SALT = "cache_salt"
_PARTS = ("system", "instructions", "tools", "messages", "input", "prompt")


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
        # The call that was cut last: budgets ask for its candidates, too, just before they are chosen.
        self._cut: tuple[str, bytes, Prompt] | None = None

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
        elif strategy == "prefix":
            return self._by_prefix(regular, call) + reserve
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
        return choose.least_busy(options, self._rand, call.received)

    def _by_prefix(self, candidates: list[Candidate], call: Call) -> list[Candidate]:
        prompt = self._prompt(call, candidates[0].model.encode())
        places = [_place(candidate, call, prompt.tokens) for candidate in candidates]
        order = by_prefix(places, prompt, call.received)
        return [msgspec.structs.replace(candidates[i], prompt=prompt) for i in order]

    def _prompt(self, call: Call, model: bytes) -> Prompt:
        if self._cut is None or self._cut[:2] != (call.id, model):
            fields = call.fields
            seed = model + b"\0" + bytes(fields.get(_SALT, b""))
            prompt = prefix_blocks.cut([fields[name] for name in _PARTS if name in fields], seed)
            self._cut = call.id, model, prompt
        return self._cut[2]


def _option(candidate: Candidate) -> Option:
    upstream, model = candidate.upstream, candidate.model
    assert upstream.standings is not None, "it is one of those that Router.watched names"
    return Option(candidate.weight, upstream.standings.of(model))


def _place(candidate: Candidate, call: Call, tokens: float) -> Place:
    upstream, model, now = candidate.upstream, candidate.model, call.received
    assert upstream.standings is not None, "as above"
    replica, wait, gate = upstream.standings, 0.0, upstream.gate
    if gate is not None and not gate.free(model, tokens, now):
        tenant = call.tenant
        wait = gate.predicted_wait(Asked(model, tenant.name, tenant.tier, call.stream, tokens=tokens), now)
        # Those in the gate's line are counted here alone; until one has ended, each is taken for one under way.
        wait = wait or replica.each * gate.queue.length
    return Place(f"{upstream.name}/{model}", candidate.weight, replica.of(model), replica, wait)
