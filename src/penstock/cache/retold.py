"""A kept answer in the form in which another caller wants it: streams and plain answers share an entry."""

from __future__ import annotations

from typing import Final

from penstock.cache.entry import Entry
from penstock.messages import Endpoint, Event
from penstock.wire.fold import fold
from penstock.wire.unfold import unfold
from penstock.wire.usage_view import adapt

_TELLS_USAGE: Final = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})


def retold(
    entry: Entry, endpoint: Endpoint, *, stream: bool, include_usage: bool, running_usage: bool
) -> list[Event]:
    """The events of a stream, or the one body of a plain answer.

    :param stream: which of the two is wanted
    :param include_usage: whether a stream is to tell its usage at the end
    :param running_usage: whether it is to tell it in every chunk, if the entry does
    :raises penstock.errors.UpstreamBroken: it cannot be told so
    """
    events = list(entry.events)
    if entry.stream and not stream:
        return [fold(endpoint, events, usage=entry.usage_told)]
    if stream and not entry.stream:
        return unfold(endpoint, b"".join(events), include_usage=include_usage, usage=entry.usage_told)
    if not stream or endpoint not in _TELLS_USAGE:
        return events
    shown = (
        adapt(
            event,
            has_usage=entry.include_usage,
            wants_usage=include_usage,
            usage=entry.usage_told,
            first=events[0],
            drop_running=entry.running_usage and not running_usage,
        )
        for event in events
    )
    return [event for event in shown if event]
