"""By how much does one thing grow with another?  The slope of a line through what was seen lately, by least squares."""

from __future__ import annotations

from collections.abc import Iterable

KEEP = 0.97  # of what was seen, with each pair that comes: the latest 33 count


class Slope:
    """What one of several, which are alike but for a constant, has shown: fading sums over pairs of numbers."""

    __slots__ = ("_count", "_x", "_xx", "_xy", "_y")

    def __init__(self) -> None:
        self._count = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """One more pair."""
        self._count = self._count * KEEP + 1.0
        self._x = self._x * KEEP + x
        self._y = self._y * KEEP + y
        self._xx = self._xx * KEEP + x * x
        self._xy = self._xy * KEEP + x * y

    @property
    def moments(self) -> tuple[float, float]:
        """How far the first numbers lay apart, squared and added up; and how far the second ones did with them."""
        if not self._count:
            return 0.0, 0.0
        return self._xx - self._x * self._x / self._count, self._xy - self._x * self._y / self._count

    def __repr__(self) -> str:
        return f"<Slope {common_slope([self], 0.0, 1e-9):.3g}>"


def common_slope(each: Iterable[Slope], supposed: float, doubt: float) -> float:
    """That of all together, each with a constant of its own.

    :param supposed: what it is taken for as long as little was seen
    :param doubt: the sum of squares from which on what was seen counts for more than that
    """
    squares, products = doubt, supposed * doubt
    for one in each:
        squared, product = one.moments
        squares += squared
        products += product
    return products / squares
