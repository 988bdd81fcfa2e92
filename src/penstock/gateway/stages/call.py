"""Call upstreams until one has answered: attempts, retries, fallbacks, and a ledger row for each.

What nobody has been told can be asked for again: before the first event a failed attempt is repeated, at the
same candidate with full-jitter back-off as long as the retry budget lasts, then at the next one; where nobody
is there to be asked, at the next replica at once.  After it
the answer has begun, and a break leaves a log that is to be gone on with (``continuing``).

A log that was begun by somebody else, before a crash say, is gone on with in the same way:
:meth:`Production.run` looks at what is there.

:class:`Production` is the generation's producer: it belongs to the gateway, not to a connection, and ends
when the answer is complete, when every candidate has failed, or when the last reader has left.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Container, Sequence
from math import inf

from penstock.config.model import RetryConfig
from penstock.errors import (
    CallerError,
    DeadlinePassed,
    Overloaded,
    PenstockError,
    RateLimited,
    Untranslatable,
    UpstreamBroken,
    UpstreamError,
    UpstreamLeaving,
    UpstreamRefused,
    untraced,
)
from penstock.flow.deadline import deadline_of
from penstock.flow.departure import LEAVING
from penstock.flow.gate import Turn
from penstock.flow.retry import RetryBudget
from penstock.gateway.stages import trace
from penstock.gateway.stages.attempt import describe, opened
from penstock.gateway.stages.batch import ask_together
from penstock.gateway.stages.candidate import Candidate, standing_in
from penstock.gateway.stages.continuing import Continuing
from penstock.gateway.stages.failure import (
    Abandoned,
    has_another,
    sooner,
    wait_after_break,
    wait_before_retry,
    with_others,
)
from penstock.gateway.stages.hedge import Hedge, learn
from penstock.gateway.stages.learnt import count_in, count_out, count_sample
from penstock.gateway.stages.queue import ask_turn, by_health, settle_turn, take_turn, wait_turn
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.substitute import Substitutes
from penstock.gateway.stages.unfinished import TakenUp, is_ours, is_read_on
from penstock.generation.log import TOO_LARGE, Generation
from penstock.messages import Call, Endpoint, Usage
from penstock.net import tasks
from penstock.upstream.job import Lookup
from penstock.upstream.ladder import How, Point
from penstock.upstream.transfer import Transfer
from penstock.wire.counting import estimated_answer
from penstock.wire.delivered import is_whole

_INPUT_TOKENS = Endpoint.INPUT_TOKENS
_BARREN = 2  # tries to read on that bring nothing, after which other ways are left some
_COUNTS = frozenset({Endpoint.COUNT_TOKENS, _INPUT_TOKENS})


class Production:
    """Fills one generation from upstreams.

    :param retry: how often, and how soon, is asked again
    :param budget: what retries are taken from
    :param taken_up: where a process that is no more was receiving it from a run that its upstream keeps, and as what
    :ivar abandoned: whether nobody wants it any more
    :ivar tries: how often it was gone on with, successful or not
    """

    __slots__ = (
        "_budget",
        "_cancel_grace",
        "_candidates",
        "_continuing",
        "_first",
        "_passed_on",
        "_prompt",
        "_recorder",
        "_retry",
        "_taken_up",
        "_transfer",
        "abandoned",
        "call",
        "generation",
        "task",
        "tries",
    )

    def __init__(
        self,
        call: Call,
        generation: Generation,
        retry: RetryConfig,
        budget: RetryBudget,
        recorder: Recorder,
        taken_up: TakenUp | None = None,
    ) -> None:
        self.call = call
        self.generation = generation
        self._retry = retry
        self._budget = budget
        self._recorder = recorder
        self.task: tasks.Run | None = None
        self._transfer: Transfer | None = None
        self._taken_up = taken_up
        self.abandoned = False
        self._passed_on = False  # another process reads on in the upstream's run, and books all of it
        self._cancel_grace = 0.0
        self._candidates: Sequence[Candidate] = ()
        self._first: Candidate | None = None  # who answers unless something is in the way; None: whoever does
        self._continuing: Continuing | None = None  # None: nobody has gone on with it
        self.tries = 0
        self._prompt: Usage | None = None  # what the prompt cost, as the first upstream told before it broke
        generation.producer = self

    def __repr__(self) -> str:
        state = "abandoned" if self.abandoned else "sending" if self._transfer else "waiting"
        return f"<Production of {self.generation.id}, {state}>"

    # ---- Producer ----

    @property
    def complete(self) -> bool:
        return self._transfer is not None and self._transfer.complete

    def abandon(self) -> None:
        """Hang up on the upstream at once; what is under way already is still received and counted."""
        if self.abandoned:
            return
        self.abandoned = True
        transfer = self._transfer
        if transfer is not None and transfer.connection is not None:
            transfer.hang_up(self._cancel_grace)
        elif self.task is not None:
            self.task.cancel()

    def pass_on(self, *, kept: bool) -> None:
        """Another process goes on with what is stored of this.

        :param kept: as its :class:`~penstock.generation.store.Bill` says: that one books all of the attempt under way
        """
        self._passed_on = kept
        self.abandon()

    def drained(self) -> None:
        if self._transfer is not None:
            self._transfer.resume()

    def move(self, leaving: Container[str], gone: Container[str]) -> bool:
        """Break off an answer, if it can be gone on with elsewhere; whether that was done.

        :param leaving: upstreams that will be gone soon: what has begun moves
        :param gone: upstreams that are: what has not begun yet moves, too, and is asked for anew
        """
        transfer, events = self._transfer, self.generation.events
        if transfer is None or self.abandoned:
            return False
        name = transfer.job.upstream
        leaves = UpstreamLeaving(f"{name} is going away", upstream=name)
        if events:
            may = name in leaving and self._broken().can_go_on(leaves, self._candidates, transfer.now())
        else:
            may = name in gone and any(one.upstream.departure is None for one in self._candidates)
        return may and transfer.move(leaves)

    # ---- from nothing, or from what is there ----

    async def run(
        self,
        candidates: Sequence[Candidate],
        substitutes: Substitutes | None = None,
        first: Candidate | None = None,
    ) -> None:
        """Call until the log is complete; one that holds events already is gone on with.

        :param substitutes: who is asked where a prompt is refused for what it is; None: nobody
        :param first: who would be asked if all were well: callers are told of another; None: the first of the candidates
        :raises PenstockError: the last failure before the first event, or the break that could not be mended
        """
        if self.abandoned:
            raise Abandoned("the last reader has left")
        self._candidates = candidates
        self._first = first or candidates[0]
        broken: UpstreamError | None
        free = False
        if not self.generation.events:
            broken = await self._begin(candidates, substitutes)
            free = isinstance(broken, UpstreamLeaving)
        elif self.call.stream:
            # Who received it may have gone before it had said that this was all.
            if is_whole(self.call.endpoint, self.generation.events):
                if self._taken_up is not None:
                    self.generation.kept = 0
                    self._taken_up.enter_died()
                return
            broken = UpstreamBroken("the process that was receiving this answer has ended")
            free = True  # no upstream is at fault, so this is no retry
            if self._taken_up is not None:
                still = await self._take_up(self._taken_up, broken)
                if still is None:
                    return
                broken = still
        else:
            return  # the one event of a plain answer is all of it
        if broken is not None:
            self._continuing = continuing = self._broken()
            try:
                await continuing.complete(broken, self._candidates, free=free)
            finally:
                self._continuing = None  # each has the other: only the garbage collector would end both

    def _broken(self) -> Continuing:
        return self._continuing or Continuing(self, self._prompt, self._retry, self._budget, self._recorder)

    async def _take_up(self, taken_up: TakenUp, broken: UpstreamBroken) -> UpstreamError | None:
        """Read on in the run of which another process was receiving the answer: the break that is left, if one is."""
        generation = self.generation
        attempts = generation.attempts
        try:
            await self.attempt(taken_up.candidate, taken_up=(taken_up, broken))
        except UpstreamError as still:
            if self.abandoned or still.code == TOO_LARGE:
                raise
            return still
        except (Overloaded, RateLimited):  # others may have room
            if generation.attempts == attempts:  # no row has what the other process had received
                generation.kept = 0
                taken_up.candidate.upstream.end_run(taken_up.transfer)
                taken_up.enter_died()
            return broken
        return None

    async def _begin(
        self,
        candidates: Sequence[Candidate],
        substitutes: Substitutes | None,
        passed: Sequence[Candidate] = (),
        before: Sequence[tuple[str, PenstockError]] = (),
    ) -> UpstreamError | None:
        """Call until answered, or until a stream breaks after its first event: that break.

        :param passed: who was asked before, or passed over
        :param before: which of them refused or failed, by their upstreams' names
        :raises PenstockError: the last failure, with nothing delivered
        """
        config, recorder = self._retry, self._recorder
        failures = [*before]
        error: PenstockError | None = failures[-1][1] if failures else None
        limited: RateLimited | None = None
        others: Sequence[Candidate] = ()  # who is asked instead, once one has refused the prompt
        for candidate in candidates:
            if self.call.endpoint in _COUNTS and not candidate.upstream.counts(self.call.endpoint):
                self._estimate(candidate, recorder.clock.now())
                return None
            for number in range(1, config.attempts + 1):
                try:
                    hedging = candidate.upstream.hedging
                    if hedging is None or not self.call.stream:
                        await self.attempt(candidate)
                    else:
                        await Hedge(candidate, hedging, candidates, self.attempt, self._won, recorder).run()
                    return None
                except Untranslatable as untranslatable:  # the next candidate may speak the caller's dialect
                    error = error or untranslatable
                    failures.append((candidate.upstream.name, untranslatable))
                    break
                except CallerError as refused:
                    if self.call.endpoint is _INPUT_TOKENS and refused.status in {404, 405}:
                        self._estimate(candidate, recorder.clock.now())  # it has responses, and counts none
                        return None
                    if candidate.sample is None or not candidate.sample.is_new:
                        others = self._instead(substitutes, candidates, candidate, refused, passed)
                        if not others:
                            raise
                    error = untraced(refused)  # a version on trial may be what is wrong
                    failures.append((candidate.upstream.name, refused))
                    break
                except RateLimited as over:  # and nothing was asked there
                    limited = sooner(limited, over)
                    failures.append((candidate.upstream.name, over))
                    break
                except DeadlinePassed as late:  # and nobody else would be in time
                    raise with_others(error or late, failures) from None
                except Overloaded as overloaded:  # no room at this candidate: the next may have some
                    # That it goes away says less than how another failed.
                    error = error if error is not None and overloaded.code == LEAVING else overloaded
                    failures.append((candidate.upstream.name, overloaded))
                    break
                except UpstreamError as failed:
                    error = untraced(failed)
                    failures.append((candidate.upstream.name, failed))
                    if self.abandoned or failed.code == TOO_LARGE:
                        raise  # the latter is paid for, and the next one would be as long
                    if self.generation.events:
                        if self.call.endpoint.opaque:
                            raise  # nobody here could go on with it
                        return failed
                    others = self._instead(substitutes, candidates, candidate, failed, passed)
                    if others:
                        break
                    if isinstance(failed, UpstreamLeaving) or has_another(candidates, candidate, failed):
                        break
                    wait = wait_before_retry(failed, number, config)
                    if wait is None or number == config.attempts or self._is_late_after(wait):
                        break
                    if not self._budget.withdraw(recorder.clock.now()):
                        break
                    recorder.retried(candidate)
                    await asyncio.sleep(wait)
            if others:
                self._candidates = others
                passed = [*passed, *candidates[: candidates.index(candidate) + 1]]
                return await self._begin(others, substitutes, passed, failures)
        failure = error or limited
        assert failure is not None, "a route has at least one candidate"
        raise with_others(failure, failures)

    def may_retry(self) -> bool:
        """Whether the budget has something left for one more try, which is taken from it."""
        return self._budget.withdraw(self._recorder.clock.now())

    def _is_late_after(self, wait: float) -> bool:
        """Whether the call's deadline will have passed in so many seconds, and nothing of its answer is there."""
        deadline = deadline_of(self.call)
        return (
            deadline != inf and not self.generation.events and self._recorder.clock.now() + wait >= deadline
        )

    def _instead(
        self,
        substitutes: Substitutes | None,
        candidates: Sequence[Candidate],
        refused: Candidate,
        error: PenstockError,
        passed: Sequence[Candidate],
    ) -> Sequence[Candidate]:
        """Who is asked in the stead of a candidate that does not take this prompt, if that is why it failed."""
        if substitutes is None or not isinstance(error, UpstreamRefused | UpstreamError):
            return ()
        if not error.cause or self.abandoned or self.generation.events:
            return ()
        after = candidates.index(refused) + 1
        passed = [*passed, *candidates[:after]]
        others = substitutes.after(self.call, refused, error.cause, candidates[after:], passed)
        return by_health(others, self._recorder.clock.now())

    def _won(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def _estimate(self, candidate: Candidate, now: float) -> None:
        """Count the tokens ourselves, where the upstream has nothing to ask; it costs nothing."""
        generation = self.generation
        answer = estimated_answer(self.call.endpoint, self.call.body)
        generation.headers = [(b"penstock-estimated", b"true")]
        generation.served_by = (candidate.upstream.name, candidate.model)
        generation.append([answer], now)

    # ---- one attempt ----

    async def attempt(
        self,
        candidate: Candidate,
        hedge: Hedge | None = None,
        more: tuple[How, Point] | None = None,
        taken_up: tuple[TakenUp, UpstreamBroken] | None = None,
    ) -> None:
        """One upstream call, and its row in the ledger.

        :param hedge: another call may be made beside this one; None: not
        :param more: how the answer that is there goes on; None: from its beginning
        :param taken_up: receives what another process was receiving until this broke it; None: nobody was
        """
        call, generation, upstream, recorder = self.call, self.generation, candidate.upstream, self._recorder
        # The one before may have broken because another process has the answer by now, or has ended it.
        if generation.attempts and self._transfer is None and not await is_ours(generation):
            raise Abandoned("another process has this answer")
        if upstream.departure is not None:
            raise upstream.departure.refusal(upstream.name, recorder.clock.now())
        transfer: Transfer
        head = body = b""
        if taken_up is not None:
            transfer = taken_up[0].transfer
        elif more is None:
            hold_back = candidate.continuation.hold_back
            transfer = upstream.transfer(call, generation, candidate.timeouts, hold_back)
            head, body = upstream.encoder.encode(
                call, transfer, candidate.model, candidate.care, candidate.extra
            )
        else:
            transfer, head, body = upstream.continued(
                call, generation, candidate.timeouts, candidate.model, *more, candidate.extra
            )
        first = self._first
        if candidate.notices or candidate is not first:
            other = standing_in(candidate, first) if first is not None else ()
            transfer.notices = candidate.notices + other
        allotment = candidate.allotment
        allotted = await allotment.take(call) if allotment is not None else None
        generation.attempts += 1
        generation.served_by = (upstream.name, candidate.model)
        row = opened(call, generation, candidate, transfer)
        recorder.opened(row)
        if taken_up is not None:
            taken_up[0].enter_whole()
        generation.attempt = row
        if generation.journal is not None:
            generation.journal.opened(row)
        # What was asked with a caller's own key, it alone can ask for.
        if upstream.usage_lookup is not None and not transfer.job.callers_key:
            transfer.lookup = Lookup(upstream.usage_lookup, functools.partial(recorder.noted, row))
        span: trace.AttemptTrace | None = None  # None: nothing is recorded of it
        if call.trace is not None or b"traceparent" in call.headers:
            beside = hedge is not None and hedge.entered_once
            span = trace.begin(call, row, transfer, continues=more is not None, beside=beside)
        if hedge is not None:
            hedge.entered(transfer)
        # The gate counts those who wait itself.
        in_line = candidate.prompt is not None and upstream.gate is not None
        standing = None if in_line else count_in(candidate)
        turn: Turn | None = None
        failure: BaseException | None = None
        try:
            if (
                upstream.batching is not None
                and generation.attempts == 1
                and await ask_together(upstream.batching, transfer, candidate, recorder)
            ):
                return
            if upstream.gate is not None:
                place = ask_turn(upstream.gate, transfer, candidate)
                turn = place if isinstance(place, Turn) else await wait_turn(upstream.gate, transfer, place)
                transfer.turn = turn
                if in_line:
                    standing = count_in(candidate)
            if taken_up is not None:
                transfer = await self._read_on(transfer, taken_up[1], candidate, free=True)
                return
            connection = await take_turn(upstream, transfer)
            if hedge is None or self._transfer is None:
                self._transfer = transfer
            self._cancel_grace = upstream.config.cancel_grace
            if hedge is not None:
                hedge.sent(transfer)
            try:
                await upstream.send(transfer, connection, head, body)
            except UpstreamError as broken:
                if hedge is not None and hedge.winner is not transfer:
                    raise  # the other may be writing
                transfer = await self._read_on(transfer, broken, candidate)
        except BaseException as error:
            failure = error
            if more is None and not transfer.lost:
                self._prompt = transfer.told_usage()
            raise
        finally:
            describe(row, transfer, failure, continues=more is not None)
            if not transfer.lost:
                if not transfer.complete:
                    self._transfer = None
                    if not is_read_on(generation, transfer):
                        upstream.end_run(transfer)
                    if self._passed_on:
                        row.usage = Usage()
                generation.usage = transfer.of_the_whole(row.usage)
                generation.served_by = (upstream.name, candidate.model)
            else:
                upstream.end_run(transfer)
            recorder.settled(row, candidate, stream=call.stream)
            if generation.journal is not None:
                generation.journal.settled(row)
            if transfer.overstated is not None:
                recorder.overstated(row, transfer.overstated)
            generation.cost += row.cost
            if span is not None:
                span.settle(row, candidate, transfer, generation)
            if allotted is not None:
                allotted.settle(row.usage, row.cost)
                allotted.release()
            if turn is not None:
                settle_turn(turn, transfer, row, failure)
            if standing is not None:
                count_out(standing, transfer, row, failure)
            if candidate.sample is not None:
                count_sample(candidate.sample, transfer, row, failure, recorder.ledger.prices)
            if upstream.hedging is not None and call.stream and more is None:
                learn(upstream.hedging, candidate.model, transfer)
        if transfer.cancelled and not transfer.lost:
            raise Abandoned("the last reader has left")

    async def _read_on(
        self, transfer: Transfer, broken: UpstreamError, candidate: Candidate, *, free: bool = False
    ) -> Transfer:
        """Read on in the upstream's own run of an answer whose connection broke: still the same attempt.

        :param free: whether the first try takes nothing from the budget
        :returns: the transfer that received the rest
        :raises UpstreamError: the break: there is no such run, or it cannot be reached
        """
        upstream, generation, recorder = candidate.upstream, self.generation, self._recorder
        if upstream.departure is not None:
            raise broken
        most = max(candidate.continuation.attempts - 1, 1)  # one is left for another way
        barren = 0  # tries in a row that brought nothing
        while not self.abandoned and self.tries < most and barren < _BARREN and broken.code != TOO_LARGE:
            rest = upstream.rest(transfer)
            pause = wait_after_break(broken, self.tries + 1, self._retry)
            if rest is None or pause is None or self._is_late_after(pause):
                break
            if not (free or self._budget.withdraw(recorder.clock.now())):
                break
            free = False
            self.tries += 1
            await asyncio.sleep(pause)
            further, head = rest
            length = len(generation.events)
            try:
                connection = await take_turn(upstream, further)
                self._transfer = further
                await upstream.send(further, connection, head, b"")
            except (CallerError, Overloaded):
                recorder.continued(How.RESUME, "refused")
                break
            except UpstreamError as error:
                came = len(generation.events) > length
                barren = 0 if came else barren + 1
                recorder.continued(How.RESUME, "broken" if came else "failed")
                if came:
                    generation.seams += 1
                    transfer, broken = further, error
                continue
            generation.seams += 1
            recorder.continued(How.RESUME, "cancelled" if further.cancelled else "rescued")
            return further
        raise broken
