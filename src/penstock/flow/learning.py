"""How many calls an upstream can take at once, found out by several processes together.

The rule is that of ``penstock.flow.concurrency``, and one pool follows it for all of them: a limit of its own in each
would be as many times too much, or too slow to find out.  What a window has to tell can be added up: whether the
median of its first tokens is late is whether more than half of them are.  So each process counts its first tokens, the
late ones of them, and those that came while the limit was used up; the pool adds up what all count, and leases no more
places than the limit that follows.

What is *usual* is the lowest median of :data:`OWN_WINDOW` first tokens that one of the processes has seen.  Before that
is known nothing is concluded.  ``_sharing_script`` has :func:`learn` in Lua.
"""

from __future__ import annotations

import msgspec

from penstock.config.model import ConcurrencyConfig
from penstock.flow.concurrency import COLLAPSE, DECREASE, GROWTH, INCREASE, LEAST_WINDOW, PAUSE, USED, crept

OWN_WINDOW = 16  # first tokens of one process, whose median may be the usual one


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What a process has seen; all counts are since it began, so a report that arrives twice does no harm.

    :param value: the limit as it was last told, or what it begins with: where the pool knows nothing, it is that
    :param usual: the lowest median since the last answer, seconds; 0: there is none
    """

    value: float
    least: int
    most: int
    usual: float
    first_tokens: int
    late: int
    used: int
    overloads: int

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return self.first_tokens, self.late, self.used, self.overloads


class Learnt(msgspec.Struct):
    """What the pool has learnt: the limit, and the window that is under way."""

    value: float
    usual: float = 0.0
    since: float = 0.0  # when the usual was last looked at
    congested: bool = False
    quiet_until: float = 0.0
    first_tokens: int = 0
    late: int = 0
    used: int = 0


def learn(known: Learnt | None, seen: Seen, before: tuple[int, int, int, int] | None, now: float) -> Learnt:
    """Enter what a process has seen.

    :param before: its counts at its last report; None: there was none
    """
    learnt = known or Learnt(seen.value)
    learnt.value = min(learnt.value, float(seen.most))
    first_tokens, late, used, overloads = (
        max(0, count - earlier) for count, earlier in zip(seen.counts, before or seen.counts, strict=True)
    )
    learnt.first_tokens += first_tokens
    learnt.late += late
    learnt.used += used
    if seen.usual:
        learnt.usual = (
            min(crept(learnt.usual, now - learnt.since), seen.usual) if learnt.usual else seen.usual
        )
        learnt.since = now
    if overloads:
        _decrease(learnt, COLLAPSE, seen, now)
    if learnt.usual and learnt.first_tokens >= max(LEAST_WINDOW, learnt.value):
        if learnt.late * 2 > learnt.first_tokens:
            _decrease(learnt, DECREASE, seen, now)
        elif learnt.used * 2 > learnt.first_tokens:
            more = max(1.0, learnt.value * INCREASE) if learnt.congested else learnt.value * (GROWTH - 1.0)
            learnt.value = min(float(seen.most), learnt.value + more)
        learnt.first_tokens = learnt.late = learnt.used = 0
    return learnt


def _decrease(learnt: Learnt, factor: float, seen: Seen, now: float) -> None:
    if 0.0 < learnt.quiet_until - now <= PAUSE:
        return
    learnt.quiet_until = now + PAUSE
    learnt.congested = True
    learnt.value = max(float(min(seen.least, seen.most)), learnt.value * factor)


class SharedLimit:
    """One process's side; it stands where a process alone has an :class:`penstock.flow.concurrency.AdaptiveLimit`.

    :ivar value: the limit of all processes, as it was last told.  Without word from the others it stays as it is
    :ivar others: calls that these have under way
    """

    __slots__ = (
        "_config",
        "_first_tokens",
        "_late",
        "_lowest",
        "_overloads",
        "_reported",
        "_times",
        "_used",
        "_usual",
        "others",
        "value",
    )

    def __init__(self, config: ConcurrencyConfig) -> None:
        self._config = config
        self.value = float(min(config.start, config.limit))
        self.others = 0
        self._usual = 0.0
        self._times: list[float] = []
        self._lowest = self._reported = 0.0
        self._first_tokens = self._late = self._used = self._overloads = 0

    def observe(self, first_token: float, in_progress: int, now: float) -> None:  # noqa: ARG002 - the pool has a clock
        """A first token came after so many seconds, while so many calls were in progress here."""
        self._first_tokens += 1
        self._late += 0.0 < self._config.tolerance * self._usual < first_token
        self._used += in_progress + self.others >= USED * int(self.value)
        times = self._times
        times.append(first_token)
        if len(times) >= OWN_WINDOW:
            median = sorted(times)[len(times) // 2]
            self._lowest = min(self._lowest, median) if self._lowest else median
            times.clear()

    def overloaded(self, now: float) -> None:  # noqa: ARG002 - as above
        """The upstream says that it has too much to do."""
        self._overloads += 1

    def told(self) -> Seen:
        """What is reported."""
        self._reported = self._lowest
        config = self._config
        return Seen(
            self.value,
            config.least,
            config.limit,
            self._lowest,
            self._first_tokens,
            self._late,
            self._used,
            self._overloads,
        )

    def learnt(self, value: float, usual: float, others: int) -> None:
        """What was answered."""
        self.value = value
        self.others = others
        self._usual = usual
        if self._lowest == self._reported:
            self._lowest = 0.0

    def __repr__(self) -> str:
        return (
            f"<SharedLimit {self.value:.1f} of {self._config.limit}, usual first token {self._usual:.3f} s>"
        )
