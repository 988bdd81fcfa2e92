"""Embeddings in Protocol Buffers: requests and answers of ``/v1/embeddings`` to and from JSON.  No I/O.

The schema is ``docs/embeddings.proto``; the encoding is that of proto3 (https://protobuf.dev/programming-guides/encoding).
It has five messages, so a library that generates code would be more than what it replaces.
The vectors are packed floats of four bytes, which is what models compute and OpenAI's API sends: they go from the
JSON's numbers, or its base64, into the message as one block.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator

import msgspec

from penstock.errors import BadRequest

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT = 10
_UINT32 = 1 << 32


class _Embedding(msgspec.Struct):
    embedding: list[float] | str
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Embedding]
    model: str = ""
    usage: _Usage = msgspec.field(default_factory=_Usage)


_answer = msgspec.json.Decoder(_Answer).decode
_write = msgspec.json.Encoder().encode


# ---- answers ---------------------------------------------------------------------------------------


def embeddings_of(body: bytes) -> bytes | None:
    """A JSON answer as an ``EmbeddingsResponse``; None: it is no such answer."""
    try:
        answer = _answer(body)
        data = [
            _field(
                1, (b"\x08" + _varint(each.index) if each.index else b"") + _field(2, _floats(each.embedding))
            )
            for each in answer.data
        ]
        usage = b"\x08" + _varint(answer.usage.prompt_tokens) + b"\x10" + _varint(answer.usage.total_tokens)
        return b"".join([*data, _field(2, answer.model.encode()), _field(3, usage)])
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


def _floats(embedding: list[float] | str) -> bytes:
    if isinstance(embedding, str):
        packed = base64.b64decode(embedding, validate=True)
        if len(packed) % 4:
            raise ValueError("these are no floats")
        return packed
    floats = array("f", embedding)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    if value < 0:
        raise ValueError("no count is negative")
    if value < 0x80:
        return bytes((value,))
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


# ---- requests --------------------------------------------------------------------------------------


def request_of(body: bytes) -> bytes:
    """An ``EmbeddingsRequest`` as JSON.

    A field that the schema does not have is refused: what is left out of a question changes its answer.

    :raises BadRequest: it is none
    """
    try:
        return _write(_request(body))
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise BadRequest(f"the body is no EmbeddingsRequest: {error}", code="undecodable") from None


def _request(body: bytes) -> dict[str, object]:
    told: dict[str, object] = {}
    texts: list[str] = []
    tokens: list[list[int]] = []
    for number, kind, value in _fields(body):
        if (number, kind) == (1, _BYTES):
            told["model"] = _content(value).decode()
        elif (number, kind) == (2, _BYTES):
            texts.append(_content(value).decode())
        elif (number, kind) == (3, _BYTES):
            tokens.append(_ids(_content(value)))
        elif (number, kind) == (4, _VARINT):
            told["dimensions"] = _uint32(value)
        elif (number, kind) == (5, _BYTES):
            told["user"] = _content(value).decode()
        else:
            raise ValueError(f"field {number} is not in the schema, or of another type")
    if texts and tokens:
        raise ValueError("there are texts and tokens in it")
    told["input"] = tokens or texts
    return told


def _ids(content: bytes) -> list[int]:
    found: list[int] = []
    for number, kind, value in _fields(content):
        if (number, kind) == (1, _VARINT):
            found.append(_uint32(value))
        elif (number, kind) == (1, _BYTES):  # packed
            packed, at = _content(value), 0
            while at < len(packed):
                each, at = _read_varint(packed, at)
                found.append(_uint32(each))
        else:
            raise ValueError(f"field {number} of Tokens is not in the schema, or of another type")
    return found


def _fields(body: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field.

    :raises ValueError: it breaks off, or is no message
    """
    at = 0
    while at < len(body):
        tag, at = _read_varint(body, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _read_varint(body, at)
            yield number, kind, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(body, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"there is no wire type {kind}")
        if size > len(body) - at:
            raise ValueError("it breaks off")
        yield number, kind, body[at : at + size]
        at += size


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(body[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number breaks off, or is too long")


def _content(value: int | bytes) -> bytes:
    assert isinstance(value, bytes), "its wire type says so"
    return value


def _uint32(value: int | bytes) -> int:
    assert isinstance(value, int), "its wire type says so"
    if value >= _UINT32:
        raise ValueError("a number has more than 32 bits")
    return value
