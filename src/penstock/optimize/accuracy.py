"""How many questions a model answers rightly, and how sure that is of so many."""

from __future__ import annotations

import math

import msgspec

_Z = 1.959964  # 95 % of a normal distribution lie within so many deviations


class Accuracy(msgspec.Struct, frozen=True):
    """``marks``: of each question in the order of the file, ``1`` where the answer was right, and ``0``."""

    marks: str

    def __repr__(self) -> str:
        return f"<Accuracy {self.right} of {len(self.marks)}>"

    @property
    def right(self) -> int:
        return self.marks.count("1")

    @property
    def share(self) -> float:
        return self.right / len(self.marks)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of all questions of this kind lies, with a confidence of 95 %.

        Wilson's interval, which holds for few questions and for shares near 0 and 1, too (Journal of the American
        Statistical Association 22, 1927).
        """
        asked, share = len(self.marks), self.share
        middle = (share + _Z**2 / (2 * asked)) / (1 + _Z**2 / asked)
        half = _Z / (1 + _Z**2 / asked) * math.sqrt(share * (1 - share) / asked + _Z**2 / (4 * asked**2))
        return max(0.0, middle - half), min(1.0, middle + half)


class Drop(msgspec.Struct, frozen=True):
    """By how much the share of right answers is smaller; below 0: it is larger.

    ``interval``: where that lies for all questions of this kind, with a confidence of 95 %.
    """

    share: float
    interval: tuple[float, float]


def drop(after: Accuracy, before: Accuracy) -> Drop:
    """Of two models that were asked the same.

    Only questions that the two answer differently tell them apart, so the interval is narrower than that of either
    (Bonett and Price's, for paired shares: Journal of Educational and Behavioral Statistics 37, 2012).

    :raises ValueError: they were not
    """
    pairs = list(zip(before.marks, after.marks, strict=True))
    lost, won = pairs.count(("1", "0")), pairs.count(("0", "1"))
    of = len(pairs) + 2
    one, other = (lost + 1) / of, (won + 1) / of
    half = _Z * math.sqrt((one + other - (one - other) ** 2) / of)
    return Drop((lost - won) / len(pairs), (max(-1.0, one - other - half), min(1.0, one - other + half)))
