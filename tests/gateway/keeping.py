"""A gateway of a test that keeps answers, and calls that come again."""

import asyncio
import contextlib

from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    config,
    delta,
    frame,
    plain,
    read_answer,
    request,
    serving,
)

from penstock.cache.shared_clock import SharedClock
from penstock.cache.tiers.redis import RedisTier
from penstock.config.model import CacheConfig, ModelCacheConfig, ModelConfig, RetryConfig
from penstock.testing import ScriptedUpstream, Step

ASKED = {**PROMPT, "temperature": 0}
STREAM = {**ASKED, "stream": True}
KEPT, TIERS = ModelCacheConfig(usage="original"), CacheConfig()
STREAMED = [
    STREAM_HEAD,
    *(delta("h"), delta("i"), delta("", "stop"), frame({"choices": [], "usage": COMPLETION["usage"]}), DONE),
    STREAM_END,
]


def answering(text="hi", finish="stop"):
    """A script that gives the plain answer, again and again, on one connection."""
    body = {
        **COMPLETION,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
    }
    return [Step.REQUEST, plain(body)] * 50


def settings(*urls, cache=KEPT, tiers=TIERS, **more):
    made = config(*urls, cache=tiers, retry=RetryConfig(attempts=1), **more)
    made.models["m"] = ModelConfig(candidates=made.models["m"].candidates, cache=cache)
    return made


@contextlib.asynccontextmanager
async def gateway_of(scripts, **more):
    """``(gateway, port, upstream, wall)``; the wall's clock stands still."""
    async with ScriptedUpstream(scripts) as upstream:
        async with serving(settings(upstream.url, **more)) as (gateway, port):
            wall = Wall(gateway)
            yield gateway, port, upstream, wall


class Wall:
    def __init__(self, gateway):
        self.time = 1_700_000_000.0
        cache = gateway.cache
        for clocked in (cache.memory, *(guard.tier for guard in cache.guards)):
            if isinstance(clocked, RedisTier):
                clocked._clock = Deaf(lambda: self.time)
            else:
                clocked._now = lambda: self.time
        cache._clock = None
        cache.now = lambda: self.time


class Deaf(SharedClock):
    """The wall's clock, for a tier whose server's is another."""

    def __init__(self, now):
        super().__init__()
        self.now = now

    def heard(self, *_):
        return 0.0


@contextlib.asynccontextmanager
async def line_to(port):
    """``ask``: sends a request on one connection, and gives its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(*args, **kwargs):
        writer.write(request(*args, **kwargs))
        return await read_answer(reader)

    try:
        yield ask
    finally:
        writer.close()
        await writer.wait_closed()


async def thrice(ask, *args, **kwargs):
    """Asked once, found in memory, and answered without being read (if it is)."""
    return [await ask(*args, **kwargs) for _ in range(3)]


def apart(answer, *, but=("penstock-generation", "date")):
    return (
        answer.status,
        {name: value for name, value in answer.headers.items() if name not in but},
        answer.body,
    )
