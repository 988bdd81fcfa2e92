"""Where machines tell each other of their trials: in this process, and what can go wrong there."""

from __future__ import annotations

from penstock.flow.redis_trials import NOTHING, Heard
from penstock.flow.verdict import Figures


class ListedBoard:
    """What the script does in Redis.

    :ivar gone: it does not answer
    :ivar deaf: it does as it is told, and its answers are lost
    :ivar asked: how many exchanges there were
    """

    def __init__(self):
        self.gone = self.deaf = False
        self.asked = 0
        self.forget()

    def forget(self):
        self.decisions, self.counted = {}, {}

    async def exchange(self, model, identity, trial, known=NOTHING, wanted=None):
        self.asked += 1
        if self.gone:
            raise ConnectionError("it is gone")
        key = (model, identity)
        there = self.decisions.get(key)
        if wanted is not None and there == known.decision:
            if there is None or there.stamp != wanted.stamp:
                self.counted[key] = {}
            there = self.decisions[key] = wanted
        if there is not None and there.stamp == trial.stamp:
            counted = self.counted[key]
            present = counted.get(trial.member, (0, None))
            calls = trial.own_new.calls + trial.own_old.calls
            if calls >= present[0]:
                copy = trial.copy()
                counted[trial.member] = (calls, (copy.own_new, copy.own_old))
        if self.deaf:
            raise ConnectionError("the answer is lost")
        new, old = Figures(), Figures()
        for member, (_, (theirs, others)) in self.counted.get(key, {}).items():
            if member != trial.member:
                new.add(theirs)
                old.add(others)
        return Heard(b"", there, new, old)

    async def close(self):
        pass
