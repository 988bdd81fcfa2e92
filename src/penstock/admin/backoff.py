"""How long to wait before a process that died is started again."""

from __future__ import annotations

FIRST_DELAY = 1.0  # seconds
MAX_DELAY = 30.0
GOOD_LIFE = 60.0  # a process that lived so long is forgiven its earlier deaths


class Backoff:
    """The first death is answered at once; deaths in a row by 1, 2, 4 … 30 seconds."""

    __slots__ = ("_deaths",)

    def __init__(self) -> None:
        self._deaths = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait after a process that lived for ``lived`` seconds."""
        if lived >= GOOD_LIFE:
            self._deaths = 0
        self._deaths += 1
        if self._deaths == 1:
            return 0.0
        return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(self._deaths - 2, 10))

    def __repr__(self) -> str:
        return f"<Backoff after {self._deaths} deaths>"
