"""Quantiles of any number of durations in bounded memory."""

from __future__ import annotations

import math

_PER_FACTOR_E = 50  # buckets: each is 2 % wider than the one before


class Histogram:
    """Counts durations in logarithmic buckets; quantiles are right within 1 %."""

    __slots__ = ("_buckets", "_zeros", "count", "largest", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._zeros = 0  # below a microsecond
        self.count = 0
        self.total = 0.0
        self.largest = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        self.count += times
        self.total += seconds * times
        self.largest = max(self.largest, seconds)
        if seconds < 1e-6:
            self._zeros += times
            return
        bucket = math.floor(math.log(seconds) * _PER_FACTOR_E)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + times

    def quantile(self, share: float) -> float | None:
        """The duration that ``share`` (0 to 1) of all do not exceed; None: nothing was added."""
        if not self.count:
            return None
        wanted = max(1, math.ceil(share * self.count))
        if wanted == self.count:
            return self.largest
        seen = self._zeros
        if seen >= wanted:
            return 0.0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(math.exp((bucket + 0.5) / _PER_FACTOR_E), self.largest)
        return self.largest

    def summary(self) -> dict[str, float | int | None]:
        """For JSON; seconds."""
        mean = self.total / self.count if self.count else None
        return {
            "count": self.count,
            "mean": mean,
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": self.largest if self.count else None,
        }

    def __repr__(self) -> str:
        return f"<Histogram of {self.count}, p50 {self.quantile(0.5)} s, max {self.largest} s>"
