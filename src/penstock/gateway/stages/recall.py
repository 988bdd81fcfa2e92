"""Which earlier response does this request go on from?

The contract: a request that names responses which were made here, and are still kept (``generations.kept_for``), becomes
the one that says the whole conversation; nobody behind this stage sees that it was not.  What names others stays as it
is: the upstream may know them.
"""

from __future__ import annotations

from typing import Protocol

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


def recall(call: Call, registry: Registry, most: int) -> None:
    """Put what the call names in its place, as far as this process has it.

    :param most: bytes that a body may have
    :raises BodyTooLarge: the whole conversation is longer
    """
    if not responses.goes_on(call.fields, call.body):
        return
    known = {name: found for name in _named(call) if (found := _kept(name, call, registry)) is not None}
    if not known:
        return
    call.fields = responses.whole(call.fields, known.get)
    call.body = request.rewritten(call.fields, request.read(call.endpoint, call.body).model)
    if len(call.body) > most:
        raise BodyTooLarge(f"with what came before it, the body is longer than {most} bytes")


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


def _kept(name: str, call: Call, registry: Registry) -> responses.Earlier | None:
    generation = registry.get("gen_" + name)
    if generation is None or not _is_whole(generation) or generation.tenant != call.tenant.name:
        return None
    if responses.in_conversation(generation.body):  # its request does not say all that it was asked with
        return None
    events = generation.events
    answer = fold(Endpoint.RESPONSES, events) if generation.stream else b"".join(events)
    return responses.Earlier(generation.body, answer)


def _is_whole(generation: Generation) -> bool:
    return (
        generation.endpoint is Endpoint.RESPONSES
        and generation.state is State.FINISHED
        and bool(generation.body)  # else nobody could ask for it once more, so it was not kept
    )
