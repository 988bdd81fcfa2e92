from __future__ import annotations

from penstock.testing import FakeClock


class Sweeper:
    def __init__(self):
        self.swept = []

    def sweep(self, now):
        self.swept.append(now)


def test_time_passes_only_when_told_and_sweeps_at_its_end():
    clock = FakeClock(50.0)
    sweeper = Sweeper()
    clock.add(sweeper)
    assert clock.now() == clock.now() == 50.0
    clock.advance(2.5)
    assert clock.now() == 52.5
    clock.remove(sweeper)
    clock.advance(1)
    assert sweeper.swept == [52.5]
