"""A transfer without a socket: its generation, its connection, and what an upstream sends."""

import json

from penstock.config.model import TimeoutConfig
from penstock.errors import UpstreamTimeout
from penstock.generation.log import Generation
from penstock.messages import Call, Endpoint, Tenant
from penstock.upstream.job import Job
from penstock.upstream.streamed import StreamTransfer
from penstock.upstream.whole import PlainTransfer
from penstock.wire import request
from penstock.wire.translate import translation

JSON = {b"content-type": b"application/json"}
SSE = {b"content-type": b"text/event-stream"}
CLOCKS = TimeoutConfig(connect=5, first_token=10, between_tokens=4, total=100)


class Wire:
    """The connection of a transfer; it remembers what is done to it."""

    def __init__(self):
        self.log = []

    def __getattr__(self, name):
        return lambda *_: self.log.append(name)


class Answer:
    """The future of an answer, done or not."""

    def __init__(self):
        self.is_done = False

    def done(self):
        return self.is_done


class Reader:
    def __init__(self):
        self.read_bytes = 0

    def advance(self):
        pass


class Time:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def make(
    endpoint=Endpoint.CHAT, *, stream=False, kind=None, max_bytes=1 << 22, to=None, account=None, body=None
):
    members = {
        "model": "m",
        "max_tokens": 9,
        "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    }
    body = body or json.dumps(members).encode()
    opening = request.read(endpoint, body)
    call = Call(
        id="gen_1",
        endpoint=endpoint,
        model="m",
        stream=stream,
        fields=opening.fields,
        body=body,
        headers={},
        received=0.0,
        tenant=Tenant(),
    )
    log = Generation(
        "gen_1",
        endpoint=endpoint,
        tenant="t",
        model="m",
        stream=stream,
        started=0.0,
        max_bytes=max_bytes,
        account=account,
    )
    translated = translation(endpoint, to, body) if to is not None else None
    job = Job("up", call, translated.endpoint if translated else endpoint, translated, 25, CLOCKS)
    transfer = (kind or (StreamTransfer if stream else PlainTransfer))(log, job, Time())
    transfer.connection = Wire()
    transfer.answer = Answer()
    return transfer


def chunk(text, finish=None, **more):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def timed_out(transfer):
    assert isinstance(transfer.failure, UpstreamTimeout)
    assert transfer.connection.log[-1] == "abort"
    return transfer.failure.clock
