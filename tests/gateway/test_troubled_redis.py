"""A Redis that answers slowly, or nonsense, while answers are being made: they go on, and nothing is called durable."""

import asyncio
import contextlib

import pytest
from durably import keeper_of, stored
from serving import (
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    on_uvloop,
    serving,
    until,
)

from needing import needs_redis
from penstock.config.model import CandidateConfig, GenerationsConfig, ModelConfig
from penstock.config.secret import Secret
from penstock.testing import RedisServer, ScriptedUpstream, Step

pytestmark = needs_redis
SLOW = 0.3  # seconds: more than anybody waits for a batch, less than after which a connection is given up
NONSENSE = {
    "no protocol": b"\x16\x03\x01 garbage\r\n" * 50,
    "other types": b"+OK\r\n" * 50,
    "a length that cannot be": b"$99999999999999999999\r\n",
    "half an answer": b"*3\r\n$4\r\nab",
    "numbers that are none": b":twelve\r\n" * 50,
    "errors": b"-ERR no\r\n" * 50,
    "nested without end": b"*1\r\n" * 5_000,
}


class Between:
    """The connections between a gateway and its Redis; the answers of the one come as a test says."""

    def __init__(self, port):
        self.trouble = None  # seconds, or bytes in the place of each answer; None: none
        self.url = ""
        self._port = port
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        up = asyncio.create_task(self._carry(reader, to_there, None))
        self._tasks.add(up)
        await self._carry(there, writer, self)
        up.cancel()

    async def _carry(self, reader, writer, told):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                trouble = told.trouble if told is not None else None
                if isinstance(trouble, float):
                    await asyncio.sleep(trouble)
                writer.write(trouble if isinstance(trouble, bytes) else data)
                await writer.drain()
        writer.close()


def made_while(trouble):
    """A stream of which the first half is stored as usual: the answer, what is told of it, and metrics."""

    async def main():
        half, go_on = asyncio.Event(), asyncio.Event()
        rest = [delta("b"), delta("c"), go_on, delta("d", "stop") + DONE + STREAM_END]
        script = [Step.REQUEST, STREAM_HEAD, delta("a"), half, *rest]
        with RedisServer() as redis:
            async with Between(redis.port) as between, ScriptedUpstream([script]) as upstream:
                generations = GenerationsConfig(durability="shared", redis=Secret(between.url))
                models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")])}
                settings = config(upstream.url, generations=generations, models=models)
                async with serving(settings, troubled=True) as (gateway, port):
                    told = []

                    async def state():
                        (one,) = [*gateway.pipeline.registry, *gateway.pipeline.registry._ended.values()]
                        path = f"/v1/generations/{one.id}"
                        told.append((await call(port, b"", path, "GET")).json()["durable"])

                    reading = asyncio.create_task(call(port, {**PROMPT, "stream": True}))
                    await until(lambda: any(one.readable == 1 for one in gateway.pipeline.registry))
                    await state()
                    between.trouble = trouble
                    half.set()
                    await until(lambda: any(one.readable == 3 for one in gateway.pipeline.registry))
                    await state()
                    shown = str(gateway.metrics.collect())
                    figures = keeper_of(gateway).journal.statistics()
                    go_on.set()
                    whole = await reading
                    between.trouble = None
                    await stored(gateway)
                    await state()
                    found = await keeper_of(gateway).load(whole.headers["penstock-generation"])
                    return whole, told, figures, shown, found.events

    return on_uvloop(main)


@pytest.mark.parametrize("trouble", [SLOW, *NONSENSE.values()], ids=["slow", *NONSENSE])
def test_an_answer_goes_on_and_is_durable_once_its_store_makes_sense_again(trouble, caplog):
    whole, told, figures, shown, events = made_while(trouble)
    assert b"[DONE]" in whole.body
    assert [b'"%b"' % one in whole.body for one in (b"a", b"b", b"c", b"d")] == [True] * 4
    assert told == [True, False, True]
    assert figures.behind == 1
    assert "penstock_generations_behind" in shown
    if trouble == SLOW:
        assert "is slow" in caplog.text
    else:
        assert "answers are not durable now" in caplog.text or "is slow" in caplog.text
    assert "defect" not in caplog.text
    assert events == whole.body.count(b"\nid: ") + whole.body.startswith(b"id: ")
