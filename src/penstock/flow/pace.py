"""What an upstream's answers are like lately: for predictions, not for bills."""

from __future__ import annotations

from collections import deque

RECENT = 128  # first tokens of which the quantiles are taken
WEIGHT = 0.05  # of the latest call in the moving means


class Pace:
    """Seconds to the first token, tokens per second, length of answers, seconds that a call holds a place."""

    __slots__ = ("_first_tokens", "_sorted", "holding", "output_tokens", "tokens_per_second")

    def __init__(self) -> None:
        self._first_tokens: deque[float] = deque(maxlen=RECENT)
        self._sorted: list[float] = []
        self.tokens_per_second = 0.0  # each 0 until it is known
        self.output_tokens = 0.0
        self.holding = 0.0

    def observe(
        self, holding: float, first_token: float | None, tokens_per_second: float | None, output_tokens: int
    ) -> None:
        """A call has been answered."""
        self.holding = _mean(self.holding, holding)
        if output_tokens:
            self.output_tokens = _mean(self.output_tokens, float(output_tokens))
        if tokens_per_second is not None:
            self.tokens_per_second = _mean(self.tokens_per_second, tokens_per_second)
        if first_token is not None:
            self._first_tokens.append(first_token)
            self._sorted = []

    def first_token(self, quantile: float) -> float:
        """Seconds; 0 if nothing is known yet."""
        if not self._first_tokens:
            return 0.0
        if not self._sorted:
            self._sorted = sorted(self._first_tokens)
        return self._sorted[min(len(self._sorted) - 1, int(quantile * len(self._sorted)))]

    def answer(self, max_output_tokens: int | None) -> float:
        """Seconds that the tokens of a whole answer are likely to take, after the first one."""
        if not self.tokens_per_second:
            return 0.0
        tokens = self.output_tokens
        if max_output_tokens is not None:
            tokens = min(tokens, max_output_tokens)
        return tokens / self.tokens_per_second

    def __repr__(self) -> str:
        return f"<Pace {self.first_token(0.5):.3f} s, {self.tokens_per_second:.1f} tokens/s, holding {self.holding:.2f} s>"


def _mean(present: float, latest: float) -> float:
    return present + WEIGHT * (latest - present) if present else latest
