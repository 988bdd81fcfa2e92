"""A response that is asked for later: what is told of it, and how its events are counted."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from penstock.messages import Event
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON
from penstock.wire.responses._output import ResponseError, core, opened
from penstock.wire.responses._settings import read_settings

Waiting: TypeAlias = Literal["queued", "in_progress", "failed", "cancelled"]

_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Numbered(msgspec.Struct, gc=False):
    sequence_number: int = -1


class _Identified(msgspec.Struct, frozen=True, gc=False):
    id: str = ""


class _Opening(msgspec.Struct):
    response: _Identified = _Identified()


_numbered = msgspec.json.Decoder(_Numbered).decode
_identified = msgspec.json.Decoder(_Identified).decode
_opening = msgspec.json.Decoder(_Opening).decode


def id_of(name: str) -> str:
    """The id of the response that a generation of this name answers with, where the gateway makes it."""
    return "resp_" + core(name)


def without_answer(
    body: bytes,
    *,
    name: str,
    model: str,
    created: int,
    status: Waiting,
    background: bool,
    error: str = "",
) -> bytes:
    """The object of a response that has no output to show.

    :param body: the request
    :param name: the generation's id
    :param created: Unix time, seconds
    :param error: what went wrong, for a response that has failed
    """
    response = msgspec.structs.replace(
        opened(read_settings(body), core(name), model, created),
        status=status,
        background=background,
        error=ResponseError("server_error", error) if error else None,
    )
    return _encode(response)


def told_as(answer: bytes, response_id: str, *, background: bool) -> bytes:
    """A response object under the id by which it was asked for."""
    members = _members(answer)
    members["id"] = msgspec.Raw(_encode(response_id))
    members["background"] = msgspec.Raw(b"true" if background else b"false")
    return _encode(members)


def id_in(event: Event, *, stream: bool) -> str:
    """The response's id, in the first event of its log; empty if there is none."""
    try:
        return _opening(sse.data_of(event)).response.id if stream else _identified(event).id
    except NOT_JSON:
        return ""


def sequence_number(event: Event) -> int:
    """The number that a response's event bears; -1 if it bears none."""
    try:
        return _numbered(sse.data_of(event)).sequence_number
    except NOT_JSON:
        return -1
