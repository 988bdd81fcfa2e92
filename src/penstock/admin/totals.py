"""What the processes of a gateway count together, though some die, and some are too busy to tell."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.metrics import Families, merge


class Totals:
    """Counters never go back: what a process had counted when it died is kept, and one that does not tell now counts with
    what it told last.
    """

    def __init__(self) -> None:
        self._last: dict[int, Families] = {}  # what each place's process told last
        self._dead: Families = []  # what those had counted that have died

    def __repr__(self) -> str:
        return f"<Totals of {len(self._last)} processes>"

    def together(self, own: Families, told: Iterable[tuple[int, Families | None]]) -> Families:
        """What all of them counted.

        :param own: of the process that asks
        :param told: by each place's process; None: it did not answer in time
        :raises ValueError: two processes declare a metric differently, so they do not run the same version
        """
        current: list[Families] = []
        for place, families in told:
            if families is not None:
                self._last[place] = families
                current.append(families)
            else:
                current.append(_counted(self._last.get(place, [])))
        return merge([own, self._dead, *current])

    def died(self, place: int) -> None:
        """The process in this place is no more; another may follow it, and begins at nought."""
        last = self._last.pop(place, None)
        if last is not None:
            self._dead = merge([self._dead, _counted(last)])


def _counted(families: Families) -> Families:
    """Without the gauges: they tell of a moment that has passed."""
    return [family for family in families if family.kind != "gauge"]
