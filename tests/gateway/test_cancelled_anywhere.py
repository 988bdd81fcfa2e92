"""A server that gives up on a request, at any of its waits: nothing is left behind, and the next one is answered."""

import asyncio
import gzip
import itertools
import json
import os

import msgspec
import pytest
from in_pieces import CHAT
from serving import (
    COMPLETION,
    DONE,
    STREAM_END,
    STREAM_HEAD,
    config,
    delta,
    held,
    on_uvloop,
    plain,
    serving,
    until,
)

from penstock.config.model import (
    CacheConfig,
    CandidateConfig,
    CodingsConfig,
    ConcurrencyConfig,
    FilesConfig,
    LimitConfig,
    LimitsConfig,
    ModelCacheConfig,
    ModelConfig,
    UploadsConfig,
)
from penstock.net.asgi import AnswerCut, serve_asgi

# So many turns of the loop are tried one by one.
TURNS = int(os.environ.get("PENSTOCK_FUZZ_TURNS", "25"))

JSON = {"content-type": "application/json"}
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
FORM = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: '
    b'form-data; name="file"; filename="f.jsonl"\r\n\r\n{}\r\n--b--\r\n'
)
STREAMED = STREAM_HEAD + delta("h") + delta("i", "stop", (3, 2)) + DONE + STREAM_END


def body_of(number, **more):
    return json.dumps({**ASKED, "seed": number, **more}).encode()


KINDS = {
    "a plain call": lambda n: (CHAT, body_of(n), JSON),
    "a stream": lambda n: (CHAT, body_of(n, stream=True), JSON),
    "a call that others share": lambda n: (CHAT, body_of(0), JSON | {"cache-control": "no-cache"}),
    "a call that is kept": lambda n: (CHAT, body_of(0), JSON),
    "a key": lambda n: (CHAT, body_of(n), JSON | {"idempotency-key": f"key {n}"}),
    "the same key": lambda n: (CHAT, body_of(0), JSON | {"idempotency-key": "key"}),
    "a coded body": lambda n: (CHAT, gzip.compress(body_of(n)), JSON | {"content-encoding": "gzip"}),
    "a coded answer": lambda n: (CHAT, body_of(n, stream=True), JSON | {"accept-encoding": "zstd"}),
    "an upload": lambda n: (
        CHAT, body_of(n), JSON | {"upload-complete": "?0", "upload-draft-interop-version": "9"},
    ),
    "an upload in one piece": lambda n: (
        CHAT, body_of(n), JSON | {"upload-complete": "?1", "upload-draft-interop-version": "9"},
    ),
    "a file": lambda n: ("/v1/files", FORM, {"content-type": "multipart/form-data; boundary=b"}),
    "a response in the background": lambda n: (
        "/v1/responses", json.dumps({"model": "m", "input": f"hello {n}", "background": True}).encode(), JSON,
    ),
    "a conversation": lambda n: ("/v1/conversations", b"{}", JSON),
}  # fmt: skip

SHARED = {"a call that others share", "the same key"}


class Caller:
    """One request by the ASGI door; its body comes in two pieces."""

    def __init__(self, gateway, path, body, headers, method="POST"):
        self.gateway = gateway
        self.status, self.headers, self.body, self.whole = 0, {}, b"", False
        half = len(body) // 2
        self.pieces = [(body[:half], True), (body[half:], False)]
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (b"host", b"x"),
                (b"content-length", b"%d" % len(body)),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
        }

    async def __call__(self):
        await serve_asgi(
            self.gateway.reception,
            self.scope,
            self.receive,
            self.send,
            self.gateway.pipeline.snapshot.config.listener,
        )
        return self

    async def receive(self):
        await asyncio.sleep(0)
        if not self.pieces:
            await asyncio.get_running_loop().create_future()
        piece, more = self.pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": more}

    async def send(self, message):
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message["body"]
            self.whole = not message.get("more_body", False)


def settings(url, folder):
    upstream_limits = ConcurrencyConfig(limit=1, adaptive=False)
    made = config(
        url,
        files=FilesConfig(directory=str(folder / "kept")),
        uploads=UploadsConfig(),
        codings=CodingsConfig(answers=["zstd"], least_bytes=1),
        cache=CacheConfig(disk=str(folder / "cache.sqlite"), disk_budget=5.0),
        limits=LimitsConfig(tenants={"*": LimitConfig(concurrent=3)}),
    )
    made.models["m"] = ModelConfig(
        candidates=[CandidateConfig(upstream="up0")], cache=ModelCacheConfig(ttl=60.0), grace=0.0
    )
    made.upstreams["up0"] = msgspec.structs.replace(made.upstreams["up0"], concurrency=upstream_limits)
    return made


async def answer(reader, writer):
    """Of a model that takes a turn or two for it."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
            body = json.loads(await reader.readexactly(int(lines["content-length"])))
            await asyncio.sleep(0.001)
            writer.write(STREAMED if body.get("stream") else plain(COMPLETION))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def cancelled(caller, wait):
    """Whether the request could be cancelled after a wait; else it had ended."""
    task = asyncio.ensure_future(caller())
    await wait()
    if task.done():
        task.result()
        return False
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is not None:
        assert isinstance(task.exception(), AnswerCut)
    return True


def waits():
    """Some turns of the loop, and then some time."""

    async def turns(number):
        for _ in range(number):
            await asyncio.sleep(0)

    for number in range(TURNS):
        yield lambda number=number: turns(number)
    for number in itertools.count(1):  # a disk or a model goes by time
        yield lambda number=number: asyncio.sleep(number * number * 0.0002)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_is_cancelled_at_any_wait_leaves_nothing_behind(kind, tmp_path):
    async def main():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with serving(settings(url, tmp_path)) as (gateway, _):
                for number, wait in enumerate(waits(), 1):
                    if not await tried(gateway, KINDS[kind](number), wait, shared=kind in SHARED):
                        break
                    next_one = await Caller(gateway, CHAT, body_of(-number), JSON)()
                    assert (next_one.status, json.loads(next_one.body)) == (200, COMPLETION)

    on_uvloop(main)


async def tried(gateway, asked, wait, *, shared):
    """Ask, cancel, and ask again; whether there was something to cancel."""
    others = [asyncio.ensure_future(Caller(gateway, *asked)()) for _ in range(shared)]
    went_on = await cancelled(Caller(gateway, *asked), wait)
    if not others:
        assert not gateway.pipeline.readings
    for other in await asyncio.gather(*others):
        assert (other.status, other.whole) == (200, True), other.body
    again = await Caller(gateway, *asked)()
    assert again.status in {200, 201}, again.body
    assert again.whole
    await until(lambda: not any(held(gateway).values()))
    pipeline = gateway.pipeline
    gate = pipeline.snapshot.upstreams["up0"].gate
    assert (gate.in_progress, len(gate.queue)) == (0, 0)
    assert all(account.in_progress == 0 for account in pipeline.admission.limiter._accounts.values())
    assert not gateway.reception._working
    assert not pipeline.lookup.renewing
    return went_on
