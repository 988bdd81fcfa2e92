"""When do calls that wait to be sent in one request go?

Calls with the same *key* may share a request.  The first to come opens a group; it is closed, and sent, when it is
full, when its first call has waited for ``max_queue_delay``, or, with an adaptive window, as soon as waiting cannot
pay.  That is known from the gaps between calls lately, whose geometric mean is followed: most gaps within a burst are
short, and the one before it is long, but it counts as one.

- Where fewer than :data:`WORTH` more calls are to be expected in the longest wait, nobody waits at all.
- Where nobody has come for :data:`PATIENCE` times the usual gap, the burst is over.

A group whose time has come while the upstream has no place for its request is *held*: it is closed when its turn has
come, or when it is full, and whoever comes until then joins it.

No tasks and no timers; whoever holds a group asks :attr:`Group.closes_at` and comes back then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from math import exp, inf, log
from typing import Generic, TypeVar

from penstock.config.model import BatchingConfig

WORTH = 2.0  # calls to be expected, for which it is worth to wait
PATIENCE = 8.0  # usual gaps without a call, after which none is expected any more
LEAST_PATIENCE = 0.001  # seconds: event loops do not tell shorter times apart
WEIGHT = 0.2  # of the latest gap
SHORTEST, LONGEST = 1e-5, 10.0  # seconds: gaps beyond are taken for these
MAX_KEYS = 1_024  # of which the gaps are known; callers choose keys

T = TypeVar("T")


class Group(Generic[T]):
    """Calls that will share a request."""

    __slots__ = (
        "_longest_wait",
        "_patience",
        "bytes",
        "closed",
        "held",
        "inputs",
        "key",
        "last",
        "members",
        "opened",
    )

    def __init__(self, key: Hashable, now: float, longest_wait: float) -> None:
        self.key = key
        self.members: list[T] = []
        self.inputs = 0
        self.bytes = 0
        self.opened = self.last = now
        self.closed = False
        self.held = False
        self._longest_wait = longest_wait
        self._patience = inf

    @property
    def closes_at(self) -> float:
        """When it is to be sent, if nobody else comes; ``inf``: when its turn has come."""
        return inf if self.held else min(self.opened + self._longest_wait, self.last + self._patience)

    def join(self, member: T, inputs: int, size: int, now: float, patience: float) -> None:
        self.members.append(member)
        self.inputs += inputs
        self.bytes += size
        self.last = now
        self._patience = patience

    def __repr__(self) -> str:
        state = "closed" if self.closed else "held" if self.held else "open"
        return f"<Group of {len(self.members)} calls, {self.inputs} inputs, {state}>"


class _Gaps:
    """Seconds between calls, followed by the mean of their logarithms."""

    __slots__ = ("_last", "_mean")

    def __init__(self) -> None:
        self._last = -inf
        self._mean = log(LONGEST)

    def note(self, now: float) -> None:
        gap = min(max(now - self._last, SHORTEST), LONGEST)
        self._last = now
        self._mean += WEIGHT * (log(gap) - self._mean)

    @property
    def usual(self) -> float:
        return exp(self._mean)


class Batching(Generic[T]):
    """The groups of one upstream that are open."""

    def __init__(self, config: BatchingConfig) -> None:
        self.config = config
        self._open: dict[Hashable, Group[T]] = {}
        self._gaps: OrderedDict[Hashable, _Gaps] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Batching, {len(self._open)} groups open>"

    def admits(self, inputs: int, size: int) -> bool:
        """Whether a call of so many inputs, and bytes, can share a request at all."""
        return inputs < self.config.max_batch_size and size < self.config.max_batch_bytes

    def put(
        self, key: Hashable, member: T, inputs: int, size: int, now: float, *, room: bool = True
    ) -> tuple[Group[T], Group[T] | None]:
        """Add a call.

        :param room: whether the upstream has a place for a request now
        :returns: its group, which may be closed, or held, from now on; and one that it did not fit into, which is closed now
        """
        config = self.config
        group = self._open.get(key)
        passed = None
        if group is not None and not (
            group.inputs + inputs <= config.max_batch_size and group.bytes + size <= config.max_batch_bytes
        ):
            self.close(group)
            passed, group = group, None
        if group is None:
            group = self._open[key] = Group(key, now, config.max_queue_delay)
        group.join(member, inputs, size, now, self._patience(key, now))
        if group.inputs >= config.max_batch_size:
            self.close(group)
        elif group.closes_at <= now:
            self.due(group, room=room)
        return group, passed

    def due(self, group: Group[T], *, room: bool) -> None:
        """Its time has come: it goes, or waits for a place."""
        if room:
            self.close(group)
        else:
            group.held = True

    def close(self, group: Group[T]) -> None:
        """Nobody can join it any more."""
        if not group.closed:
            group.closed = True
            del self._open[group.key]

    def leave(self, group: Group[T], member: T, inputs: int, size: int) -> None:
        """A call does not wait any more, and makes room; a group that it leaves empty is closed."""
        group.members.remove(member)
        group.inputs -= inputs
        group.bytes -= size
        if not group.members:
            self.close(group)

    def _patience(self, key: Hashable, now: float) -> float:
        if self.config.window == "fixed":
            return inf
        gaps = self._gaps.get(key)
        if gaps is None:
            if len(self._gaps) >= MAX_KEYS:
                self._gaps.popitem(last=False)
            gaps = self._gaps[key] = _Gaps()
        gaps.note(now)
        usual = gaps.usual
        if usual * WORTH > self.config.max_queue_delay:
            return 0.0
        return max(usual * PATIENCE, LEAST_PATIENCE)
