"""Calls of several callers in one request to an upstream; the answer and the bill of each go back to it.

Part of the stage *call*, for upstreams with ``batching`` in their configuration: ``flow.batch`` decides who goes with
whom and when, ``wire.merge`` makes one request of theirs and many answers of its answer.

A call shares a request in its first attempt only, and what fails is asked for again alone, so that one input which no
upstream can take, or which brings one down, is nobody else's misfortune.  What a request is refused for (4xx) is told
to nobody: each call is asked alone at once, in the same attempt, for nothing was made or charged.

A request takes one turn at the upstream's gate.  While it waits for it, more calls may join.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TypeAlias

import msgspec

from penstock.errors import CallerError, InternalError, Overloaded, PenstockError, UpstreamBroken
from penstock.flow.batch import Batching, Group
from penstock.flow.gate import Turn
from penstock.gateway.stages.candidate import Candidate, has_room
from penstock.gateway.stages.queue import ask_turn, settle_turn, take_turn, wait_turn
from penstock.gateway.stages.record import Recorder
from penstock.generation.log import Generation, new_id
from penstock.messages import Attempt, Outcome, Usage
from penstock.net import tasks
from penstock.upstream.transfer import Transfer
from penstock.upstream.whole import WholeTransfer
from penstock.wire import merge, request
from penstock.wire.merge import Part

log = logging.getLogger("penstock.gateway")

SOON = 0.0005  # seconds: what is due so soon is due


class Member:
    """One call that shares, or waits to share, a request.

    ``told``: True, it has its answer; False, it is to be asked alone.
    """

    __slots__ = ("gone", "part", "shared", "told", "transfer")

    def __init__(self, transfer: WholeTransfer, part: Part, told: asyncio.Future[bool]) -> None:
        self.transfer = transfer
        self.part = part
        self.told = told
        self.shared: Shared | None = None
        self.gone = False

    def __repr__(self) -> str:
        sent = self.shared is not None and self.shared.sent
        return f"<Member {'gone' if self.gone else 'sent' if sent else 'waiting'}>"

    def tell(self, *, answered: bool) -> None:
        if not answered:
            self.transfer.job.shared = False
        if not self.told.done():
            self.told.set_result(answered)

    def fail(self, error: PenstockError, status: int, used: Usage) -> None:
        self.transfer.charge(status, used)
        if not self.told.done():
            self.told.set_exception(error)
            self.told.exception()  # its caller may leave before it hears of it


Batches: TypeAlias = "Batching[Member]"


async def ask_together(
    batching: Batches, transfer: Transfer, candidate: Candidate, recorder: Recorder
) -> bool:
    """Ask for this call in one request with others.

    :returns: whether it has been answered; if not, it is to be asked alone
    :raises penstock.errors.PenstockError: the request failed, and this call's attempt with it
    """
    call = transfer.job.call
    part = merge.part_of(call)
    if part is None or not batching.admits(len(part.inputs), len(call.body)):
        return False
    assert isinstance(transfer, WholeTransfer), "what streams has no part"
    loop = asyncio.get_running_loop()
    member = Member(transfer, part, loop.create_future())
    bucket = _bucket(part.longest, batching.config.length_ratio)
    key = (
        candidate.model,
        bucket,
        candidate.upstream.fields.of_caller(call, call.endpoint.dialect),
        *part.alike,
    )
    now = loop.time()
    group, passed = batching.put(
        *(key, member, len(part.inputs), len(call.body), now), room=has_room(candidate, transfer.now())
    )
    if passed is not None:
        _start(batching, passed, candidate, recorder)
    if group.closed or group.held:
        _start(batching, group, candidate, recorder)
    elif len(group.members) == 1:
        loop.call_at(group.closes_at, _due, batching, group, candidate, recorder)
    try:
        answered = await member.told
    except asyncio.CancelledError:
        await _leave(batching, group, member)
        raise
    if answered:
        transfer.conclude()
    return answered


def _bucket(longest: int, ratio: float) -> int:
    """Inputs of one class differ in length by less than the ratio."""
    return int(math.log(longest) / math.log(ratio)) if ratio > 1.0 and longest > 1 else 0


def _due(batching: Batches, group: Group[Member], candidate: Candidate, recorder: Recorder) -> None:
    """The group's time may have come."""
    if group.closed or group.held:
        return
    loop = asyncio.get_running_loop()
    if group.closes_at - loop.time() > SOON:
        loop.call_at(group.closes_at, _due, batching, group, candidate, recorder)
        return
    batching.due(group, room=has_room(candidate, group.members[0].transfer.now()))
    _start(batching, group, candidate, recorder)


def _start(batching: Batches, group: Group[Member], candidate: Candidate, recorder: Recorder) -> None:
    """Have the group sent; one that waits for its turn already has who does so."""
    members = group.members
    shared = members[0].shared
    if shared is not None:
        members[-1].shared = shared
    elif len(members) == 1 and group.closed:
        recorder.batched(candidate, 1)
        members[0].tell(answered=False)
    else:
        Shared(batching, group, candidate, recorder)


async def _leave(batching: Batches, group: Group[Member], member: Member) -> None:
    """Its caller has left; if it is in a request already, the bill comes with that request's end."""
    shared = member.shared
    if shared is None or not shared.sent:
        if member in group.members:
            part = member.part
            batching.leave(group, member, len(part.inputs), len(member.transfer.job.call.body))
            if shared is not None and not group.members:
                shared.task.cancel()
        return
    member.gone = member.transfer.cancelled = True
    shared.left()
    await asyncio.wait([shared.task])
    if member.transfer.failure is None:
        member.transfer.conclude()


class Shared:
    """One request of several calls, from its turn to telling each of them; ends with :attr:`task`.

    Until it is ``sent``, whoever leaves the group is not in it, and if the group is held, more may join.
    """

    __slots__ = (
        "_asking",
        "_batching",
        "_candidate",
        "_group",
        "_members",
        "_recorder",
        "_transfer",
        "sent",
        "task",
    )

    def __init__(
        self, batching: Batches, group: Group[Member], candidate: Candidate, recorder: Recorder
    ) -> None:
        self._batching = batching
        self._group = group
        self._members = group.members
        self._asking = group.members[0]  # for whom the turn is asked
        self._candidate = candidate
        self._recorder = recorder
        self._transfer: Transfer | None = None
        self.sent = False
        for member in self._members:
            member.shared = self
        self.task = tasks.start(self._run(), asyncio.get_running_loop())

    def __repr__(self) -> str:
        return f"<Shared request of {len(self._members)} calls to {self._candidate.upstream.name}>"

    def left(self) -> None:
        """A caller has left; when all have, nobody needs the answer."""
        if not all(member.gone for member in self._members):
            return
        transfer = self._transfer
        if transfer is not None and transfer.connection is not None:
            transfer.hang_up(self._candidate.upstream.config.cancel_grace)
        else:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._ask()
        except Exception:
            log.exception("defect in %r", self)
            for member in self._members:
                member.fail(InternalError("internal error"), 0, Usage())

    async def _ask(self) -> None:
        candidate = self._candidate
        upstream = candidate.upstream
        transfer, head, body = self._request()
        turn: Turn | None = None
        failure: PenstockError | None = None
        try:
            if upstream.gate is not None:
                place = ask_turn(upstream.gate, transfer, candidate)
                if isinstance(place, Turn):
                    turn = place
                else:
                    turn = await wait_turn(upstream.gate, transfer, place)
                    transfer, head, body = self._request()
                transfer.turn = turn
            self._close()
            connection = await take_turn(upstream, transfer)
            self._transfer = transfer
            await upstream.send(transfer, connection, head, body)
        except PenstockError as error:
            failure = error
        except asyncio.CancelledError:
            transfer.cancelled = True
            raise
        finally:
            self._close()
            if turn is not None:
                settle_turn(turn, transfer, _ended(transfer, candidate, failure), failure)
        self._tell(transfer, transfer.generation.events[0] if transfer.generation.events else None, failure)

    def _close(self) -> None:
        """Nobody joins it from here on, and who leaves does not take its part away."""
        if not self.sent:
            self.sent = True
            self._batching.close(self._group)
            members = self._members
            if members:
                self._recorder.batched(self._candidate, len(members))
            for member in members:
                member.transfer.job.shared = len(members) > 1

    def _request(self) -> tuple[Transfer, bytes, bytes]:
        """What is to be sent for those who are in it now."""
        members, candidate = self._members, self._candidate
        first = members[0].transfer
        fields = merge.merged(first.job.call, [member.part for member in members])
        body = request.rewritten(fields, candidate.model)
        call = msgspec.structs.replace(
            first.job.call, id=new_id(), fields=fields, body=body, reservation=None, trace=None
        )
        answer = Generation.of(call, started=first.started, max_bytes=first.generation.max_bytes)
        answer.attempts = 1
        transfer = candidate.upstream.transfer(call, answer, candidate.timeouts)
        head, body = candidate.upstream.encoder.encode(call, transfer, candidate.model, extra=candidate.extra)
        return transfer, head, body

    def _tell(self, transfer: Transfer, answer: bytes | None, failure: PenstockError | None) -> None:
        """Give each call its answer, or what became of it."""
        members = self._members
        if isinstance(failure, CallerError):
            for member in members:
                member.tell(answered=False)
            return
        if isinstance(failure, Overloaded):
            for member in members:
                if member is self._asking:
                    member.fail(failure, 0, Usage())
                else:  # it has a deadline and a tier of its own
                    member.tell(answered=False)
            return
        parts = [member.part for member in members]
        endpoint = transfer.job.call.endpoint
        bodies = merge.split(endpoint, answer, parts) if answer is not None and failure is None else None
        if bodies is None:
            upstream = self._candidate.upstream.name
            error = failure or UpstreamBroken(
                f"{upstream}: the answer to {len(members)} calls in one request does not fit them",
                upstream=upstream,
            )
            for member, used in zip(members, merge.split_usage(transfer.used(), parts), strict=True):
                member.fail(error, transfer.status, used)
            return
        for member, body in zip(members, bodies, strict=True):
            member.transfer.on_head(transfer.status, transfer.headers)
            member.transfer.on_data(body)
            member.tell(answered=True)


def _ended(transfer: Transfer, candidate: Candidate, failure: PenstockError | None) -> Attempt:
    """What the gate is told of a request; the ledger has a row for each of its calls instead."""
    call = transfer.job.call
    outcome = Outcome.COMPLETED if failure is None else Outcome.FAILED
    if transfer.cancelled:
        outcome = Outcome.CANCELLED
    return Attempt(
        call.id,
        call.id,
        1,
        call.tenant.name,
        call.tenant.key_name,
        call.tenant.tier,
        call.endpoint.label,
        call.model,
        candidate.upstream.name,
        candidate.model,
        time.time(),
        Usage(),
        outcome,
        transfer.used() if failure is None else Usage(),
    )
