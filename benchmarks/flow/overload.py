"""``python -m benchmarks.flow.overload``: more calls than an upstream can work on, through real processes.

The workload and the upstream of the simulation (``benchmarks.flow.workload``), in real time: an upstream that works on
``--places`` calls at a time and lets the others wait inside, first come, first served; callers of three tiers that leave
when their deadline passes without a first token.  Without a queue everything is sent on at once; with a semaphore as
many at once as there are places.  LiteLLM's router is given each call's ``priority``; with the same number of places as
``max_parallel_requests`` it refuses what is more, so there it may try ten times again, as its back-off has it.  Penstock
gets ``concurrency`` and the tiers.

Load and upstream are one process, the router and Penstock others.  A minute is short for calls of the lowest tier,
which may wait for two: what counts is goodput, and the top tier.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from benchmarks.flow.figures import HEAD, Figures, figures
from benchmarks.flow.workload import DECODE, PLACES, TENANTS, TIERS, Arrival, workload
from benchmarks.gateway import install
from benchmarks.gateway.processes import free_port

from penstock.testing import GatewayProcess

LOADS = (0.5, 0.8, 1.0, 1.5, 2.0)
WARM_UP = 1 / 6  # of the time
_FIRST = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"so"},"finish_reason":null}]}\n\n'
_LAST = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}\n\ndata: [DONE]\n\n'

Serve: TypeAlias = Callable[[Arrival], Awaitable[None]]
"""Serves one call: returns when its first token is there and the rest has come, or when there will be none."""


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])


def content(call: Arrival) -> str:
    """A prompt of about its length, which begins with what the upstream is to do."""
    asked = f"{call.prompt} {call.answer} "
    return asked + "x" * (4 * call.prompt - len(asked))


class Upstream:
    """Works on so many calls at a time; the others wait in here, and who leaves while it waits is not worked on."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leaving: asyncio.Future[bytes] | None = None
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            while True:
                head = (await leaving if leaving is not None else b"") + await reader.readuntil(b"\r\n\r\n")
                body = json.loads(await reader.readexactly(_length(head)))
                prompt, answer, _ = body["messages"][0]["content"].split(" ", 2)
                # Of the next request, or nothing: it has left.
                leaving = asyncio.ensure_future(reader.read(1))
                if not await self._answer(Arrival(0, "", "", int(prompt), int(answer), 0), leaving, writer):
                    break
        if leaving is not None:
            leaving.cancel()
        writer.close()

    async def _answer(
        self, call: Arrival, leaving: asyncio.Future[bytes], writer: asyncio.StreamWriter
    ) -> bool:
        turn = asyncio.ensure_future(self._places.acquire())
        await asyncio.wait({turn, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            turn.cancel()
            return False
        try:
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for seconds, piece in (
                (call.prefill, _FIRST),
                (call.answer / DECODE, _LAST % (call.prompt, call.answer, call.prompt + call.answer)),
            ):
                await asyncio.wait({leaving}, timeout=seconds)
                if leaving.done():
                    return False
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            writer.write(b"0\r\n\r\n")
        finally:
            self._places.release()
        return True


async def _posted(port: int, call: Arrival, key: str = "") -> None:
    """By HTTP, as SDKs do it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        asked = {"model": "m", "stream": True, "max_tokens": 1_000}
        body = json.dumps({**asked, "messages": [{"role": "user", "content": content(call)}]}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            return
        await reader.readuntil(b'"content":"so"')
        call.first_token = asyncio.get_running_loop().time()
        await reader.readuntil(b"[DONE]")
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def direct(upstream: int, places: int) -> AsyncIterator[Serve]:
    yield lambda call: _posted(upstream, call)


@contextlib.asynccontextmanager
async def semaphore(upstream: int, places: int) -> AsyncIterator[Serve]:
    free = asyncio.Semaphore(places)

    async def serve(call: Arrival) -> None:
        async with free:
            await _posted(upstream, call)

    yield serve


def litellm(upstream: int, places: int) -> contextlib.AbstractAsyncContextManager[Serve]:
    return limited_litellm(upstream, 0)


@contextlib.asynccontextmanager
async def limited_litellm(upstream: int, places: int) -> AsyncIterator[Serve]:
    home = await asyncio.to_thread(install.environment, "litellm-router", "litellm")
    port = free_port()
    script = Path(__file__).with_name("litellm_router.py")
    words = [home / "bin" / "python", script, str(port), str(upstream), str(places)]
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    process = await asyncio.create_subprocess_exec(
        *map(str, words), env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    priorities = sorted({tier.priority for tier in TIERS.values()}, reverse=True)

    async def serve(call: Arrival) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            asked = {"content": content(call), "priority": priorities.index(TIERS[call.tier].priority)}
            writer.write(json.dumps(asked).encode() + b"\n")
            if await reader.readline() == b"first\n":
                call.first_token = asyncio.get_running_loop().time()
                await reader.readline()
        finally:
            writer.close()

    try:
        await process.stdout.readline()
        yield serve
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def penstock(upstream: int, places: int) -> AsyncIterator[Serve]:
    config = {
        "upstreams": {
            "up": {
                "kind": "openai",
                "base_url": f"http://127.0.0.1:{upstream}/v1",
                "concurrency": {"limit": places, "adaptive": False, "max_waiting": 500},
                "pool": {"max_open": places + 50},
            }
        },
        "models": {"m": {"candidates": [{"upstream": "up"}]}},
        "tiers": {
            name: {"priority": tier.priority, "deadline": tier.deadline, "floor": tier.floor}
            for name, tier in TIERS.items()
        },
        "keys": [
            {
                "name": tenant,
                "tenant": tenant,
                "tier": tier,
                "hash": "sha256:" + hashlib.sha256(tenant.encode()).hexdigest(),
            }
            for tier, tenant, _ in TENANTS
        ],
        "log": {"requests": False},
    }
    with tempfile.TemporaryDirectory() as folder:
        gateway = GatewayProcess(config, Path(folder))
        await asyncio.to_thread(gateway.start)
        port = int(gateway.url.rpartition(":")[2])
        try:
            yield lambda call: _posted(port, call, call.tenant)
        finally:
            await asyncio.to_thread(gateway.stop)


SYSTEMS = {
    "no queue": direct,
    "semaphore": semaphore,
    "LiteLLM router": litellm,
    "LiteLLM router, limited": limited_litellm,
    "Penstock": penstock,
}


async def run(system: str, load: float, seconds: float, places: int, seed: int) -> Figures:
    """One line: its goodput is of ``places``."""
    arrivals = workload(load * places / PLACES, seconds, None, seed)
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(Upstream(places).serve, "127.0.0.1", 0, limit=2**20)
    async with SYSTEMS[system](server.sockets[0].getsockname()[1], places) as serve:
        began = loop.time() + 0.1

        async def live(call: Arrival) -> None:
            serving = asyncio.ensure_future(serve(call))
            try:
                await asyncio.wait({serving}, timeout=began + call.deadline - loop.time())
                if call.first_token is not None:
                    await asyncio.wait({serving})
            finally:
                serving.cancel()  # the caller leaves
                await asyncio.wait({serving})
                if not serving.cancelled():
                    serving.exception()  # it had no answer, or not all of it

        tasks = []
        for call in arrivals:
            await asyncio.sleep(max(0.0, began + call.at - loop.time()))
            tasks.append(loop.create_task(live(call)))
        for task in tasks:  # as in the simulation: what has not begun when the last one comes, does not count
            task.cancel()
        await asyncio.wait(tasks)
    server.close()
    for call in arrivals:
        if call.first_token is not None:
            call.first_token -= began
    warm_up = seconds * WARM_UP
    found = figures(arrivals, warm_up)
    # By when they were worked on, not by when they came: a queue of 20 s is a good part of a run.
    served = sum(call.work for call in arrivals if call.in_time and (call.first_token or 0.0) >= warm_up)
    goodput = served / (places * (arrivals[-1].at - warm_up))
    return dataclasses.replace(found, goodput=goodput)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0, help="for each line; a sixth is warm-up")
    parser.add_argument("--places", type=int, default=32, help="of the upstream")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {given.seconds:g} s, {given.places} places",
        "",
        *HEAD,
        sep="\n",
        flush=True,
    )
    for load in given.loads:
        for system in given.systems:
            got = asyncio.run(run(system, load, given.seconds, given.places, given.seed))
            print(f"| {load:g} | {system} | {got.row()} |", flush=True)


if __name__ == "__main__":
    main()
