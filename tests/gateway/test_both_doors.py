"""Any request, by the listener and by the ASGI door: one answer, and never a defect."""

import asyncio
import contextlib
import itertools
import json
import os
import re
from urllib.parse import unquote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_pieces import CHAT, Scripted
from serving import config, new_event_loop, read_answer, serving

from penstock.config.model import (
    CacheConfig,
    CodingsConfig,
    FilesConfig,
    ModelCacheConfig,
    ModelConfig,
    UploadsConfig,
)
from penstock.net.asgi import serve_asgi

JSON = {"content-type": "application/json"}
OFFSET = {"content-type": "application/offset+octet-stream"}
TUS, RUFH = {"tus-resumable": "1.0.0"}, {"upload-complete": "?1", "upload-draft-interop-version": "9"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
FILE = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: '
    b'form-data; name="file"; filename="f.jsonl"\r\n\r\n{}\r\n--b--\r\n'
)
CALL = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
NOUGHT = "0" * 32
ASKED = [
    ("POST", "/v1/files", TUS | {"upload-length": "3"}, b""),
    ("POST", "/v1/uploads", TUS | {"upload-defer-length": "1"}, b""),
    ("POST", "/v1/files", TUS | OFFSET | {"upload-length": "3"}, b"abc"),
    ("POST", "/v1/files", TUS | {"upload-concat": f"final;/v1/uploads/upload_{NOUGHT}"}, b""),
    ("POST", "/v1/files", RUFH | FORM, FILE),
    ("POST", "/v1/files", RUFH | {"content-type": "text/plain"}, b"abc"),
    ("POST", CHAT, RUFH | JSON, CALL),
    ("PATCH", f"/v1/uploads/upload_{NOUGHT}", RUFH | {"content-type": "application/partial-upload", "upload-offset": "0"}, b"abc"),
    ("HEAD", f"/v1/uploads/upload_{NOUGHT}", {}, b""),
    ("OPTIONS", "/v1/files", {}, b""),
    ("POST", "/v1/files", FORM, FILE),
    ("POST", "/v1/audio/transcriptions", FORM, FILE),
    ("POST", "/v1/uploads", JSON, {"purpose": "batch", "bytes": 3, "filename": "f", "mime_type": "text/plain"}),
    ("POST", "/v1/batches", JSON, {"endpoint": CHAT, "completion_window": "24h", "input_file_id": f"file-{NOUGHT}"}),
    ("POST", "/v1/messages/batches", JSON, {"requests": [{"custom_id": "a"}]}),
    ("POST", "/v1/conversations", JSON, {"items": [{"type": "message", "role": "user", "content": "x"}], "metadata": {}}),
    ("POST", CHAT, JSON, CALL),
    ("POST", "/v1/messages", JSON, CALL),
    ("POST", "/v1/responses", JSON, {"model": "m", "input": "hello"}),
    ("POST", "/v1/embeddings", JSON, {"model": "m", "input": "hello"}),
    ("POST", "/v1/rerank", JSON, {"model": "m", "query": "hello", "documents": ["a"]}),
    ("GET", "/v1/models", {}, b""),
    ("GET", f"/v1/generations/gen_{NOUGHT}/events", {}, b""),
    ("GET", f"/v1/responses/resp_{NOUGHT}", {}, b""),
    ("GET", f"/v1/files/file-{NOUGHT}/content", {}, b""),
]  # fmt: skip

NUMBERS = [
    "0",
    "1",
    "3",
    "-1",
    "+1",
    " 2 ",
    "1.0",
    "1e3",
    "nan",
    "-inf",
    "1_0",
    "9" * 15,
    "9" * 400,
    "\xb2",
    "",
    "2;a",
]
FIELDS = {
    "cache-control": ["no-cache", "no-store", "max-age=", "max-age=9999999999999999", ",,,", "=", "stale-if-error=\xb2"],
    "penstock-join": ["always", "never", "x"],
    **dict.fromkeys(("penstock-deadline", "x-stainless-read-timeout", "x-stainless-retry-count"), NUMBERS),
    **dict.fromkeys(("last-event-id", "upload-length", "upload-offset"), NUMBERS),
    "penstock-version": ["x", "", "\xff"],
    "penstock-label": ["\xff\xfe", "x" * 500],
    "penstock-cache-tags": ["a,b", ",", "\xff", "everything"],
    "penstock-dictionary": ["keep", "x"],
    "idempotency-key": ["", "\xff", "k" * 256],
    "traceparent": [f"00-{'1' * 32}-{'2' * 16}-01", "00-x", "\xff"],
    "origin": ["null", "http://["],
    "accept": ["application/msgpack", "application/x-protobuf", "\xff", ";;;"],
    "accept-encoding": ["gzip", "zstd;q=nan", "br;q=1e999", "*;q=0", "\xff"],
    "content-encoding": ["gzip", "zstd", "br", "identity", "gzip, zstd", "x", "", "dcz"],
    "content-type": ["application/json; charset=x", "multipart/form-data", 'multipart/form-data; boundary="b', "\xff", ""],
    "content-disposition": ["a; filename*=utf-8''%ff", "a; filename*0*=x; filename*1=y", 'a; filename="\xff"', "a; filename*1*=%"],
    "upload-complete": ["?0", "?2", "", "?1;a"],
    "upload-draft-interop-version": ["5", "10", ""],
    "content-digest": [f"sha-256=:{'A' * 43}=:", "sha-256=:A:", "x", "md5=:AA==:", "sha-256=:====:"],
    "repr-digest": ["sha-512=::", ","],
    "tus-resumable": ["1.0.0", "0.2.2", ""],
    "upload-metadata": ["filename", ",", "filename \xff", "filetype CgA=", "a =", "filetype /w=="],
    "upload-defer-length": ["1", "0"],
    "upload-concat": ["partial", "final;", "final;http://[", "final;http://[x]/a b", "x"],
    "upload-checksum": ["sha1 x", f"sha256 {'A' * 43}=", "crc32 x", ""],
    "x-http-method-override": ["PATCH", "DELETE", "\xff"],
    "x-forwarded-host": ["h", "\xff", "a b"],
    "anthropic-version": ["2023-06-01", ""],
    "authorization": ["Bearer x", "Basic x", "\xff"],
}  # fmt: skip
LEAVES = st.sampled_from(
    [None, True, -1, 10**30, 1e300, -(2**63) - 1, "", "m", "\0", "\ud800", "24h", "a" * 600, {}, []]
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["limit", "after", "order", "purpose", "starting_after", "stream", "unread"]),
        st.sampled_from(["", "0", "-1", "9" * 30, "asc", "true", "%00", "%ff", "%ed%a0%80", "+", "%", "x;y"]),
    ).map("=".join),
    max_size=2,
).map("&".join)


@st.composite
def requests(draw):
    method, path, fields, body = draw(st.sampled_from(ASKED))
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=4, unique=True))
    fields = fields | {name: draw(st.sampled_from(FIELDS[name])) for name in names}
    if isinstance(body, dict):
        members = st.sampled_from([*body, "metadata", "stream", "background", "expires_after", "store"])
        body = json.dumps(body | draw(st.dictionaries(members, LEAVES, max_size=2))).encode()
    elif draw(st.integers(0, 5)) == 0:
        body = draw(st.sampled_from([b"", b"{}", b"[]", b"{", b"\xff", b"[" * 3_000, b"\x81\xa1a\xc0"]))
    if draw(st.integers(0, 9)) == 0:
        method = draw(st.sampled_from(["GET", "HEAD", "DELETE", "PATCH", "OPTIONS", "PUT", "X"]))
    return method, path, draw(QUERIES), fields, body


async def by_listener(port, method, path, query, fields, body):
    target = f"{path}?{query}" if query else path
    lines = [f"{method} {target} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    got = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    while got.startswith(b"HTTP/1.1 1"):  # of an upload, say
        got = got.partition(b"\r\n\r\n")[2]
    head = got.partition(b"\r\n\r\n")[0]
    if method == "HEAD" or b"chunked" not in head.lower():
        return int(head.split()[1]), got.partition(b"\r\n\r\n")[2]
    joined = asyncio.StreamReader()
    joined.feed_data(got)
    joined.feed_eof()
    answer = await read_answer(joined)
    return answer.status, answer.body


async def by_asgi(gateway, method, path, query, fields, body):
    half = len(body) // 2
    pieces = [(body[:half], True), (body[half:], False)]
    answer = []

    async def receive():
        if not pieces:
            await asyncio.get_running_loop().create_future()
        piece, more = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": more}

    async def send(message):
        answer.append(message)

    told = {"host": "x", "content-length": str(len(body)), **fields}
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.strip(" ").encode("latin-1")) for name, value in told.items()],
    }
    listener = gateway.pipeline.snapshot.config.listener
    await asyncio.wait_for(serve_asgi(gateway.reception, scope, receive, send, listener), 60)
    return answer[0]["status"], b"".join(message.get("body", b"") for message in answer)


NAMES = re.compile(rb"[0-9a-f]{12,}|[0-9-]{10}T[0-9:.]+Z?|_at\":[0-9]+|filename\":\"[^\"]*")


def test_any_request_has_one_answer_by_both_doors_and_is_no_defect(tmp_path):
    numbers = itertools.count()
    more = {"max_examples": int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "150")), "deadline": None}

    async def started(stack):
        server = await stack.enter_async_context(await asyncio.start_server(Scripted(), "127.0.0.1", 0))
        made = config(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            files=FilesConfig(directory=str(tmp_path / "kept")),
            uploads=UploadsConfig(),
            codings=CodingsConfig(answers=["zstd", "gzip"], least_bytes=1),
            cache=CacheConfig(),
        )
        made.models["m"] = ModelConfig(
            candidates=made.models["m"].candidates, cache=ModelCacheConfig(ttl=60.0)
        )
        return await stack.enter_async_context(serving(made))

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()
        gateway, port = runner.run(started(stack))

        @settings(suppress_health_check=list(HealthCheck), **more)
        @given(requests())
        def same(asked):
            method, path, query, fields, body = asked

            async def both():
                for door, place in ((by_listener, port), (by_asgi, gateway)):
                    key = fields.get("idempotency-key")
                    own = fields | (
                        {"idempotency-key": f"{next(numbers)}{key}"} if key and len(key) < 256 else {}
                    )
                    yield await door(place, method, path, query, own, body)

            async def gathered():
                return [answer async for answer in both()]

            (status, said), (other, told) = runner.run(gathered())
            assert status < 500 or b"not_cached" in said, said
            assert status == other, (said, told)
            coded = "accept-encoding" in fields or "accept" in fields
            assert coded or b"msgbatch" in said or NAMES.sub(b"", said) == NAMES.sub(b"", told)

        try:
            same()
        finally:
            runner.run(stack.aclose())  # and no defect was logged
