from __future__ import annotations

import asyncio

import pytest

from penstock.testing import ScriptedUpstream, Step

REQUEST = b"POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"POST /v1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"


def run(scripts, scene):
    async def main():
        async with ScriptedUpstream(scripts) as upstream:
            async with asyncio.timeout(60):
                await scene(upstream)

    asyncio.run(main())


async def connect(upstream):
    return await asyncio.open_connection("127.0.0.1", upstream.port)


@pytest.mark.parametrize("request_", [REQUEST, CHUNKED])
def test_an_answer_waits_for_a_whole_request(request_):
    async def scene(upstream):
        reader, writer = await connect(upstream)
        writer.write(request_[:-1])
        await upstream.wait_received(request_[:-1])
        assert upstream.received == [request_[:-1]]
        writer.write(request_[-1:] + request_)
        assert await reader.readexactly(5) == b"first"
        assert await reader.readexactly(6) == b"second"
        writer.close()
        await upstream.wait_gone()

    run([[Step.REQUEST, b"first", Step.REQUEST, b"second"]], scene)


def test_it_pauses_until_an_event():
    go = asyncio.Event()

    async def scene(upstream):
        reader, writer = await connect(upstream)
        assert await reader.readexactly(1) == b"a"
        go.set()
        assert await reader.read() == b"b"
        await upstream.wait_played(1)
        writer.close()

    run([[b"a", go, b"b", Step.CLOSE]], scene)


def test_a_reset_is_a_reset():
    async def scene(upstream):
        reader, writer = await connect(upstream)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    run([[Step.RESET]], scene)


def test_a_half_close_goes_on_reading():
    async def scene(upstream):
        reader, writer = await connect(upstream)
        assert await reader.read() == b"bye"
        writer.write(b"still here")
        await upstream.wait_received(b"still here")
        writer.close()
        await upstream.wait_gone()

    run([[b"bye", Step.HALF_CLOSE]], scene)


def test_it_waits_for_the_client_to_go_and_may_then_still_speak():
    async def scene(upstream):
        reader, writer = await connect(upstream)
        writer.write_eof()
        assert await reader.read() == b"too late"
        writer.close()

    run([[Step.GONE, b"too late", Step.CLOSE]], scene)


def test_each_connection_has_its_script_and_the_last_serves_the_rest():
    async def scene(upstream):
        said = []
        for _ in range(4):
            reader, writer = await connect(upstream)
            said.append(await reader.read())
            writer.close()
        assert said == [b"one", b"more", b"more", b"more"]
        assert upstream.connections == 4
        await upstream.wait_connections(4)

    run([[b"one", Step.CLOSE], [b"more", Step.CLOSE]], scene)


def test_what_is_open_at_the_end_is_cut():
    async def main():
        async with ScriptedUpstream([[asyncio.Event()]]) as upstream:
            reader, writer = await connect(upstream)
        try:
            rest = await reader.read()
        except ConnectionResetError:
            rest = b""
        assert rest == b""
        writer.close()

    asyncio.run(main())


def test_there_must_be_a_script():
    with pytest.raises(ValueError, match="script"):
        ScriptedUpstream([])
