"""What was only estimated is asked of the provider afterwards, where it can tell, and the books are put right.

Beside the answers, and after them: a look each second, a few questions at a look, one at a time.  An upstream that
does not answer is not asked more at this look, and one whose pool has callers waiting not at all.  The questions are
rows of the ledger (:mod:`penstock.ledger.questions`), which also says when each may be asked again.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Protocol

from penstock.errors import PenstockError
from penstock.flow.limits import Limiter
from penstock.gateway.snapshot import Snapshot
from penstock.gateway.stages.record import PICO, Recorder
from penstock.ledger.questions import Question, Questions
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import Usage
from penstock.metrics import Registry
from penstock.net.clock import Clock
from penstock.upstream import inquiry
from penstock.upstream.http import HTTPUpstream

INTERVAL = 1.0  # seconds between two looks
AT_ONCE = 16  # questions of one look
PATIENCE = 10.0  # seconds for one answer

log = logging.getLogger("penstock.gateway")


class Asking(Protocol):
    """What the books of a worker belong to."""

    recorder: Recorder
    snapshot: Snapshot


class Inquiries:
    """Asks for one worker.  Does nothing where there is no ledger file, or no upstream can tell."""

    def __init__(
        self,
        store: SQLiteStore | None,
        asking: Asking,
        limiter: Callable[[], Limiter | None],
        clock: Clock,
        metrics: Registry,
    ) -> None:
        self._questions = Questions(store.path, store.token) if store is not None else None
        self._asking = asking
        self._limiter = limiter
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._next = 0.0
        self._trouble = ""
        self._lookups = metrics.counter(
            "penstock_usage_lookups_total",
            "Questions to providers, what an attempt has cost that was only estimated.",
            labels=("upstream", "outcome"),
        )
        self._too_much = metrics.counter(
            "penstock_overestimated_tokens_total",
            "Tokens that estimates were above what the provider told afterwards.",
            labels=("upstream", "model", "direction"),
        )
        clock.add(self)

    def __repr__(self) -> str:
        return f"<Inquiries of {self._questions!r}{', ' + self._trouble if self._trouble else ''}>"

    def sweep(self, now: float) -> None:
        if now < self._next or self._looking is not None or self._questions is None:
            return
        self._next = now + INTERVAL
        able = {
            name: upstream
            for name, upstream in self._asking.snapshot.upstreams.items()
            if upstream.usage_lookup is not None
        }
        if able:
            self._looking = asyncio.get_running_loop().create_task(self._look(self._questions, able))

    async def wait_idle(self) -> None:
        """Until nothing is being asked."""
        if self._looking is not None:
            await asyncio.wait([self._looking])

    async def close(self) -> None:
        """Ask no more; what is open is asked by who comes after."""
        self._clock.remove(self)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look(self, questions: Questions, able: dict[str, HTTPUpstream]) -> None:
        try:
            for question in await asyncio.to_thread(questions.take, AT_ONCE):
                upstream = able.get(question.upstream)
                if upstream is not None and not upstream.pool.statistics().waiting:
                    await self._ask(questions, question, upstream, able)
            self._trouble = ""
        except sqlite3.Error as error:
            if str(error) != self._trouble:  # once, not at every look
                log.warning("what was estimated cannot be asked for: %s", error)
            self._trouble = str(error)
        except Exception:
            log.exception("defect while asking what attempts have cost")
        finally:
            self._looking = None

    async def _ask(
        self, questions: Questions, question: Question, upstream: HTTPUpstream, able: dict[str, HTTPUpstream]
    ) -> None:
        form = upstream.usage_lookup
        target = inquiry.target(form, question.endpoint, question.answer) if form is not None else ""
        if form is None or not target:
            await asyncio.to_thread(questions.give_up, question)
            return
        try:
            status, body = await upstream.look_up(target, PATIENCE)
        except (PenstockError, TimeoutError) as error:
            log.info("%s did not tell what %s has cost: %s", upstream.name, question.answer, error)
            del able[question.upstream]
            self._count(question, "failed")
            return
        told = inquiry.read(form, question.endpoint, status, body)
        if told is None:
            self._count(question, "not_told")
            return
        prices = self._asking.recorder.ledger.prices
        cost = told.cost
        if cost is None:
            cost = prices.estimate(question.upstream, question.upstream_model, told.usage)
        saved = prices.saved_by_cache(question.upstream, question.upstream_model, told.usage)
        booked = await asyncio.to_thread(questions.answer, question, told.usage, cost, saved)
        if booked is not None:
            self._count(question, "told")
            self.put_right(question, *booked)

    def _count(self, question: Question, outcome: str) -> None:
        self._lookups.labels(question.upstream, outcome).add()

    def put_right(self, question: Question, told: Usage, cost: int, saved: int) -> None:
        """The sums of this process, by as much as the row was wrong.

        Of the rows of processes that are no more every budget hears from the ledger's file.
        """
        recorder, more = self._asking.recorder, cost - question.cost
        if question.mine:
            saved_more = saved - question.cache_saved
            recorder.ledger.correct(question.outcome, question.usage, told, more, saved_more)
            limiter = self._limiter()
            if limiter is not None and more:
                names = question.key_name, question.tenant, question.tier, question.model
                limiter.correct(names, more, (question.upstream, question.upstream_model))
        route = self._asking.snapshot.router.entry_of(question.model)
        before = question.usage
        for direction, tokens in (
            ("input", told.input_tokens - before.input_tokens),
            ("output", told.output_tokens - before.output_tokens),
        ):
            # A counter cannot go down: what was too much is counted apart.
            counter = recorder.measures.tokens if tokens > 0 else self._too_much
            if tokens:
                counter.labels(question.upstream, route, direction).add(abs(tokens))
        if more > 0:
            recorder.measures.cost.labels(question.upstream, route).add(more * PICO)
