"""A call and an exchange without a socket, and a log that can be read."""

import json

from penstock.generation.log import Generation, new_id
from penstock.messages import Call, Endpoint, Tenant
from penstock.wire import request

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":9}'


def a_call(endpoint=Endpoint.CHAT, body=BODY, *, headers=(), tenant=None, received=1_000.0, **more):
    opening = request.read(endpoint, body)
    members = {
        "id": new_id(),
        "endpoint": endpoint,
        "model": opening.model,
        "stream": opening.stream,
        "fields": opening.fields,
        "body": body,
        "headers": dict(headers),
        "received": received,
        "tenant": tenant or Tenant(),
        "max_output_tokens": opening.max_output_tokens,
        "include_usage": opening.include_usage,
    }
    return Call(**{**members, **more})


def a_generation(call, max_bytes=1 << 24, **more):
    return Generation(
        call.id,
        endpoint=call.endpoint,
        tenant=call.tenant.name,
        model=call.model,
        stream=call.stream,
        started=call.received,
        max_bytes=max_bytes,
        **more,
    )


class FakeExchange:
    """Remembers what it was told; ``room`` writes are taken before it says that it is full."""

    def __init__(self, path="/v1/chat/completions", method="POST", headers=(), room=1_000_000):
        self.path, self.method, self.query, self.peer = path, method, "", "192.0.2.7"
        self.headers = dict(headers)
        self.room = room
        self.gone = self.started = self.ended = self.unsent = False
        self.status = 0
        self.sent = {}
        self.writes = []
        self.watcher = None
        self.state = self.meaning = None

    @property
    def body(self):
        return b"".join(self.writes)

    def respond(self, status, headers, body):
        assert not self.started
        self.started = self.ended = True
        self.status, self.sent, self.writes = status, dict(headers), [body]

    def start(self, status, headers):
        assert not self.started
        self.started = True
        self.status, self.sent = status, dict(headers)

    def write(self, data):
        assert self.started
        assert not self.ended
        self.writes.append(data)
        self.room -= 1
        return self.room > 0

    def end(self):
        self.ended = True

    def watch(self, watcher):
        self.watcher = watcher
        if self.gone and watcher is not None:
            watcher.on_gone()


class Lines:
    """In place of the standard error: the requests that were logged."""

    def __init__(self):
        self.pending = bytearray()

    def room(self):
        return True

    def flush(self):
        pass

    @property
    def seen(self):
        return [json.loads(line) for line in self.pending.splitlines()]
