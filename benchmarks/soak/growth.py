"""Whether memory grows: the slope of its quietest moments, and how sure that is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope per minute, and the half width of its 95 % confidence interval.

    Neighbouring samples are alike: the residuals' lag-1 autocorrelation r leaves n(1-r)/(1+r) of n
    independent ones (Santer et al., 2000).
    """
    n = len(times)
    if n < 4:
        return 0.0, math.inf
    mean_t, mean_v = sum(times) / n, sum(values) / n
    spread = sum((t - mean_t) ** 2 for t in times)
    steep = sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values, strict=True)) / spread
    rest = [v - mean_v - steep * (t - mean_t) for t, v in zip(times, values, strict=True)]
    square = sum(e * e for e in rest)
    if square == 0:
        return steep * 60, 0.0
    r = max(0.0, min(0.99, sum(a * b for a, b in itertools.pairwise(rest)) / square))
    independent = max(3.0, n * (1 - r) / (1 + r))
    error = math.sqrt(square / (independent - 2) / spread) if independent > 2 else math.inf
    return steep * 60, 1.96 * error * 60


def slopes(
    samples: list[dict[str, Any]], before: dict[str, Any], after: dict[str, Any]
) -> dict[str, dict[str, float]]:
    half = [each for each in samples if each["at"] >= samples[-1]["at"] / 2]
    found = {}
    for name, process in processes(before):
        quiet = _quietest([(each["at"], process(each)["rss"]) for each in half])
        steep, error = slope([at for at, _ in quiet], [rss for _, rss in quiet])
        found[name] = {
            "mib_per_minute": steep,
            "confidence_95": error,
            "start_mib": process(before)["rss"],
            "half_mib": process(half[0])["rss"],
            "end_mib": process(samples[-1])["rss"],
            "after_mib": process(after)["rss"],
        }
    return found


def _quietest(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    window = curve[-1][0] / 60
    windows = itertools.groupby(curve, key=lambda point: int(point[0] / window))
    return [min(points, key=lambda point: point[1]) for _, points in windows]


def processes(one: dict[str, Any]) -> list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]]:
    def worker(index: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda each: each["workers"][index]

    return [
        *((f"worker {index}", worker(index)) for index in range(len(one["workers"]))),
        ("supervisor", lambda each: each["supervisor"]),
        ("simulator", lambda each: each["simulator"]),
    ]
