"""Is a new version of a model worse than the one that it is to replace, and how sure is that?

What is known of a version are its :class:`Figures`: counts, sums and histograms, so that those of several processes
can be added.  Each criterion is compared with a margin, and there are two questions, each with a confidence of its own:

- *worse*: beyond the margin, with confidence.  It is asked again and again while calls come in, and of several
  criteria at once; so that all of this together is wrong no more often than ``1 - confidence`` says, the k-th look has
  ``1 / (k (k + 1))`` of that (which adds up to all of it), divided by the number of criteria (Bonferroni).
- *no worse*: within the margin, with confidence, by every criterion.  As all of them must say so, they need not be
  divided by their number (R. L. Berger, "Multiparameter Hypothesis Testing and Acceptance Sampling", 1982).

How it is compared:

- Failed calls: the interval for a difference of two shares from their Wilson intervals (R. G. Newcombe, "Interval
  Estimation for the Difference Between Independent Proportions", 1998, method 10).
- Times and paces: whether a call of the one is likely to take longer than one of the other (E. Brunner and U. Munzel,
  "The Nonparametric Behrens-Fisher Problem", 2000), after the margin has been taken off; it is the test of Mann,
  Whitney and Wilcoxon without their assumption that only the place differs.  Of histograms whose steps are 5 %, so a
  margin is rounded to such steps.
- Money: the difference of the means, one times the margin (E. C. Fieller, "Some Problems in Interval Estimation", 1954;
  the variances may differ), because bills are sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, exp, floor, inf, log, sqrt
from statistics import NormalDist
from typing import Literal, TypeAlias

import msgspec

from penstock.config.model import CanaryConfig

FIRST_LOOK = 10  # calls of the new version
STEP = log(1.05)  # of a histogram's buckets
# Times, and costs, of each version: calls of one moment are alike, so some more than a test needs.
LEAST_COMPARED = 30
_SHORTEST = 1e-6
_NORMAL = NormalDist()

Counts: TypeAlias = dict[int, int]
"""How many values were in which bucket: number n is for those between 1.05ⁿ and 1.05ⁿ⁺¹."""

Verdict: TypeAlias = Literal["worse", "no worse", "open", "not compared"]


class Figures(msgspec.Struct):
    """What became of the calls that were given to a version.  A call counts as failed if one attempt at it failed."""

    calls: int = 0
    failed: int = 0
    first_token: Counts = {}  # seconds, of streamed answers
    whole: Counts = {}  # seconds, of answers in one piece
    pace: Counts = {}  # output tokens per second, after the first
    priced: int = 0  # calls whose price is known
    cost: float = 0.0  # US dollars
    cost_squares: float = 0.0

    @property
    def answered(self) -> int:
        return self.calls - self.failed

    def fail(self) -> None:
        self.calls += 1
        self.failed += 1

    def answer(
        self, first_token: float | None, whole: float | None, pace: float | None, cost: float | None
    ) -> None:
        """A call was answered; None: there is no such figure."""
        self.calls += 1
        for counts, value in ((self.first_token, first_token), (self.whole, whole), (self.pace, pace)):
            if value is not None:
                bucket = floor(log(max(value, _SHORTEST)) / STEP)
                counts[bucket] = counts.get(bucket, 0) + 1
        if cost is not None:
            self.priced += 1
            self.cost += cost
            self.cost_squares += cost * cost

    def add(self, other: Figures) -> None:
        """Count what another has counted."""
        self.calls += other.calls
        self.failed += other.failed
        for own, more in (
            (self.first_token, other.first_token),
            (self.whole, other.whole),
            (self.pace, other.pace),
        ):
            for bucket, count in more.items():
                own[bucket] = own.get(bucket, 0) + count
        self.priced += other.priced
        self.cost += other.cost
        self.cost_squares += other.cost_squares


class Finding(msgspec.Struct, frozen=True):
    """One criterion: what was measured of both, and what follows; None: nothing was measured."""

    criterion: str
    new: float | None
    old: float | None
    margin: float
    verdict: Verdict


def compare(
    new: Figures, old: Figures, config: CanaryConfig, *, worse_look: int, no_worse_look: int
) -> list[Finding]:
    """Every criterion that is configured.

    :param worse_look: how many times it was asked whether it is worse, this time included
    :param no_worse_look: the same of whether it is no worse
    """
    wanted = (
        ("errors", config.more_errors),
        ("first_token", config.slower),
        ("whole_answer", config.slower),
        ("pace", config.slower),
        ("price", config.dearer),
    )
    criteria = [(name, margin) for name, margin in wanted if margin is not None]
    doubt = 1.0 - config.confidence
    z_worse = _NORMAL.inv_cdf(1.0 - doubt / (worse_look * (worse_look + 1)) / max(len(criteria), 1))
    z_fine = _NORMAL.inv_cdf(1.0 - doubt / (no_worse_look * (no_worse_look + 1)))
    found = []
    for name, margin in criteria:
        if name == "errors":
            found.append(_errors(new, old, margin, z_worse, z_fine))
        elif name == "price":
            found.append(_price(new, old, margin, z_worse, z_fine))
        else:
            ours, theirs = _counts(new, name), _counts(old, name)
            if min(sum(ours.values()), sum(theirs.values())) < LEAST_COMPARED:
                found.append(Finding(name, median(ours), median(theirs), margin, "not compared"))
                continue
            # Of a pace less is worse: the places change.
            z = _z_longer(theirs, ours, margin) if name == "pace" else _z_longer(ours, theirs, margin)
            verdict = _verdict(z, z_worse, z_fine)
            found.append(Finding(name, median(ours), median(theirs), margin, verdict))
    return found


def _counts(figures: Figures, criterion: str) -> Counts:
    return {"first_token": figures.first_token, "whole_answer": figures.whole, "pace": figures.pace}[
        criterion
    ]


def _verdict(z: float, z_worse: float, z_fine: float) -> Verdict:
    if z > z_worse:
        return "worse"
    return "no worse" if z < -z_fine else "open"


def _errors(new: Figures, old: Figures, margin: float, z_worse: float, z_fine: float) -> Finding:
    if not new.calls or not old.calls:
        return Finding("errors", None, None, margin, "open")
    ours, theirs = new.failed / new.calls, old.failed / old.calls
    low, _ = difference(new.failed, new.calls, old.failed, old.calls, z_worse)
    _, high = difference(new.failed, new.calls, old.failed, old.calls, z_fine)
    verdict: Verdict = "worse" if low > margin else "no worse" if high <= margin else "open"
    return Finding("errors", ours, theirs, margin, verdict)


def wilson(failed: int, calls: int, z: float) -> tuple[float, float]:
    """Bounds of a share (E. B. Wilson, 1927), z standard deviations away."""
    share = failed / calls
    middle = share + z * z / (2 * calls)
    spread = z * sqrt(share * (1 - share) / calls + z * z / (4 * calls * calls))
    whole = 1 + z * z / calls
    return max((middle - spread) / whole, 0.0), min((middle + spread) / whole, 1.0)


def difference(failed: int, calls: int, other_failed: int, other_calls: int, z: float) -> tuple[float, float]:
    """Bounds of the difference of two shares."""
    one, other = failed / calls, other_failed / other_calls
    low, high = wilson(failed, calls, z)
    other_low, other_high = wilson(other_failed, other_calls, z)
    return (
        one - other - sqrt((one - low) ** 2 + (other_high - other) ** 2),
        one - other + sqrt((high - one) ** 2 + (other - other_low) ** 2),
    )


def _z_longer(one: Counts, other: Counts, margin: float) -> float:
    """By how many standard deviations values of ``one`` tend to be more than ``margin`` times those of ``other``."""
    n, m = sum(one.values()), sum(other.values())
    steps = round(log(margin) / STEP)
    ours = {bucket - steps: count for bucket, count in one.items()}
    below_other, below_ours = _placements(ours, other), _placements(other, ours)
    likely = sum(ours[bucket] * place for bucket, place in below_other.items()) / n
    variance = _variance(ours, below_other, n) / n + _variance(other, below_ours, m) / m
    if not variance:
        return 0.0 if likely == 0.5 else inf if likely > 0.5 else -inf
    return (likely - 0.5) / sqrt(variance)


def _placements(counts: Counts, among: Counts) -> dict[int, float]:
    """For each bucket, the share of the others that lies below it; who is in the same counts half."""
    total = sum(among.values())
    places: dict[int, float] = {}
    passed = 0
    rest = sorted(among.items(), reverse=True)
    for bucket in sorted(counts):
        while rest and rest[-1][0] < bucket:
            passed += rest.pop()[1]
        places[bucket] = (passed + among.get(bucket, 0) / 2) / total
    return places


def _variance(counts: Counts, places: Mapping[int, float], n: int) -> float:
    mean = sum(counts[bucket] * place for bucket, place in places.items()) / n
    return sum(counts[bucket] * (place - mean) ** 2 for bucket, place in places.items()) / max(n - 1, 1)


def _price(new: Figures, old: Figures, margin: float, z_worse: float, z_fine: float) -> Finding:
    if new.priced < LEAST_COMPARED or old.priced < LEAST_COMPARED:
        return Finding("price", _mean(new), _mean(old), margin, "not compared")
    ours, theirs = new.cost / new.priced, old.cost / old.priced
    above = ours - margin * theirs
    spread = sqrt(_cost_variance(new) / new.priced + margin**2 * _cost_variance(old) / old.priced)
    z = above / spread if spread else 0.0 if not above else inf if above > 0 else -inf
    # Nothing is no dearer than nothing.
    verdict = "no worse" if not ours and not theirs else _verdict(z, z_worse, z_fine)
    return Finding("price", ours, theirs, margin, verdict)


def _mean(figures: Figures) -> float | None:
    return figures.cost / figures.priced if figures.priced else None


def _cost_variance(figures: Figures) -> float:
    n = figures.priced
    return max(figures.cost_squares - figures.cost**2 / n, 0.0) / (n - 1)


def median(counts: Counts) -> float | None:
    """About, of a histogram: the middle of its bucket."""
    left = ceil(sum(counts.values()) / 2)
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0:
            return exp((bucket + 0.5) * STEP)
    return None
