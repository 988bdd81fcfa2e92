"""A client that is closed while answers come: they end as they would without us, and nothing is connected any more."""

from __future__ import annotations

import asyncio
import importlib
from functools import partial

import pytest

import penstock
from penstock.testing import ScriptedUpstream, Step

REQUEST = Step.REQUEST
STREAM = b"HTTP/1.1 200 OK\r\npenstock-generation: gen_1\r\ncontent-type: text/event-stream\r\n\r\n"
EVENT = b'id: 0\ndata: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
REST = b"HTTP/1.1 200 OK\r\npenstock-generation: gen_1\r\ncontent-type: text/event-stream\r\n\r\n"
REST += b"id: 1\ndata: [DONE]\n\n"
BODY = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}


def asked(http, url):
    return http.build_request("POST", url + "/v1/chat/completions", json=BODY)


async def closed_in_mid_stream(http, url, close):
    """What the reader has of an answer whose client is closed after its first event."""
    response = await http.send(asked(http, url), stream=True)
    pieces = response.aiter_bytes()
    assert await anext(pieces) == EVENT
    await close(http)
    try:
        return b"".join([piece async for piece in pieces])
    finally:
        await response.aclose()
        await http.aclose()


def closed_in_mid_stream_sync(http, url, close):
    response = http.send(asked(http, url), stream=True)
    pieces = response.iter_bytes()
    assert next(pieces) == EVENT
    close(http)
    try:
        return b"".join(pieces)
    finally:
        response.close()
        http.close()


WAYS = {
    "async, closed": (penstock.async_http_client, closed_in_mid_stream, lambda http: http.aclose()),
    "async, left": (penstock.async_http_client, closed_in_mid_stream, lambda http: http.__aexit__()),
    "sync, closed": (penstock.http_client, closed_in_mid_stream_sync, lambda http: http.close()),
    "sync, left": (penstock.http_client, closed_in_mid_stream_sync, lambda http: http.__exit__()),
}


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize("way", WAYS)
def test_who_closes_the_client_in_mid_stream_has_no_more_of_it_and_no_connection_is_made(library, way):
    errors = importlib.import_module(library)
    make, read, close = WAYS[way]

    async def main():
        first = [REQUEST, STREAM + EVENT, asyncio.Event()]
        async with asyncio.timeout(30), ScriptedUpstream([first, [REQUEST, REST]]) as server:
            http = make(library=library, gateways=[server.url], trust_env=False, first_delay=0.001)
            reading = read if "async" in way else partial(asyncio.to_thread, read)
            with pytest.raises(errors.TransportError):
                await reading(http, server.url, close)
            return server.connections

    assert asyncio.run(main()) == 1
