"""Trials that machines judge together.

Each machine keeps its trials in its own file, with what it has counted itself, and exchanges that with the others every
:data:`INTERVAL`, and at once when there is enough for a look.  A look goes by the figures of all, and counts only if
nobody else has looked meanwhile, so it comes to what one machine would come to that had all the calls.

Nobody answers: it is judged here alone, by what was heard of the others last and what is counted here since.  When they
are back, what each has counted is added up, and of two decisions the later stamp holds (``flow.canary``).  So a version
that was rolled back on one side of a break is rolled back on both.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from penstock.flow.redis_trials import NOTHING, Heard
from penstock.flow.verdict import Figures

if TYPE_CHECKING:
    from penstock.config.model import CanaryConfig
    from penstock.flow.canary import Action, Decision, Stamp, Trial, Trials

INTERVAL = 2.0  # seconds between two exchanges of a machine
TRIES = 5  # to enter a look: others may enter theirs just then

log = logging.getLogger("penstock.versions")


class Board(Protocol):
    """Where machines tell each other; see :class:`penstock.flow.redis_trials.TrialBoard`."""

    async def exchange(
        self, model: str, identity: str, trial: Trial, known: Heard = NOTHING, wanted: Decision | None = None
    ) -> Heard:
        """:raises ConnectionError: nobody answers"""
        ...

    async def close(self) -> None: ...


class SharedTrials:
    """Stands where a machine alone has its :class:`~penstock.flow.canary.Trials`, and has these.

    :param now: Unix time
    """

    def __init__(self, trials: Trials, board: Board, now: Callable[[], float] = time.time) -> None:
        self._trials = trials
        self._board = board
        self._now = now

    def __repr__(self) -> str:
        return f"<SharedTrials {self._trials!r} by {self._board!r}>"

    async def close(self) -> None:
        await self._board.close()
        await self._trials.close()

    async def count(
        self,
        model: str,
        identity: str,
        config: CanaryConfig,
        stamp: Stamp,
        new: Figures,
        old: Figures,
    ) -> tuple[Trial, Action | None]:
        """As :meth:`penstock.flow.canary.Trials.count`, by the figures of all machines."""

        def add(trial: Trial) -> bool:
            _join(trial)
            if trial.stamp == stamp:
                trial.count(new, old)
            now = self._now()
            if abs(now - trial.asked) < INTERVAL and not trial.is_due(config):
                return False
            trial.asked = now
            return True

        trial, asks = await self._trials.change(model, identity, add)
        return await self._agree(model, identity, config, trial) if asks else (trial, None)

    async def decide(
        self, model: str, identity: str, config: CanaryConfig, action: Action, reason: str, *, wholly: bool
    ) -> Trial:
        """Decide by hand, and tell the others."""
        await self._trials.decide(model, identity, config, action, reason, wholly=wholly)
        trial, _ = await self._trials.change(model, identity, _join)
        decided, _ = await self._agree(model, identity, config, trial)
        return decided

    async def _agree(
        self, model: str, identity: str, config: CanaryConfig, trial: Trial
    ) -> tuple[Trial, Action | None]:
        """Hear the others, look if it is time, and write down what that comes to."""
        try:
            agreed, heard, action = await self._looked(model, identity, config, trial)
        except ConnectionError as error:
            if not trial.alone:
                log.warning("%s: its new version is judged without the other machines: %s", model, error)
            return await self._trials.change(model, identity, lambda known: self._alone(known, config))

        def enter(known: Trial) -> bool:
            elsewhere = agreed.stamp > known.stamp and action is None
            known.alone = False
            known.follow(agreed.decision)
            if known.stamp == agreed.stamp:
                if known.phase != "trial":  # with the figures that decided it
                    known.new, known.old = agreed.new, agreed.old
                _hear(known, heard)
            return elsewhere

        entered, elsewhere = await self._trials.change(model, identity, enter)
        if elsewhere:
            log.warning(
                "%s: decided at another machine: its new version (%s) gets %g of the calls: %s",
                *(model, entered.phase.replace("_", " "), entered.share(config), entered.reason),
            )
        return entered, action

    async def _looked(
        self, model: str, identity: str, config: CanaryConfig, trial: Trial
    ) -> tuple[Trial, Heard, Action | None]:
        """How far it is by the figures of all, what was heard of the others, and what was decided here.

        :raises ConnectionError: the others cannot be heard
        """
        heard = await self._board.exchange(model, identity, trial)
        for _ in range(TRIES):
            agreed = trial.copy()
            if heard.decision is not None:
                agreed.follow(heard.decision)
                if agreed.stamp == heard.decision.stamp:
                    _hear(agreed, heard)
            action = agreed.look(config, self._now())
            wanted = agreed.decision
            if wanted == heard.decision:
                return agreed, heard, None
            heard = await self._board.exchange(model, identity, agreed, heard, wanted)
            if heard.decision == wanted:
                return agreed, heard, action
        raise ConnectionError("others were quicker, again and again")

    def _alone(self, trial: Trial, config: CanaryConfig) -> Action | None:
        trial.alone = True
        return trial.look(config, self._now())


def _join(trial: Trial) -> None:
    """Have a name among the others, and tell them all that was counted before."""
    if not trial.member:
        trial.member = os.urandom(8).hex()
        trial.own_new.add(trial.new)
        trial.own_old.add(trial.old)


def _hear(trial: Trial, heard: Heard) -> None:
    """What the others have counted; of a trial that is over, the figures stay with which it ended."""
    if trial.phase == "trial":
        trial.hear(heard.new, heard.old)
