"""Gateways that are killed in the middle of their answers, and callers who come back to whoever is there then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal

import httpx2
from gateway_books import wait_until

from penstock.testing import GatewayProcess, RedisServer, expected_text
from penstock.testing._ports import free_port
from waiting import until

TOKENS = 12
SIGNS_OF_LIFE = re.compile(rb"^(?:: hb\n)+")  # before the next event, where that is late
LEASE = 3.0  # seconds: a gateway that a busy machine holds up must not be taken for dead
PATIENCE = 60.0  # seconds: a start, a lease, and a machine that has other things to do


@contextlib.contextmanager
def restarted(url, folder, *, lease=LEASE, **upstream):
    """A gateway with one worker, which its supervisor starts anew: it and itself, at one address."""
    store = {"durability": "disk", "path": str(folder / "generations.sqlite"), "lease": lease}
    config = configured(url, folder, upstream, **store)
    with GatewayProcess({**config, "listen": f"127.0.0.1:{free_port()}"}, folder) as gateway:
        yield gateway, gateway


@contextlib.contextmanager
def replicas(url, folder, *, lease=LEASE, **upstream):
    """The gateway that will be killed, and another that shares a Redis with it."""
    with RedisServer() as redis, contextlib.ExitStack() as stack:
        folders = [folder / name for name in ("here", "there")]
        for each in folders:
            each.mkdir()
        here, there = (
            GatewayProcess(
                configured(url, each, upstream, durability="shared", redis=redis.url, lease=lease), each
            )
            for each in folders
        )
        stack.enter_context(there)
        stack.callback(here.stop)  # it was killed
        yield here.start(), there


PAIRS = {"disk": restarted, "shared": replicas}


def configured(url, folder, upstream=None, **generations):
    return {
        "workers": 1,
        "drain_timeout": 0.1,
        "upstreams": {"sim": {"kind": "sim", "base_url": url, "running_usage": True, **(upstream or {})}},
        "models": {"*": {"candidates": [{"upstream": "sim"}], "grace": 60}},
        "generations": {"lease": LEASE, **generations},
        "ledger": {"path": str(folder / "ledger.sqlite")},
    }


class Caller:
    """Reads one stream, over as many connections as it takes."""

    path = "/v1/chat/completions"
    terminators = (b"data: [DONE]",)

    def __init__(self, prompt, model, **more):
        self.body = {"model": model, "stream": True, **self.asking(prompt), **more}
        self.generation = ""
        self.frames = {}  # by index
        self.done = False
        self.breaks = 0
        self.told_to_come_back = 0  # by a gateway that goes away

    def asking(self, prompt):
        return {
            "max_tokens": TOKENS,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": prompt}],
        }

    @property
    def last(self):
        return max(self.frames, default=-1)

    @property
    def text(self):
        return "".join(choice["delta"].get("content") or "" for choice in self._choices())

    @property
    def reasons(self):
        return [choice["finish_reason"] for choice in self._choices()]

    def events(self):
        """What is JSON among them, decoded."""
        return [
            json.loads(frame.split(b"data: ", 1)[1])
            for frame in self.frames.values()
            if b"[DONE]" not in frame
        ]

    def _choices(self):
        return [choice for chunk in self.events() for choice in chunk["choices"]]

    async def ask(self, client, url):
        async with client.stream("POST", url + self.path, json=self.body) as answer:
            assert answer.status_code == 200, await answer.aread()
            self.generation = answer.headers["penstock-generation"]
            await self._read(answer)

    async def come_back(self, client, url):
        headers = {"last-event-id": str(self.last)} if self.frames else {}
        async with client.stream(
            "GET", f"{url}/v1/generations/{self.generation}/events", headers=headers
        ) as answer:
            if answer.status_code == 204:
                self.done = True
                return
            assert answer.status_code == 200, await answer.aread()
            await self._read(answer)

    async def _read(self, answer):
        buffer = b""
        async for piece in answer.aiter_raw():
            buffer += piece
            *frames, buffer = buffer.split(b"\n\n")
            for frame in (SIGNS_OF_LIFE.sub(b"", one) for one in frames):
                self.told_to_come_back += b'"draining"' in frame
                if frame.startswith(b"id: "):
                    index = int(frame.split(b"\n")[0][4:])
                    assert index == self.last + 1, "nothing twice, nothing left out"
                    self.frames[index] = frame
                    self.done = any(one in frame for one in self.terminators)

    async def until_done(self, client, here, there):
        try:
            await self.ask(client, here)
        except httpx2.HTTPError:
            self.breaks += 1
        async with asyncio.timeout(PATIENCE):
            while not self.done:
                try:
                    await self.come_back(client, there)
                except httpx2.HTTPError:  # nobody is there yet
                    await asyncio.sleep(0.05)
        return self


class MessagesCaller(Caller):
    path = "/v1/messages"
    terminators = (b"event: message_stop",)

    def asking(self, prompt):
        return {"max_tokens": TOKENS, "messages": [{"role": "user", "content": prompt}]}

    @property
    def text(self):
        return "".join(
            event["delta"]["text"] for event in self.events() if event["type"] == "content_block_delta"
        )


class ResponsesCaller(Caller):
    path = "/v1/responses"
    terminators = (b"event: response.completed", b"event: response.incomplete")

    def asking(self, prompt):
        return {"max_output_tokens": TOKENS, "input": prompt}

    @property
    def text(self):
        return "".join(
            event["delta"] for event in self.events() if event["type"] == "response.output_text.delta"
        )


def kill(gateway, *, whole):
    """-9, to its worker, or to its supervisor as well."""
    pids = [pid for pid in gateway.worker_pids() if pid is not None]
    if whole:
        os.kill(gateway.pid, signal.SIGKILL)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def is_stored(gateway):
    """Whether its store has all that its callers have: where a busy machine keeps the store waiting, they get ahead of it."""
    behind = re.findall(r"^penstock_generations_behind\{.*\} (.+)$", gateway.metrics(), re.MULTILINE)
    return set(behind) == {"0"}


async def killed_and_read(pair, callers, begun, end=kill, *, patience=30):
    """All callers ask; once ``begun()`` holds and is stored, the gateway is ended, and they come back until they have all.

    :param patience: seconds of silence after which they come back
    :returns: each stream as somebody reads it who was never cut
    """
    here, there = pair
    whole = [type(caller)("", "") for caller in callers]
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(trust_env=False, timeout=patience, limits=limits) as client:
        tasks = [asyncio.create_task(caller.until_done(client, here.url, there.url)) for caller in callers]
        await until(begun)
        wait_until(lambda: is_stored(here), what="what the callers have is stored")
        end(here, whole=here is not there)
        await asyncio.gather(*tasks)
        for caller, reader in zip(callers, whole, strict=True):
            reader.generation = caller.generation
            await reader.come_back(client, there.url)
    return whole


def expected(caller, count):
    return expected_text(caller.body, caller.path, count)
