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
        """Ask what the call asks, for who asks it after this."""
        producing = self._producing
        headers = without(call.headers)
        renewal = msgspec.structs.replace(
            call,
            id=new_id(),
            reservation=None,
            headers=headers,
            trace=None,
            deadline=math.inf,
            background=False,
            deferred=False,
            on_wait=None,
        )
        try:
            generation = producing.registry.create(renewal)
        except Overloaded:
            lookup.renewing.discard(question.key)
            return
        generation.grace = math.inf
        if call.reservation is not None:  # what is answered behind it, it pays for
            renewal.reservation = call.reservation.hand_on()
        lookup.renewing.add(question.key)
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
            lookup.renewing.add(next_one.key)
            producing.soon(self._fetch(wanted, lookup, next_one))

    async def _fetch(self, call: Call, lookup: Lookup, question: Question) -> None:
        """Ask for what no tier has."""
        entry = await lookup.cache.get(question.key)
        if entry is not None and entry.fresh_until > lookup.cache.now():
            lookup.renewing.discard(question.key)
        else:
            self.renew(call, lookup, question)
