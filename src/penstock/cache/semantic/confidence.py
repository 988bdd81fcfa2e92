"""How sure is it that an entry answers another question that is so similar?

The method is that of vCache (Schroeder et al., arXiv 2502.03771): no threshold of similarity is right for all
entries, so each learns its own.  What is known of an entry are pairs (similarity, was it right), made whenever a
similar question was answered anew and both answers could be compared.  That an answer is right at a
similarity s is modelled as 1 / (1 + exp(-g (s - t))), and the entry answers only where the probability of
being wrong is at most delta.

Two things are done differently.  The parameters t and g are not estimated but averaged over (a grid of 400 pairs,
weighted by their posterior), so that few observations leave much doubt, without a separate bound.  And what
was seen of all entries of a kind is the prior of each: at the weight of at most :data:`PRIOR_WEIGHT` observations, so
that a new entry need not learn all by itself; one that has been wrong must.  vCache answers below the
bound with a small probability; here it never does.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

PRIOR_WEIGHT = 4_000.0  # observations of other entries that count at most
DOUBTED_WEIGHT = 10.0  # the same for an entry that has been wrong: it has to learn by itself
MAX_OBSERVATIONS = 64  # of one entry; the oldest are forgotten

_T = np.linspace(0.5, 1.1, 25)[:, None]
_G = np.geomspace(8.0, 400.0, 16)[None, :]

_Grid = npt.NDArray[np.float64]


class Pooled:
    """What was seen of all entries of a kind."""

    __slots__ = ("_evidence", "count", "wrong")

    def __init__(self) -> None:
        self.count = 0
        self.wrong = 0
        self._evidence: _Grid = np.zeros(np.broadcast_shapes(_T.shape, _G.shape))

    def __repr__(self) -> str:
        return f"<Pooled {self.count} observations, {self.wrong} wrong>"

    def observe(self, similarity: float, *, right: bool) -> None:
        self.count += 1
        self.wrong += not right
        self._evidence += _evidence(similarity, right=right)

    def prior(self, weight: float) -> _Grid:
        """Logarithms of weights.

        :param weight: observations that they count for at most
        """
        share = min(1.0, weight / self.count) if self.count else 0.0
        prior: _Grid = share * self._evidence
        return prior


class Confidence:
    """What was seen of one entry."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: deque[tuple[float, bool]] = deque(maxlen=MAX_OBSERVATIONS)

    def __repr__(self) -> str:
        wrong = sum(not right for _, right in self._seen)
        return f"<Confidence from {len(self._seen)} observations, {wrong} wrong>"

    def observe(self, similarity: float, *, right: bool) -> None:
        self._seen.append((similarity, right))

    def error(self, similarity: float, pooled: Pooled) -> float:
        """The probability that the entry is wrong at this similarity."""
        doubted = any(not right for _, right in self._seen)
        weights = pooled.prior(DOUBTED_WEIGHT if doubted else PRIOR_WEIGHT)
        for seen, right in self._seen:
            weights = weights + _evidence(seen, right=right)
        weights = np.exp(weights - np.max(weights))
        wrong = 1.0 / (1.0 + np.exp(_G * (similarity - _T)))
        return float((weights * wrong).sum() / weights.sum())


def _evidence(similarity: float, *, right: bool) -> _Grid:
    """The logarithm of what each pair of parameters had foretold."""
    sign = 1.0 if right else -1.0
    found: _Grid = -np.logaddexp(0.0, -sign * _G * (similarity - _T))
    return found


def adjusted(delta: float, verified: int, wrong: int) -> float:
    """The bound to decide by, where the measured share of wrong answers is above the bound that is to hold."""
    if not wrong or wrong <= delta * verified or math.isinf(delta):
        return delta
    return delta * (delta * verified / wrong)
