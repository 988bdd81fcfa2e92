"""Other forms than JSON: MessagePack for all bodies and answers, Protocol Buffers for embeddings.  No I/O."""

from __future__ import annotations

import enum
import re

import msgspec

from penstock.errors import BadRequest, BodyTooLarge
from penstock.wire import protobuf
from penstock.wire._json_values import MOST_ANSWERED
from penstock.wire._json_values import holds_more as text_holds_more
from penstock.wire._msgpack_values import holds_more

MOST_VALUES = 1_000_000
"""In a MessagePack body; a value may be a single byte there, and takes up to 80 until it is JSON."""

_unpack = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode
_read = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode


class Form(enum.Enum):
    """A form that is not JSON, by the media type that answers in it have."""

    MSGPACK = b"application/msgpack"
    PROTOBUF = b"application/x-protobuf"


_NOT_ACCEPTABLE = re.compile(rb"q=0(\.0{0,3})?")  # RFC 9110, 12.4.2
_NAMES = {
    b"application/msgpack": Form.MSGPACK,
    b"application/x-msgpack": Form.MSGPACK,
    b"application/vnd.msgpack": Form.MSGPACK,
    b"application/x-protobuf": Form.PROTOBUF,
    b"application/protobuf": Form.PROTOBUF,
}


def form_of(content_type: bytes) -> Form | None:
    """The form of a body; None: JSON, as far as one can tell."""
    return _NAMES.get(content_type.partition(b";")[0].strip().lower())


def preferred(accept: bytes, *, embeddings: bool) -> Form | None:
    """The form that an ``Accept`` wants: the first that can be had, and has not the weight 0; None: JSON.

    :param embeddings: it is an answer that Protocol Buffers can say
    """
    for each in accept.split(b","):
        name, *parameters = (part.strip().lower() for part in each.split(b";"))
        if any(_NOT_ACCEPTABLE.fullmatch(parameter) for parameter in parameters):
            continue
        form = _NAMES.get(name)
        if form is not None and (embeddings or form is not Form.PROTOBUF):
            return form
        if name == b"application/json":
            return None
    return None


def json_of(body: bytes, form: Form) -> bytes:
    """A body as JSON.

    :raises BadRequest: it is not in this form, or holds what JSON has no word for
    :raises BodyTooLarge: it holds more than :data:`MOST_VALUES`
    """
    if form is Form.PROTOBUF:
        return protobuf.request_of(body)
    if len(body) > MOST_VALUES and holds_more(body, MOST_VALUES):
        raise BodyTooLarge(f"the body holds more than {MOST_VALUES:,} values")
    try:
        return _write(_unpack(body))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise BadRequest(
            f"the body is not MessagePack that could be JSON: {error}", code="undecodable"
        ) from None


def answer_in(body: bytes, form: Form) -> bytes | None:
    """A JSON answer in this form; None: it cannot be said in it, or only with too much work."""
    if form is Form.PROTOBUF:
        return protobuf.embeddings_of(body)
    if text_holds_more(body, MOST_ANSWERED):
        return None
    try:
        return _pack(_read(body))
    except (msgspec.MsgspecError, OverflowError, RecursionError):
        return None
