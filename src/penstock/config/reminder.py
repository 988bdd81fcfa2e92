"""What ends, said before it does: versions of models, and keys."""

from __future__ import annotations

from math import inf

from penstock.config import expiry, sunset
from penstock.config.model import Config

_DAY = 86_400.0


def endings(config: Config, now: float) -> list[str]:
    """One sentence for each thing that ends soon, or has ended.

    :param now: Unix time
    """
    return [*sunset.warnings(config, now), *expiry.warnings(config.keys, now)]


class Reminder:
    """Says once a day what ends."""

    __slots__ = ("_next", "_said")

    def __init__(self) -> None:
        self._next = -inf
        self._said: list[str] = []

    def __repr__(self) -> str:
        return f"<Reminder of {len(self._said)} endings>"

    def due(self, config: Config, now: float, elapsed: float) -> list[str]:
        """What is to be said now; empty nearly always.

        :param now: Unix time
        :param elapsed: monotonic seconds: a clock that jumps repeats nothing, and leaves nothing out for long
        """
        if elapsed < self._next:
            return []
        self._next = elapsed + _DAY
        self._said = endings(config, now)
        return self._said

    def again(self) -> None:
        """The configuration is another one."""
        self._next = -inf
