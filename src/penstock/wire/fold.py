"""A streamed answer as the plain one: the body that the same upstream would have given.

Callers of one answer need not have asked for it in the same form: who wants it in one piece gets the events
of a finished stream, folded.  Whatever the provider sent is kept, also members that nobody here knows; the
rules by which pieces become one stand in the dialects' own files.

The time is in proportion to the stream, and so is the memory: no index is taken for a length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.errors import UpstreamBroken
from penstock.messages import Endpoint, Event, Usage
from penstock.wire import anthropic, chat, sse
from penstock.wire.not_json import NOT_JSON
from penstock.wire.progress import progress

_DONE = b"[DONE]"


def fold(endpoint: Endpoint, events: Sequence[Event], *, usage: Usage | None = None) -> bytes:
    """The plain answer that a complete stream tells.

    :param usage: what the answer used, for a stream that does not tell it
    :raises UpstreamBroken: the stream is not complete, or makes no sense
    :raises PenstockError: it ends in an error event
    """
    if not endpoint.streams:
        raise ValueError(f"{endpoint.path} does not stream")
    watch = progress(endpoint)
    watch.take(list(events), [])
    if not watch.complete:
        raise UpstreamBroken("the stream is not complete, so it is no whole answer")
    payloads = _payloads(events)
    try:
        if endpoint is Endpoint.MESSAGES:
            return anthropic.fold_stream(payloads, usage)
        if endpoint is Endpoint.RESPONSES:
            from penstock.wire import responses  # noqa: PLC0415 - not every process needs it

            return responses.fold_stream(payloads, usage)
        return chat.fold_stream(endpoint, payloads, usage)
    except NOT_JSON:
        raise UpstreamBroken("the stream has an event that makes no sense in an answer") from None


def _payloads(events: Sequence[Event]) -> Iterator[bytes]:
    for event in events:
        data = sse.data_of(event)
        if data == _DONE:
            return
        if data:
            yield data
