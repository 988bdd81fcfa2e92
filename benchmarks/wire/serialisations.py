"""Forms and codings of bodies, µs and bytes: ``python -m benchmarks.wire.serialisations``.

Bodies are those of an agent that reads a program (``conversation``), as its SDK sends them, and an answer with
embeddings.  Each is written and read as JSON (msgspec, as the gateway does it, and Python's own ``json``, as the SDKs
do), as MessagePack (msgspec) and as Protocol Buffers (Google's library, with a schema for these very bodies; for the
embeddings the gateway's own writer).  Each is then coded with gzip, br and zstd.  A time is the CPU time of the least of
the rounds: everything that disturbs one makes it longer.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import random
import struct
import time

import brotli
import msgspec
import zstandard
from benchmarks.wire.conversation import TOOLS, Conversation
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from penstock.wire import protobuf

_FIELD = descriptor_pb2.FieldDescriptorProto
SCHEMA = {  # message → its fields: name, type or message, whether repeated
    "Call": [("id", "string", False), ("name", "string", False), ("arguments", "string", False)],
    "Message": [
        ("role", "string", False),
        ("content", "string", False),
        ("tool_call_id", "string", False),
        ("tool_calls", "Call", True),
    ],
    "Tool": [("name", "string", False), ("description", "string", False), ("parameters", "string", False)],
    "Chat": [("model", "string", False), ("messages", "Message", True), ("tools", "Tool", True)],
}
CODINGS = {
    "as it is": (bytes, bytes),
    "gzip": (lambda body: gzip.compress(body, 6), gzip.decompress),
    "br": (lambda body: brotli.compress(body, quality=4), brotli.decompress),
    "zstd": (
        lambda body: zstandard.ZstdCompressor(level=3).compress(body),
        lambda body: zstandard.ZstdDecompressor().decompress(body),
    ),
}


def classes():
    file = descriptor_pb2.FileDescriptorProto(name="chat.proto", package="b", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            made = message.field.add(name=field, number=number)
            made.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if kind == "string":
                made.type = _FIELD.TYPE_STRING
            else:
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".b.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"b.{name}")) for name in SCHEMA}


def chat_writer(kinds):
    def written(body):
        """From the objects of the application to bytes: what an SDK would have to do."""
        chat = kinds["Chat"](model=body["model"])
        for message in body["messages"]:
            made = chat.messages.add(role=message["role"], content=message["content"])
            made.tool_call_id = message.get("tool_call_id", "")
            for call in message.get("tool_calls", ()):
                made.tool_calls.add(id=call["id"], **call["function"])
        for tool in body.get("tools", ()):
            told = tool["function"]
            chat.tools.add(
                name=told["name"], description=told["description"], parameters=json.dumps(told["parameters"])
            )
        return chat.SerializeToString()

    def read(encoded):
        """To objects again, of which every field is looked at once."""
        chat = kinds["Chat"].FromString(encoded)
        return [
            (each.role, each.content, each.tool_call_id, [(call.id, call.name) for call in each.tool_calls])
            for each in chat.messages
        ]

    return written, read


def sdk_json(body):
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


FORMS = {
    "JSON, msgspec": (msgspec.json.encode, msgspec.json.decode),
    "JSON, Python's": (sdk_json, json.loads),
    "MessagePack": (msgspec.msgpack.encode, msgspec.msgpack.decode),
}


def embeddings(vectors=16, dimensions=1_536):
    """As OpenAI answers: floats of four bytes, in as many digits as tell them apart."""
    draw = random.Random(1)
    packed = [
        struct.pack(f"<{dimensions}f", *(draw.gauss(0, 0.03) for _ in range(dimensions)))
        for _ in range(vectors)
    ]
    return packed, {
        "object": "list",
        "model": "text-embedding-3-small",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": [float(f"{each:.8g}") for each in struct.unpack(f"<{dimensions}f", vector)],
            }
            for index, vector in enumerate(packed)
        ],
        "usage": {"prompt_tokens": 256, "total_tokens": 256},
    }


def least(work, argument, rounds):
    """µs of CPU, and what came of it."""
    found = work(argument)
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time_ns()
        work(argument)
        best = min(best, time.process_time_ns() - began)
    return best / 1_000, found


def measured(name, forms, body, rounds):
    """Rows: body, form, coding, bytes, µs to write and code, µs to decode and read."""
    for form, (write, read) in forms.items():
        writing, encoded = least(write, body, rounds)
        reading, _ = least(read, encoded, rounds)
        for coding, (code, decode) in CODINGS.items():
            coding_time, coded = least(code, encoded, rounds)
            decoding_time, decoded = least(decode, coded, rounds)
            assert decoded == encoded
            yield name, form, coding, len(coded), writing + coding_time, reading + decoding_time


def measure(rounds, turns=(0, 2, 20)):
    kinds = classes()
    forms = {**FORMS, "Protocol Buffers": chat_writer(kinds)}
    for count in turns:
        conversation = Conversation()
        for _ in range(count):
            conversation.turn()
        body = {"model": "gpt-5", "messages": conversation.messages, "tools": TOOLS}
        yield from measured(f"chat of {len(sdk_json(body)) / 1e3:.0f} KB", forms, body, rounds)
    packed, answer = embeddings()
    as_base64 = {
        **answer,
        "data": [
            {**each, "embedding": base64.b64encode(vector).decode()}
            for each, vector in zip(answer["data"], packed, strict=True)
        ],
    }
    name = f"{len(packed)} embeddings"
    yield from measured(name, {"JSON, msgspec": FORMS["JSON, msgspec"]}, answer, rounds)
    yield from measured(name, {"JSON with base64": FORMS["JSON, msgspec"]}, as_base64, rounds)
    yield from measured(name, {"MessagePack": FORMS["MessagePack"]}, answer, rounds)
    # From the upstream's JSON, which is what a gateway has.
    told = msgspec.json.encode(answer)
    yield from measured(name, {"Protocol Buffers, from JSON": (protobuf.embeddings_of, bytes)}, told, rounds)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    rows = list(measure(options.rounds))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    print("| body | form | coding | bytes | µs to write | µs to read |\n|---|---|---|--:|--:|--:|")
    for body, form, coding, size, writing, reading in rows:
        print(f"| {body} | {form} | {coding} | {size:,} | {writing:,.0f} | {reading:,.0f} |")
    return rows


if __name__ == "__main__":
    main()
