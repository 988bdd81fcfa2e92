"""A circuit breaker: stop asking an upstream that fails or has become slow, and find out when it is well again.

::

    CLOSED ──too many errors or slow calls in the window──> OPEN ──after its time──> HALF_OPEN
      ↑                                                      ↑                           │
      └────────────── enough probes have succeeded ──────────┼───────────────────────────┤
                                                             └── a probe failed: twice as long

After M. Nygard, "Release It!" (2007), with the slow-call ratio of resilience4j applied to what matters in a
stream: the time to the first token, and the pace of the tokens after it.

A breaker that is open still lets probes through where there is nobody else to ask (``last``): the last one
standing is tried, never shut out.
"""

from __future__ import annotations

import enum
from collections import deque
from math import inf

import msgspec

from penstock.config.model import BreakerConfig

SLICES = 10  # of the sliding window


class Ended(msgspec.Struct, frozen=True):
    """How a call ended.  ``first_token`` in seconds; None: not measured, as in an answer that is no stream."""

    failed: bool
    first_token: float | None = None
    tokens_per_second: float | None = None


WELL = Ended(failed=False)  # without anything that was measured, as most plain answers


class State(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_CLOSED, _OPEN, _HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class _Slice:
    """What happened in a tenth of the window, or in several."""

    __slots__ = ("began", "calls", "failed", "paced", "slow", "slow_paced", "timed")

    def __init__(self, began: float) -> None:
        self.began = began
        self.calls = self.failed = self.timed = self.slow = self.paced = self.slow_paced = 0

    def add(self, other: _Slice) -> None:
        self.calls += other.calls
        self.failed += other.failed
        self.timed += other.timed
        self.slow += other.slow
        self.paced += other.paced
        self.slow_paced += other.slow_paced


class Breaker:
    """Of one model at one upstream, with one key.

    :ivar is_open: whether it is not closed: open, or being tried
    """

    __slots__ = (
        "_before",
        "_config",
        "_latest",
        "_opened",
        "_probes",
        "_reopens",
        "_slices",
        "_slides_at",
        "_state",
        "_succeeded",
        "is_open",
        "reason",
    )

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self._slices: deque[_Slice] = deque()  # of the window, the oldest first
        self._latest = self._before = _Slice(-inf)  # the last of them, and the sum of the others
        self._slides_at = -inf  # when one of them begins or leaves the window
        self._state = _CLOSED
        self.is_open = False
        self._reopens = 0.0  # when OPEN becomes HALF_OPEN
        self._opened = 0  # times in a row
        self._probes = 0  # under way
        self._succeeded = 0  # probes
        self.reason = ""

    def state(self, now: float) -> State:
        if self._state is _OPEN and now >= self._reopens:
            self._state = _HALF_OPEN
            self._succeeded = 0
        return self._state

    def permits(self, now: float, *, last: bool = False) -> bool:
        """Whether a call may go there now.

        :param last: there is nobody else to ask
        """
        if not self.is_open:
            return True
        return (last or self.state(now) is _HALF_OPEN) and self._probes < self._config.probes

    def wait(self, now: float) -> float:
        """Seconds until a call may be permitted again; 0: it may be now."""
        return max(0.0, self._reopens - now) if self.state(now) is _OPEN else 0.0

    def begin(self) -> bool:
        """A call goes there.

        :returns: whether it is a probe, which :meth:`end` wants to know
        """
        if not self.is_open:
            return False
        self._probes += 1
        return True

    def end(self, ended: Ended | None, now: float, *, probe: bool) -> bool:
        """It has ended.

        :param ended: None: it says nothing of the upstream, such as a call whose caller left
        :returns: whether that has opened or closed the breaker
        """
        if probe:
            self._probes -= 1
        if ended is None:
            return False
        if self.is_open:
            return probe and self._judge(ended, now)  # what began before it opened tells nothing new
        if now >= self._slides_at:
            self._slide(now)
        latest, before = self._latest, self._before
        latest.calls += 1
        if ended.failed:
            latest.failed += 1
        failed = latest.failed + before.failed
        if failed:
            calls = latest.calls + before.calls
            if calls >= self._config.least_calls and failed > self._config.error_ratio * calls:
                self.trip("errors", now)
                return True
        return ended is not WELL and self._is_slow(ended, now)

    def trip(self, reason: str, now: float) -> None:
        """Open at once: nothing more needs to be counted."""
        self.reason = reason
        self._opened += 1
        longest = self._config.max_open_for
        self._reopens = now + min(longest, self._config.open_for * 2.0 ** min(self._opened - 1, 32))
        self._state = _OPEN
        self.is_open = True
        self._slices.clear()
        self._slides_at = -inf

    # ---- counting ----

    def _is_slow(self, ended: Ended, now: float) -> bool:
        """Count how soon it came, and how fast; whether that has opened the breaker."""
        config, latest, before = self._config, self._latest, self._before
        slow = slow_paced = False
        if ended.first_token is not None:
            latest.timed += 1
            latest.slow += ended.first_token > config.slow_first_token
            timed = latest.timed + before.timed
            slow = timed >= config.least_calls and latest.slow + before.slow >= config.slow_ratio * timed
        if ended.tokens_per_second is not None:
            latest.paced += 1
            latest.slow_paced += ended.tokens_per_second < config.slow_tokens_per_second
            paced, late = latest.paced + before.paced, latest.slow_paced + before.slow_paced
            slow_paced = paced >= config.least_calls and late >= config.slow_ratio * paced
        if config.slow_first_token and slow:
            self.trip("slow", now)
        elif config.slow_tokens_per_second and slow_paced:
            self.trip("slow_tokens", now)
        return self.is_open

    def _slide(self, now: float) -> None:
        """A slice begins, or one has left the window."""
        slices, window = self._slices, self._config.window
        width = window / SLICES
        if not slices or now >= slices[-1].began + width:
            slices.append(_Slice(now))
        while slices[0].began <= now - window:
            slices.popleft()
        self._latest = slices[-1]
        self._before = before = _Slice(-inf)
        for each in slices:
            if each is not self._latest:
                before.add(each)
        self._slides_at = min(self._latest.began + width, slices[0].began + window)

    def _judge(self, ended: Ended, now: float) -> bool:
        """A probe has ended; whether that has closed the breaker."""
        self.state(now)
        config = self._config
        slow = bool(config.slow_first_token) and (ended.first_token or 0.0) > config.slow_first_token
        if config.slow_tokens_per_second and ended.tokens_per_second is not None:
            slow = slow or ended.tokens_per_second < config.slow_tokens_per_second
        if ended.failed or slow:
            self._succeeded = 0
            if self._state is _HALF_OPEN:  # of the last one standing, failures do not add up
                self.trip("errors" if ended.failed else "slow", now)
            return False
        self._succeeded += 1
        if self._succeeded < config.probes:
            return False
        self._state = _CLOSED
        self.is_open = False
        self._opened = 0
        self._reopens = 0.0
        self.reason = ""
        return True

    def __repr__(self) -> str:
        return f"<Breaker {self._state.value} {self.reason}, {self._probes} probes under way>"
