"""What the processes of a gateway count together, though some die, and some are too busy to tell."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.metrics import Snapshot, merge


class Totals:
    """Counters never go back: what a process had counted when it died is kept, and one that does not tell now counts with
    what it told last.
    """

    def __init__(self) -> None:
        self._last: dict[int, Snapshot] = {}  # what each place's process told last
        self._dead: Snapshot = []  # what those had counted that have died

    def __repr__(self) -> str:
        return f"<Totals of {len(self._last)} processes>"

    def together(self, own: Snapshot, told: Iterable[tuple[int, Snapshot | None]]) -> Snapshot:
        """One snapshot of all.

        :param own: of the process that asks
        :param told: by each place's process; None: it did not answer in time
        :raises ValueError: two processes declare a metric differently, so they do not run the same version
        """
        current: list[Snapshot] = []
        for place, snapshot in told:
            if snapshot is not None:
                self._last[place] = snapshot
                current.append(snapshot)
            else:
                current.append(_counted(self._last.get(place, [])))
        return merge([own, self._dead, *current])

    def died(self, place: int) -> None:
        """The process in this place is no more; another may follow it, and begins at nought."""
        last = self._last.pop(place, None)
        if last is not None:
            self._dead = merge([self._dead, _counted(last)])


def _counted(snapshot: Snapshot) -> Snapshot:
    """Without the gauges: they tell of a moment that has passed."""
    return [family for family in snapshot if family.kind != "gauge"]
