"""Tenants who ask the same in the same words, at the same time and on the same connections: each hears only what was
answered to itself, wherever that was kept."""

import asyncio
import itertools
import json
import os
import random
import re
from collections import Counter

import pytest
from keeping import Wall
from serving import COMPLETION, DONE, STREAM_END, STREAM_HEAD, delta, on_uvloop, plain, request

from penstock.config.keys import hash_key
from penstock.config.load import parse
from penstock.gateway.compose import build
from penstock.net.clock import Clock
from penstock.net.dial import Direct
from penstock.net.listener import Listener
from penstock.upstream.http import HTTPUpstream

# So many take a few seconds; whoever looks for more than these sets this (`make fuzz`).
EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "0"))
CALLS = 100 * EXAMPLES or 3_000
AT_ONCE = 16
TENANTS = ("a", "aa", "b", "ab")
KEYS = {f"sk-{tenant}-{number}": tenant for tenant in TENANTS for number in range(2)}
BODIES = [
    json.dumps({"model": "m", "messages": [{"role": "user", "content": f"{number}?"}], **form}).encode()
    for number in range(40)
    for form in ({}, {"stream": True})
]
REQUESTS = {
    key: [
        request(body, headers=["content-type: application/json", f"authorization: Bearer {key}"])
        for body in BODIES
    ]
    for key in KEYS
}


def described(folder, scope):
    upstream = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "sk-upstream"}
    policy = {"calls": "all", "ttl": 60, "stale_while_revalidate": 30, "stale_if_error": 30, "scope": scope}
    return {
        "upstreams": {"up": upstream},
        "models": {"m": {"candidates": [{"upstream": "up"}], "join": "always", "cache": policy}},
        "cache": {"memory_bytes": 100_000, "disk": str(folder / "answers"), "disk_budget": 60},
        "keys": [
            {"name": key, "tenant": tenant, "hash": hash_key(key)} for key, tenant in KEYS.items()
        ],
        "log": {"requests": False},
    }  # fmt: skip


class Wire(asyncio.Transport):
    """A connection whose other end is told what is written."""

    def __init__(self, protocol, told):
        super().__init__({"peername": ("127.0.0.1", 1)})
        self._protocol = protocol
        self.write = told
        self.closed = False

    def writelines(self, list_of_data):
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self):
        return 0

    def can_write_eof(self):
        return False

    def is_closing(self):
        return self.closed

    def set_write_buffer_limits(self, high=None, low=None): ...

    def pause_reading(self): ...

    def resume_reading(self): ...

    def close(self):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


class Caller:
    """One connection to the gateway; whoever likes asks on it, one after the other."""

    def __init__(self, listener):
        self._protocol = listener.protocol_factory()
        self._heard = b""
        self._answered = None
        self._protocol.connection_made(Wire(self._protocol, self._hear))

    async def ask(self, raw):
        self._heard, self._answered = b"", asyncio.get_running_loop().create_future()
        self._protocol.data_received(raw)
        self._look()
        await self._answered
        return self._heard

    def _hear(self, data):
        self._heard += data
        self._look()

    def _look(self):
        head, end, body = self._heard.partition(b"\r\n\r\n")
        if not end or self._answered is None or self._answered.done():
            return
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        if len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n"):
            self._answered.set_result(None)


class Naming:
    """In the place of all connections to the upstream: each answer names the tenant whose call it was, once."""

    def __init__(self, chance):
        self._chance = chance
        self._asked = []
        self._numbers = itertools.count()
        self._came = asyncio.Event()

    async def connect(self, origin, connection, ssl):
        received = bytearray()

        def told(data):
            received.extend(data)
            head, end, body = received.partition(b"\r\n\r\n")
            if end and len(body) >= int(re.search(rb"content-length: (\d+)", head)[1]):
                asker = re.search(rb"x-asker: (\w+)", head)[1].decode()
                self._asked.append((connection, asker, b'"stream":' in body.replace(b" ", b"")))
                received.clear()
                self._came.set()

        connection.connection_made(Wire(connection, told))

    async def answer(self):
        """Whatever is asked, in any order, and some of it later."""
        while True:
            await asyncio.sleep(0)
            if not self._asked:  # the disk's threads work meanwhile
                self._came.clear()
                await self._came.wait()
            self._chance.shuffle(self._asked)
            for _ in range(self._chance.randint(0, len(self._asked))):
                connection, asker, streamed = self._asked.pop()
                connection.data_received(_answer(f"<{asker} {next(self._numbers)}>", streamed=streamed))


def _answer(text, *, streamed):
    if streamed:
        return STREAM_HEAD + delta(text) + delta("", "stop") + DONE + STREAM_END
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return plain({**COMPLETION, "choices": [choice]})


@pytest.fixture
def told_apart(monkeypatch):
    """What is sent to an upstream says whose call it is."""
    send = HTTPUpstream.send

    def naming(self, transfer, connection, head, body):
        asker = transfer.job.call.tenant.name
        return send(self, transfer, connection, head[:-2] + b"x-asker: %b\r\n\r\n" % asker.encode(), body)

    monkeypatch.setattr(HTTPUpstream, "send", naming)


async def many_calls(monkeypatch, folder, scope):
    """How often answers of one's own and of another tenant were heard, by ``Penstock-Status``; and the gateway."""
    chance = random.Random(7)
    naming = Naming(chance)
    monkeypatch.setattr(Direct, "connect", lambda _, *what: naming.connect(*what))
    config = parse(json.dumps(described(folder, scope)))
    clock = Clock()
    gateway = build(config, clock=clock)
    listener = Listener(gateway.reception, config.listener, clock, repeats=gateway.repeats)
    await gateway.start()
    wall = Wall(gateway)
    own, others = Counter(), Counter()

    async def calls(caller):
        for _ in range(CALLS // AT_ONCE):
            key = chance.choice(list(KEYS))
            number = min(int(chance.expovariate(0.06)), len(BODIES) - 1)
            answer = await caller.ask(REQUESTS[key][number])
            assert answer.startswith(b"HTTP/1.1 200"), answer
            status = re.search(rb"penstock-status: (\w+)", answer)[1].decode()
            (asker,) = re.findall(rb"<(\w+) \d+>", answer)
            (own if asker.decode() == KEYS[key] else others)[status] += 1
            wall.time += chance.choice([0, 0, 0, 0.3])
            if chance.random() < 0.002:
                gateway.purge([f"tenant:{chance.choice(TENANTS)}"], [])

    answering = asyncio.create_task(naming.answer())
    try:
        await asyncio.gather(*(calls(Caller(listener)) for _ in range(AT_ONCE)))
    finally:
        await listener.drain(2.0)
        await gateway.close()
        answering.cancel()
    return own, others, gateway


def test_nobody_hears_what_another_tenant_was_answered(told_apart, monkeypatch, tmp_path):
    async def main():
        own, others, gateway = await many_calls(monkeypatch, tmp_path, "tenant")
        assert not others
        assert sum(own.values()) == CALLS // AT_ONCE * AT_ONCE
        # Each of the ways in which an answer is found was taken often.
        assert min(own[status] for status in ("created", "cached", "stale", "joined")) > CALLS / 500
        assert min(gateway.cache.hits.values()) > CALLS / 50
        assert gateway.repeats.answered > CALLS / 50

    on_uvloop(main)


def test_it_would_be_noticed(told_apart, monkeypatch, tmp_path):
    """Where a model's answers are for all, each hears mostly what others were answered."""

    async def main():
        own, others, _ = await many_calls(monkeypatch, tmp_path, "shared")
        assert min(others["cached"], own["cached"]) > CALLS / 50

    on_uvloop(main)
