"""What is asked behind an answer: an answer that was stale once more, and what will probably be asked next.

Nobody reads these; they are kept when they have come.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from penstock.errors import Overloaded
from penstock.gateway.snapshot import Snapshot
from penstock.gateway.stages.admit import Admission
from penstock.gateway.stages.lookup import Lookup, Question
from penstock.generation.log import Generation, new_id
from penstock.generation.registry import Registry
from penstock.messages import Call
from penstock.wire.trace_context import without


class Producing(Protocol):
    """What fills generations."""

    snapshot: Snapshot
    registry: Registry
    admission: Admission

    def begin(self, call: Call, generation: Generation, question: Question | None = None) -> None: ...

    def soon(self, doing: Coroutine[Any, Any, None]) -> None: ...


class Renewals:
    """The calls that the gateway makes of itself, for its cache."""

    def __init__(self, producing: Producing) -> None:
        self._producing = producing

    def __repr__(self) -> str:
        return "<Renewals>"

    def renew(self, call: Call, lookup: Lookup, question: Question) -> None:
        """Ask what the call asks, for who asks it after this, unless another worker does or has."""
        renewal = msgspec.structs.replace(
            call,
            id=new_id(),
            reservation=None,
            headers=without(call.headers),
            trace=None,
            deadline=math.inf,
            background=False,
            deferred=False,
            promised=False,
            on_wait=None,
        )
        if call.reservation is not None:  # what is answered behind it, it pays for
            renewal.reservation = call.reservation.hand_on()
        lookup.renewing.add(question.key)
        if lookup.cache.waits:
            self._producing.soon(self._renew_once(renewal, lookup, question))
        else:
            self._begin(renewal, lookup, question)

    async def _renew_once(self, renewal: Call, lookup: Lookup, question: Question) -> None:
        """One call behind the answers of all workers that share a tier."""
        admission = self._producing.admission
        try:
            wanted = await lookup.is_to_fetch(renewal, question, lambda: admission.draining)
        except BaseException:
            _leave(renewal, lookup, question)
            raise
        if wanted:
            self._begin(renewal, lookup, question)
        else:
            _give_back(renewal)

    def _begin(self, renewal: Call, lookup: Lookup, question: Question) -> None:
        producing = self._producing
        if producing.admission.draining:  # maybe only since it was looked whether this is wanted
            _leave(renewal, lookup, question)
            return
        try:
            generation = producing.registry.create(renewal)
        except Overloaded:
            _leave(renewal, lookup, question)
            return
        generation.grace = math.inf
        producing.begin(renewal, generation, question)

    def foresee(self, call: Call, lookup: Lookup, question: Question) -> None:
        """Fetch what will probably be asked after this; its caller has been seen to."""
        producing = self._producing
        if producing.admission.draining:
            return
        snapshot = producing.snapshot
        for wanted, next_one in lookup.foresee(
            call, question, snapshot.router, open_to_all=snapshot.keyring.open
        ):
            next_one.prefetched = True
            self.renew(wanted, lookup, next_one)


def _leave(renewal: Call, lookup: Lookup, question: Question) -> None:
    """It is not asked here, but may be elsewhere."""
    lookup.release(question)
    _give_back(renewal)


def _give_back(renewal: Call) -> None:
    """What it was allowed to use, and did not."""
    if renewal.reservation is not None:
        renewal.reservation.hold()
        renewal.reservation.release()
