"""An upstream that costs next to nothing: fixed answers to OpenAI's chat completions, whole or in pieces.

    python -m benchmarks.gateway.upstream PORT

What a request gets stands in its prompt, because gateways rename models and drop unknown fields, but let
the prompt alone: ``mock:plain;``, ``mock:burst:CHUNKS:PIECE;``, ``mock:paced:CHUNKS:MILLISECONDS;``.  A burst
comes as fast as it is taken, so many chunks in one piece; a paced stream one chunk at a time, by a timer
wheel.

Whatever else is asked for gets what the routers under test want to see before they trust an upstream;
``/statistics`` says how many completions were asked for and how many streams are open.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop

MODEL = "bench-1"
TEXT = "The quick brown fox jumps over the lazy dog. " * 5
ANSWER = json.dumps(
    {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 250, "completion_tokens": 50, "total_tokens": 300},
        "system_fingerprint": "fp_" + "0" * 41,
    },
    separators=(",", ":"),
).encode()
assert len(ANSWER) == 600, len(ANSWER)
WORD = " penstock"  # in every chunk's text; counted by the load generator

_FIELDS = b"date: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: mock\r\nx-request-id: req_0123456789abcdef\r\n"
_JSON = b"HTTP/1.1 200 OK\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM = b"HTTP/1.1 200 OK\r\n%scontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_PLAIN = _JSON % (_FIELDS, len(ANSWER), ANSWER)
_HEAD = _STREAM % _FIELDS


def _event(delta: dict[str, str] | None, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": MODEL,
        "choices": [] if delta is None else [choice],
        **more,
    }
    return _chunked(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNK = _event({"content": WORD})
_FINISH = _event({}, "stop")
_USAGE = _event(None, usage={"prompt_tokens": 250, "completion_tokens": 100, "total_tokens": 350})
_DONE = _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _end(*, include_usage: bool) -> bytes:
    return _FINISH + (_USAGE if include_usage else b"") + _DONE


class Wheel:
    """Gives every stream a chunk per ``interval``, the streams spread evenly over it."""

    SLOTS = 25

    def __init__(self, interval: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick = interval / self.SLOTS
        self._slots: list[list[Stream]] = [[] for _ in range(self.SLOTS)]
        self._at = 0
        self._entry = 0
        self._running = False

    def add(self, stream: Stream) -> None:
        self._slots[self._entry].append(stream)
        self._entry = (self._entry + 1) % self.SLOTS
        if not self._running:
            self._running = True
            self._due = self._loop.time() + self._tick
            self._loop.call_at(self._due, self._turn)

    def _turn(self) -> None:
        now = self._loop.time()
        while self._due <= now:
            self._due += self._tick
            self._at = (self._at + 1) % self.SLOTS
            slot = self._slots[self._at]
            if slot:
                slot[:] = [stream for stream in slot if stream.step()]
        self._running = any(self._slots)
        if self._running:
            self._loop.call_at(self._due, self._turn)


class Stream:
    """A paced answer that is under way."""

    def __init__(self, connection: Connection, chunks: int, end: bytes) -> None:
        self.connection = connection
        self.left = chunks
        self.end = end

    def step(self) -> bool:
        """Send what is due; False when that was the last."""
        connection = self.connection
        if connection.closed:
            return False
        if self.left:
            self.left -= 1
            connection.transport.write(CHUNK)
            return True
        connection.transport.write(self.end)
        connection.streaming = False
        connection.upstream.open -= 1
        return False


class Upstream:
    """What all connections share."""

    def __init__(self) -> None:
        self.calls = 0
        self.open = 0
        self._wheels: dict[int, Wheel] = {}
        self._bursts: dict[tuple[int, int, bool], list[bytes]] = {}

    def answer(self, connection: Connection, body: bytes) -> None:
        self.calls += 1
        start = body.find(b"mock:")
        kind, *numbers = body[start + 5 : body.find(b";", start)].split(b":") if start >= 0 else [b"plain"]
        if kind == b"plain":
            connection.transport.write(_PLAIN)
            return
        include_usage = b"include_usage" in body
        if kind == b"burst":
            loop = asyncio.get_running_loop()
            first, *rest = self.burst(int(numbers[0]), int(numbers[1]), include_usage=include_usage)
            connection.transport.write(first)
            if rest:
                loop.call_soon(connection.go_on, rest, 0)
            return
        wheel = self._wheels.get(interval := int(numbers[1]))
        if wheel is None:
            wheel = self._wheels[interval] = Wheel(interval / 1000)
        self.open += 1
        connection.streaming = True
        connection.transport.write(_HEAD + CHUNK)
        wheel.add(Stream(connection, int(numbers[0]) - 1, _end(include_usage=include_usage)))

    def burst(self, chunks: int, piece: int, *, include_usage: bool) -> list[bytes]:
        """A streamed answer with its head, so many chunks in one piece."""
        pieces = self._bursts.get(key := (chunks, piece, include_usage))
        if pieces is None:
            pieces = [CHUNK * min(piece, chunks - start) for start in range(0, chunks, piece)]
            pieces[0] = _HEAD + pieces[0]
            pieces[-1] += _end(include_usage=include_usage)
            self._bursts[key] = pieces
        return pieces

    def tell(self, path: bytes) -> bytes:
        """What is asked for besides completions."""
        if path == b"/statistics":
            return json.dumps({"calls": self.calls, "open": self.open}).encode()
        if path == b"/v1/models":
            model = {"id": MODEL, "object": "model", "created": 1, "owned_by": "bench", "root": MODEL}
            return json.dumps({"object": "list", "data": [model]}).encode()
        # /health, and what routers ask of SGLang and vLLM
        return json.dumps({"status": "ok", "model_path": MODEL, "served_model_name": MODEL}).encode()


class Connection(asyncio.Protocol):
    """HTTP as far as our clients speak it: keep-alive, bodies with a length or in chunks."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.closed = False
        self.streaming = False  # in the middle of a paced stream
        self._buffer = bytearray()
        self._body = -1  # where the body begins, once the head is there
        self._need = 0  # bytes of the whole request, once they are known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.streaming:
            self.upstream.open -= 1

    def go_on(self, pieces: list[bytes], index: int) -> None:
        if self.closed:
            return
        self.transport.write(pieces[index])
        if index + 1 < len(pieces):
            asyncio.get_running_loop().call_soon(self.go_on, pieces, index + 1)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while buffer and len(buffer) >= self._need:
            if self._body < 0 and not self._read_head():
                return
            if self._need == 0:  # in chunks
                end = buffer.find(b"0\r\n\r\n", self._body)
                if end < 0:
                    return
                self._need = end + 5
            if len(buffer) < self._need:
                return
            method_path = bytes(buffer[: buffer.find(b" HTTP/")])
            body = bytes(buffer[self._body : self._need])
            del buffer[: self._need]
            self._body, self._need = -1, 0
            if method_path == b"POST /v1/chat/completions":
                self.upstream.answer(self, body)
            else:
                told = self.upstream.tell(method_path.partition(b" ")[2].partition(b"?")[0])
                self.transport.write(_JSON % (_FIELDS, len(told), told))

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body = end + 4
        head = bytes(self._buffer[: end + 2]).lower()
        start = head.find(b"\r\ncontent-length:")
        if start >= 0:
            self._need = self._body + int(head[start + 17 : head.find(b"\r\n", start + 17)])
        elif b"\r\ntransfer-encoding:" not in head:
            self._need = self._body
        return True


async def serve(port: int) -> None:
    upstream = Upstream()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(upstream), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
