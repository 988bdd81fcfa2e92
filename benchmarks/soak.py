"""Mixed load for minutes: memory must stay flat, nothing may leak, and the ledger must equal the bill.

A real gateway (supervisor and two workers) stands before a real simulated upstream, in all three ways in which
an upstream is asked.  Its visitors want everything at once: plain answers and streams, in bursts and at a
pace, on every endpoint of both dialects; they hang up at any moment, read slowly, lie idle on their
connections, send nonsense, and meet upstreams that fail.  Meanwhile the configuration is reloaded.

Each second the control port tells what every worker holds.  At the end the visitors leave, and then

* whatever was held for them (connections, calls, logs, tasks, slots, open rows) must have come back to nothing,
* no row of the ledger may be open, and for each model none of whose rows is marked as estimated, the
  ledger's tokens must equal the bill's,
* no visitor who behaved may have been failed,
* the resident memory's slope over the second half, by least squares, must not be above :data:`LEAK` with
  95 % confidence.  What calls under way need comes and goes, so the slope is that of the quietest moments, the
  least of each sixtieth of the run; the interval is widened for what neighbours have in common.  (Runs under
  :data:`JUDGED` minutes are too short for a slope to say anything: it is only shown.)

    python -m benchmarks.soak [--minutes 10]     writes benchmarks/results/soak.json and soak.txt; 1: something leaks
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import resource
import signal
import socket
import sqlite3
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from penstock.config.model import PoolConfig
from penstock.errors import PenstockError
from penstock.messages import SAVING
from penstock.net.clock import Clock
from penstock.net.origin import Origin
from penstock.net.pool import Pool
from penstock.testing import GatewayProcess, SimulatorProcess

RESULTS = Path(__file__).parent / "results"
LEAK = (
    0.2  # MiB per minute: twelve in an hour would be noticed; less cannot be told from the allocator's moods
)
JUDGED = 5.0  # minutes
VISITORS = 48
PAUSE = 0.15  # seconds between two wishes of one visitor, on average
RELOADS = 20.0  # seconds between two reloads
SETTLING = 30.0  # seconds that everything has to come back to nothing
MIB = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RESET = struct.pack("ii", 1, 0)

# ---- what is wished for -------------------------------------------------------------------------------

QUESTION = "Tell me a story about a penstock, and make it long. " * 8
ENDS = {
    "/v1/chat/completions": b"data: [DONE]",
    "/v1/completions": b"data: [DONE]",
    "/v1/responses": b"response.completed",
    "/v1/messages": b"message_stop",
}
PATHS = tuple(ENDS)
KINDS = ("openai", "anthropic", "sim")


def body(path: str, model: str, *, stream: bool, mark: int) -> bytes:
    question = f"{mark} {QUESTION}"  # the mark makes the prompt another one
    asked: dict[str, Any] = {"model": model}
    if path == "/v1/embeddings":
        return json.dumps(asked | {"input": [question, "short"]}).encode()
    if path == "/v1/completions":
        asked |= {"prompt": question, "max_tokens": 100_000}
    elif path == "/v1/responses":
        asked |= {"input": question}
    else:
        asked |= {"messages": [{"role": "user", "content": question}]}
        if path.startswith("/v1/messages"):
            asked["max_tokens"] = 100_000
    if stream:
        asked["stream"] = True
    return json.dumps(asked).encode()


def head(path: str, length: int, *, method: str = "POST", more: str = "") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\n{more}content-length: {length}\r\n\r\n"
    ).encode()


class Answer:
    """What came back: the end of it, and whether ``mark`` was in it (by which whole streams are known)."""

    def __init__(self, mark: bytes = b"") -> None:
        self.status = 0
        self.tail = b""
        self.marked = False
        self._mark = mark

    def on_head(self, status: int, headers: Any) -> None:
        del headers
        self.status = status

    def on_data(self, data: bytes) -> None:
        joined = self.tail + data
        self.marked = self.marked or self._mark in joined
        self.tail = joined[-2_000:]


class Disappointed(Exception):
    """A visitor who behaved, and did not get what is due."""


class Load:
    """The visitors, all in this process."""

    def __init__(self, url: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.examples: list[str] = []
        self._origin, _ = Origin.parse(url)
        self._clock = Clock()
        limits = PoolConfig(max_open=2_000, max_idle=200, max_life=30.0, idle_timeout=10.0)
        self._pool = Pool(self._origin, limits, self._clock, connect_timeout=30.0)
        self._leaving = asyncio.Event()
        self._marks = 0
        self._wishes: Sequence[tuple[int, str, Callable[[], Awaitable[None]]]] = (
            (24, "plain", self.plain),
            (14, "burst", self.burst),
            (14, "paced", self.paced),
            (6, "free", self.free),
            (8, "retried", self.retried),
            (4, "invented", self.invented),
            (4, "twice", self.twice),
            (6, "broken", self.broken),
            (10, "hang-up", self.hang_up),
            (4, "hang-up at once", self.hang_up_at_once),
            (3, "half a request", self.half_a_request),
            (1, "slow reader", self.slow_reader),
            (3, "idle", self.idle),
            (5, "nonsense", self.nonsense),
        )

    async def run(self, seconds: float) -> None:
        self._clock.start(asyncio.get_running_loop())
        visitors = [asyncio.create_task(self._visitor()) for _ in range(VISITORS)]
        await asyncio.sleep(seconds)
        self._leaving.set()
        await asyncio.wait(visitors)
        for visitor in visitors:
            visitor.result()
        await self._pool.close()
        self._clock.stop()

    async def _visitor(self) -> None:
        weights = [weight for weight, _, _ in self._wishes]
        while not self._leaving.is_set():
            _, name, wish = self.chance.choices(self._wishes, weights)[0]
            try:
                await wish()
                self.done[name] += 1
            except (Disappointed, PenstockError) as error:
                self.faults[name] += 1
                if len(self.examples) < 20:
                    self.examples.append(f"{name}: {type(error).__name__}: {error}")
            await self._rest(self.chance.expovariate(1 / PAUSE))

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)

    # ---- who behaves ----

    async def _ask(self, path: str, content: bytes) -> Answer:
        answer = Answer(ENDS.get(path, b""))
        for fresh in (False, True):
            connection = await self._pool.acquire(fresh=fresh)
            try:
                await connection.send(head(path, len(content)), content, answer)
                break
            except PenstockError as error:
                if fresh or type(error).__name__ != "StaleConnection":
                    raise
        return answer

    def _model(self, kind: str, script: str, path: str) -> str:
        """By kind of upstream and form of the answer, so that exact and estimated rows do not share a model."""
        form = path.rpartition("/")[2]
        return f"{kind}/sim:{script},key={form}"

    def _wanted(self, path: str, script: str, *, kind: str = "", stream: bool) -> bytes:
        self._marks += 1
        model = self._model(kind or self.chance.choice(KINDS), script, path)
        return body(path, model, stream=stream, mark=self._marks)

    def _translatable(self) -> tuple[str, str]:
        """A path, and an upstream that can serve it."""
        path = self.chance.choice(PATHS)
        kind = self.chance.choice(KINDS)
        if path == "/v1/completions" and kind == "anthropic":
            kind = "sim"
        return path, kind

    async def plain(self) -> None:
        path, kind = self._translatable()
        tokens = self.chance.choice((8, 64, 300))
        answer = await self._ask(path, self._wanted(path, f"tokens={tokens}", kind=kind, stream=False))
        if answer.status != 200 or not answer.tail.rstrip().endswith(b"}"):
            raise Disappointed(f"{path} of {kind}: {answer.status} {answer.tail[-300:]!r}")

    async def _stream(self, script: str) -> None:
        path, kind = self._translatable()
        answer = await self._ask(path, self._wanted(path, script, kind=kind, stream=True))
        if answer.status != 200 or not answer.marked:
            raise Disappointed(f"{path} of {kind}: {answer.status} {answer.tail[-300:]!r}")

    async def burst(self) -> None:
        await self._stream(f"tokens={self.chance.choice((20, 200, 1_000))}")

    async def paced(self) -> None:
        await self._stream(f"tokens=60,ttft={self.chance.choice((5, 50))},tps=200")

    async def free(self) -> None:
        """What costs nothing, or no output."""
        path = self.chance.choice(("/v1/embeddings", "/v1/messages/count_tokens"))
        kind = "anthropic" if path.endswith("count_tokens") else "openai"
        answer = await self._ask(path, self._wanted(path, "tokens=1", kind=kind, stream=False))
        if answer.status != 200:
            raise Disappointed(f"{path}: {answer.status} {answer.tail[-300:]!r}")

    async def retried(self) -> None:
        """Failures of which a caller sees nothing."""
        failure = self.chance.choice(
            ("500-once", "429,once,retry-after=0", "reset-before-headers,once", "garbage,once")
        )
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        stream = self.chance.random() < 0.5
        content = self._wanted(path, f"tokens=20,{failure}", kind="sim", stream=stream)
        answer = await self._ask(path, content)
        if answer.status != 200:
            raise Disappointed(f"{failure}: {answer.status} {answer.tail[-300:]!r}")

    async def invented(self) -> None:
        """A model's name that was never heard before: nothing may be kept for each name."""
        self._marks += 1
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        known = self.chance.random() < 0.5
        model = f"{'alias' if known else 'nobody'}/{self._marks}"
        answer = await self._ask(path, body(path, model, stream=False, mark=self._marks))
        if answer.status != (200 if known else 404):
            raise Disappointed(f"{model}: {answer.status} {answer.tail[-300:]!r}")

    async def twice(self) -> None:
        """The same call again while it is being answered, under one key; one of the two may lose patience."""
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        content = self._wanted(path, "tokens=40,ttft=20,tps=200,key=twice", kind="sim", stream=True)
        more = f"idempotency-key: {self._marks}\r\n"
        request = head(path, len(content), more=more + "connection: close\r\n") + content
        patient = self.chance.random() < 0.5
        _, first = await self._connect()
        first.write(request)
        await asyncio.sleep(self.chance.uniform(0, 0.1))
        reader, second = await self._connect()
        second.write(request)
        if not patient:
            await self._leave(first)
        answer = b""
        with contextlib.suppress(OSError):
            answer = await reader.read(-1)
        await self._leave(second)
        if patient:
            await self._leave(first)
        if ENDS[path] not in answer:
            raise Disappointed(f"the second of two: {answer[-300:]!r}")

    async def broken(self) -> None:
        """Streams that end badly, and again when they are gone on with: the caller must be told.

        One that lacks nothing but its terminator is completed.
        """
        failure = self.chance.choice(
            ("cut-after=5", "close-after=5", "stall-after=5", "malformed-event=5", "error-event=5", "no-done")
        )
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        content = self._wanted(path, f"tokens=30,tps=200,{failure}", kind="sim", stream=True)
        answer = await self._ask(path, content)
        wanted = ENDS[path] if failure == "no-done" else b'"error"'
        if wanted not in answer.tail:
            raise Disappointed(f"{failure} did not end as it must: {answer.status} {answer.tail[-300:]!r}")

    # ---- who does not ----

    async def _connect(self, *, receive_buffer: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await asyncio.get_running_loop().sock_connect(sock, (self._origin.host, self._origin.port))
            return await asyncio.open_connection(sock=sock, limit=receive_buffer or 65_536)
        except OSError:
            sock.close()
            raise Disappointed("no connection") from None

    async def _leave(self, writer: asyncio.StreamWriter) -> None:
        """With a reset or with an orderly end, as it comes."""
        if self.chance.random() < 0.5:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        else:
            writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def hang_up(self) -> None:
        """At any point of a paced answer."""
        path = self.chance.choice(("/v1/chat/completions", "/v1/messages"))
        content = self._wanted(
            path, "tokens=200,ttft=20,tps=200", kind="sim", stream=self.chance.random() < 0.85
        )
        reader, writer = await self._connect()
        writer.write(head(path, len(content)) + content)
        until = time.monotonic() + self.chance.uniform(0, 0.8)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                while await reader.read(65_536):
                    pass
        await self._leave(writer)

    async def hang_up_at_once(self) -> None:
        path, kind = self._translatable()
        content = self._wanted(path, "tokens=100,key=gone", kind=kind, stream=True)
        _, writer = await self._connect()
        writer.write(head(path, len(content)) + content)
        await self._leave(writer)

    async def half_a_request(self) -> None:
        content = self._wanted("/v1/chat/completions", "tokens=10", stream=False)
        request = head("/v1/chat/completions", len(content)) + content
        _, writer = await self._connect()
        writer.write(request[: self.chance.randrange(len(request))])
        await self._rest(self.chance.uniform(0, 1))
        await self._leave(writer)

    async def slow_reader(self) -> None:
        """A long answer, a few kilobytes at a time; half of them lose patience."""
        path = "/v1/chat/completions"
        content = self._wanted(path, "tokens=12000", kind="sim", stream=True)
        reader, writer = await self._connect(receive_buffer=8_192)
        writer.write(head(path, len(content), more="connection: close\r\n") + content)
        slow = time.monotonic() + 3.0
        patient = self.chance.random() < 0.5
        tail = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(8_192):
                tail = (tail + data)[-2_000:]
                if time.monotonic() < slow:
                    await asyncio.sleep(0.05)
                elif not patient:
                    break
        await self._leave(writer)
        if patient and ENDS[path] not in tail:
            raise Disappointed(f"slowly read, and not to the end: {tail[-300:]!r}")

    async def idle(self) -> None:
        """Lies on a connection, asks again, and is welcome, unless the listener's patience has ended."""
        reader, writer = await self._connect()
        for _ in range(2):
            content = self._wanted("/v1/chat/completions", "tokens=8", kind="openai", stream=False)
            writer.write(head("/v1/chat/completions", len(content)) + content)
            try:
                status = await reader.readuntil(b"\r\n\r\n")
                length = int(status.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                await self._leave(writer)
                raise Disappointed(f"idle: {error!r}") from error
            if not status.startswith(b"HTTP/1.1 200"):
                await self._leave(writer)
                raise Disappointed(f"idle: {status!r}")
            await self._rest(self.chance.uniform(0.1, 4))
        await self._leave(writer)

    async def nonsense(self) -> None:
        chat = "/v1/chat/completions"
        unknown = body(chat, "nobody", stream=False, mark=0)
        words = self.chance.choice(
            (
                head(chat, 7) + b"{'no': ",
                head(chat, 2) + b"[]",
                head(chat, len(unknown)) + unknown,
                head("/v1/nowhere", 0, method="GET"),
                head(chat, 0, method="DELETE"),
                head(chat, 10, more="transfer-encoding: chunked\r\n") + b"0\r\n\r\n",
                head(chat, 0, more="x: " + "y" * 70_000 + "\r\n"),
                b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello",
                b"GET / HTTP/1.1\nhost: a\n\n",
                head(chat, 40_000_000),
            )
        )
        reader, writer = await self._connect()
        answer = b""
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(words)
            async with asyncio.timeout(5):
                answer = await reader.read(65_536)
        await self._leave(writer)
        if answer and not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            raise Disappointed(f"{words[:60]!r} was answered with {answer[:60]!r}")


# ---- what is measured ---------------------------------------------------------------------------------


def memory(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / MIB


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def sample(gateway: GatewayProcess, simulator: SimulatorProcess, began: float) -> dict[str, Any]:
    workers = gateway.workers()
    return {
        "at": time.monotonic() - began,
        "supervisor": {"rss": memory(gateway.pid), "fds": descriptors(gateway.pid)},
        "simulator": {"rss": memory(simulator.pid), "fds": descriptors(simulator.pid)},
        "workers": [
            {
                "rss": worker["process"]["resident_bytes"] / MIB,
                "fds": worker["process"]["open_fds"],
                "cpu": worker["process"]["cpu_seconds"],
                "connections": worker["listener"]["open"],
                "requests": worker["listener"]["requests"],
                "in_progress": worker["listener"]["in_progress"],
                "upstream": {
                    key: sum(pool[key] for pool in worker["pools"].values())
                    for key in ("open", "idle", "busy", "waiting")
                },
                **worker["held"],
            }
            for worker in workers
        ],
    }


HELD = (
    *("connections", "in_progress", "calls", "readings", "productions"),
    *("generations", "log_bytes", "open_attempts"),
)


def left_over(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What has not come back to what it was before the first visitor."""
    found = []
    for index, (worker, fresh) in enumerate(zip(now["workers"], before["workers"], strict=True)):
        found += [f"worker {index}: {worker[name]} {name}" for name in HELD if worker[name]]
        found += [
            f"worker {index}: {count} {name} upstream connections"
            for name, count in worker["upstream"].items()
            if count
        ]
        if worker["tasks"] > fresh["tasks"]:
            found.append(f"worker {index}: {worker['tasks']} tasks, {fresh['tasks']} at first")
        if worker["fds"] > fresh["fds"] + 4:  # the ledger's file, log, index and lock may be opened late
            found.append(f"worker {index}: {worker['fds']} descriptors, {fresh['fds']} at first")
    if now["supervisor"]["fds"] > before["supervisor"]["fds"] + 1:
        found.append(f"supervisor: {now['supervisor']['fds']} descriptors")
    return found


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope per minute, and the half width of its 95 % confidence interval.

    Neighbouring samples are alike: the residuals' lag-1 autocorrelation r leaves n(1-r)/(1+r) of n
    independent ones (Santer et al., 2000).
    """
    n = len(times)
    if n < 4:
        return 0.0, math.inf
    mean_t, mean_v = sum(times) / n, sum(values) / n
    spread = sum((t - mean_t) ** 2 for t in times)
    steep = sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values, strict=True)) / spread
    rest = [v - mean_v - steep * (t - mean_t) for t, v in zip(times, values, strict=True)]
    square = sum(e * e for e in rest)
    if square == 0:
        return steep * 60, 0.0
    r = max(0.0, min(0.99, sum(a * b for a, b in itertools.pairwise(rest)) / square))
    independent = max(3.0, n * (1 - r) / (1 + r))
    error = math.sqrt(square / (independent - 2) / spread) if independent > 2 else math.inf
    return steep * 60, 1.96 * error * 60


def plot(
    title: str, times: Sequence[float], values: Sequence[float], *, width: int = 72, height: int = 12
) -> str:
    """A curve in characters: each column is the mean of its samples."""
    low, high = min(values), max(values)
    step = (high - low) / (height - 1) or 1.0
    columns: list[list[float]] = [[] for _ in range(width)]
    for t, v in zip(times, values, strict=True):
        columns[min(width - 1, int(t / (times[-1] or 1) * width))].append(v)
    rows = [[" "] * width for _ in range(height)]
    for x, column in enumerate(columns):
        if column:
            rows[round((sum(column) / len(column) - low) / step)][x] = "*"
    levels = range(height - 1, -1, -1)
    lines = [title, *(f"{low + y * step:9.2f} |{''.join(rows[y]).rstrip()}" for y in levels)]
    lines.append(" " * 10 + "+" + "-" * width)
    lines.append(f"{'':10} 0 s{times[-1]:>{width - 4}.0f} s")
    return "\n".join(lines)


def books(ledger: Path, bill: dict[str, Any]) -> dict[str, Any]:
    """The ledger against the bill, by the upstream's model."""
    saving = [outcome.value for outcome in SAVING]  # rows of calls that no upstream got
    marks = ", ".join("?" * len(saving))
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        rows = database.execute(
            "SELECT upstream_model, count(*), sum(estimated), sum(input_tokens), sum(output_tokens),"
            f" sum(outcome = 'reserved') FROM attempts WHERE outcome NOT IN ({marks}) GROUP BY 1",
            saving,
        ).fetchall()
        outcomes = dict(
            database.execute("SELECT outcome, count(*) FROM attempts_and_savings GROUP BY 1").fetchall()
        )
        folded = database.execute("SELECT count(*) FROM folded").fetchone()[0]
    exact = estimated = 0
    wrong: list[str] = []
    apart: dict[str, Any] = {}
    for model, attempts, guessed, prompt, output, _ in rows:
        charged = bill["by_model"].get(model, {"input_tokens": 0, "output_tokens": 0})
        due = charged["input_tokens"], charged["output_tokens"]
        if not guessed:
            exact += output
            if (prompt, output) != due:
                wrong.append(f"{model}: {(prompt, output)} in the ledger, {due} on the bill, none estimated")
        else:
            estimated += output
            if (prompt, output) != due:
                apart[model] = {
                    "attempts": attempts,
                    "estimated": guessed,
                    "ledger": (prompt, output),
                    "bill": due,
                }
    return {
        "attempts": sum(row[1] for row in rows),
        "outcomes": outcomes,
        "open": sum(row[5] for row in rows),
        "folded": folded,
        "models": len(rows),
        "ledger": [sum(row[3] for row in rows), sum(row[4] for row in rows)],
        "bill": [bill["input_tokens"], bill["output_tokens"]],
        "output_tokens_of_exact_models": exact,
        "output_tokens_of_models_with_estimates": estimated,
        "wrong": wrong,
        "estimates_that_differ": apart,
    }


# ---- the whole ----------------------------------------------------------------------------------------


def configuration(simulator: SimulatorProcess, folder: Path, workers: int) -> dict[str, Any]:
    common = {"api_key": "any", "cancel_grace": 3, "pool": {"idle_timeout": 3, "max_life": 30}}
    return {
        "workers": workers,
        "upstreams": {
            "openai": {
                "kind": "openai",
                "base_url": simulator.base_url,
                "running_usage": True,
                "responses": True,
                **common,
            },
            "anthropic": {"kind": "anthropic", "base_url": simulator.url, **common},
            "sim": {"kind": "sim", "base_url": simulator.base_url, **common},
        },
        "models": {
            **{f"{kind}/*": {"candidates": [{"upstream": kind, "model": "*"}]} for kind in KINDS},
            "alias/*": {"candidates": [{"upstream": "sim", "model": "sim:tokens=8,key=alias"}]},
        },
        "listener": {"header_timeout": 3, "body_timeout": 3, "idle_timeout": 20},
        "timeouts": {"first_token": 20, "between_tokens": 1, "total": 120},
        "retry": {"attempts": 3, "first_delay": 0.05, "max_delay": 0.2, "budget_floor": 100_000},
        # Few rows in memory, so that they have taken all the room that they will ever take before the second half.
        "ledger": {"path": str(folder / "ledger.sqlite"), "max_rows_in_memory": 1_000},
    }


async def _measured(
    gateway: GatewayProcess, simulator: SimulatorProcess, load: Load, seconds: float
) -> list[dict[str, Any]]:
    began = time.monotonic()
    samples = []
    running = asyncio.create_task(load.run(seconds))
    next_reload = began + RELOADS
    while not running.done():
        samples.append(await asyncio.to_thread(sample, gateway, simulator, began))
        if time.monotonic() > next_reload:
            next_reload += RELOADS
            os.kill(gateway.pid, signal.SIGHUP)
        if sys.stderr.isatty():
            now = samples[-1]
            total = sum(load.done.values())
            rss = " ".join(f"{worker['rss']:.1f}" for worker in now["workers"])
            print(f"\r{now['at']:5.0f} s  {total} wishes  {rss} MiB ", end="", file=sys.stderr, flush=True)
        await asyncio.wait([running], timeout=max(0.0, 1.0 - (time.monotonic() - began) % 1.0))
    running.result()
    return samples


def soak(minutes: float, workers: int, seed: int) -> dict[str, Any]:
    """The whole run; ``leaks`` in what is returned is empty where nothing did."""
    seconds = minutes * 60
    leaks: list[str] = []
    with tempfile.TemporaryDirectory(prefix="penstock-soak-") as name, SimulatorProcess() as simulator:
        folder = Path(name)
        gateway = GatewayProcess(configuration(simulator, folder, workers), folder).start()
        try:
            before = sample(gateway, simulator, time.monotonic())
            pids = gateway.worker_pids()
            load: Load | None = None

            async def main() -> list[dict[str, Any]]:
                nonlocal load
                load = Load(gateway.url, seed)
                return await _measured(gateway, simulator, load, seconds)

            samples = uvloop.run(main())
            assert load is not None
            deadline = time.monotonic() + SETTLING
            after = sample(gateway, simulator, time.monotonic())
            while left_over(after, before) and time.monotonic() < deadline:
                time.sleep(0.2)
                after = sample(gateway, simulator, time.monotonic())
            leaks += left_over(after, before)
            if gateway.worker_pids() != pids:
                leaks.append("a worker died")
            restarts = sum(worker["restarts"] for worker in gateway.readiness()["workers"])
            status = gateway.stop()
            if status or restarts:
                leaks.append(f"the gateway ended with {status}, after {restarts} restarts of workers")
        finally:
            gateway.stop()
        bill = simulator.bill()
        account = books(folder / "ledger.sqlite", bill)
        log = Counter(
            line["message"] if "message" in line else line.get("event", "?")
            for line in map(json.loads, filter(None, gateway.log.splitlines()))
            if line.get("level") in {"warning", "error"}
        )
    leaks += account["wrong"]
    leaks += [f"{account['open']} rows of the ledger are open"] * bool(account["open"])
    leaks += [f"{account['folded']} rows of the ledger were given up"] * bool(account["folded"])
    leaks += [f"{bill['in_flight']} calls are still under way upstream"] * bool(bill["in_flight"])
    leaks += [f"{count} of {name!r} were failed" for name, count in load.faults.items()]
    slopes = _slopes(samples, before, after)
    if minutes >= JUDGED:
        leaks += [
            f"{process} grows by {each['mib_per_minute']:.3f} ± {each['confidence_95']:.3f} MiB a minute"
            for process, each in slopes.items()
            if process != "simulator" and each["mib_per_minute"] - each["confidence_95"] > LEAK
        ]
    return {
        "minutes": minutes,
        "seed": seed,
        "leaks": leaks,
        "wishes": dict(load.done),
        "faults": dict(load.faults),
        "fault_examples": load.examples,
        "requests": sum(worker["requests"] for worker in after["workers"]),
        "cpu_seconds": [worker["cpu"] for worker in after["workers"]],
        "memory": slopes,
        "most": {
            key: max(sum(worker[key] for worker in each["workers"]) for each in samples)
            for key in (*HELD, "tasks", "fds")
        },
        "before": before,
        "after": after,
        "books": account,
        "warnings_and_errors_logged": dict(log.most_common(20)),
        "samples": samples,
    }


def _slopes(
    samples: list[dict[str, Any]], before: dict[str, Any], after: dict[str, Any]
) -> dict[str, dict[str, float]]:
    half = [each for each in samples if each["at"] >= samples[-1]["at"] / 2]
    found = {}
    for name, process in _processes(before):
        quiet = _quietest([(each["at"], process(each)["rss"]) for each in half])
        steep, error = slope([at for at, _ in quiet], [rss for _, rss in quiet])
        found[name] = {
            "mib_per_minute": steep,
            "confidence_95": error,
            "start_mib": process(before)["rss"],
            "half_mib": process(half[0])["rss"],
            "end_mib": process(samples[-1])["rss"],
            "after_mib": process(after)["rss"],
        }
    return found


def _quietest(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    window = curve[-1][0] / 60
    windows = itertools.groupby(curve, key=lambda point: int(point[0] / window))
    return [min(points, key=lambda point: point[1]) for _, points in windows]


def _processes(one: dict[str, Any]) -> list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]]:
    def worker(index: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda each: each["workers"][index]

    return [
        *((f"worker {index}", worker(index)) for index in range(len(one["workers"]))),
        ("supervisor", lambda each: each["supervisor"]),
        ("simulator", lambda each: each["simulator"]),
    ]


def told(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{sum(result['wishes'].values())} wishes in {result['minutes']:g} minutes: "
        + ", ".join(f"{count} {name}" for name, count in sorted(result["wishes"].items())),
        f"{result['requests']} requests, at most "
        + ", ".join(f"{count} {name}" for name, count in result["most"].items()),
        "",
        f"{'resident memory, MiB':22}{'start':>8}{'half':>8}{'end':>8}{'after':>8}   per minute in the second half",
    ]
    for name, each in result["memory"].items():
        figures = "".join(f"{each[key]:8.2f}" for key in ("start_mib", "half_mib", "end_mib", "after_mib"))
        lines.append(f"{name:22}{figures}   {each['mib_per_minute']:+.3f} ± {each['confidence_95']:.3f}")
    account = result["books"]
    lines += [
        "",
        f"ledger {account['ledger']}, bill {account['bill']} tokens (in, out), {account['attempts']} attempts: "
        + ", ".join(f"{count} {name}" for name, count in sorted(account["outcomes"].items())),
        "output tokens of models without an estimated row: {output_tokens_of_exact_models}, "
        "of the others: {output_tokens_of_models_with_estimates}".format_map(account),
    ]
    lines += [
        f"  estimated otherwise than billed: {model}: {each}"
        for model, each in account["estimates_that_differ"].items()
    ]
    times = [each["at"] for each in result["samples"]]
    if len(times) > 1:
        for name, process in _processes(result["before"])[:-1]:
            lines += [
                "",
                plot(f"{name}: resident MiB", times, [process(each)["rss"] for each in result["samples"]]),
            ]
        fds = [sum(worker["fds"] for worker in each["workers"]) for each in result["samples"]]
        lines += ["", plot("workers: open descriptors", times, fds)]
    lines += ["", *result["fault_examples"]]
    lines += [f"LEAK: {leak}" for leak in result["leaks"]] or ["nothing leaks"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="decides who wishes what")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for soak.json and soak.txt")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    result = soak(arguments.minutes, arguments.workers, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "soak.json").write_text(json.dumps(result) + "\n")
    text = told(result)
    (arguments.out / "soak.txt").write_text(text + "\n")
    print(text)
    return 1 if result["leaks"] else 0


if __name__ == "__main__":
    sys.exit(main())
