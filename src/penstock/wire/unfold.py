"""A plain answer as the stream that tells the same: the reverse of ``wire.fold``.

A caller that asked for a stream may be answered from an answer that came in one piece.  It gets the events in
the order in which the provider sends them, though each text in one delta.  Whatever the provider sent is
kept, where its stream has a place for it.
"""

from __future__ import annotations

from penstock.errors import UpstreamBroken
from penstock.messages import Endpoint, Event, Usage
from penstock.wire import anthropic, chat
from penstock.wire._json_values import check_answered
from penstock.wire.not_json import NOT_JSON


def unfold(
    endpoint: Endpoint, body: bytes, *, include_usage: bool, usage: Usage | None = None
) -> list[Event]:
    """The events of a stream, its end included.

    :param include_usage: whether the caller asked for the chunk that carries usage (CHAT, COMPLETIONS)
    :param usage: what the answer used, for a body that does not tell it
    :raises UpstreamBroken: the body is no answer, or not a whole one, or of too many values
    """
    if not endpoint.streams:
        raise ValueError(f"{endpoint.path} does not stream")
    check_answered(body)
    try:
        if endpoint is Endpoint.MESSAGES:
            return anthropic.unfold_body(body, usage)
        if endpoint is Endpoint.RESPONSES:
            from penstock.wire import responses  # noqa: PLC0415 - not every process needs it

            return responses.unfold_body(body, usage)
        return chat.unfold_body(endpoint, body, usage, include_usage=include_usage)
    except NOT_JSON:
        raise UpstreamBroken("the body is no answer that could be streamed") from None
