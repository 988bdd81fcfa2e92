"""Which of several upstreams is asked first, where that is not drawn by weight alone.

What each has been like lately is its :class:`Standing`: for one model at one upstream, calls under way, and moving
means of the time to the first token (of the whole answer, where it does not stream) and of tokens per second.  What is
known fades within a minute, so that one that was slow is tried again.  A call that failed counts as a very slow one:
whoever fails fast must not look quick.

- ``cheapest``: by price, of those that cost the same by weight.
- ``fastest``: by the time that this call's answer is likely to take.
- ``least_busy``: the better of two drawn by weight (M. Mitzenmacher, "The Power of Two Choices in Randomized Load
  Balancing", 2001), where better is less calls under way × peak-EWMA of the time, as in Finagle: a rise counts at once,
  a fall slowly.
- ``prefix``: see ``flow.prefix``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import exp, inf

import msgspec

FADE = 60.0  # seconds in which what is known counts for a third
WEIGHT = 0.1  # of the latest call in the moving means
FAILED = 10.0  # seconds that a failed call counts for, at least
LIKELY_TOKENS = 200.0  # of an answer, where none is known
MAX_MODELS = 256  # of one upstream; callers may invent names
_SHORTEST = 1e-6  # seconds; 0 would mean that nothing is known


class Standing:
    """What one model at one upstream has been like lately."""

    __slots__ = ("_at", "_peak", "_seconds", "_tokens", "_tokens_per_second", "in_progress")

    def __init__(self) -> None:
        self.in_progress = 0
        self._at = 0.0  # when the last call ended
        self._seconds = 0.0  # moving mean of the times to the first token; 0: none is known
        self._peak = 0.0  # the same, but a rise counts at once
        self._tokens = 0.0
        self._tokens_per_second = 0.0

    def begin(self) -> None:
        """A call is sent, or waits to be."""
        self.in_progress += 1

    def end(self) -> None:
        """It has ended."""
        self.in_progress -= 1

    def answered(self, seconds: float, tokens: int, tokens_per_second: float | None, now: float) -> None:
        """A streamed call was answered: time to the first token, output tokens, and their pace after the first."""
        self._observe(seconds, now)
        if tokens:
            self._tokens = _mean(self._tokens, float(tokens))
        if tokens_per_second:
            self._tokens_per_second = _mean(self._tokens_per_second, tokens_per_second)

    def answered_whole(self, seconds: float, tokens: int, now: float) -> None:
        """A call was answered in one piece: its time, less what the tokens took, if their pace is known."""
        writing = tokens / self._tokens_per_second if self._tokens_per_second else 0.0
        self._observe(max(seconds - writing, 0.0), now)

    def outlived(self, seconds: float, now: float) -> None:
        """Nobody waits any more for a first token that has not come in so many seconds."""
        if seconds > self._seconds:
            self._observe(seconds, now)

    def failed(self, seconds: float, now: float) -> None:
        """A call failed after so many seconds."""
        self._observe(max(FAILED, seconds), now)

    def _observe(self, seconds: float, now: float) -> None:
        seconds = max(seconds, _SHORTEST)
        faded = self._peak * exp(min(0.0, self._at - now) / FADE)
        self._peak = seconds if seconds > faded else _mean(faded, seconds)
        self._seconds = _mean(self._seconds, seconds)
        self._at = now

    def takes(self, now: float, max_output_tokens: int | None) -> float:
        """Seconds that an answer is likely to take; 0 if nothing is known."""
        if not self._seconds:
            return self._unknown()
        tokens = self._tokens or LIKELY_TOKENS
        if max_output_tokens is not None:
            tokens = min(tokens, max_output_tokens)
        writing = tokens / self._tokens_per_second if self._tokens_per_second else 0.0
        return (self._seconds + writing) * self._left(now)

    def first_token(self, now: float) -> float:
        """Seconds to the first token; 0 if nothing is known."""
        return self._seconds * self._left(now) if self._seconds else self._unknown()

    def load(self, now: float) -> float:
        """Calls under way, with this one, × how slow it is."""
        seconds = self._peak * self._left(now) if self._peak else self._unknown()
        return (self.in_progress + 1) * seconds

    def _unknown(self) -> float:
        return FAILED if self.in_progress else 0.0  # one call finds out

    def _left(self, now: float) -> float:
        """Of what is known; while a call is under way that will tell more, all of it: one is enough to find out."""
        return 1.0 if self.in_progress else exp(min(0.0, self._at - now) / FADE)

    def __repr__(self) -> str:
        return f"<Standing {self.in_progress} in progress, {self._seconds:.3f} s, {self._tokens_per_second:.1f} tokens/s>"


class Standings:
    """Those of one upstream, by its names of models."""

    __slots__ = ("_standings",)

    def __init__(self) -> None:
        self._standings: OrderedDict[str, Standing] = OrderedDict()

    def of(self, model: str) -> Standing:
        standing = self._standings.get(model)
        if standing is None:
            if len(self._standings) >= MAX_MODELS:
                self._standings.popitem(last=False)
            standing = self._standings[model] = Standing()
        return standing

    def __repr__(self) -> str:
        return f"<Standings of {len(self._standings)} models>"


class Option(msgspec.Struct, frozen=True, eq=False):
    """One who could be asked."""

    weight: float
    standing: Standing


def drawn(weights: Sequence[float], rand: Callable[[], float]) -> list[int]:
    """Indices: one drawn by weight, then the others by falling weight."""
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    point = rand() * sum(weights)
    for i in order:
        point -= weights[i]
        if point < 0:
            order.remove(i)
            order.insert(0, i)
            break
    return order


def cheapest(weights: Sequence[float], prices: Sequence[int | None], rand: Callable[[], float]) -> list[int]:
    """Indices by price; who costs the same in the order of :func:`drawn`, whose price is not known last."""
    known = [inf if price is None else price for price in prices]
    return sorted(drawn(weights, rand), key=lambda i: known[i])


def fastest(
    options: Sequence[Option], rand: Callable[[], float], now: float, max_output_tokens: int | None
) -> list[int]:
    """Indices by the time that the answer is likely to take; of whom nothing is known, first."""
    times = [option.standing.takes(now, max_output_tokens) for option in options]
    return sorted(drawn([option.weight for option in options], rand), key=lambda i: times[i])


def least_busy(options: Sequence[Option], rand: Callable[[], float], now: float) -> list[int]:
    """Indices: the better of two that are drawn, then the others from the best on."""
    first = drawn([option.weight for option in options], rand)[0]
    others = [i for i in range(len(options)) if i != first]
    loads = [option.standing.load(now) for option in options]
    second = others[drawn([options[i].weight for i in others], rand)[0]]
    chosen = first if loads[first] <= loads[second] else second
    return [chosen, *sorted((i for i in range(len(options)) if i != chosen), key=lambda i: loads[i])]


def _mean(present: float, latest: float) -> float:
    return present + WEIGHT * (latest - present) if present else latest
