"""Which conversation does this request go on with?

The contract: a request that names a conversation which is kept here becomes the one that says all of it, and when it
has been answered, what it asked and was told is put behind what the conversation holds.  Its repetitions are found by
what its caller wrote (``Call.asked``), so that none is computed twice, nor added twice.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from penstock.errors import BodyTooLarge, PenstockError, StorageUnavailable
from penstock.gateway.folded import whole_answer
from penstock.gateway.stages.authenticate import owner_of
from penstock.generation.conversations import Conversations, Item
from penstock.generation.log import Generation
from penstock.messages import Call, Endpoint
from penstock.wire import request, responses

# Seconds before what was answered is put into its conversation once more.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

log = logging.getLogger("penstock.gateway")


def goes_on(call: Call) -> bool:
    """Whether the call still names a conversation that may be kept here.

    :raises BadRequest: what it names cannot be a conversation
    """
    return call.asked is None and bool(responses.conversation_named(call.fields))


async def converse(call: Call, conversations: Conversations, most: int) -> None:
    """Put what the conversation holds before what the call says.

    :param most: bytes that a body may have
    :raises NotFound: its caller has no such conversation
    :raises BodyTooLarge: the whole conversation is longer
    """
    items = await conversations.items(
        owner_of(call.tenant, call.headers), responses.conversation_named(call.fields)
    )
    call.asked = msgspec.structs.replace(call)
    call.fields = responses.gone_on(call.fields, items)
    call.body = request.rewritten(call.fields, request.read(call.endpoint, call.body).model)
    if len(call.body) > most:
        raise BodyTooLarge(f"with what came before it, the body is longer than {most} bytes")


async def settle(call: Call, generation: Generation, conversations: Conversations) -> None:
    """The call was answered: put question and answer into its conversation."""
    asked = call.asked
    if asked is None or generation.endpoint is not Endpoint.RESPONSES:
        return
    try:
        answer = await whole_answer(Endpoint.RESPONSES, generation.events, stream=generation.stream)
        items = [Item(*item) for item in responses.added(asked.fields, answer)]
        await _added(call, asked, generation, items, conversations)
    except PenstockError as error:  # the answer is its caller's, whatever becomes of the conversation
        log.warning("%s is in no conversation: %s", generation.id, error.message)
    except Exception:
        log.exception("defect while putting %s into its conversation", generation.id)


async def _added(
    call: Call, asked: Call, generation: Generation, items: list[Item], conversations: Conversations
) -> None:
    """An answer that was paid for stays in its conversation, also if that cannot be reached for half a minute."""
    owner, name = owner_of(call.tenant, call.headers), responses.conversation_named(asked.fields)
    for pause in PAUSES:
        try:
            await conversations.add(owner, name, items, once=generation.id)
        except StorageUnavailable:
            await asyncio.sleep(pause)
        else:
            return
    await conversations.add(owner, name, items, once=generation.id)
