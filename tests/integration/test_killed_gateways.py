"""``kill -9`` of a gateway in the middle of its answers: callers come back and get the rest, and only the rest.

One kill ends many streams at once, each of which has come to another event: the simulator stops after so many
tokens, the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter

import httpx2
import pytest
from gateway_books import billed, ledger_rows, settled_bill, tokens

from penstock.testing import (
    GatewayProcess,
    RedisServer,
    ScriptedUpstream,
    SimulatorProcess,
    Step,
    expected_text,
)
from waiting import until

TOKENS = 12
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
LEASE = 3.0  # seconds: a gateway that a busy machine holds up must not be taken for dead
PATIENCE = 60.0  # seconds: a start, a lease, and a machine that has other things to do


@pytest.fixture(params=["disk", "shared"])
def pair_of(request, tmp_path):
    """Makes the gateway that will be killed, and the one that callers find then: itself restarted, or a replica."""

    @contextlib.contextmanager
    def disk(url):
        config = configured(url, tmp_path, durability="disk", path=str(tmp_path / "generations.sqlite"))
        with GatewayProcess(config, tmp_path) as gateway:
            yield gateway, gateway

    @contextlib.contextmanager
    def shared(url):
        with RedisServer() as redis, contextlib.ExitStack() as stack:
            folders = [tmp_path / name for name in ("here", "there")]
            for folder in folders:
                folder.mkdir()
            here, there = (
                GatewayProcess(configured(url, folder, durability="shared", redis=redis.url), folder)
                for folder in folders
            )
            stack.enter_context(there)
            stack.callback(here.stop)  # it was killed
            yield here.start(), there

    return disk if request.param == "disk" else shared


def configured(url, folder, **generations):
    return {
        "workers": 1,
        "drain_timeout": 0.1,
        "upstreams": {"sim": {"kind": "sim", "base_url": url, "running_usage": True}},
        "models": {"*": {"candidates": [{"upstream": "sim"}], "grace": 60}},
        "generations": {"lease": LEASE, **generations},
        "ledger": {"path": str(folder / "ledger.sqlite")},
    }


def chunked(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def frame(content):
    return chunked(b"data: " + json.dumps(content).encode() + b"\n\n")


def delta(text, finish=None):
    return frame({**CHUNK, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


DONE = chunked(b"data: [DONE]\n\n")


class Caller:
    """Reads one stream, over as many connections as it takes."""

    def __init__(self, prompt, model, **more):
        self.body = {
            "model": model,
            "max_tokens": TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": prompt}],
            **more,
        }
        self.generation = ""
        self.frames = {}  # by index
        self.done = False
        self.breaks = 0

    @property
    def last(self):
        return max(self.frames, default=-1)

    @property
    def text(self):
        return "".join(choice["delta"].get("content") or "" for choice in self._choices())

    @property
    def reasons(self):
        return [choice["finish_reason"] for choice in self._choices()]

    def _choices(self):
        chunks = [
            json.loads(frame.split(b"data: ", 1)[1])
            for frame in self.frames.values()
            if b"[DONE]" not in frame
        ]
        return [choice for chunk in chunks for choice in chunk["choices"]]

    async def ask(self, client, url):
        async with client.stream("POST", url + "/v1/chat/completions", json=self.body) as answer:
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
            for frame in frames:
                if frame.startswith(b"id: "):
                    index = int(frame.split(b"\n")[0][4:])
                    assert index == self.last + 1, "nothing twice, nothing left out"
                    self.frames[index] = frame
                    self.done = b"[DONE]" in frame

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


def hand_over(gateway, *, whole):
    """Tell it to go; its answers do not end in the time that it is given."""
    assert whole, "with one machine's file, nobody else would be there"
    gateway.terminate()


def kill(gateway, *, whole):
    """-9, to its worker, or to its supervisor as well."""
    pids = [pid for pid in gateway.worker_pids() if pid is not None]
    if whole:
        os.kill(gateway.pid, signal.SIGKILL)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def killed_and_read(pair, callers, begun, end=kill, *, patience=30):
    """All callers ask; once ``begun()`` holds, the gateway is ended, and they come back until they have all.

    :param patience: seconds of silence after which they come back
    :returns: each stream as somebody reads it who was never cut
    """
    here, there = pair
    whole = [Caller("", "") for _ in callers]
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(trust_env=False, timeout=patience, limits=limits) as client:
        tasks = [asyncio.create_task(caller.until_done(client, here.url, there.url)) for caller in callers]
        await until(begun)
        end(here, whole=here is not there)
        await asyncio.gather(*tasks)
        for caller, reader in zip(callers, whole, strict=True):
            reader.generation = caller.generation
            await reader.come_back(client, there.url)
    return whole


@pytest.mark.slow  # a lease has to run out, and a worker to start
@pytest.mark.parametrize("more", [{"temperature": 0}, {}], ids=["deterministic", "prefilled"])
def test_a_gateway_that_is_killed_at_any_token_loses_none(pair_of, more, tmp_path):
    with SimulatorProcess() as simulator:
        callers = [Caller(f"question {n}", f"sim:stall-after={n},once", **more) for n in range(1, TOKENS)]
        with pair_of(simulator.base_url) as pair:
            whole = asyncio.run(
                killed_and_read(
                    pair,
                    callers,
                    lambda: all(caller.text == expected(caller, n) for n, caller in enumerate(callers, 1)),
                )
            )
            bill = settled_bill(simulator)
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.breaks == 1
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames
    survivor = tmp_path / "there" if (tmp_path / "there").exists() else tmp_path
    rows = ledger_rows(survivor / "ledger.sqlite")
    assert tokens(rows) == billed(bill)
    assert Counter(row.outcome for row in rows if row.output_tokens) == {
        "partial": len(callers),
        "continued": len(callers),
    }


@pytest.mark.slow  # two gateways start, and one of them ends
@pytest.mark.parametrize("pair_of", ["shared"], indirect=True)
def test_a_gateway_that_must_go_leaves_its_answers_to_another(pair_of):
    with SimulatorProcess() as simulator:
        callers = [Caller(f"question {n}", f"sim:stall-after={n},once") for n in (2, 5)]
        with pair_of(simulator.base_url) as pair:
            whole = asyncio.run(
                killed_and_read(
                    pair,
                    callers,
                    lambda: all(
                        caller.text == expected(caller, n) for caller, n in zip(callers, (2, 5), strict=True)
                    ),
                    hand_over,
                )
            )
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.text == expected(caller, TOKENS)
        assert caller.frames == uncut.frames


@pytest.mark.slow  # the same
def test_a_gateway_that_is_killed_at_any_event_sends_each_once(pair_of):
    """Also between the finish reason, the usage and the terminator."""
    pieces = [
        delta("a"),
        delta("b"),
        delta("c", "stop"),
        frame(
            {**CHUNK, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}}
        ),
        DONE,
    ]
    never = asyncio.Event()
    cut = [[Step.REQUEST, STREAM_HEAD, *pieces[:n], never] for n in range(1, len(pieces))]
    callers = [Caller(f"question {n}", "m", temperature=0) for n in range(len(cut))]

    async def main():
        async with ScriptedUpstream(
            [*cut, [Step.REQUEST, STREAM_HEAD, *pieces, STREAM_END, Step.CLOSE]]
        ) as upstream:
            with pair_of(upstream.url) as pair:
                counts = list(range(1, len(pieces)))
                return await killed_and_read(
                    pair, callers, lambda: sorted(len(caller.frames) for caller in callers) == counts
                )

    whole = asyncio.run(main())
    for caller, uncut in zip(callers, whole, strict=True):
        assert caller.breaks == 1
        assert caller.text == "abc"
        assert caller.frames == uncut.frames
        assert [reason for reason in caller.reasons if reason] == ["stop"]


def expected(caller, count):
    return expected_text(caller.body, "/v1/chat/completions", count)
