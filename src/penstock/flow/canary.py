"""How far the trial of a new version has come, and what its figures make of it.

A trial goes through the shares that its configuration names, one *step* after the other.  At each it begins to count
anew: calls of one step are of the same hours, and at every share the two versions have the same kinds of calls, which
is not so of sums over steps (E. H. Simpson, "The Interpretation of Interaction in Contingency Tables", 1951).  Each
decision begins an *epoch*, which has a *stamp*; what was counted under another one does not count.  Of two stamps the
later is what holds, which matters where machines have decided without each other (``flow.shared_trials``): a word of a
person holds over what was concluded, a roll-back over any number of steps, and else who has come further.

The new version is *rolled back* as soon as it is shown to be worse, and then gets no calls.  It takes a step when it
is shown to be no worse, or has answered ``most_calls`` calls and was not shown to be worse; after the last it is
*promoted*, and gets all.  It is looked at after :data:`~penstock.flow.verdict.FIRST_LOOK` of its calls, after twice as
many, and so on: to look at every call would make chance decide.

:class:`Trials` keeps it in a file.  Who adds figures there decides in the same transaction, so that the workers of a
machine cannot decide differently.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec

from penstock.config.model import CanaryConfig
from penstock.database import MEMORY, Database
from penstock.flow.verdict import FIRST_LOOK, Figures, Finding, compare
from penstock.sqlite_files import Kind

_SCHEMA = (
    """
CREATE TABLE trials (
  model TEXT NOT NULL,
  identity TEXT NOT NULL,
  touched REAL NOT NULL,
  trial BLOB NOT NULL,
  PRIMARY KEY (model, identity)
)""",
)
STEPS = (0.01, 0.05, 0.25, 0.5)  # where the configuration names none
MAX_TRIALS = 1_000  # in a file; past it those that were touched least lately make room

Phase: TypeAlias = Literal["trial", "promoted", "rolled_back"]
Action: TypeAlias = Literal["promote", "rollback", "restart"]
Stamp: TypeAlias = tuple[int, bool, int, bool, int]
"""Decisions by hand, whether it is rolled back, the epoch, whether it is promoted, and the step: phase and share follow."""
NEVER: Stamp = (-1, False, 0, False, 0)

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """What machines that judge together have in common beside figures: the last decision, and the looks since."""

    hand: _Count
    phase: Phase
    step: _Count
    epoch: _Count
    looks: _Count
    fine_looks: _Count
    next_look: _Count
    reason: str
    decided: float

    @property
    def stamp(self) -> Stamp:
        return (self.hand, self.phase == "rolled_back", self.epoch, self.phase == "promoted", self.step)


_T = TypeVar("_T")


class Trial(msgspec.Struct):
    """The trial of one version of one model."""

    phase: Phase = "trial"
    step: int = 0  # index of its present share
    epoch: int = 0
    new: Figures = msgspec.field(default_factory=Figures)
    old: Figures = msgspec.field(default_factory=Figures)
    looks: int = 0
    fine_looks: int = 0  # of them, those at which it could have been promoted
    next_look: int = FIRST_LOOK  # after so many calls of the new version
    reason: str = ""  # why the last decision was made
    decided: float = 0.0  # Unix time of it; 0: there was none
    hand: int = 0  # decisions by hand
    # Where machines judge together: who this one is, and which part of the figures it has counted itself.
    member: str = ""
    own_new: Figures = msgspec.field(default_factory=Figures)
    own_old: Figures = msgspec.field(default_factory=Figures)
    asked: float = 0.0  # Unix time when the others were asked last
    alone: bool = False  # they could not be heard then

    @property
    def decision(self) -> Decision:
        """The last one, and the looks since."""
        return Decision(
            self.hand,
            self.phase,
            self.step,
            self.epoch,
            self.looks,
            self.fine_looks,
            self.next_look,
            self.reason,
            self.decided,
        )

    @property
    def stamp(self) -> Stamp:
        return self.decision.stamp

    def copy(self) -> Trial:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self), type=Trial)

    def count(self, new: Figures, old: Figures) -> None:
        """What this machine has counted of this epoch."""
        self.new.add(new)
        self.old.add(old)
        if self.member:
            self.own_new.add(new)
            self.own_old.add(old)

    def follow(self, made: Decision) -> None:
        """Go by a decision that was made elsewhere, unless a later one is known here."""
        if made.stamp < self.stamp:
            return
        if made.stamp > self.stamp:
            if made.phase == "trial" or made.step != self.step:
                self._count_anew()
            self.hand, self.phase, self.step, self.epoch = made.hand, made.phase, made.step, made.epoch
        self.looks = max(self.looks, made.looks)
        self.fine_looks = max(self.fine_looks, made.fine_looks)
        self.next_look = max(self.next_look, made.next_look)
        self.reason, self.decided = made.reason, made.decided

    def hear(self, new: Figures, old: Figures) -> None:
        """What all others have counted of this epoch."""
        self.new, self.old = Figures(), Figures()
        for figures, parts in ((self.new, (self.own_new, new)), (self.old, (self.own_old, old))):
            for part in parts:
                figures.add(part)

    def share(self, config: CanaryConfig) -> float:
        """Of all calls, that the new version gets."""
        if self.phase == "trial":
            steps = steps_of(config)
            return steps[min(self.step, len(steps) - 1)]
        return 1.0 if self.phase == "promoted" else 0.0

    def is_due(self, config: CanaryConfig) -> bool:
        """Whether enough was counted to look at it."""
        if self.phase != "trial":
            return False
        return self.new.calls >= self.next_look or (
            not self.fine_looks and self._is_enough(config.least_calls)
        )

    def _is_enough(self, calls: int) -> bool:
        return self.new.answered >= calls and self.old.answered >= calls

    def findings(self, config: CanaryConfig) -> list[Finding]:
        """What a look would find now."""
        return compare(
            self.new, self.old, config, worse_look=self.looks + 1, no_worse_look=self.fine_looks + 1
        )

    def worse(self, config: CanaryConfig) -> list[Finding]:
        """The criteria by which the new version is worse."""
        return [finding for finding in self.findings(config) if finding.verdict == "worse"]

    def look(self, config: CanaryConfig, now: float) -> Action | None:
        """Look at it, if it is time; the decision, which has been carried out.

        :param now: Unix time
        """
        exhausted = self._is_enough(max(config.most_calls, config.least_calls))
        if not self.is_due(config) and not (exhausted and self.phase == "trial"):
            return None
        findings = self.findings(config)
        worse = [finding for finding in findings if finding.verdict == "worse"]
        enough = self._is_enough(config.least_calls)
        self.looks += 1
        self.fine_looks += enough
        self.next_look = max(2 * self.new.calls, FIRST_LOOK)
        if worse:
            self.decide("rollback", config, told(worse), now)
            return "rollback"
        fine = all(finding.verdict != "open" for finding in findings)
        if enough and (fine or exhausted):
            why = "it is no worse" if fine else f"{self.new.answered} calls did not show it to be worse"
            self.decide("promote", config, why, now)
            return "promote"
        return None

    def decide(
        self,
        action: Action,
        config: CanaryConfig,
        reason: str,
        now: float,
        *,
        wholly: bool = False,
        by_hand: bool = False,
    ) -> None:
        """Carry out a decision.

        :param wholly: promote to all calls, not by a step
        """
        self.hand += by_hand
        if action == "rollback":
            self.phase = "rolled_back"
        elif action == "restart":
            self.phase, self.step = "trial", 0
        elif self.phase == "rolled_back" and not wholly:
            self.phase = "trial"  # at the share that it had
        elif wholly or self.phase == "promoted" or self.step + 1 >= len(steps_of(config)):
            self.phase = "promoted"
        else:
            self.step += 1
        self.epoch += 1
        self.reason, self.decided = reason, now
        if self.phase == "trial":
            self._count_anew()

    def _count_anew(self) -> None:
        self.new, self.old = Figures(), Figures()
        self.own_new, self.own_old = Figures(), Figures()
        self.looks = self.fine_looks = 0
        self.next_look = FIRST_LOOK


def steps_of(config: CanaryConfig) -> Sequence[float]:
    """The shares of the calls, one after the other."""
    return config.steps or STEPS


def told(findings: list[Finding]) -> str:
    """For people: what was found."""
    names = {
        "errors": "failed calls",
        "first_token": "time to the first token",
        "whole_answer": "time of an answer",
        "pace": "tokens per second",
        "price": "US dollars a call",
    }
    return ", ".join(
        f"{names[found.criterion]}: {_figure(found, found.new)} instead of {_figure(found, found.old)}"
        for found in findings
    )


def _figure(found: Finding, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.3g} %" if found.criterion == "errors" else f"{value:.4g}"


class Trials:
    """The trials of a machine, in a file.

    :param path: None: in memory, for this process alone
    """

    def __init__(self, path: Path | None, now: Callable[[], float] = time.time) -> None:
        self._database = Database(path or MEMORY, application_id=Kind.TRIALS, schema=_SCHEMA)
        self._now = now

    def __repr__(self) -> str:
        return f"<Trials in {self._database.path}>"

    async def close(self) -> None:
        await self._database.close()

    async def read(self, model: str, identity: str) -> Trial:
        """How far it has come; one that nobody knows begins.

        :raises penstock.errors.StorageUnavailable: the file cannot be read
        """
        return await self._database.read(lambda db: _read(db, model, identity))

    async def count(
        self,
        model: str,
        identity: str,
        config: CanaryConfig,
        stamp: Stamp,
        new: Figures,
        old: Figures,
    ) -> tuple[Trial, Action | None]:
        """Add what was counted under a stamp; how far it has come, and what was decided because of that.

        :raises penstock.errors.StorageUnavailable: the file cannot be written
        :raises penstock.errors.StorageFull: the disk is full
        """

        def add(trial: Trial) -> Action | None:
            if trial.stamp != stamp:
                return None
            trial.count(new, old)
            return trial.look(config, self._now())

        if not (new.calls or old.calls):
            return await self.read(model, identity), None
        return await self.change(model, identity, add)

    async def decide(
        self, model: str, identity: str, config: CanaryConfig, action: Action, reason: str, *, wholly: bool
    ) -> Trial:
        """Decide by hand.

        :raises penstock.errors.StorageUnavailable: the file cannot be written
        :raises penstock.errors.StorageFull: the disk is full
        """
        trial, _ = await self.change(
            model,
            identity,
            lambda trial: trial.decide(action, config, reason, self._now(), wholly=wholly, by_hand=True),
        )
        return trial

    async def change(self, model: str, identity: str, work: Callable[[Trial], _T]) -> tuple[Trial, _T]:
        """Have ``work`` change it, in one transaction; it, and what ``work`` returned.

        :raises penstock.errors.StorageUnavailable: the file cannot be written
        :raises penstock.errors.StorageFull: the disk is full
        """

        def changed(db: sqlite3.Connection) -> tuple[Trial, _T]:
            trial = _read(db, model, identity)
            found = work(trial)
            self._write(db, model, identity, trial)
            return trial, found

        return await self._database.write(changed)

    def _write(self, db: sqlite3.Connection, model: str, identity: str, trial: Trial) -> None:
        db.execute(
            "INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?)",
            (model, identity, self._now(), msgspec.msgpack.encode(trial)),
        )
        db.execute(
            "DELETE FROM trials WHERE rowid IN"
            " (SELECT rowid FROM trials ORDER BY touched DESC LIMIT -1 OFFSET ?)",
            (MAX_TRIALS,),
        )


def _read(db: sqlite3.Connection, model: str, identity: str) -> Trial:
    row = db.execute(
        "SELECT trial FROM trials WHERE model = ? AND identity = ?", (model, identity)
    ).fetchone()
    return Trial() if row is None else msgspec.msgpack.decode(row[0], type=Trial)
