"""Processes are killed, stopped and starved while calls are under way: what then reaches callers and the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
from collections import Counter

import anthropic
import httpx2
import openai
import pytest
from gateway_books import billed, ledger_rows, settled_bill, tokens, wait_until

from penstock.testing import GatewayProcess, SimulatorProcess, expected_text
from penstock.testing._ports import free_port

FAST = {"attempts": 2, "first_delay": 0.01, "max_delay": 0.05, "budget_floor": 1_000}
MIB = 2**20


def configured(simulator, ledger, **sections):
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": simulator.base_url, "cancel_grace": 10}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(ledger)},
        "retry": FAST,
        "continuation": {"attempts": 0},  # what is broken on purpose here is to be seen
        **sections,
    }


class Callers:
    """The official SDKs, without retries of their own."""

    def __init__(self, gateway):
        self.http = httpx2.AsyncClient(
            trust_env=False,
            timeout=60,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )
        shared = {"api_key": "any", "max_retries": 0, "http_client": self.http}
        self.openai = openai.AsyncOpenAI(base_url=gateway.base_url, **shared)
        self.anthropic = anthropic.AsyncAnthropic(base_url=gateway.url, **shared)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()


class Streaming:
    """One streamed answer: the text so far, and the error that ended it."""

    def __init__(self, prompt, model, dialect="openai"):
        self.messages = [{"role": "user", "content": prompt}]
        self.model = model
        self.dialect = dialect
        self.pieces = []
        self.error = None
        self.begun = asyncio.Event()
        self.task = None

    def start(self, callers):
        ask = self._openai if self.dialect == "openai" else self._anthropic
        self.task = asyncio.ensure_future(self._listen(ask(callers)))
        return self

    @property
    def text(self):
        return "".join(self.pieces)

    def expected(self, count):
        path = "/v1/chat/completions" if self.dialect == "openai" else "/v1/messages"
        body = {"model": self.model, "max_tokens": 10_000, "messages": self.messages}
        return expected_text(body, path, count)

    async def _listen(self, texts):
        try:
            async for text in texts:
                if text:
                    self.pieces.append(text)
                    self.begun.set()
        except (openai.APIError, anthropic.APIError, httpx2.HTTPError) as error:
            self.error = error
        self.begun.set()

    async def _openai(self, callers):
        create = callers.openai.chat.completions.create
        async for chunk in await create(model=self.model, messages=self.messages, stream=True):
            for choice in chunk.choices:
                yield choice.delta.content

    async def _anthropic(self, callers):
        create = callers.anthropic.messages.create
        events = await create(model=self.model, messages=self.messages, max_tokens=10_000, stream=True)
        async for event in events:
            if event.type == "content_block_delta":
                yield event.delta.text


async def begun(streams):
    for stream in streams:
        await asyncio.wait_for(stream.begun.wait(), 60)


async def ended(streams):
    for stream in streams:
        await asyncio.wait_for(stream.task, 60)


async def plain(callers, prompt, model="sim:tokens=8"):
    answer = await callers.openai.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}]
    )
    return answer.choices[0].message.content


async def eventually(condition):
    await asyncio.to_thread(wait_until, condition)


# ---- the upstream dies ----


def test_an_upstream_that_is_killed_ends_its_streams_in_errors_and_is_used_again_when_it_is_back(tmp_path):
    paced = "sim:tokens=1000,tps=100"

    async def main(gateway, simulator):
        async with Callers(gateway) as callers:
            streams = [Streaming(f"{i} o", paced, "openai").start(callers) for i in range(10)]
            streams += [Streaming(f"{i} a", paced, "anthropic").start(callers) for i in range(10)]
            await begun(streams)
            os.kill(simulator.pid, signal.SIGKILL)
            await ended(streams)
            for stream in streams:
                kind = openai.APIError if stream.dialect == "openai" else anthropic.APIError
                assert isinstance(stream.error, kind), stream.error
                assert stream.text == stream.expected(len(stream.pieces))
            port = simulator.url.rpartition(":")[2]
            simulator.stop()
            with pytest.raises(openai.InternalServerError) as caught:
                await plain(callers, "anybody there?")
            assert caught.value.status_code == 502
            with pytest.raises(anthropic.InternalServerError) as caught:
                await callers.anthropic.messages.create(
                    model="sim", max_tokens=8, messages=[{"role": "user", "content": "hello"}]
                )
            assert caught.value.status_code == 502
            with SimulatorProcess("--port", port) as another:
                assert another.url.endswith(":" + port)
                assert await plain(callers, "and now?")
                return streams, another.bill()

    with SimulatorProcess("--port", str(free_port())) as simulator:
        with GatewayProcess(configured(simulator, tmp_path / "ledger.sqlite"), tmp_path) as gateway:
            streams, bill = asyncio.run(main(gateway, simulator))
    rows = ledger_rows(tmp_path / "ledger.sqlite")
    broken = [row for row in rows if row.outcome == "partial"]
    # What was received and passed on is what is booked, one by one; the dead upstream's own bill is gone.
    assert sorted(row.output_tokens for row in broken) == sorted(len(stream.pieces) for stream in streams)
    assert {row.status for row in broken} == {200}
    refused = [row for row in rows if row.outcome == "failed"]
    assert len(refused) == 2 * FAST["attempts"]
    assert {(row.error, row.input_tokens, row.output_tokens) for row in refused} == {
        ("upstream_unreachable", 0, 0)
    }
    assert tokens([row for row in rows if row.outcome == "completed"]) == billed(bill)


def test_an_upstream_that_stands_still_runs_into_the_clocks_and_is_used_again_when_it_goes_on(tmp_path):
    # Long enough for calls on a busy machine, short enough to wait for.
    clocks = {"connect": 3, "first_token": 3, "between_tokens": 1, "total": 60}

    async def main(gateway, simulator):
        async with Callers(gateway) as callers:
            streams = [Streaming(f"{i}", "sim:tokens=2000,tps=100").start(callers) for i in range(10)]
            await begun(streams)
            os.kill(simulator.pid, signal.SIGSTOP)
            try:
                silent = [asyncio.ensure_future(plain(callers, f"silence {i}")) for i in range(5)]
                await ended(streams)
                for stream in streams:
                    assert isinstance(stream.error, openai.APIError)
                    assert stream.error.code == "upstream_timeout"
                    assert stream.text == stream.expected(len(stream.pieces))
                for one in await asyncio.gather(*silent, return_exceptions=True):
                    assert isinstance(one, openai.InternalServerError)
                    assert (one.status_code, one.code) == (504, "upstream_timeout")
            finally:
                os.kill(simulator.pid, signal.SIGCONT)
            assert await plain(callers, "and on it goes")
            return streams

    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path / "ledger.sqlite", timeouts=clocks)
        with GatewayProcess(config, tmp_path) as gateway:
            streams = asyncio.run(main(gateway, simulator))
            assert gateway.generations() == []
            (worker,) = gateway.workers()
            assert worker["pools"]["own"]["busy"] == 0
    rows = ledger_rows(tmp_path / "ledger.sqlite")
    outcomes = Counter((row.outcome, row.error, row.estimated) for row in rows)
    assert outcomes == {
        ("partial", "upstream_timeout", True): 10,  # more may have been on its way
        ("failed", "upstream_timeout", True): 5,
        ("completed", "", False): 1,
    }
    got = sorted(row.output_tokens for row in rows if row.outcome == "partial")
    assert got == sorted(len(stream.pieces) for stream in streams)


# ---- a part of the gateway dies ----


def reserved(ledger):
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'attempts'").fetchone()[0]:
            return 0  # its writer has not come to it yet
        return database.execute("SELECT count(*) FROM attempts WHERE outcome = 'reserved'").fetchone()[0]


def test_a_worker_that_is_killed_takes_only_its_own_calls_with_it(tmp_path):
    ledger = tmp_path / "ledger.sqlite"
    count = 500  # long enough for all to be under way at once, on a busy machine too
    model = f"sim:tokens={count},tps=100"

    async def main(gateway):
        async with Callers(gateway) as callers:
            streams = [Streaming(f"{i}", model).start(callers) for i in range(24)]
            await begun(streams)
            await eventually(lambda: reserved(ledger) == 24)
            victims = Counter(one["worker"] for one in gateway.generations())
            assert sum(victims.values()) == 24
            index, lost = victims.most_common(1)[0]
            first = gateway.worker_pids()
            os.kill(first[index], signal.SIGKILL)
            for i in range(20):  # nobody has to wait until another is there
                assert await plain(callers, f"meanwhile {i}")
            await ended(streams)
            failed = [stream for stream in streams if stream.error is not None]
            assert len(failed) == lost
            for stream in streams:
                assert stream.text == stream.expected(len(stream.pieces) if stream.error else count)
            await eventually(lambda: not gateway.readiness()["reasons"])
            second = gateway.worker_pids()
            assert second[index] != first[index]
            assert second[1 - index] == first[1 - index]
            return lost

    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, ledger, workers=2), tmp_path) as gateway:
            lost = asyncio.run(main(gateway))
            bill = settled_bill(simulator)
    rows = ledger_rows(ledger)
    dead = [row for row in rows if row.error == "process_died"]
    assert len(dead) == lost
    assert {(row.outcome, row.estimated) for row in dead} == {("partial", True)}
    whole = [row for row in rows if row not in dead]
    assert {row.outcome for row in whole} == {"completed"}
    assert len(whole) == 24 - lost + 20
    charged = [one for one in bill["by_request"] if one["state"] == "completed"]
    assert tokens(whole) == (
        sum(one["input_tokens"] for one in charged),
        sum(one["output_tokens"] for one in charged),
    )
    assert bill["cancelled"] == lost  # the upstream has not gone on for nobody


def test_the_end_comes_when_every_stream_has_ended(tmp_path):
    async def main(gateway):
        async with Callers(gateway) as callers:
            streams = [
                Streaming(f"{i}", "sim:tokens=150,tps=100", dialect).start(callers)
                for i in range(25)
                for dialect in ("openai", "anthropic")
            ]
            await begun(streams)
            gateway.terminate()
            await ended(streams)
            for stream in streams:
                assert stream.error is None
                assert stream.text == stream.expected(150)

    with SimulatorProcess() as simulator:
        ledger = tmp_path / "ledger.sqlite"
        gateway = GatewayProcess(configured(simulator, ledger, workers=2), tmp_path).start()
        try:
            asyncio.run(main(gateway))
        finally:
            status = gateway.stop()
        assert status == 0, gateway.log
        bill = simulator.bill()
    rows = ledger_rows(ledger)
    assert Counter((row.outcome, row.estimated) for row in rows) == {("completed", False): 50}
    assert tokens(rows) == billed(bill)
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 1)


# ---- the ledger has no disk ----


@pytest.fixture
def disk(tmp_path):
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(line, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def ask_many(gateway, count, prefix):
    async def main():
        async with Callers(gateway) as callers:
            return await asyncio.gather(*(plain(callers, f"{prefix} {i}") for i in range(count)))

    return asyncio.run(main())


def trouble(log):
    """What the gateway complained of; the last line may be on its way."""
    lines = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line.get("level") in {"warning", "error"}]


def test_a_full_disk_stops_no_answer_and_no_row_is_lost_once_there_is_room(tmp_path, disk):
    ledger = disk / "ledger.sqlite"
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, ledger), tmp_path) as gateway:
            assert all(ask_many(gateway, 20, "before"))
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            assert all(ask_many(gateway, 400, "full"))
            wait_until(lambda: trouble(gateway.log))
            assert all(ask_many(gateway, 20, "still full"))
            filler.unlink()
        bill = simulator.bill()
        assert bill["requests"] == 440
    rows = ledger_rows(ledger)
    assert len(rows) == 440
    assert tokens(rows) == billed(bill)
    assert any("ledger" in line["message"] for line in trouble(gateway.log))


def test_a_ledger_that_may_not_grow_stops_no_answer_and_the_log_tells_what_is_lost(tmp_path):
    ledger = tmp_path / "ledger.sqlite"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 16, MIB // 16))

    with SimulatorProcess() as simulator:
        config = configured(simulator, ledger, log={"requests": False})
        with GatewayProcess(config, tmp_path, preexec=limit) as gateway:
            assert all(ask_many(gateway, 400, "on"))
            wait_until(lambda: trouble(gateway.log))
            assert all(ask_many(gateway, 20, "and on"))
            assert gateway.generations() == []
        rows = ledger_rows(ledger)
        written = [row for row in rows if row.outcome != "reserved"]
        assert len(written) < 420
        lost = f"{420 - len(written)} rows not written"
        assert any(lost in line["message"] for line in trouble(gateway.log)), gateway.log
        # What it left open is closed by whoever writes this ledger next.
        with GatewayProcess(config, tmp_path) as gateway:
            wait_until(lambda: reserved(ledger) == 0)
    closed = [row for row in ledger_rows(ledger) if row.error == "process_died"]
    assert len(closed) == len(rows) - len(written)


def test_a_ledger_in_a_read_only_folder_stops_no_answer(tmp_path):
    folder = tmp_path / "fixed"
    folder.mkdir()
    if os.geteuid() == 0:  # whom no permission stops
        line = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
        if subprocess.run(line, capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")
        undo = ["umount", "--lazy", str(folder)]
    else:
        folder.chmod(0o500)
        undo = ["chmod", "700", str(folder)]
    try:
        with SimulatorProcess() as simulator:
            with GatewayProcess(configured(simulator, folder / "ledger.sqlite"), tmp_path) as gateway:
                assert all(ask_many(gateway, 50, "on"))
                wait_until(lambda: trouble(gateway.log))
        assert any("50 rows not written" in line["message"] for line in trouble(gateway.log))
    finally:
        subprocess.run(undo, check=True)
