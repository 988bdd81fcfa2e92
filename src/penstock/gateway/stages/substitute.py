"""Which model answers in the stead of one that does not take this prompt: it is too long, or a filter refuses it?

A model names others for either cause, apart from its ``fallbacks``, which are for upstreams that fail: who refuses a prompt
does it again, however often and wherever that model is asked.  Its other candidates are passed over too, but those that
are known to take longer prompts.

Where candidates say how long a prompt they take, one that is surely longer is not sent there at all.  *Surely*: the prompt
has more words than the candidate takes tokens (``wire.least_tokens``); what merely looks too long is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from penstock.config.model import ModelConfig
from penstock.errors import BadRequest
from penstock.gateway.stages.candidate import Candidate
from penstock.generation.log import Generation
from penstock.messages import Call
from penstock.wire.least_tokens import least_tokens
from penstock.wire.refusal_causes import Cause

_TOO_LONG: Cause = "context_length"
_BYTES_OF_WORD = 2  # of a letter and the white space before the next


class Substitutes:
    """Those of one configuration.

    :param entry: of a model's name
    :param own: the candidates of a model itself, without its fallbacks
    :param led_to: those of a model and its fallbacks, for a call
    """

    def __init__(
        self,
        entry: Callable[[str], tuple[str, ModelConfig] | None],
        own: Callable[[str], list[Candidate]],
        led_to: Callable[[str, Call], list[Candidate]],
    ) -> None:
        self._entry = entry
        self._own = own
        self._led_to = led_to

    def __repr__(self) -> str:
        return "<Substitutes>"

    # ---- before anybody is asked ----

    def fit(self, call: Call, generation: Generation, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Those of a call's candidates that may take its prompt, or who stands in for them; who began an answer goes on.

        :raises BadRequest: nobody takes a prompt as long as this
        """
        if generation.events:
            return self._who_began(call, generation.served_by, candidates)
        tokens = self.least(call, candidates)
        return candidates if not tokens else self.fitting(call, candidates, tokens)

    def least(self, call: Call, candidates: Sequence[Candidate]) -> int:
        """How many tokens the prompt has at least; 0: few enough for all of these."""
        windows = [each.context_window for each in candidates if each.context_window]
        if not windows or len(call.body) < _BYTES_OF_WORD * min(windows):
            return 0
        tokens = least_tokens(call.endpoint, call.fields, self._largest(call))
        return tokens if tokens > min(windows) else 0

    def fitting(self, call: Call, candidates: Sequence[Candidate], tokens: int) -> list[Candidate]:
        """Those that take so many tokens: of a first one that does not its own replicas, then who stands in for it.

        :raises BadRequest: there is none
        """
        first = candidates[0]
        left = [each for each in candidates if takes(each, tokens)]
        if takes(first, tokens):
            return left
        own = [each for each in left if each.route == first.route]
        named = [each for each in self._named(call, first, _TOO_LONG) if takes(each, tokens)]
        found = _once([*own, *named, *left])
        if not found:
            raise BadRequest(
                f"the prompt has {tokens} tokens or more, and {call.model!r} takes {first.context_window}",
                code="context_length_exceeded",
            )
        return found

    def _largest(self, call: Call) -> int:
        """The largest window of all that may answer; beyond it there is nothing to find out."""
        return max(each.context_window for each in self.all_of(call.model))

    # ---- after one has refused ----

    def after(
        self,
        call: Call,
        refused: Candidate,
        cause: Cause,
        left: Sequence[Candidate],
        passed: Collection[Candidate],
    ) -> list[Candidate]:
        """Who is asked in the stead of a candidate that has refused the prompt; nobody that was asked before.

        :param left: who would have been asked after it
        :param passed: who was asked, with this one
        """
        larger: list[Candidate] = []
        if cause == _TOO_LONG and refused.context_window:
            larger = [each for each in left if each.context_window > refused.context_window]
        return _once([*larger, *self._named(call, refused, cause)], {_place(each) for each in passed})

    def named(self, call: Call, cause: Cause) -> list[Candidate]:
        """Who stands in for the model that is called."""
        return self._of(call, call.model, cause)

    # ---- whoever it may be ----

    def all_of(self, model: str) -> list[Candidate]:
        """The candidates of a model, and of all that may come to answer for it."""
        passed: dict[str, None] = {}
        left = [model]
        while left:
            name = left.pop(0)
            entry = self._entry(name)
            if entry is not None and name not in passed:
                passed[name] = None
                left += [
                    *entry[1].fallbacks,
                    *_named_by(entry[1], _TOO_LONG),
                    *_named_by(entry[1], "content_filter"),
                ]
        return _once([each for name in passed for each in self._own(name)])

    def _who_began(
        self, call: Call, served_by: tuple[str, str], candidates: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        if any(_place(each) == served_by for each in candidates):
            return candidates
        others = self.all_of(call.model)
        routes = {each.route for each in others if _place(each) == served_by}
        return [each for each in others if each.route in routes] or candidates

    def _named(self, call: Call, refused: Candidate, cause: Cause) -> list[Candidate]:
        """Those that the refusing candidate's model names, or if it names none, the one that is called."""
        return self._of(call, refused.route, cause) or self._of(call, call.model, cause)

    def _of(self, call: Call, model: str, cause: Cause) -> list[Candidate]:
        entry = self._entry(model)
        if entry is None or call.version:  # who wants a version wants no other model
            return []
        return [each for name in _named_by(entry[1], cause) for each in self._led_to(name, call)]


def takes(candidate: Candidate, tokens: int) -> bool:
    """Whether a prompt of so many tokens may be sent there."""
    return not candidate.context_window or tokens <= candidate.context_window


def has_any(models: Mapping[str, ModelConfig]) -> bool:
    """Whether any of this matters in a configuration."""
    return any(
        model.context_length_fallbacks
        or model.content_filter_fallbacks
        or any(candidate.context_window for candidate in model.candidates)
        for model in models.values()
    )


def stand_in(model: ModelConfig) -> bool:
    """Whether others stand in for this model, for whatever cause."""
    return bool(model.fallbacks or model.context_length_fallbacks or model.content_filter_fallbacks)


def _named_by(model: ModelConfig, cause: Cause) -> list[str]:
    return model.context_length_fallbacks if cause == _TOO_LONG else model.content_filter_fallbacks


def _place(candidate: Candidate) -> tuple[str, str]:
    return candidate.upstream.name, candidate.model


def _once(candidates: Sequence[Candidate], tried: Collection[tuple[str, str]] = ()) -> list[Candidate]:
    """Each upstream's model once, without those that were tried."""
    found: dict[tuple[str, str], Candidate] = {}
    for each in candidates:
        if _place(each) not in tried:
            found.setdefault(_place(each), each)
    return list(found.values())
