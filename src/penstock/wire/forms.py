"""Other forms than JSON: MessagePack for bodies and answers.  No I/O."""

from __future__ import annotations

import msgspec

from penstock.errors import BadRequest

MSGPACK = b"application/msgpack"
_NAMES = (MSGPACK, b"application/x-msgpack", b"application/vnd.msgpack")

_unpack = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode
_read = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode


def is_msgpack(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() in _NAMES


def accepts_msgpack(accept: bytes) -> bool:
    """Whether an ``Accept`` prefers MessagePack: it is there, and JSON is not before it."""
    for each in accept.split(b","):
        name = each.partition(b";")[0].strip().lower()
        if name in _NAMES:
            return True
        if name == b"application/json":
            return False
    return False


def json_of(packed: bytes) -> bytes:
    """A MessagePack body as JSON.

    :raises BadRequest: it is none, or holds what JSON has no word for
    """
    try:
        return _write(_unpack(packed))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise BadRequest(
            f"the body is not MessagePack that could be JSON: {error}", code="undecodable"
        ) from None


def msgpack_of(body: bytes) -> bytes | None:
    """A JSON answer as MessagePack; None: it is no JSON."""
    try:
        return _pack(_read(body))
    except (msgspec.MsgspecError, OverflowError, RecursionError):
        return None
