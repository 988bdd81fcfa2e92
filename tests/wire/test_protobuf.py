"""Embeddings in Protocol Buffers, against Google's own library with the schema of the documentation."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.wire import protobuf

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "embeddings.proto"
FIELD = descriptor_pb2.FieldDescriptorProto
TYPES = {"string": FIELD.TYPE_STRING, "uint32": FIELD.TYPE_UINT32, "float": FIELD.TYPE_FLOAT}


def compiled():
    """The classes of the schema: what ``protoc`` would make of it, which is no Python package."""
    text = re.sub(r"//.*", "", SCHEMA.read_text())
    file = descriptor_pb2.FileDescriptorProto(name="embeddings.proto", package="penstock.v1", syntax="proto3")
    for name, fields in re.findall(r"message (\w+) \{(.*?)\}", text, re.DOTALL):
        message = file.message_type.add(name=name)
        for label, kind, field, number in re.findall(r"(repeated |optional |)(\w+) (\w+) = (\d+);", fields):
            made = message.field.add(name=field, number=int(number))
            made.label = FIELD.LABEL_REPEATED if label == "repeated " else FIELD.LABEL_OPTIONAL
            if label == "optional ":
                made.proto3_optional = True
                made.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field}")
            if kind in TYPES:
                made.type = TYPES[kind]
            else:
                made.type, made.type_name = FIELD.TYPE_MESSAGE, f".penstock.v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        each.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"penstock.v1.{each.name}"))
        for each in file.message_type
    }


MESSAGES = compiled()
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
UINT32 = st.integers(0, 2**32 - 1)


def answer(vectors, model="m", usage=(3, 3)):
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": usage[0], "total_tokens": usage[1]},
    }


def read(encoded):
    return MESSAGES["EmbeddingsResponse"].FromString(encoded)


@given(st.lists(st.lists(FLOATS, max_size=40), max_size=5), st.text(max_size=300), UINT32, UINT32)
def test_answers_are_what_the_library_reads(vectors, model, prompt, total):
    told = read(protobuf.embeddings_of(json.dumps(answer(vectors, model, (prompt, total))).encode()))
    assert [list(each.embedding) for each in told.data] == vectors
    assert [each.index for each in told.data] == list(range(len(vectors)))
    assert (told.model, told.usage.prompt_tokens, told.usage.total_tokens) == (model, prompt, total)


def test_base64_goes_in_as_it_is():
    packed = struct.pack("<3f", 0.25, -1.5, 3e-20)
    told = read(protobuf.embeddings_of(json.dumps(answer([base64.b64encode(packed).decode()])).encode()))
    assert struct.pack("<3f", *told.data[0].embedding) == packed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"error": {"message": "no"}}',
        json.dumps(answer(["not base64!"])).encode(),
        json.dumps(answer([base64.b64encode(b"12345").decode()])).encode(),
        json.dumps(answer([[0.5]], usage=(-1, 0))).encode(),
        json.dumps(answer([["text"]])).encode(),
    ],
)
def test_what_is_no_answer_stays_as_it_is(body):
    assert protobuf.embeddings_of(body) is None


@given(
    st.text(max_size=20),
    st.one_of(
        st.lists(st.text(max_size=200), min_size=1, max_size=4),
        st.lists(st.lists(UINT32, max_size=20), min_size=1, max_size=4),
    ),
    st.one_of(st.none(), UINT32),
)
def test_requests_of_the_library_are_read(model, asked, dimensions):
    request = MESSAGES["EmbeddingsRequest"](model=model)
    must = {"input": asked}
    if model:
        must["model"] = model
    for each in asked:
        if isinstance(each, str):
            request.input.append(each)
        else:
            request.tokens.add(ids=each)
    if dimensions is not None:
        request.dimensions = must["dimensions"] = dimensions
    encoded = request.SerializeToString()
    assert json.loads(protobuf.request_of(encoded)) == must
    for end in range(len(encoded)):  # whatever comes of it, it is read or refused
        try:
            protobuf.request_of(encoded[:end])
        except BadRequest:
            pass


def test_ids_that_are_not_packed_are_read_too():
    assert json.loads(protobuf.request_of(b"\x1a\x05\x08\x01\x08\xac\x02")) == {"input": [[1, 300]]}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\xff" * 11, "too long"),
        (b"\x0a\x05ab", "breaks off"),
        (b"\x0a\x01\xff", "utf-8"),
        (b"\x32\x00", "field 6"),
        (b"\x0d1234", "field 1"),
        (b"\x0912345678", "field 1"),
        (b"\x0f", "wire type 7"),
        (b"\x20\xff\xff\xff\xff\x7f", "32 bits"),
        (b"\x12\x01a\x1a\x00", "texts and tokens"),
        (b"\x1a\x02\x10\x01", "field 2 of Tokens"),
    ],
)
def test_what_is_no_request_is_refused(body, why):
    with pytest.raises(BadRequest, match=why) as caught:
        protobuf.request_of(body)
    assert caught.value.code == "undecodable"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    try:
        told = json.loads(protobuf.request_of(body))
    except BadRequest:
        return
    assert "input" in told
