"""What becomes of a background response, in the words of a webhook."""

from __future__ import annotations

import msgspec

from penstock.errors import Cancelled, Draining
from penstock.generation.log import Generation, State
from penstock.messages import Call
from penstock.wire import responses, sse
from penstock.wire.not_json import NOT_JSON


class _Typed(msgspec.Struct):
    type: str = ""


_typed = msgspec.json.Decoder(_Typed).decode


def event_of(call: Call, generation: Generation) -> tuple[str, str] | None:
    """The kind of event that the end of a background response is, and the response's id.

    None: it has not ended, another process goes on with it.
    """
    if generation.ending is State.FAILED:
        if isinstance(generation.error, Draining) and generation.journal is not None:
            return None
        kind = "response.cancelled" if isinstance(generation.error, Cancelled) else "response.failed"
    else:
        kind = _last_type(generation)
    first = generation.events[0] if generation.events and not call.deferred else b""
    return kind, responses.id_in(first, stream=True) or responses.id_of(generation.id)


def _last_type(generation: Generation) -> str:
    """``response.completed`` or ``response.incomplete``: what the last event is called."""
    try:
        kind = _typed(sse.data_of(generation.events[-1])).type
    except (IndexError, *NOT_JSON):
        kind = ""
    return kind if kind in responses.SUCCESSFUL_EVENTS else "response.completed"
