"""What an upstream's answers are like lately: for predictions, not for bills.

A long prompt takes longer than a short one.  So each first token is divided by what is typical of prompts of its
length, the *shape*, which is learnt as we go: relative to how slow the upstream is at the moment, so that it
cannot hide that all answers have become slower.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import log2

RECENT = 128  # first tokens of which the quantiles are taken
WEIGHT = 0.05  # of the latest call in the moving means
LEAST_PROMPT = 64  # tokens; shorter ones are alike


class Pace:
    """Seconds to the first token, tokens per second, length of answers, seconds that a call holds a place."""

    __slots__ = (
        "_first_tokens",
        "_level",
        "_shape",
        "_sorted",
        "holding",
        "is_known",
        "output_tokens",
        "tokens_per_second",
    )

    def __init__(self) -> None:
        self._first_tokens: deque[float] = deque()  # for a prompt of shape 1, RECENT at most
        self._sorted: list[float] = []  # the same
        self._level = 0.0  # their moving mean
        self._shape: dict[int, float] = {}  # by length of the prompt, two classes to a doubling
        self.is_known = False  # whether anything is of first tokens, or of what comes after
        self.tokens_per_second = 0.0  # each 0 until it is known
        self.output_tokens = 0.0
        self.holding = 0.0

    def observe(self, holding: float, tokens_per_second: float | None, output_tokens: int) -> None:
        """A call has been answered."""
        mean = self.holding
        self.holding = mean + WEIGHT * (holding - mean) if mean else holding
        if output_tokens:
            mean = self.output_tokens
            self.output_tokens = mean + WEIGHT * (output_tokens - mean) if mean else float(output_tokens)
        if tokens_per_second is not None:
            self.is_known = True
            self.tokens_per_second = _mean(self.tokens_per_second, tokens_per_second)

    def observe_first_token(self, seconds: float, prompt_tokens: int) -> float:
        """A first token came.

        :returns: seconds, as they would have been for a prompt of shape 1
        """
        length = _length(prompt_tokens)
        if not self._level:
            self._level = max(seconds, 1e-6)
        shape = self._shape.get(length)
        if shape is None:
            shape = max(seconds, 1e-6) / self._level
        alike = seconds / shape
        self._shape[length] = shape + WEIGHT * (seconds / self._level - shape)
        self._level += WEIGHT * (alike - self._level)
        if len(self._first_tokens) == RECENT:
            oldest = self._first_tokens.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self.is_known = True
        self._first_tokens.append(alike)
        insort(self._sorted, alike)
        return alike

    def first_token(self, quantile: float, prompt_tokens: int) -> float:
        """Seconds until the first token of such a prompt; 0 if nothing is known yet."""
        ordered = self._sorted
        if not ordered:
            return 0.0
        alike = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
        return alike * self._shape.get(_length(prompt_tokens), 1.0)

    def answer(self, max_output_tokens: int | None) -> float:
        """Seconds that the tokens of a whole answer are likely to take, after the first one."""
        if not self.tokens_per_second:
            return 0.0
        tokens = self.output_tokens
        if max_output_tokens is not None:
            tokens = min(tokens, max_output_tokens)
        return tokens / self.tokens_per_second

    def __repr__(self) -> str:
        return (
            f"<Pace {self._level:.3f} s, {self.tokens_per_second:.1f} tokens/s, holding {self.holding:.2f} s>"
        )


def _length(prompt_tokens: int) -> int:
    return int(2.0 * log2(max(prompt_tokens, LEAST_PROMPT)))


def _mean(present: float, latest: float) -> float:
    return present + WEIGHT * (latest - present) if present else latest
