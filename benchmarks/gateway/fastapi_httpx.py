"""The usual way: FastAPI in front, httpx behind, one shared client, streams passed on as they come."""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

KEY = os.environ["WRAPPER_KEY"]
UPSTREAM = os.environ["WRAPPER_UPSTREAM"]
HEADERS = {"authorization": "Bearer sk-upstream", "content-type": "application/json"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Few idle connections: httpcore asks the kernel about each of them for every request.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    async with httpx.AsyncClient(base_url=UPSTREAM, limits=limits, timeout=600) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {KEY}".encode()):
        raise HTTPException(401, "wrong key")
    client: httpx.AsyncClient = request.app.state.client
    body = await request.json()
    sent = client.build_request("POST", "/v1/chat/completions", content=await request.body(), headers=HEADERS)
    if not body.get("stream"):
        answer = await client.send(sent)
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])
    answer = await client.send(sent, stream=True)
    return StreamingResponse(
        answer.aiter_bytes(),
        answer.status_code,
        media_type=answer.headers["content-type"],
        background=BackgroundTask(answer.aclose),
    )
