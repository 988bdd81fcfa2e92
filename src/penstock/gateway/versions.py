"""New versions on trial, as one worker knows them.

``stages.route`` asks a :class:`Canary` which version a call goes to, and attempts tell its :class:`Sample` how that
went.  :class:`Versions` carries what was counted to the file that the workers share (``flow.canary``), once a second,
and at once when it may decide something; there it is decided, or by all machines together (``flow.shared_trials``).  No
call waits for that.

- Until the file has been read once, nobody knows whether the new version was rolled back: the others get all calls.
- A worker that sees for itself that the new version is worse gives it no more calls until it has been to the file.
- Where the file is locked, full or broken, shares stay as they were, and are not raised; such a halt holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.config.model import CanaryConfig, Config, ModelConfig
from penstock.errors import NotFound, PenstockError
from penstock.flow.canary import NEVER, Action, Stamp, Trial, Trials, steps_of, told
from penstock.flow.verdict import Figures
from penstock.metrics import Registry
from penstock.net.clock import Clock

if TYPE_CHECKING:
    from penstock.flow.shared_trials import SharedTrials

INTERVAL = 1.0  # seconds between two looks into the file
TROUBLED_INTERVAL = 5.0  # the same after it could not be used

log = logging.getLogger("penstock.versions")


class Sample:
    """One call that counts for its version; whatever happens first to it is what counts."""

    __slots__ = ("_canary", "_counted", "_stamp", "is_new")

    def __init__(self, canary: Canary, stamp: Stamp, *, is_new: bool) -> None:
        self._canary = canary
        self._stamp = stamp
        self._counted = False
        self.is_new = is_new

    def __repr__(self) -> str:
        return f"<Sample of {'the new' if self.is_new else 'the present'} version, {'counted' if self._counted else 'open'}>"

    def fail(self) -> None:
        """An attempt at this version has failed; another may yet mend it, but the version is not the better for that."""
        figures = self._figures()
        if figures is not None:
            figures.fail()
            self._canary.counted(is_new=self.is_new, answered=False)

    def answer(
        self, first_token: float | None, whole: float | None, pace: float | None, cost: float | None
    ) -> None:
        """It has answered; see :meth:`penstock.flow.verdict.Figures.answer`."""
        figures = self._figures()
        if figures is not None:
            figures.answer(first_token, whole, pace, cost)
            self._canary.counted(is_new=self.is_new, answered=True)

    def _figures(self) -> Figures | None:
        if self._counted:
            return None
        self._counted = True
        return self._canary.figures(self._stamp, is_new=self.is_new)


class Canary:
    """The trial of one model's new version.

    :param route: the model's entry in the configuration
    :param identity: tells this version from others that were tried under the same name
    :param on_counted: told of each call that counts, with its version and ``answered`` or ``failed``
    """

    def __init__(
        self, route: str, identity: str, config: CanaryConfig, on_counted: Callable[[Canary, str, str], None]
    ) -> None:
        self.route = route
        self.identity = identity
        self.config = config
        self.trial: Trial | None = None  # as it was in the file; None: it has not been read yet
        self.halted = False  # this worker alone has seen enough
        self.is_urgent = True  # the file is to be gone to at once
        self.next_look = 0.0  # monotonic
        self.is_syncing = False
        self.trouble = ""
        self._on_counted = on_counted
        self._new = Figures()  # since the file was gone to
        self._old = Figures()
        self._look_at = 0  # calls of the new version
        self._stamp: Stamp = NEVER  # under which they are counted
        self.share = 0.0

    def __repr__(self) -> str:
        state = "unknown" if self.trial is None else self.trial.phase
        return f"<Canary {self.config.version!r} of {self.route!r}, {state}{', halted' if self.halted else ''}, {self.share:g} of the calls>"

    @property
    def is_promoted(self) -> bool:
        return self.trial is not None and self.trial.phase == "promoted"

    def gets(self, point: float) -> bool:
        """Whether the new version gets the call that stands at this point between 0 and 1."""
        return point < self.share

    def point(self, key: bytes) -> float:
        """The point of those that keep to one version: the same as long as it is the same trial."""
        digest = hashlib.blake2b(key, key=self.identity.encode()[:64], digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    def sample(self, *, is_new: bool) -> Sample | None:
        """For a call that goes to one of the two; None: it does not count."""
        trial = self.trial
        if trial is None or trial.phase != "trial" or self.halted:
            return None
        return Sample(self, self._stamp, is_new=is_new)

    # ---- told by samples ----

    def figures(self, stamp: Stamp, *, is_new: bool) -> Figures | None:
        """Where a call is to be counted; None: it was drawn at another share."""
        if self._stamp != stamp:
            return None
        return self._new if is_new else self._old

    def counted(self, *, is_new: bool, answered: bool) -> None:
        """A call was."""
        version = self.config.version if is_new else "others"
        self._on_counted(self, version, "answered" if answered else "failed")
        trial = self.trial
        if is_new and trial is not None and trial.new.calls + self._new.calls >= self._look_at:
            self._look(trial)

    def _look(self, trial: Trial) -> None:
        """Enough for a look: the file decides, but what is plain is not waited for."""
        seen = trial.copy()
        seen.new.add(self._new)
        seen.old.add(self._old)
        self._look_at = max(2 * seen.new.calls, trial.next_look)
        if not seen.is_due(self.config):
            return
        self.is_urgent = True
        worse = seen.worse(self.config)
        if worse and not self.halted:
            self.halted, self.share = True, 0.0
            log.warning(
                "%s: version %s gets no more calls of this worker: %s",
                *(self.route, self.config.version, told(worse)),
            )

    # ---- to and from the file ----

    def take(self) -> tuple[Stamp, Figures, Figures]:
        """What was counted since the last time, and under which stamp."""
        taken = (self._stamp, self._new, self._old)
        self._new, self._old = Figures(), Figures()
        self.is_urgent = False
        return taken

    def give_back(self, stamp: Stamp, new: Figures, old: Figures) -> None:
        """It could not be written down."""
        if self._stamp == stamp:
            self._new.add(new)
            self._old.add(old)

    def learn(self, trial: Trial) -> None:
        """What the file says now."""
        if self._stamp != trial.stamp:
            self._new, self._old = Figures(), Figures()
        self.trial, self._stamp = trial, trial.stamp
        self.halted = False
        self.share = trial.share(self.config)
        self._look_at = trial.next_look
        if self._new.calls:  # since the file was gone to
            self._look(trial)

    def use(self, config: CanaryConfig) -> None:
        """Go on by another configuration of the same trial."""
        self.config = config
        self.is_urgent = True
        if self.trial is not None and not self.halted:
            self.share = self.trial.share(config)

    def described(self) -> dict[str, Any]:
        """What the control port shows."""
        trial = self.trial or Trial()
        return {
            "model": self.route,
            "version": self.config.version,
            "phase": "unknown" if self.trial is None else trial.phase,
            "share": self.share,
            "step": trial.step,
            "steps": list(steps_of(self.config)),
            "epoch": trial.epoch,
            "stamp": trial.stamp,
            "alone": trial.alone,
            "halted": self.halted,
            "trouble": self.trouble,
            "calls": {"new": trial.new.calls, "others": trial.old.calls},
            "failed": {"new": trial.new.failed, "others": trial.old.failed},
            "findings": [msgspec.structs.asdict(found) for found in trial.findings(self.config)],
            "reason": trial.reason,
            "decided": trial.decided,
        }


class Versions:
    """All trials of a worker.

    :param trials: makes what they are kept in, once it is needed
    """

    def __init__(self, trials: Callable[[], Trials | SharedTrials], clock: Clock, metrics: Registry) -> None:
        self._kept_in = trials
        self._trials: Trials | SharedTrials | None = None  # None: no version is on trial, or all is over
        self._clock = clock
        self._canaries: dict[str, Canary] = {}
        self._syncing: set[asyncio.Task[None]] = set()
        self._calls = metrics.counter(
            "penstock_canary_calls_total",
            "Calls of models that have a new version on trial, by version and by whether it answered.",
            labels=("model", "version", "outcome"),
        )
        self._decisions = metrics.counter(
            "penstock_canary_decisions_total",
            "What was decided of new versions: promote, rollback, halt, and what was decided by hand.",
            labels=("model", "version", "decision"),
        )
        self._shares = metrics.gauge(
            "penstock_canary_share",
            "Of a model's calls, that its new version gets.",
            labels=("model", "version"),
            merge="max",
        )
        self._alone = metrics.gauge(
            "penstock_canary_alone",
            "1: the new version is judged without the other machines, which cannot be heard.",
            labels=("model", "version"),
            merge="max",
        )

        def collect() -> None:
            for canary in self:
                names = (canary.route, canary.config.version)
                self._shares.labels(*names).set(canary.share)
                self._alone.labels(*names).set(float(canary.trial is not None and canary.trial.alone))

        metrics.before_collecting(collect)

    def __repr__(self) -> str:
        return f"<Versions: {list(self)}>"

    def __iter__(self) -> Iterator[Canary]:
        return iter(self._canaries.values())

    def use(self, config: Config) -> dict[str, Canary]:
        """The trials of this configuration, by the models' entries; those that go on keep what they know."""
        present = self._canaries
        self._canaries = {}
        for route, model in config.models.items():
            if model.canary is not None:
                identity = _identity(model, model.canary, config)
                canary = present.get(route)
                if canary is None or canary.identity != identity:
                    canary = Canary(route, identity, model.canary, self._counted)
                else:
                    canary.use(model.canary)
                self._canaries[route] = canary
                if self._trials is None:
                    self._trials = self._kept_in()
        for route, canary in present.items():
            if route not in self._canaries or self._canaries[route].config.version != canary.config.version:
                self._shares.labels(route, canary.config.version).set(0.0)
                self._alone.labels(route, canary.config.version).set(0.0)
        return self._canaries

    async def start(self) -> None:
        """Return when it is known how far the trials have come, if that can be known."""
        for canary in self:
            await self._sync(canary)

    async def close(self) -> None:
        """Write down what was counted."""
        if self._syncing:
            await asyncio.wait(self._syncing)
        if self._trials is not None:
            for canary in self:
                await self._sync(canary)
            trials, self._trials = self._trials, None
            await trials.close()

    def sweep(self, now: float) -> None:
        for canary in self:
            if not canary.is_syncing and (
                now >= canary.next_look or (canary.is_urgent and not canary.trouble)
            ):
                task = asyncio.get_running_loop().create_task(self._sync(canary))
                self._syncing.add(task)
                task.add_done_callback(self._syncing.discard)

    async def decide(
        self, route: str, action: Action, reason: str, *, wholly: bool = False
    ) -> dict[str, Any]:
        """Decide by hand.

        :raises NotFound: this model has no new version on trial
        :raises penstock.errors.StorageUnavailable: it cannot be written down
        """
        canary = self._canaries.get(route)
        if canary is None or self._trials is None:
            raise NotFound(f"the model {route!r} has no canary")
        trial = await self._trials.decide(
            route, canary.identity, canary.config, action, reason, wholly=wholly
        )
        canary.learn(trial)
        self._tell(canary, trial, action)
        return canary.described()

    def described(self) -> list[dict[str, Any]]:
        """What the control port shows."""
        return [canary.described() for canary in self]

    def _counted(self, canary: Canary, version: str, outcome: str) -> None:
        self._calls.labels(canary.route, version, outcome).add()

    async def _sync(self, canary: Canary) -> None:
        trials = self._trials
        if trials is None:
            return
        canary.is_syncing = True
        stamp, new, old = canary.take()
        was_halted = canary.halted
        try:
            trial, action = await trials.count(canary.route, canary.identity, canary.config, stamp, new, old)
        except PenstockError as error:
            canary.give_back(stamp, new, old)
            if not canary.trouble:
                log.error(  # noqa: TRY400 - the log has its cause already
                    "%s: it cannot be written down what becomes of version %s: %s; its share is not raised",
                    *(canary.route, canary.config.version, error.message),
                )
            canary.trouble = error.message
            canary.next_look = self._clock.now() + TROUBLED_INTERVAL
        else:
            canary.trouble = ""
            canary.next_look = self._clock.now() + INTERVAL
            if was_halted:
                self._decisions.labels(canary.route, canary.config.version, "halt").add()
            canary.learn(trial)
            if action is not None:
                self._tell(canary, trial, action)
        finally:
            canary.is_syncing = False

    def _tell(self, canary: Canary, trial: Trial, action: Action) -> None:
        """Of a decision that was made here; the other workers only follow it."""
        self._decisions.labels(canary.route, canary.config.version, action).add()
        what = {"rollback": "is rolled back", "restart": "is tried anew", "promote": "is promoted"}[action]
        log.log(
            logging.WARNING if action == "rollback" else logging.INFO,
            "%s: version %s %s, and gets %g of the calls: %s",
            *(canary.route, canary.config.version, what, canary.share, trial.reason),
        )


def _identity(model: ModelConfig, canary: CanaryConfig, config: Config) -> str:
    """The version's name, and where it is to be had."""
    where = [
        (candidate.upstream, candidate.model, config.upstreams[candidate.upstream].local.model)
        for candidate in model.candidates
        if candidate.version == canary.version
    ]
    digest = hashlib.blake2b(json.dumps([canary.version, sorted(where)]).encode(), digest_size=16)
    return digest.hexdigest()
