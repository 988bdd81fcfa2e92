"""What stands below the cache's memory is in trouble: calls through a real gateway are answered all the same, and rightly.

Memory keeps nothing here, so that each call asks the disk or Redis.  The table is :data:`ON_DISK`, :data:`OF_REDIS`, and
two troubles that need a gateway of their own: a disk that nobody may write to, and a kill in the middle of writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from gateway_books import wait_until

from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess, expected_text

CHAT = "/v1/chat/completions"
TOKENS = 400  # of an answer: some 3 KB
QUESTIONS = 12
IMPATIENT = 8.0  # seconds: a Redis that takes ten would be waited for longer
STATUSES = {"created", "cached"}


def configured(simulator, **cache):
    return {
        "upstreams": {"own": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "own"}], "cache": {"ttl": 86_400}, "join": "never"}},
        "cache": {"memory_bytes": 1, **cache},
        "log": {"requests": False},
    }


def question(number):
    model = f"sim:tokens={TOKENS}"
    return {"model": model, "temperature": 0, "messages": [{"role": "user", "content": f"question {number}"}]}


class Asker:
    """Asks, and takes no answer but the right one."""

    def __init__(self, gateway, client):
        self.gateway = gateway
        self._url = gateway.url + CHAT
        self._client = client

    def ask(self, number):
        """``Penstock-Status`` of the answer."""
        body = question(number)
        answer = self._client.post(self._url, json=body)
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["message"]["content"]
        assert text == expected_text(body, CHAT, TOKENS)
        return answer.headers["penstock-status"]

    def all(self, numbers=range(QUESTIONS)):
        return Counter(map(self.ask, numbers))

    def hits(self, numbers=range(QUESTIONS)):
        """Once all of these are answered from below."""
        return wait_until(lambda: set(self.all(numbers)) == {"cached"}, what="hits")


@contextlib.contextmanager
def asking(gateway):
    """``asker``"""
    with httpx2.Client(trust_env=False, timeout=IMPATIENT) as client:
        yield Asker(gateway, client)


def complaints(gateway):
    """How often a tier was late, failed, was left alone, or had or lost something that was of no use."""
    counted = re.findall(
        r"^penstock_cache_(?:late|errors|skipped|unusable|dropped)_total(?:{.*})? (\S+)$",
        gateway.metrics(),
        re.MULTILINE,
    )
    return sum(map(float, counted))


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess() as process:
        yield process


# ---- the disk ----


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A file system of four MiB."""
    folder = tmp_path_factory.mktemp("disk")
    with mounted(folder, "size=4m"):
        yield folder


@contextlib.contextmanager
def mounted(folder, options):
    line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        is_there = subprocess.run(line, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_there = False
    if not is_there:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def on_disk(simulator, disk, tmp_path_factory):
    """``(asker, its file)``"""
    path = disk / "answers.sqlite"
    settings = configured(simulator, disk=str(path), disk_budget=5)
    with GatewayProcess(settings, tmp_path_factory.mktemp("gateway")) as gateway, asking(gateway) as asker:
        yield asker, path


@contextlib.contextmanager
def full(path):
    filler = path.with_name("filler")
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def scribbled_over(path):
    """Its head tells yet whose it was."""
    all_in_one(path)
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(os.urandom(path.stat().st_size - 4_096))
    yield


@contextlib.contextmanager
def cut_to_half(path):
    all_in_one(path)
    os.truncate(path, path.stat().st_size // 2)
    yield


@contextlib.contextmanager
def removed(path):
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    yield
    wait_until(path.exists, what="another file")


@contextlib.contextmanager
def overwritten(path):
    """By what is no cache of ours, and is there afterwards as it was."""
    letter = b"a letter to my mother" * 999
    all_in_one(path)
    path.write_bytes(letter)
    try:
        yield
        assert path.read_bytes() == letter
    finally:
        path.unlink()


def all_in_one(path):
    """Let nothing of the file be in the log beside it."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        wait_until(lambda: database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


@contextlib.contextmanager
def written_by_another(path):
    """Who does not come to an end."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        database.execute("ROLLBACK")
        database.close()


# None of them is silent, but for a file that lives on while it is open, until another one is begun.
ON_DISK = [full, scribbled_over, cut_to_half, written_by_another, overwritten, removed]


@pytest.mark.parametrize("trouble", ON_DISK, ids=lambda trouble: trouble.__name__)
def test_a_disk_in_trouble_fails_no_call_and_gives_no_wrong_answer(trouble, on_disk):
    asker, path = on_disk
    first = 1_000 * ON_DISK.index(trouble)
    known, new = range(first, first + QUESTIONS), range(first + 100, first + 100 + QUESTIONS)
    asker.hits(known)
    before = complaints(asker.gateway)
    with trouble(path):
        for _ in range(3):
            assert set(asker.all([*known, *new])) <= STATUSES
        wait_until(
            lambda: trouble is removed or complaints(asker.gateway) > before, what="complaints", seconds=15
        )
    asker.hits([*known, *new])


@pytest.mark.slow  # three gateways start
def test_a_disk_that_may_not_be_written_fails_no_call(simulator, tmp_path):
    """Empty, and with answers of before."""
    disk = tmp_path / "disk"
    disk.mkdir()
    settings = configured(simulator, disk=str(disk / "answers.sqlite"), disk_budget=5)
    with mounted(disk, "ro,size=4m"):
        for is_there in (False, True):
            with GatewayProcess(settings, tmp_path) as gateway, asking(gateway) as asker:
                for _ in range(3):
                    assert set(asker.all()) <= STATUSES
            if not is_there:
                remount(disk, "rw")
                with GatewayProcess(settings, tmp_path) as gateway, asking(gateway) as asker:
                    asker.hits()
                remount(disk, "ro")


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


# ---- killed while it writes ----


@pytest.mark.slow  # a gateway of two workers starts five times
def test_a_gateway_that_is_killed_while_it_writes_answers_rightly_afterwards(simulator, tmp_path):
    """First a worker of two, then all."""
    path = tmp_path / "answers.sqlite"
    settings = configured(simulator, disk=str(path), disk_budget=5) | {"workers": 2}
    numbers = itertools.count()
    for kilobytes in (1, 40, 300, 900):  # that are written before each kill
        gateway = GatewayProcess(settings, tmp_path).start()
        try:
            with asking_on(gateway, numbers):
                grown(path, kilobytes)
                os.kill(running(gateway)[0], signal.SIGKILL)
                grown(path, kilobytes)
                for pid in (gateway.pid, *running(gateway)):
                    os.kill(pid, signal.SIGKILL)
        finally:
            gateway.stop()
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    asked = next(numbers)
    with GatewayProcess(settings, tmp_path) as gateway, asking(gateway) as asker:
        found = asker.all(range(asked))
        assert set(found) <= STATUSES
        assert found["cached"] > asked // 2
        assert complaints(gateway) == 0


@contextlib.contextmanager
def asking_on(gateway, numbers):
    """Eight callers ask one new question after the other, and take it that they may get no answer."""
    ended = threading.Event()

    def ask_on(asker):
        while not ended.is_set():
            with contextlib.suppress(httpx2.HTTPError):
                asker.ask(next(numbers))

    with ThreadPoolExecutor(8) as callers, asking(gateway) as asker:
        working = [callers.submit(ask_on, asker) for _ in range(8)]
        try:
            yield
        finally:
            ended.set()
        for one in working:
            one.result()


def grown(path, kilobytes):
    """Until so much more has been written to the log beside the file."""
    before = written(path)
    wait_until(lambda: written(path) > before + kilobytes * 1_000, what="a log that grows")


def written(path):
    with contextlib.suppress(FileNotFoundError):
        return path.with_name(path.name + "-wal").stat().st_size
    return 0


def running(gateway):
    return [pid for pid in gateway.worker_pids() if pid is not None]


# ---- Redis ----

LATE = 10.0  # seconds


class Between:
    """Stands between gateways and a Redis server, in a thread, and does to its answers what it is told to."""

    def __init__(self, port):
        self._redis = port
        self.how = "well"
        self._loop = asyncio.new_event_loop()
        self._lines = set()
        self._server = None
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, doing):
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(60)

    async def _end(self):
        self._server.close()
        for line in list(self._lines):
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _serve(self, reader, writer):
        line = asyncio.current_task()
        self._lines.add(line)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                there, to_redis = await asyncio.open_connection("127.0.0.1", self._redis)
                try:
                    await asyncio.gather(self._ask(reader, writer, to_redis), self._answer(there, writer))
                finally:
                    to_redis.close()
        finally:
            writer.close()
            self._lines.discard(line)

    async def _ask(self, reader, writer, to_redis):
        while data := await reader.read(65_536):
            if self.how == "closes":
                raise ConnectionResetError
            if self.how in GARBAGE:
                writer.write(GARBAGE[self.how])
            elif self.how != "silent":
                to_redis.write(data)
        raise ConnectionResetError

    async def _answer(self, there, writer):
        while data := await there.read(65_536):
            if self.how == "late":
                await asyncio.sleep(LATE)
            if self.how == "cut":
                data = data[: len(data) // 2]
            elif self.how == "changed":
                data = data.replace(b"e", b"x")
            elif self.how == "slow":
                for byte in data[:200]:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.01)
                continue
            writer.write(data)
        raise ConnectionResetError


GARBAGE = {
    "garbage": bytes(range(256)) * 9,
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "too much": b"+OK\r\n" * 50,
    "another type": b":1\r\n",
    "an endless length": b"$999999999999\r\nabc",
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "out of memory": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "read only": b"-READONLY You can't write against a read only replica.\r\n",
    "no key": b"-NOAUTH Authentication required.\r\n",
}
OF_REDIS = [*GARBAGE, "late", "slow", "silent", "closes", "cut", "changed"]


@pytest.fixture(scope="module")
def with_redis(simulator, tmp_path_factory):
    """``(asker, what stands between)``"""
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    with RedisServer() as redis, Between(redis.port) as between:
        url = f"redis://127.0.0.1:{between.port}"
        settings = configured(simulator, redis=url, seal_key="s", redis_budget=0.1, wait_for_others=0)
        with (
            GatewayProcess(settings, tmp_path_factory.mktemp("gateway")) as gateway,
            asking(gateway) as asker,
        ):
            yield asker, between


@pytest.mark.parametrize("how", OF_REDIS)
def test_a_redis_that_answers_late_or_nonsense_fails_no_call_and_gives_no_wrong_answer(how, with_redis):
    asker, between = with_redis
    first = 1_000 * OF_REDIS.index(how)
    known, new = range(first, first + QUESTIONS), range(first + 100, first + 100 + QUESTIONS)
    asker.hits(known)
    before = complaints(asker.gateway)
    between.how = how
    try:
        for _ in range(3):
            assert set(asker.all([*known, *new])) <= STATUSES
        assert complaints(asker.gateway) > before
    finally:
        between.how = "well"
    asker.hits([*known, *new])


def test_a_redis_that_nobody_finds_fails_no_call(simulator, tmp_path):
    settings = configured(simulator, redis="redis://127.0.0.1:1", seal_key="s")
    with GatewayProcess(settings, tmp_path) as gateway, asking(gateway) as asker:
        assert set(asker.all()) == {"created"}
        assert gateway.ask("/v1/cache")["workers"][0]["tiers"][-1]["open"]
