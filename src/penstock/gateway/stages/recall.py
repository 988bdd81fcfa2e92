"""Which earlier response does this request go on from?

The contract: a request that names responses which were made here, and are still kept (``generations.kept_for``), becomes
the one that says the whole conversation; nobody behind this stage sees that it was not.  What names others stays as it
is: the upstream may know them.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from penstock.errors import BodyTooLarge, Gone, NotFound
from penstock.generation.log import Generation, State
from penstock.generation.registry import Registry
from penstock.messages import Call, Endpoint, Tenant
from penstock.wire import request, responses
from penstock.wire.fold import fold


class Stored(Protocol):
    """What other processes, and earlier ones, have written down."""

    async def known(self, generation_id: str, response_id: str, tenant: Tenant) -> Generation:
        """A generation of this tenant, by its id or its response's; the registry has it then.

        :raises NotFound: this tenant has none of this id
        :raises Gone: it had one
        :raises Overloaded: a store does not answer in time
        """

    async def has(self, generation: Generation) -> bool:
        """Whether it is still there, and no other process has deleted it."""


class Recalled(msgspec.Struct, frozen=True):
    """What was put in a call's place, as far as another process may have deleted it; and the call as it came."""

    taken: list[Generation]
    fields: dict[str, msgspec.Raw]
    body: bytes
    left_out: int


def recall(call: Call, registry: Registry, most: int) -> Recalled | None:
    """Put what the call names in its place, as far as this process has it.

    :param most: bytes that a body may have
    :returns: what :func:`make_sure` is to look after; None: nothing
    :raises BodyTooLarge: the whole conversation is longer
    """
    if not responses.goes_on(call.fields, call.body):
        return None
    known: dict[str, responses.Earlier] = {}
    taken: list[Generation] = []
    for name in _named(call):
        generation = registry.get("gen_" + name)
        if generation is not None and (found := _kept(generation, call)) is not None:
            known[name] = found
            if generation.stored:  # else the store may not have it yet
                taken.append(generation)
    if not known:
        return None
    recalled = Recalled(taken, call.fields, call.body, call.left_out) if taken else None
    call.fields = responses.whole(call.fields, known.get)
    call.body = request.rewritten(call.fields, request.read(call.endpoint, call.body).model)
    if len(call.body) > most:
        raise BodyTooLarge(f"with what came before it, the body is longer than {most} bytes")
    return recalled


async def make_sure(call: Call, recalled: Recalled, registry: Registry, stored: Stored, most: int) -> None:
    """Undo what was put in the call's place by responses that another process has deleted."""
    deleted = [generation for generation in recalled.taken if not await stored.has(generation)]
    if not deleted:
        return
    for generation in deleted:
        generation.forget()
        registry.delete(generation)
    call.fields, call.body = recalled.fields, recalled.body
    call.changed, call.left_out = b"", recalled.left_out
    recall(call, registry, most)


def lacking(call: Call) -> bool:
    """Whether the call still names what other processes may have."""
    return responses.goes_on(call.fields, call.body) and bool(_named(call))


async def recall_stored(call: Call, registry: Registry, stored: Stored, most: int) -> None:
    """The same as :func:`recall`, of what a store has.

    :raises BodyTooLarge: the whole conversation is longer
    :raises Overloaded: a store does not answer in time
    """
    for name in _named(call):
        try:
            await stored.known("gen_" + name, "resp_" + name, call.tenant)
        except (NotFound, Gone):  # the upstream may know it
            continue
    recall(call, registry, most)


def _named(call: Call) -> set[str]:
    return responses.named(call.fields)


def _kept(generation: Generation, call: Call) -> responses.Earlier | None:
    return earlier(generation) if generation.tenant == call.tenant.name else None


def earlier(generation: Generation) -> responses.Earlier | None:
    """A response that has ended well, and what it answers; None: it has not, or that is not kept."""
    if not _is_whole(generation):
        return None
    events = generation.events
    answer = fold(Endpoint.RESPONSES, events) if generation.stream else b"".join(events)
    return responses.Earlier(generation.whole or generation.body, answer)


def _is_whole(generation: Generation) -> bool:
    return (
        generation.endpoint is Endpoint.RESPONSES
        and generation.state is State.FINISHED
        and bool(generation.body)  # else nobody could ask for it once more, so it was not kept
    )
