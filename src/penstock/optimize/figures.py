"""What is measured of a model directory, and what has become of it."""

from __future__ import annotations

import msgspec

from penstock.optimize.accuracy import Accuracy


class Speed(msgspec.Struct, frozen=True):
    """Tokens per CPU-second of the measuring process, on one thread; the median of several runs."""

    batch: int
    prefill: float
    decode: float
    spread: float  # of decode: (largest - smallest) / median


class Figures(msgspec.Struct, frozen=True):
    """Of one model directory."""

    name: str
    runtime: str
    weight_bytes: int
    perplexity: float
    tokens: int  # that the perplexity is of
    speeds: tuple[Speed, ...]
    model_bytes: int  # memory that was taken by loading and running it
    peak_bytes: int  # the whole process's resident memory at most, with its libraries
    accuracy: Accuracy | None = None  # where there were questions

    def speed(self, batch: int) -> Speed:
        return next(each for each in self.speeds if each.batch == batch)


def loss(figures: Figures, before: Figures) -> float:
    """How much worse the perplexity is, as a share of what it was; negative: better."""
    return figures.perplexity / before.perplexity - 1
