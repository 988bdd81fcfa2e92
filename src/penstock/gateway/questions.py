"""Identical calls in several processes: which one's generation answers a question for all of them.

The contract: where answers outlive their process, a call that may be joined takes its question's name in the store
before an upstream is asked.  Of several that take it at once one wins, and produces; the others read its generation,
as if they had come back for it.  The name is the generation's for as long as that runs: it is found in the store with
the generation's state, so it ends with it, and if its process dies, whoever reads follows who takes it over.

Who gives a generation up lets go of its name first, and only then looks whether anybody reads it elsewhere.  Who finds
the name says first that he reads it, and then makes sure that the name still stands.  So one of the two sees the
other, whatever the order of their steps, and nobody is left with an answer that was just given up.

A store that does not answer in time, or has not just now, is asked by nobody: every process answers by itself then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from penstock.errors import Overloaded
from penstock.gateway.stages import attach, join
from penstock.generation.keeper import Keeper
from penstock.generation.log import Generation, State
from penstock.generation.registry import Registry
from penstock.generation.store import Record, StoreUnavailable
from penstock.generation.written import Name, Written
from penstock.messages import Call
from penstock.net.clock import Clock

BUDGET = 0.5  # seconds that a call waits for all that is asked of a store on its behalf
PAUSE = 5.0  # seconds in which a store that did not answer in time is not asked
_TRIES = 3  # generations that turn out to answer nobody, before a call is made anyway
_PREFIX = "question "


class Asking(Protocol):
    """Where calls come from."""

    registry: Registry
    clock: Clock


class Stored(Protocol):
    """Whose generations are in the stores."""

    def keeper_of(self, model: str) -> Keeper | None: ...

    async def restored(self, record: Record, keeper: Keeper) -> Generation: ...


class Questions:
    """What this process asks the stores about questions in flight.

    :param stored: makes a generation of this process of what is in a store
    """

    def __init__(self, asking: Asking, stored: Stored) -> None:
        self._asking = asking
        self._stored = stored
        # Just now: one of this process asks for all.
        self._asked: dict[join.Name, asyncio.Future[Generation | None]] = {}
        self._paused: dict[Keeper, float] = {}  # until when

    def __repr__(self) -> str:
        return f"<Questions, {len(self._asked)} being asked>"

    def may_run_elsewhere(self, call: Call) -> bool:
        """Whether another process may be answering the same, and can be asked."""
        if call.endpoint.opaque:
            return False
        keeper = self._stored.keeper_of(call.model)
        return keeper is not None and self._asking.clock.now() >= self._paused.get(keeper, 0.0)

    async def find(self, name: join.Name, call: Call) -> Generation | None:
        """The generation that answers this question; None: the call is to be made, at once, and has the question.

        Several callers of this process may ask: whoever is told None first must bind the name before he waits.
        """
        registry = self._asking.registry
        while (asked := self._asked.get(name)) is not None:
            found = await asyncio.shield(asked) or join.find(name, registry)
            if found is not None and not found.abandoned:
                return found
        keeper = self._stored.keeper_of(call.model)
        if keeper is None:  # the configuration has changed meanwhile
            return None
        self._asked[name] = asked = asyncio.get_running_loop().create_future()
        found = None
        try:
            async with asyncio.timeout(BUDGET) as budget:
                found = await self._ask(name, call, keeper, budget)
        except (StoreUnavailable, TimeoutError, Overloaded):
            # If there is no room for it either, making it says so.
            self._paused[keeper] = self._asking.clock.now() + PAUSE
        finally:
            del self._asked[name]
            asked.set_result(found)
        if found is not None:
            registry.bind(found, name)
        return found

    async def _ask(
        self, name: join.Name, call: Call, keeper: Keeper, budget: asyncio.Timeout
    ) -> Generation | None:
        question = stored_name(name, call.tenant.name)
        not_that = ""
        for _ in range(_TRIES):
            claim = await keeper.names.take(question, call.id, not_that)
            if claim.won:
                return None
            record = await keeper.names.claimed(
                claim, paused=lambda seconds: budget.reschedule((budget.when() or 0.0) + seconds)
            )
            if record is None or record.tenant != call.tenant.name:
                not_that = claim.generation
                continue
            if record.state is State.RUNNING:
                record, is_ours = await self._say_read(record, question, call, keeper)
                if is_ours:
                    return None
                if record is None:
                    continue
            generation = await self._stored.restored(record, keeper)
            if not generation.abandoned and generation.ending is not State.FAILED:
                return generation
            # What failed in the store has the question no more.  One of ours that is being given up, or has failed and
            # is not stored yet, gives way; another's does not, of which perhaps only our reading was too late.
            if generation.journal is not None:
                not_that = record.id
        return None

    async def _say_read(
        self, running: Record, question: Name, call: Call, keeper: Keeper
    ) -> tuple[Record | None, bool]:
        """Say that a running generation is read here, and make sure that it has not been given up just before that.

        :returns: what can be read, if anything; and whether the call has the question now
        """
        await keeper.attention.say([running.id])
        claim = await keeper.names.take(question, call.id)
        if claim.generation == running.id:
            return running, False
        record = await keeper.load(running.id)
        if record is None or record.state is not State.FINISHED:  # it has been given up
            return None, claim.won
        if claim.won:
            await keeper.names.release(question, call.id)
        return record, False

    async def forgo(self, name: join.Name, call: Call) -> None:
        """A call that was told to be made is not made."""
        keeper = self._stored.keeper_of(call.model)
        if keeper is not None:
            with contextlib.suppress(StoreUnavailable):
                await keeper.names.release(stored_name(name, call.tenant.name), call.id)

    async def let_go(self, generation: Generation, keeper: Keeper) -> None:
        """Nobody is to join it any more."""
        if (question := question_of(generation)) is not None:
            with contextlib.suppress(StoreUnavailable):
                await keeper.names.release(question, generation.id)

    async def keep(self, generation: Generation, keeper: Keeper) -> None:
        """Undo :meth:`let_go`, unless somebody else has the question by now."""
        if (question := question_of(generation)) is not None:
            with contextlib.suppress(StoreUnavailable):
                await keeper.names.take(question, generation.id)

    async def remember(self, call: Call, generation: Generation) -> None:
        """Let the repetitions of a call that has joined find what it has joined, in every process."""
        keeper = self._stored.keeper_of(generation.model)
        if keeper is not None:
            name = attach.stored_name(call)
            with contextlib.suppress(StoreUnavailable):
                if attach.is_first(call):
                    await keeper.names.add(name, generation.id, attach.RECENT)
                else:  # it was looked for by that name, and has it
                    await keeper.names.claim(name, generation.id, call.id)


def stored_name(name: join.Name, tenant: str) -> Name:
    """A question's name in the store."""
    return Name(tenant, _PREFIX + name[1].hex(), b"")


def name_of(record: Record) -> join.Name | None:
    """The question that a stored generation answers for all who ask it, as the registry has it."""
    return ("question", bytes.fromhex(record.question.removeprefix(_PREFIX))) if record.question else None


def question_of(generation: Generation) -> Name | None:
    """The question that a generation of this process answers for all, as the store has it."""
    return generation.journal.question if isinstance(generation.journal, Written) else None
