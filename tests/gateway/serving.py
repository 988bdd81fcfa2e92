"""A whole gateway in the test's own event loop, on a real socket."""

import asyncio
import contextlib
import json
import logging
import socket

from penstock.config.model import CandidateConfig, Config, LogConfig, ModelConfig, UpstreamConfig
from penstock.gateway.compose import build
from penstock.net.clock import Clock
from penstock.net.listener import Listener
from waiting import until  # noqa: F401 - one of these doubles

try:
    from uvloop import new_event_loop
except ImportError:  # pragma: no cover
    from asyncio import new_event_loop

PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def config(*urls, kind="openai", **more):
    """One model ``m`` with a candidate for each URL, in this order."""
    upstreams = {
        f"up{number}": UpstreamConfig(kind=kind, base_url=url + ("/v1" if kind == "openai" else ""))
        for number, url in enumerate(urls)
    }
    weights = [CandidateConfig(upstream=name, weight=1.0 if name == "up0" else 0.0) for name in upstreams]
    settings = {
        "upstreams": upstreams,
        "models": {"m": ModelConfig(candidates=weights)},
        "log": LogConfig(requests=False),
        **more,
    }
    return Config(**settings)


@contextlib.asynccontextmanager
async def serving(settings, clock=None, *, troubled=False):
    """``(gateway, port)``, drained and closed at the end with nothing left over, and no defect logged.

    :param troubled: what it depends on is broken on purpose, so that it may complain
    """
    clock = clock or Clock()
    gateway = build(settings, clock=clock)
    listener = Listener(gateway.reception, settings.listener, clock, repeats=gateway.repeats)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    await listener.serve(sock)
    await gateway.start()
    defects = _Defects(troubled=troubled)
    logging.getLogger("penstock").addHandler(defects)
    asyncio.get_running_loop().set_exception_handler(defects.unhandled)
    try:
        yield gateway, sock.getsockname()[1]
    finally:
        await listener.drain(2.0)
        await gateway.close()
        logging.getLogger("penstock").removeHandler(defects)
        assert defects.seen == []
        assert held(gateway) == NOTHING


class _Defects(logging.Handler):
    """What was logged as an error, and what nobody caught."""

    def __init__(self, *, troubled):
        super().__init__(logging.ERROR)
        self.seen = []
        self._troubled = troubled

    def emit(self, record):
        if record.exc_info or not self._troubled:
            self.seen.append((record.getMessage(), record.exc_info))

    def unhandled(self, loop, context):
        self.seen.append(context)


def held(gateway):
    """Everything that a call takes and must give back."""
    pipeline = gateway.pipeline
    pools = [upstream.pool.statistics() for upstream in pipeline.snapshot.upstreams.values()]
    return {
        "calls": pipeline.admission.in_progress,
        "readings": len(pipeline.readings),
        "productions": len(pipeline.productions),
        "generations": len(pipeline.registry),
        "bytes": pipeline.registry.account.held,
        "open attempts": len(gateway.recorder.ledger.open_attempts()),
        "busy": sum(pool.busy for pool in pools),
        "waiting": sum(pool.waiting for pool in pools),
    }


NOTHING = {
    "calls": 0,
    "readings": 0,
    "productions": 0,
    "generations": 0,
    "bytes": 0,
    "open attempts": 0,
    "busy": 0,
    "waiting": 0,
}


def asked(upstream):
    """How many calls an upstream got."""
    return sum(received.count(b"POST ") for received in upstream.received)


def rows(gateway):
    """Of the ledger, the oldest first."""
    return list(reversed(gateway.recorder.ledger.recent()))


def on_uvloop(main):
    """Run a test where the gateway runs."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())


def request(body, path="/v1/chat/completions", method="POST", headers=()):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: test", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)


async def call(port, *args, **kwargs):
    """Send one request and read its whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(*args, **kwargs))
        return await read_answer(reader)
    finally:
        writer.close()
        await writer.wait_closed()


async def read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(status.split()[1]), headers, body)


def plain(body, status="200 OK", headers=()):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(data):
    """Of a body that comes in pieces."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(value):
    """One SSE frame as one HTTP chunk."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return chunk(b"data: " + data + b"\n\n")


def delta(text, finish=None, usage=None):
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
    if usage:
        chunk["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
        }
    return frame(chunk)


DONE = frame(b"[DONE]")

COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def error(status, message="no", headers=()):
    return plain({"error": {"message": message, "type": "t", "code": "c"}}, status, headers)
