"""A cache before an LLM API as articles build it: FastAPI, a hash of the body as the key, Redis with a lifetime.

With ``WRAPPER_AHEAD`` answers are also kept in the process, and whenever a section is asked for the next one is fetched
behind the answer, whether or not anybody will want it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis

UPSTREAM = os.environ["WRAPPER_UPSTREAM"]
TTL = float(os.environ["WRAPPER_TTL"])
AHEAD = bool(os.environ.get("WRAPPER_AHEAD"))
SECTION = re.compile(rb"section (\d+) of document (\d+)")
SECTIONS = 12

local: dict[str, tuple[float, bytes]] = {}
fetching: dict[str, asyncio.Task[bytes]] = {}
redis = Redis.from_url(os.environ["WRAPPER_REDIS"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=UPSTREAM, timeout=600) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


async def fetch(key: str, body: bytes) -> bytes:
    try:
        answer = await app.state.client.post("/v1/chat/completions", content=body)
        answer.raise_for_status()
        await redis.set(key, answer.content, px=int(TTL * 1_000))
        local[key] = (time.monotonic() + TTL, answer.content)
    finally:
        fetching.pop(key, None)
    return bytes(answer.content)


def key_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def kept(key: str) -> bytes | None:
    if AHEAD and key in local and local[key][0] > time.monotonic():
        return local[key][1]
    return await redis.get(key)


async def look_ahead(body: bytes) -> None:
    found = SECTION.search(body)
    if found is None or int(found[1]) + 1 >= SECTIONS:
        return
    following = body[: found.start(1)] + b"%d" % (int(found[1]) + 1) + body[found.end(1) :]
    key = key_of(following)
    if key not in fetching and await kept(key) is None:
        fetching[key] = asyncio.create_task(fetch(key, following))


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.body()
    key = key_of(body)
    answer = await kept(key)
    status = "created" if answer is None else "cached"
    if answer is None:
        answer = await fetch(key, body)
    if AHEAD:
        asyncio.create_task(look_ahead(body))  # noqa: RUF006 - the loop lives as long as the process
    return Response(answer, headers={"penstock-status": status}, media_type="application/json")
