"""A store that is full, locked, away, emptied or spoiled, at every moment of an answer: before it begins, in its middle, at
its end, and while somebody follows it in another process.  Its callers get their bytes, nothing is called durable that is
not, and once the store works again, all of it is there and new answers are durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3

import pytest
from durably import keeper_of, stored, two
from serving import DONE, PROMPT, STREAM_END, STREAM_HEAD, call, delta, on_uvloop, until

from needing import needs_redis
from penstock.config.model import GenerationsConfig
from penstock.config.secret import Secret
from penstock.testing import RedisServer, Step

STREAM = {**PROMPT, "stream": True}
HEAD = STREAM_HEAD.removesuffix(b"\r\n") + b"connection: close\r\n\r\n"
MOMENTS = ["before it begins", "in its middle", "at its end", "while it is followed"]


def said(port, *words):
    """What a Redis server answers to a command, at once."""
    parts = [word if isinstance(word, bytes) else word.encode() for word in words]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        asked = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        connection.sendall(b"*%d\r\n%b" % (len(parts), asked))
        return connection.recv(1 << 20)


# ---- troubles: each is there within its `with` -----------------------------------------------------


@contextlib.contextmanager
def locked(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def removed(path):
    for suffix in ("-shm", "-wal", ""):  # the file itself last: as soon as it is gone, a new one is begun
        path.with_name(path.name + suffix).unlink()
    yield


@contextlib.contextmanager
def cut(path):
    with path.open("r+b") as file:
        file.truncate(4_096)
    yield


@contextlib.contextmanager
def frozen(redis):
    redis.freeze()
    try:
        yield
    finally:
        redis.thaw()


@contextlib.contextmanager
def killed(redis):
    redis.kill()
    yield
    redis.start()


@contextlib.contextmanager
def flushed(redis):
    said(redis.port, "FLUSHALL")
    yield


@contextlib.contextmanager
def full(redis):
    said(redis.port, "CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        said(redis.port, "CONFIG", "SET", "maxmemory", "0")


@contextlib.contextmanager
def a_replica(redis):
    said(redis.port, "REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        said(redis.port, "REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def of_other_types(redis):
    """Somebody has put something else where the store keeps what it has."""
    keys = said(redis.port, "KEYS", "*").split(b"\r\n")[2::2]
    for key in keys:
        said(redis.port, "SET", key, "x")
    try:
        yield
    finally:
        for key in keys:
            said(redis.port, "DEL", key)


LASTING = {locked, frozen, killed, full, a_replica}  # nothing can be written meanwhile
ON_DISK = [locked, removed, cut]
IN_REDIS = [frozen, killed, flushed, full, a_replica, of_other_types]


@pytest.fixture(
    params=[*ON_DISK, *(pytest.param(one, marks=needs_redis) for one in IN_REDIS)],
    ids=lambda one: one.__name__,
)
def troubled_store(request, tmp_path):
    """``(settings, trouble, lasts)``"""
    trouble = request.param
    if trouble in ON_DISK:
        path = tmp_path / "generations.sqlite"
        settings = GenerationsConfig(durability="disk", path=str(path))
        yield settings, lambda: trouble(path), trouble in LASTING
        return
    with RedisServer() as redis:
        settings = GenerationsConfig(durability="shared", redis=Secret(redis.url))
        yield settings, lambda: trouble(redis), trouble in LASTING


async def state(port, generation):
    return (await call(port, b"", f"/v1/generations/{generation}", "GET")).json()


@pytest.mark.parametrize("moment", MOMENTS)
def test_callers_get_their_bytes_and_nothing_is_claimed(troubled_store, moment, caplog):
    settings, trouble, lasts = troubled_store

    async def main():
        begin, middle, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        script = [Step.REQUEST, HEAD, begin, delta("a"), middle, delta("b"), end, delta("c", "stop") + DONE]
        after = [Step.REQUEST, HEAD + delta("d", "stop") + DONE + STREAM_END]
        async with two([[*script, STREAM_END], after], lambda _: settings, troubled=True) as (
            (gateway, here),
            (other, there),
            _,
        ):
            journal = keeper_of(gateway).journal
            await call(here, b"", "/v1/generations/gen_" + "0" * 32, "GET")  # the store has been used
            async with contextlib.AsyncExitStack() as troubles:

                async def come_to(here_and_now):
                    if moment == here_and_now:
                        troubles.enter_context(trouble())

                await come_to(MOMENTS[0])
                begin.set()
                reading = asyncio.create_task(call(here, STREAM))
                await until(lambda: any(one.readable >= 1 for one in gateway.pipeline.registry))
                (one,) = gateway.pipeline.registry
                following = None
                if moment != MOMENTS[0]:
                    await until(lambda: one.durable)
                if moment == MOMENTS[3]:
                    before = len(other.pipeline.readings)
                    path = f"/v1/generations/{one.id}/events"
                    following = asyncio.create_task(call(there, b"", path, "GET"))
                    await until(lambda: len(other.pipeline.readings) > before)
                await come_to(MOMENTS[1])
                await come_to(MOMENTS[3])
                middle.set()
                await until(lambda: one.readable >= 2)
                if moment == MOMENTS[2]:
                    await until(lambda: one.durable)
                await come_to(MOMENTS[2])
                end.set()
                whole = await reading
                claimed = (await state(here, one.id))["durable"] if lasts else None
                if lasts:
                    await until(lambda: journal.statistics().trouble)
            await stored(gateway)
            told = await state(here, one.id)
            followed = None if following is None else await following
            found = await call(there, b"", f"/v1/generations/{one.id}/events", "GET")
            new = await call(here, STREAM)
            await stored(gateway)
            generation = new.headers["penstock-generation"]
            again = await call(there, b"", f"/v1/generations/{generation}/events", "GET")
            is_durable = (await state(here, generation))["durable"]
            return whole, claimed, told, followed, found, new, again, is_durable

    async def in_time():
        async with asyncio.timeout(60):
            return await main()

    whole, claimed, told, followed, found, new, again, is_durable = on_uvloop(in_time)
    assert whole.body.rstrip().endswith(b"[DONE]")
    assert whole.body.count(b'"content"') == 3
    assert not claimed
    assert told["durable"]
    assert found.body == whole.body
    if lasts:
        assert "not durable" in caplog.text or "readers do not wait for it" in caplog.text
    if followed is not None:
        assert followed.body == whole.body
    assert (again.body, is_durable) == (new.body, True)
