"""A streamed answer as the plain one: the body that the same upstream would have given.

Callers of one answer need not have asked for it in the same form: who wants it in one piece gets the events
of a finished stream, folded.  Whatever the provider sent is kept, also members that nobody here knows; the
rules by which pieces become one stand in the dialects' own files.

The time is in proportion to the stream, and so is the memory: no index is taken for a length.  An answer of
64 MiB may be half a million events, which take a second or two: who has others to serve meanwhile takes them in
steps (:func:`folding`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from penstock.errors import UpstreamBroken
from penstock.messages import Endpoint, Event, Usage
from penstock.wire import anthropic, chat, sse
from penstock.wire.not_json import NOT_JSON
from penstock.wire.progress import progress

STEP_EVENTS = 256  # half a millisecond
STEP_BYTES = 262_144  # the same of long events

_DONE = b"[DONE]"


def fold(endpoint: Endpoint, events: Sequence[Event], *, usage: Usage | None = None) -> bytes:
    """The plain answer that a complete stream tells.

    :param usage: what the answer used, for a stream that does not tell it
    :raises UpstreamBroken: the stream is not complete, or makes no sense
    :raises PenstockError: it ends in an error event
    """
    steps = folding(endpoint, events, usage=usage)
    while True:
        try:
            next(steps)
        except StopIteration as whole:
            answer: bytes = whole.value
            return answer


def folding(
    endpoint: Endpoint, events: Sequence[Event], *, usage: Usage | None = None
) -> Generator[None, None, bytes]:
    """The same in steps, none of which takes more than :data:`STEP_EVENTS` or, but for one long event,
    :data:`STEP_BYTES`; a stream that is no longer is folded at once.  Only writing the answer down is one step.

    :raises UpstreamBroken, PenstockError: as :func:`fold` does, at any step
    """
    if not endpoint.streams:
        raise ValueError(f"{endpoint.path} does not stream")
    watch = progress(endpoint)
    for some in _slices(events):
        if some is None:
            yield
        else:
            watch.take(some, [])
    if not watch.complete:
        raise UpstreamBroken("the stream is not complete, so it is no whole answer")
    payloads = _payloads(events)
    try:
        if endpoint is Endpoint.MESSAGES:
            return (yield from anthropic.fold_stream(payloads, usage))
        if endpoint is Endpoint.RESPONSES:
            from penstock.wire import responses  # noqa: PLC0415 - not every process needs it

            return (yield from responses.fold_stream(payloads, usage))
        return (yield from chat.fold_stream(endpoint, payloads, usage))
    except NOT_JSON:
        raise UpstreamBroken("the stream has an event that makes no sense in an answer") from None


def _slices(events: Sequence[Event]) -> Iterator[list[Event] | None]:
    """What one step takes; None between two of them."""
    some: list[Event] = []
    room = STEP_BYTES
    for event in events:
        if len(some) == STEP_EVENTS or (room < len(event) and some):
            yield some
            yield None
            some, room = [], STEP_BYTES
        some.append(event)
        room -= len(event)
    yield some


def _payloads(events: Sequence[Event]) -> Iterator[bytes | None]:
    for some in _slices(events):
        if some is None:
            yield None
            continue
        for event in some:
            data = sse.data_of(event)
            if data == _DONE:
                return
            if data:
                yield data
