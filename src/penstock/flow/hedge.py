"""When is a first token so late that the call should be asked a second time, and may it be?

After J. Dean and L. A. Barroso, "The Tail at Scale" (CACM, 2013): a second call once the first has been
outstanding for longer than the 95th percentile.  What is spent on it has a hard bound: each call earns a fraction
of a second one, so that second calls are never more than that fraction, at no time.  Where only 3 % can be asked
again, it should be the latest 3 %: so no more than that are called late, and those that are late while nothing has
been earned wait, and ask again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from math import log2

from penstock.config.model import HedgeConfig

LEAST = 50  # first tokens before anything is called late
RECENT = 512  # first tokens of which the quantile is taken
MAX_KINDS = 1_024  # of models, and lengths of prompts, at one upstream; callers may invent names
SHORTEST = 256  # tokens; shorter prompts are alike, and so are those within four times a length
MAX_EARNED = 10.0  # second calls that can be saved up: so many at once, when an upstream stands still


class _Recent:
    """The latest first tokens of one kind of call, by age and by size."""

    __slots__ = ("by_age", "by_size")

    def __init__(self) -> None:
        self.by_age: deque[float] = deque(maxlen=RECENT)
        self.by_size: list[float] = []

    def add(self, seconds: float) -> None:
        if len(self.by_age) == RECENT:
            del self.by_size[bisect_left(self.by_size, self.by_age[0])]
        self.by_age.append(seconds)
        insort(self.by_size, seconds)


class Hedging:
    """What one upstream's second calls depend on."""

    __slots__ = ("_earned", "_extra", "_quantile", "_recent")

    def __init__(self, config: HedgeConfig) -> None:
        self._extra = config.extra
        self._quantile = max(config.quantile, 1.0 - config.extra)
        self._earned = 0.0
        self._recent: OrderedDict[tuple[str, int], _Recent] = OrderedDict()

    def earn(self) -> None:
        """A call is sent."""
        self._earned = min(self._earned + self._extra, MAX_EARNED)

    def withdraw(self) -> bool:
        """May a second call be made?  True spends it."""
        if self._earned < 1.0:
            return False
        self._earned -= 1.0
        return True

    def late_after(self, model: str, prompt_tokens: int) -> float | None:
        """Seconds from sending, after which a first token is late; None: too little is known."""
        recent = self._recent.get((model, _length(prompt_tokens)))
        if recent is None or len(recent.by_size) < LEAST:
            return None
        ordered = recent.by_size
        return ordered[min(len(ordered) - 1, int(self._quantile * len(ordered)))]

    def observe(self, model: str, seconds: float, prompt_tokens: int) -> None:
        """A first token came after so many seconds."""
        kind = model, _length(prompt_tokens)
        recent = self._recent.get(kind)
        if recent is None:
            if len(self._recent) >= MAX_KINDS:
                self._recent.popitem(last=False)
            recent = self._recent[kind] = _Recent()
        recent.add(seconds)

    def outlived(self, model: str, seconds: float, prompt_tokens: int) -> None:
        """No first token came in so many seconds, and now nobody waits for it any more.

        If it was late, it counts as late: leaving it out would make the quantile fall from one second call to the
        next.  If it was not, nothing is known.
        """
        late = self.late_after(model, prompt_tokens)
        if late is not None and seconds >= late:
            self.observe(model, seconds, prompt_tokens)

    def __repr__(self) -> str:
        return f"<Hedging {self._earned:.2f} earned, {len(self._recent)} kinds of calls>"


def _length(prompt_tokens: int) -> int:
    return int(log2(max(prompt_tokens, SHORTEST)) / 2)
