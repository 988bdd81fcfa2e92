"""What would another version of the model have said?  A share of the calls is asked again, and the answers compared.

It is asked when the caller's answer has been produced, so that no caller waits for it, and in the tier of batches,
behind all others.  Nobody ever reads what is said.  A call that has effects, or belongs to a conversation that the
upstream keeps, is not asked again.  The caller's credentials are left out: who is asked for our sake is paid by us.

Its rows in the ledger are those of the tenant :data:`SHADOW`, whom nobody can be, so that they count for nobody's
budget.  It takes no retries, from no budget, and counts for no trial of a version.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import msgspec

from penstock.batches.batch import TIER
from penstock.cache.keys import has_effects
from penstock.config.model import Config, RetryConfig, ShadowConfig
from penstock.errors import Cancelled, InternalError, PenstockError
from penstock.flow.allowance import Allowance
from penstock.flow.retry import RetryBudget
from penstock.gateway.stages.admit import Admission
from penstock.gateway.stages.call import Production
from penstock.gateway.stages.failure import Abandoned
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Router
from penstock.generation.log import Generation, State, new_id
from penstock.generation.registry import Registry
from penstock.messages import Call, Endpoint, Event, Headers, Tenant
from penstock.metrics import Registry as Metrics
from penstock.net import tasks
from penstock.net.clock import Clock
from penstock.wire.fold import fold
from penstock.wire.said import text_of

SHADOW = Tenant("(shadow)", "(shadow)", TIER)
LATE = 0.1  # seconds of the event loop's lag from which nothing is asked that nobody waits for
COMPARED = 100_000  # characters of an answer, at most
_SPOKEN = frozenset({Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES})
_OURS = tuple(
    b"authorization x-api-key idempotency-key x-stainless- penstock- cache-control traceparent tracestate".split()
)
_ONCE = RetryConfig(attempts=1, budget_ratio=0.0, budget_floor=0.0)
_ALIKE = tuple(tenth / 10 for tenth in range(1, 11))
_PICO = 1e-12

log = logging.getLogger("penstock.shadow")

Hook = Callable[[Call, Generation], None]


class Producing(Protocol):
    """What answers calls here."""

    registry: Registry
    recorder: Recorder
    admission: Admission

    @property
    def router(self) -> Router: ...


class _Answer(msgspec.Struct, frozen=True):
    """What is compared of one answer."""

    events: list[Event]
    output_tokens: int
    seconds: float
    first_token: float | None
    cost: int


class Shadows:
    """Asks again, within bounds.

    :param rand: between 0 and 1: which calls
    :param now: seconds since 1970
    """

    def __init__(
        self,
        producing: Producing,
        clock: Clock,
        metrics: Metrics,
        rand: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._producing = producing
        self._clock = clock
        self._rand = rand
        self._now = now
        self._shadows: dict[str, ShadowConfig] = {}
        self._allowances: dict[str, Allowance] = {}
        self._running: dict[Production, str] = {}
        self._none_runs = asyncio.Event()
        self._closed = False
        self._calls = metrics.counter(
            "penstock_shadow_calls_total",
            "Calls that were to be asked again of another version, by what became of that.",
            labels=("model", "version", "outcome"),
        )
        self._equal = metrics.counter(
            "penstock_shadow_equal_total",
            "Answers of the other version whose text is the same.",
            labels=("model", "version"),
        )
        self._similarity = metrics.histogram(
            "penstock_shadow_similarity",
            "How much of their words, two by two, both answers have in common.",
            labels=("model", "version"),
            buckets=_ALIKE,
        )
        self._figures = metrics.counter(
            "penstock_shadow_figures_total",
            "Sums over the answers that were compared, of the callers' and of the other version's.",
            labels=("model", "version", "side", "figure"),
        )

    def __repr__(self) -> str:
        return f"<Shadows of {len(self._shadows)} models, {len(self._running)} being asked>"

    def use(self, config: Config) -> Hook | None:
        """From now on, as this configuration says.

        :returns: what is to be called with every answer that came to its end; None: nothing is asked again
        """
        self._shadows = {
            route: model.shadow for route, model in config.models.items() if model.shadow is not None
        }
        if not self._shadows:
            return None
        for route in self._shadows:
            self._allowances.setdefault(route, Allowance(self._now))
        return self._ended

    def _ended(self, call: Call, generation: Generation) -> None:
        """A caller's answer is complete."""
        try:
            self._consider(call, generation)
        except Exception:  # whatever is wrong with this, the answer is right
            log.exception("defect while shadowing %s", generation.id)

    def _consider(self, call: Call, generation: Generation) -> None:
        router = self._producing.router
        route = router.route_name(call.model)
        shadow = self._shadows.get(route) if route is not None else None
        if shadow is None or route is None or call.tenant is SHADOW or call.version:
            return
        if call.endpoint not in _SPOKEN or has_effects(call) or "previous_response_id" in call.fields:
            return
        served = router.own_candidate(call.model, *generation.served_by)
        if served is None or served.version == shadow.version or self._rand() >= shadow.share:
            return
        if self._is_busy(call, shadow, route, router):
            self._calls.labels(route, shadow.version, "busy").add()
            return
        if not self._allowances[route].take(shadow.calls_per_minute, shadow.usd_per_day):
            self._calls.labels(route, shadow.version, "budget").add()
            return
        again = msgspec.structs.replace(
            call,
            id=new_id(),
            headers=_without_ours(call.headers),
            received=self._clock.now(),
            tenant=SHADOW,
            reservation=None,
            changed=b"",
            reduction=None,
            degraded=b"",
            on_wait=None,
            background=False,
            deferred=False,
            promised=False,
            wait=0.0,
            version=shadow.version,
            trace=None,
            deadline=math.inf,
        )
        made = self._producing.registry.create(again)
        made.grace = math.inf
        production = Production(again, made, _ONCE, RetryBudget(_ONCE), self._producing.recorder)
        self._running[production] = route
        self._none_runs.clear()
        production.task = tasks.run(self._ask(production, _answer_of(generation), route, shadow, router))

    def _is_busy(self, call: Call, shadow: ShadowConfig, route: str, router: Router) -> bool:
        now = self._clock.now()
        account = self._producing.registry.account
        return (
            self._closed
            or self._producing.admission.draining
            or self._clock.lag > LATE
            or 2 * account.held > account.limit
            or sum(each == route for each in self._running.values()) >= shadow.concurrent
            or router.load(call.model, now) > shadow.max_load
            or router.load(call.model, now, shadow.version) > shadow.max_load
        )

    async def _ask(
        self, production: Production, theirs: _Answer, route: str, shadow: ShadowConfig, router: Router
    ) -> None:
        """Ask once, and compare; it raises nothing."""
        generation = production.generation
        outcome = "failed"
        try:
            await production.run(router.route(production.call))
            generation.finish()
            outcome = "answered"
        except (Abandoned, asyncio.CancelledError):
            generation.fail(Cancelled("nobody waits for this answer"))
            outcome = "cancelled"
        except PenstockError as error:
            generation.fail(error)
        except Exception:
            log.exception("defect while shadowing with %s", generation.id)
            generation.fail(InternalError("internal error"))
        finally:
            self._allowances[route].spend(generation.cost)
            self._calls.labels(route, shadow.version, outcome).add()
            if generation.ending is State.FINISHED:
                self._compare(production.call, theirs, _answer_of(generation), (route, shadow.version))
            self._producing.registry.drop(generation.id)
            del self._running[production]
            if not self._running:
                self._none_runs.set()

    def _compare(self, call: Call, theirs: _Answer, ours: _Answer, labels: tuple[str, str]) -> None:
        try:
            texts = [_text(call, answer.events) for answer in (theirs, ours)]
        except PenstockError:  # it is no answer after all
            return
        for side, answer, text in zip(("caller", "shadow"), (theirs, ours), texts, strict=True):
            figures = {
                "answers": 1.0,
                "characters": float(len(text)),
                "output_tokens": float(answer.output_tokens),
                "seconds": answer.seconds,
                "first_token_seconds": answer.first_token or 0.0,
                "usd": answer.cost * _PICO,
            }
            for name, value in figures.items():
                self._figures.labels(*labels, side, name).add(value)
        if texts[0] == texts[1]:
            self._equal.labels(*labels).add()
        self._similarity.labels(*labels).observe(similarity(*texts))

    def stop(self) -> None:
        """Ask nothing more, and give up what is being asked."""
        self._closed = True
        for production in list(self._running):
            production.abandon()

    async def close(self) -> None:
        """The same, and return when all is settled."""
        self.stop()
        while self._running:
            await self._none_runs.wait()


def in_turn(*hooks: Hook | None) -> Hook | None:
    """One that calls all of these; None: there are none."""
    present = [hook for hook in hooks if hook is not None]
    if len(present) < 2:
        return present[0] if present else None

    def call_all(call: Call, generation: Generation) -> None:
        for hook in present:
            hook(call, generation)

    return call_all


def similarity(one: str, other: str) -> float:
    """Of two texts, by their pairs of words (L. R. Dice, 1945): 1 if they have the same, 0 if none in common."""
    ours, theirs = _pairs(one), _pairs(other)
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


def _pairs(text: str) -> Counter[tuple[str, str]]:
    words = ["", *text[:COMPARED].split()]
    return Counter(pairwise(words))


def _text(call: Call, events: list[Event]) -> str:
    """What was said; empty: nothing, or nothing in words."""
    body = fold(call.endpoint, events) if call.stream else b"".join(events)
    return text_of(call.endpoint, body) or ""


def _answer_of(generation: Generation) -> _Answer:
    first = generation.first_event
    return _Answer(
        list(generation.events),
        generation.usage.output_tokens if generation.usage is not None else 0,
        generation.ended - generation.started,
        first - generation.started if first and generation.stream else None,
        generation.cost,
    )


def _without_ours(headers: Headers) -> Headers:
    """Those that an upstream's answer may depend on."""
    return {name: value for name, value in headers.items() if not name.startswith(_OURS)}
