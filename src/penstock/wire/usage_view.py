"""What readers of one OpenAI stream see of its usage: each what it asked for, not what the first one did.

``stream_options`` decide whether a stream closes with a chunk that has the usage and no choices
(``include_usage``), and whether every other chunk tells the usage so far (``continuous_usage_stats``).  One
log serves readers that asked differently.  An event keeps its place in the log, and so its id, whatever
becomes of it here.
"""

from __future__ import annotations

import msgspec

from penstock.messages import JSON, Event, Usage
from penstock.wire import members, sse
from penstock.wire.chat.answer import write_usage
from penstock.wire.not_json import NOT_JSON

_DONE = b"[DONE]"


class _Present(msgspec.Struct, gc=False):
    """An object whose members do not matter here."""


class _Chunk(msgspec.Struct):
    choices: list[_Present] = []
    usage: _Present | None = None


class _Head(msgspec.Struct, omit_defaults=True):
    """What all chunks of a stream have in common."""

    id: str | None = None
    object: str | None = None
    created: JSON = None
    model: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_head = msgspec.json.Decoder(_Head).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def adapt(
    event: Event,
    *,
    has_usage: bool,
    wants_usage: bool,
    usage: Usage | None = None,
    first: Event = b"",
    drop_running: bool = False,
) -> bytes:
    """What a reader gets for one event of a log of CHAT or COMPLETIONS: that event, nothing, or two frames.

    :param has_usage: the log has the closing chunk that carries usage
    :param wants_usage: this reader asked for it
    :param usage: what the answer used, to be told before the terminator where the log does not
    :param first: the log's first event, from which a chunk that is added takes its id and model
    :param drop_running: the log tells the usage so far in every chunk, and this reader did not ask for it
    """
    if has_usage == wants_usage and not drop_running:
        return event
    if wants_usage and not has_usage and usage is not None and sse.data_of(event) == _DONE:
        return closing_chunk(usage, first) + event
    if b'"usage"' not in event:
        return event
    data = sse.data_of(event)
    try:
        chunk = _chunk(data)
    except NOT_JSON:
        return event
    if chunk.usage is None:
        return event
    if not chunk.choices:
        return event if wants_usage else b""
    return without_usage(data) if drop_running else event


def closing_chunk(usage: Usage, first: Event) -> Event:
    """The chunk that tells the usage of the stream whose ``first`` event this is."""
    try:
        head = _head(sse.data_of(first))
    except NOT_JSON:
        head = _Head(object="chat.completion.chunk")
    told = {"choices": [], "usage": write_usage(usage)}
    return sse.encode(members.encode({**msgspec.to_builtins(head), **told}))


def without_usage(data: bytes) -> Event:
    """A chunk's frame, without its usage."""
    found = _members(data)
    del found["usage"]
    return sse.encode(members.encode(found))
