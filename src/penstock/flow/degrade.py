"""The degradation ladder: what a call gets when its model's upstreams are busy, by its tier.

Load is what a model's least loaded upstream has to do, for what it can do at once: 1 is full, 1.5 is full with half
as many waiting.  Each step of a tier's ladder is taken from a load on, and left when the load has been under
:data:`RELEASE` of that for a while (``hold``): a step that relieves its upstream would otherwise be left at once, and
taken again, and again.  To refuse relieves nothing for longer than the refused call would have taken, so that step is
left as soon as the load is.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from penstock.config.model import DegradationConfig, TierConfig

RELEASE = 0.8
STEPS = ("stale", "smaller", "shorter", "refuse")


class Steps(msgspec.Struct, frozen=True):
    """What is done at a load."""

    stale: bool
    smaller: bool
    shorter: bool
    refuse: bool

    def __bool__(self) -> bool:
        return self.stale or self.smaller or self.shorter or self.refuse


class _Step:
    """One step of one tier at one model: taken, or not."""

    __slots__ = ("_from", "_high_at", "_hold", "released", "taken")

    def __init__(self, load: float, hold: float) -> None:
        self._from = load
        self.released = load * RELEASE  # below it the step ends, sooner or later
        self._hold = hold
        self._high_at = 0.0  # when the load was last seen not to be well below
        self.taken = False

    def look(self, load: float, now: float) -> bool:
        self.taken = self.seen(load, now)
        if load >= self.released:
            self._high_at = now
        return self.taken

    def seen(self, load: float, now: float) -> bool:
        """Whether it is taken at this load.  Nobody looks where no calls come, so time passes without a look, too."""
        if load >= self._from:
            return True
        return self.taken and (load >= self.released or now - self._high_at < self._hold)

    def __repr__(self) -> str:
        return f"<_Step from {self._from:g} on, {'taken' if self.taken else 'not taken'}>"


_QUIET = Steps(False, False, False, False)


def _begins(config: DegradationConfig) -> dict[str, float]:
    """From which load on each step is taken."""
    begins = {name: getattr(config, name) for name in STEPS}
    return {name: load for name, load in begins.items() if load is not None}


class _Ladder:
    """That of one tier at one model."""

    __slots__ = ("steps", "taken")

    def __init__(self, config: DegradationConfig) -> None:
        self.steps = {
            # nobody is refused where there is room
            name: _Step(load, 0.0 if name == "refuse" else config.hold)
            for name, load in _begins(config).items()
        }
        self.taken = False  # any of them

    def look(self, load: float, now: float) -> Steps:
        taken = {name: step.look(load, now) for name, step in self.steps.items()}
        self.taken = any(taken.values())
        return Steps(*(taken.get(name, False) for name in STEPS))

    def __repr__(self) -> str:
        return f"<_Ladder of {', '.join(self.steps)}, {'in use' if self.taken else 'quiet'}>"


class Ladders:
    """The ladders of all tiers that have one, at all models.

    :param tiers: by name
    :ivar quiet_below: by tier: the load under which none of its ladders does anything, nor notes it, unless it is in use
    :ivar in_use: how many ladders are
    """

    def __init__(self, tiers: Mapping[str, TierConfig]) -> None:
        self._configs: dict[str, DegradationConfig] = {
            name: tier.degradation for name, tier in tiers.items() if tier.degradation is not None
        }
        self.quiet_below = {
            name: min(_begins(config).values(), default=inf) * RELEASE
            for name, config in self._configs.items()
        }
        self.in_use = 0
        self._ladders: dict[tuple[str, str], _Ladder] = {}

    def __bool__(self) -> bool:
        return bool(self._configs)

    def config(self, tier: str) -> DegradationConfig | None:
        """None: calls of this tier get what they ask for, or wait."""
        return self._configs.get(tier)

    def all_steps(self) -> list[tuple[str, str]]:
        """Every step that may be taken: its tier and its name."""
        return [
            (tier, name)
            for tier, config in self._configs.items()
            for name in STEPS
            if getattr(config, name) is not None
        ]

    def look(self, tier: str, model: str, load: float, now: float) -> Steps:
        """What a call that comes now gets.

        :param model: the entry in the configuration; names that callers invent are not for this
        """
        ladder = self._of(tier, model)
        before = ladder.taken
        if load < self.quiet_below[tier] and not before:
            return _QUIET
        steps = ladder.look(load, now)
        self.in_use += ladder.taken - before
        return steps

    def seen(self, tier: str, model: str, load: float, now: float) -> Steps:
        """What it would get, without any change by the question."""
        taken = {name: step.seen(load, now) for name, step in self._of(tier, model).steps.items()}
        return Steps(*(taken.get(name, False) for name in STEPS))

    def _of(self, tier: str, model: str) -> _Ladder:
        ladder = self._ladders.get((tier, model))
        if ladder is None:
            ladder = self._ladders[tier, model] = _Ladder(self._configs[tier])
        return ladder

    def __repr__(self) -> str:
        return f"<Ladders of {', '.join(self._configs) or 'nobody'}>"
