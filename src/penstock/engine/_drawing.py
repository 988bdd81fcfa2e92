"""The next token of each request, from the model's logits; for libraries that leave the choice to us.

Each request has its own way of drawing, and chance depends on nothing but the seed and the place in the text: the
same call says the same whoever is computed beside it, and an answer that was cut is gone on with as if it had not
been.  A rule (``grammar``) leaves out what the answer's schema does not allow next.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.engine.backend import Finish, Logprob, Sampling

Logits: TypeAlias = npt.NDArray[Any]

_NO = float("-inf")


class Rule(Protocol):
    """What one answer must keep to."""

    def allowed(self, vocabulary: int) -> npt.NDArray[np.bool_]:
        """For each token: may it come next?  None may, where the rule has failed: the answer is cut there."""

    def take(self, token: int) -> bool:
        """It is part of the answer: is that complete?"""


class Drawing:
    """One request's tokens.

    ``start`` is how many come before them.  ``ends`` are the ids that end it; ``finish`` is set with the last of them.  ``ended_by_rule``: with none of them,
    and before its limit.

    :param ends: ids that end an answer, unless the call ignores them
    :param rule: what the answer must keep to
    """

    __slots__ = (
        "_cut",
        "_known",
        "_rule",
        "_said",
        "_sampling",
        "_seed",
        "count",
        "ended_by_rule",
        "ends",
        "finish",
        "start",
    )

    def __init__(
        self, prompt: Sequence[int], sampling: Sampling, ends: frozenset[int], rule: Rule | None = None
    ) -> None:
        self._sampling = sampling
        self._rule = rule
        self._cut = False
        self.ends = (frozenset() if sampling.ignore_eos else ends) | set(sampling.stop_token_ids)
        self.start = len(prompt)
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**64
        self._said: Counter[int] = Counter()
        self._known = set(prompt) if sampling.repetition_penalty != 1.0 else None
        self.count = 0
        self.finish: Finish = ""
        self.ended_by_rule = False

    def __repr__(self) -> str:
        return f"<Drawing {self.count} tokens{', ' + self.finish if self.finish else ''}>"

    @property
    def is_plain(self) -> bool:
        """The likeliest token is the next one, as the logits have it."""
        asked = self._sampling
        return (
            asked.temperature == 0.0
            and self.count >= asked.min_tokens
            and self._known is None
            and self._rule is None
            and not asked.logit_bias
            and not asked.presence_penalty
            and not asked.frequency_penalty
        )

    def logprob(self, logits: Logits, token: int) -> Logprob | None:
        """How likely a token is, as the model alone has it, and which are likeliest, if that is asked for."""
        return logprob_of(logits, token, self._sampling.top_logprobs) if self._sampling.logprobs else None

    def draw(self, logits: Logits) -> int:
        """A token; ``logits`` of the vocabulary stay as they are."""
        logits = self._penalised(logits)
        if self._rule is not None:
            allowed = self._rule.allowed(len(logits))
            self._cut = not allowed.any()
            if not self._cut:
                logits = np.where(allowed, logits, _NO)
        asked = self._sampling
        if asked.temperature == 0.0:
            return int(np.argmax(logits))
        return _chosen(logits / asked.temperature, asked, self._chance())

    def take(self, token: int) -> None:
        """It is part of the answer."""
        asked = self._sampling
        self.count += 1
        if asked.presence_penalty or asked.frequency_penalty:
            self._said[token] += 1
        if self._known is not None:
            self._known.add(token)
        if token in self.ends:
            self.finish = "stop"
        elif self._cut or (self._rule is not None and self._rule.take(token)):
            self.finish = "length" if self._cut else "stop"
            self.ended_by_rule = self.count < asked.max_tokens
        elif self.count >= asked.max_tokens:
            self.finish = "length"

    def _chance(self) -> float:
        """Of the token that comes next: 0 to 1."""
        return random.Random((self._seed << 32) | (self.start + self.count)).random()

    def _penalised(self, logits: Logits) -> Logits:
        asked = self._sampling
        shortened = self.count < asked.min_tokens and self.ends
        if shortened or self._known is not None or self._said or asked.logit_bias:
            logits = logits.copy()
        for token, bias in asked.logit_bias:
            logits[token] += bias
        if shortened:
            logits[sorted(self.ends)] = _NO
        if self._known is not None:  # of the prompt as well: Keskar et al., CTRL, 2019, section 4.1
            ids = np.fromiter(self._known, np.int64, len(self._known))
            seen = logits[ids]
            factor = asked.repetition_penalty
            logits[ids] = np.where(seen > 0, seen / factor, seen * factor)
        if self._said:
            ids = np.fromiter(self._said, np.int64, len(self._said))
            times = np.fromiter(self._said.values(), logits.dtype, len(self._said))
            logits[ids] -= asked.frequency_penalty * times + asked.presence_penalty
        return logits


def _chosen(logits: Logits, asked: Sampling, chance: float) -> int:
    """The token at ``chance`` of what top_k, top_p and min_p leave, the likeliest first where they are asked for."""
    ids: npt.NDArray[np.int64] | None = None
    if asked.top_k and asked.top_k < logits.size:
        likeliest = np.argpartition(logits, -asked.top_k)[-asked.top_k :]
        ids = likeliest[np.argsort(-logits[likeliest], kind="stable")]
        logits = logits[ids]
    elif asked.top_p < 1.0:
        ids = np.argsort(-logits, kind="stable")
        logits = logits[ids]
    shares = np.exp(logits.astype(np.float64) - np.max(logits))
    shares /= shares.sum()
    if asked.top_p < 1.0:
        before = shares.cumsum() - shares  # the likeliest is always left
        shares[before >= asked.top_p] = 0.0
    if asked.min_p:
        shares[shares < asked.min_p * np.max(shares)] = 0.0
    sums = shares.cumsum()
    place = int(np.searchsorted(sums, chance * sums[-1], side="right"))
    place = min(place, int(shares.nonzero()[0][-1]))  # rounding at the very end
    return place if ids is None else int(ids[place])


def draw_all(logits: Logits, drawings: Sequence[Drawing]) -> tuple[list[int], list[Logprob | None]]:
    """The next token of each, and its log probability as the model alone has it, where that is asked for.

    :param logits: (requests, vocabulary)
    """
    likeliest = np.argmax(logits, axis=-1).tolist()
    tokens = [
        top if drawing.is_plain else drawing.draw(row)
        for top, drawing, row in zip(likeliest, drawings, logits, strict=True)
    ]
    logprobs = [
        drawing.logprob(row, token) for token, drawing, row in zip(tokens, drawings, logits, strict=True)
    ]
    for token, drawing in zip(tokens, drawings, strict=True):
        drawing.take(token)
    return tokens, logprobs


def logprob_of(logits: Logits, token: int, top: int = 0) -> Logprob:
    """How likely a token is, as the model alone has it.

    :param top: how many of the likeliest are told as well
    """
    told = logits.astype(np.float64) - np.max(logits)
    told -= np.log(np.exp(told).sum())
    if not top:
        return Logprob(float(told[token]))
    likeliest = np.argpartition(told, -top)[-top:] if top < told.size else np.arange(told.size)
    likeliest = likeliest[np.argsort(-told[likeliest], kind="stable")]
    return Logprob(float(told[token]), tuple(zip(likeliest.tolist(), told[likeliest].tolist(), strict=True)))


def ranked(logits: Logits, token: int, top: int) -> Logprob:
    """The same with its rank."""
    told = logprob_of(logits, token, top)
    return Logprob(told.value, told.top, rank=1 + int(np.count_nonzero(logits > logits[token])))


def contradiction(sampling: Sampling) -> str:
    """Why nothing can be drawn as it is asked for; empty: it can."""
    if sampling.min_tokens > sampling.max_tokens:
        return "min_tokens is more than max_tokens"
    if sampling.repetition_penalty <= 0:
        return "repetition_penalty must be more than 0"
    return ""


__all__ = ["Drawing", "Logits", "Rule", "contradiction", "draw_all", "logprob_of", "ranked"]
