"""Go on with a log that broke: at each candidate in its order, the best way first, until it is complete.

``unfinished`` says where the log stands and ``upstream.ladder`` which ways there are; how often may be tried, the
model's ``continuation`` and the retry budget say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from penstock.config.model import RetryConfig
from penstock.errors import (
    CallerError,
    Overloaded,
    RateLimited,
    UpstreamError,
    UpstreamLeaving,
    UpstreamTimeout,
    untraced,
)
from penstock.flow.retry import RetryBudget
from penstock.gateway.stages.candidate import Candidate
from penstock.gateway.stages.failure import Abandoned, wait_after_break
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.unfinished import Step, close, point_of, steps, stop_at_limit
from penstock.generation.log import TOO_LARGE, Generation
from penstock.messages import Call, Usage
from penstock.upstream.ladder import How, Point
from penstock.wire.boundary import Mismatch

log = logging.getLogger("penstock.gateway")

_WRITES_ON = frozenset({How.PREFILL, How.PROMPT})  # what they ask for is new text, a token at least


class Producer(Protocol):
    """Who fills the log; ``penstock.gateway.stages.call.Production`` says what its members are."""

    call: Call
    generation: Generation
    abandoned: bool
    tries: int

    async def attempt(self, candidate: Candidate, *, more: tuple[How, Point]) -> None: ...


class Continuing:
    """Goes on with one log.

    :param prompt: what the prompt cost, as the first upstream told before it broke; None: it has not
    :param retry: how soon is asked again
    :param budget: what tries are taken from
    """

    __slots__ = ("_begun_by", "_budget", "_producer", "_prompt", "_recorder", "_retry")

    def __init__(
        self,
        producer: Producer,
        prompt: Usage | None,
        retry: RetryConfig,
        budget: RetryBudget,
        recorder: Recorder,
    ) -> None:
        self._producer = producer
        self._prompt = prompt
        self._retry = retry
        self._budget = budget
        self._recorder = recorder
        self._begun_by = ""  # the model that began it, once somebody has gone on with it

    def __repr__(self) -> str:
        return f"<Continuing {self._producer.generation.id}, {self._producer.tries} tries>"

    async def complete(
        self,
        broken: UpstreamError,
        candidates: Sequence[Candidate],
        *,
        free: bool,
    ) -> None:
        """Until nothing is lacking.

        :param broken: how the last attempt ended
        :param free: whether the first try takes nothing from the budget
        :raises PenstockError: it cannot be; the break is told, never what was tried to mend it
        """
        producer, recorder = self._producer, self._recorder
        call, generation = producer.call, producer.generation
        most = candidates[0].continuation.attempts
        self._begun_by = generation.served_by[1] or candidates[0].model
        failed_at = next((one for one in candidates if self._served_last(one)), None)
        failure = broken
        if failed_at is not None:  # no answer is begun by one version of a model and ended by another
            candidates = [
                one for one in candidates if one.route != failed_at.route or one.version == failed_at.version
            ]
        ways: list[Step] | None = None  # None: the log is not as it was when they were thought of
        while most:
            point = self._point()
            now = recorder.clock.now()
            if ways is None:
                if close(call, generation, now) or (
                    point is not None and stop_at_limit(call, generation, point, now)
                ):
                    self._ended()
                    return
                ways = self._steps(broken, candidates, point, now)
            if not ways or point is None:
                break
            step, pause = ways[0], None
            if step.candidate is failed_at:
                pause = wait_after_break(failure, producer.tries + 1, self._retry)
                if pause is None:  # it is not asked again, so that no try is spent on it
                    ways = [one for one in ways if one.candidate is not failed_at]
                    continue
            if step.how in _WRITES_ON and stop_at_limit(call, generation, point, now, ours=True):
                self._ended()
                return
            if producer.tries >= most or not (free or self._budget.withdraw(now)):
                break
            free = False
            del ways[0]
            producer.tries += 1
            if pause is not None:
                await asyncio.sleep(pause)
            length = len(generation.events)
            try:
                await producer.attempt(step.candidate, more=(step.how, point))
                self._seamed(step, "rescued")
                return
            except Abandoned:
                recorder.continued(step.how, "cancelled")
                raise
            except Mismatch as mismatch:  # another way at the same candidate may fit; this one would not
                failed_at = None
                recorder.continued(step.how, "mismatch")
                log.info("%s cannot go on by %s: %s", generation.id, step.how.value, mismatch.message)
            except (CallerError, Overloaded, RateLimited):  # and is not asked so again
                failed_at = None
                recorder.continued(step.how, "refused")
            except UpstreamError as error:
                failed_at, failure = step.candidate, untraced(error)
                free = free or isinstance(error, UpstreamLeaving)
                if producer.abandoned or error.code == TOO_LARGE:
                    raise
                if len(generation.events) > length:
                    self._seamed(step, "broken")
                    broken, ways = error, None
                else:
                    recorder.continued(step.how, "failed")
                    ways = [one for one in ways if one.candidate is not step.candidate]
        raise broken

    def _seamed(self, step: Step, outcome: str) -> None:
        generation = self._producer.generation
        generation.seams += 1
        self._recorder.continued(step.how, outcome)
        log.info("%s went on by %s at %s: %s", generation.id, step.how.value, generation.served_by, outcome)

    def can_go_on(self, broken: UpstreamError, candidates: Sequence[Candidate], now: float) -> bool:
        """Whether anybody could, after such a break; ``now`` is in the clock's seconds."""
        return bool(self._steps(broken, candidates, self._point(), now))

    def _steps(
        self, broken: UpstreamError, candidates: Sequence[Candidate], point: Point | None, now: float
    ) -> list[Step]:
        """Every way in which the log can be gone on with as it stands, in the order in which they are tried."""
        if point is None:
            return []
        generation = self._producer.generation
        begun_by = self._begun_by or generation.served_by[1]
        slow = generation.served_by if isinstance(broken, UpstreamTimeout) else None
        return steps(self._producer.call, point, candidates, begun_by, slow, now)

    def _served_last(self, candidate: Candidate) -> bool:
        return self._producer.generation.served_by == (candidate.upstream.name, candidate.model)

    def _point(self) -> Point | None:
        return point_of(self._producer.call, self._producer.generation, self._prompt)

    def _ended(self) -> None:
        """The log lacked nothing but its end, and has it now."""
        self._producer.generation.seams += 1
        self._recorder.continued(How.CLOSE, "rescued")
