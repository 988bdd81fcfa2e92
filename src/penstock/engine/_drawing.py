"""The next token of each request, from the model's logits.

The library knows one way of drawing for all requests, and one source of chance.  Here each has its own, and chance
depends on nothing but the seed and the place in the text: the same call says the same whoever is computed beside
it, and an answer that was cut is gone on with as if it had not been.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Sequence

import torch

from penstock.engine.backend import Finish, Sampling

_NO = float("-inf")


class Drawing:
    """One request's tokens.

    ``ends`` are the ids that end it; ``finish`` is set with the last of them.

    :param ends: ids that end an answer, unless the call ignores them
    """

    __slots__ = ("_known", "_said", "_sampling", "_seed", "_start", "count", "ends", "finish")

    def __init__(self, prompt: Sequence[int], sampling: Sampling, ends: frozenset[int]) -> None:
        self._sampling = sampling
        self.ends = (frozenset() if sampling.ignore_eos else ends) | set(sampling.stop_token_ids)
        self._start = len(prompt)
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**64
        self._said: Counter[int] = Counter()
        self._known = set(prompt) if sampling.repetition_penalty != 1.0 else None
        self.count = 0
        self.finish: Finish = ""

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
            and not asked.presence_penalty
            and not asked.frequency_penalty
        )

    @property
    def wants_logprob(self) -> bool:
        return self._sampling.logprobs

    def draw(self, logits: torch.Tensor) -> int:
        """A token; ``logits`` of the vocabulary stay as they are."""
        logits = self._penalised(logits)
        asked = self._sampling
        if asked.temperature == 0.0:
            return int(logits.argmax())
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
        elif self.count >= asked.max_tokens:
            self.finish = "length"

    def _chance(self) -> float:
        """Of the token that comes next: 0 to 1."""
        return random.Random((self._seed << 32) | (self._start + self.count)).random()

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        asked = self._sampling
        if self.count < asked.min_tokens and self.ends:
            logits = logits.index_fill(0, torch.tensor(sorted(self.ends)), _NO)
        if self._known is not None:  # of the prompt as well: Keskar et al., CTRL, 2019, section 4.1
            ids = torch.tensor(sorted(self._known))
            seen = logits[ids]
            factor = asked.repetition_penalty
            logits = logits.index_copy(0, ids, torch.where(seen > 0, seen / factor, seen * factor))
        if self._said:
            ids = torch.tensor(list(self._said))
            times = torch.tensor(list(self._said.values()), dtype=logits.dtype)
            logits = logits.index_add(0, ids, -asked.frequency_penalty * times - asked.presence_penalty)
        return logits


def _chosen(logits: torch.Tensor, asked: Sampling, chance: float) -> int:
    """The token at ``chance`` of what top_k, top_p and min_p leave, the likeliest first where they are asked for."""
    ids: torch.Tensor | None = None
    if asked.top_k and asked.top_k < logits.numel():
        logits, ids = torch.topk(logits, asked.top_k)
    elif asked.top_p < 1.0:
        logits, ids = torch.sort(logits, descending=True, stable=True)
    shares = torch.softmax(logits.double(), dim=0)
    if asked.top_p < 1.0:
        before = shares.cumsum(0) - shares  # the likeliest is always left
        shares = shares.masked_fill(before >= asked.top_p, 0.0)
    if asked.min_p:
        shares = shares.masked_fill(shares < asked.min_p * shares.max(), 0.0)
    sums = shares.cumsum(0)
    place = int(torch.searchsorted(sums, chance * sums[-1], right=True))
    place = min(place, int(shares.nonzero()[-1]))  # rounding at the very end
    return place if ids is None else int(ids[place])


def draw_all(logits: torch.Tensor, drawings: Sequence[Drawing]) -> tuple[list[int], list[float | None]]:
    """The next token of each, and its log probability as the model alone has it, where that is asked for.

    :param logits: (requests, vocabulary)
    """
    likeliest = logits.argmax(dim=-1).tolist()
    tokens = [
        top if drawing.is_plain else drawing.draw(row)
        for top, drawing, row in zip(likeliest, drawings, logits, strict=True)
    ]
    logprobs = [
        float(row[token] - row.logsumexp(0)) if drawing.wants_logprob else None
        for token, drawing, row in zip(tokens, drawings, logits, strict=True)
    ]
    for token, drawing in zip(tokens, drawings, strict=True):
        drawing.take(token)
    return tokens, logprobs


__all__ = ["Drawing", "draw_all"]
