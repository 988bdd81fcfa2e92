"""The pool against HTTP servers that others wrote: uvicorn with both of its parsers, and h11 by hand."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import time

import h11
import pytest
import uvicorn
from upstream_doubles import GET, HEAD, Collector, RawServer, ask, pool_to, post

from penstock.net.connection import FULL

BIG = bytes(range(256)) * 12_000


# ---- uvicorn ---------------------------------------------------------------------------------------


class App:
    """Answers with the digest of the body; ``/stream`` with pieces, until it is told that the client left."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        digest, more = hashlib.sha256(), True
        while more:
            message = await receive()
            digest.update(message["body"])
            more = message["more_body"]
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Kind", b"stream")]})
            for i in range(50):
                await send({"type": "http.response.body", "body": b"%d " % i, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        elif scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
        else:
            body = digest.hexdigest().encode()
            fields = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


@contextlib.asynccontextmanager
async def uvicorn_of(app, parser):
    config = uvicorn.Config(
        app, http=parser, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_uvicorn_and_the_pool_understand_each_other(run, parser):
    async def main():
        app = App()
        async with uvicorn_of(app, parser) as port:
            pool = pool_to(port, max_open=5)
            small, big = hashlib.sha256(b"").hexdigest().encode(), hashlib.sha256(BIG).hexdigest().encode()
            assert (await ask(pool)).body == small
            assert (await ask(pool, post(len(BIG)), BIG)).body == big
            head = await ask(pool, HEAD)
            assert (head.status, head.body, head.headers[b"content-length"]) == (200, b"", b"64")
            stream = await ask(pool, GET.replace(b"/ ", b"/stream ", 1))
            assert stream.body == b"".join(b"%d " % i for i in range(50))
            assert stream.headers[b"x-kind"] == b"stream"
            chunked = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            assert (await ask(pool, chunked, b"3\r\nabc\r\n0\r\n\r\n")).body == hashlib.sha256(
                b"abc"
            ).hexdigest().encode()
            assert pool.statistics().opened_total == 1

            answers = await asyncio.gather(*(ask(pool, post(len(BIG)), BIG) for _ in range(20)))
            assert {answer.body for answer in answers} == {big}
            assert pool.statistics().open <= 5

            receiver = Collector()
            connection = await pool.acquire()
            future = connection.send(GET.replace(b"/ ", b"/endless ", 1), b"", receiver)
            await receiver.wait_body(b"first")
            connection.hang_up(5)
            await app.left.wait()
            await future
            assert receiver.body == b"first"

            bad = await ask(pool, b"NONSENSE\r\n\r\n")
            assert bad.status == 400
            await pool.close()
            assert pool.statistics().open == 0

    run(main)


# ---- h11 -------------------------------------------------------------------------------------------


async def serve_by_h11(reader, writer):
    """Echoes bodies, in the framing that the path names."""
    connection = h11.Connection(h11.SERVER)

    async def next_event():
        while True:
            event = connection.next_event()
            if event is not h11.NEED_DATA:
                return event
            connection.receive_data(await reader.read(65_536))

    while True:
        request = await next_event()
        if isinstance(request, h11.ConnectionClosed):
            return
        body = b""
        while isinstance(event := await next_event(), h11.Data):
            body += event.data
        headers = {
            b"/length": [("content-length", str(len(body)))],
            b"/chunked": [("transfer-encoding", "chunked")],
            b"/close": [("connection", "close")],
        }[request.target]
        writer.write(connection.send(h11.InformationalResponse(status_code=103, headers=[("link", "</a>")])))
        writer.write(connection.send(h11.Response(status_code=200, headers=headers)))
        for start in range(0, len(body), 1_000):
            writer.write(connection.send(h11.Data(data=body[start : start + 1_000])))
            await writer.drain()
        writer.write(connection.send(h11.EndOfMessage()))
        if connection.our_state is h11.MUST_CLOSE:
            return
        connection.start_next_cycle()


def test_h11_and_the_pool_understand_each_other(run):
    async def main():
        async with RawServer(serve_by_h11) as server:
            pool = pool_to(server.port)
            for path, open_after in ((b"/length", 1), (b"/chunked", 1), (b"/close", 0)):
                for body in (b"", b"a", b"abc" * 5_000, BIG[:300_000]):
                    receiver = await ask(pool, post(len(body)).replace(b"/ ", path + b" ", 1), body)
                    assert receiver.status == 200
                    assert receiver.body == body
                    assert b"link" not in receiver.headers
                    assert pool.statistics().open == open_after
            assert server.accepted == 4
            await pool.close()

    run(main)


def test_a_flood_leaves_every_turn_of_the_event_loop_to_others(run):
    async def main():
        body = bytes(16 << 20)
        door = socket.create_server(("127.0.0.1", 0))

        def flood():
            peer, _ = door.accept()
            with peer:
                peer.settimeout(60)
                peer.recv(65_536)
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                peer.recv(1)  # nothing: it was closed

        turns = 0
        pieces = {}

        class Slow(Collector):
            def on_data(self, data):
                super().on_data(data)
                pieces.setdefault(turns, []).append(len(data))
                time.sleep(0.001)  # the work that it makes: the kernel's buffer is full again after that

        def turn():
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop = asyncio.get_running_loop()
        flooding = loop.run_in_executor(None, flood)
        pool = pool_to(door.getsockname()[1])
        connection = await pool.acquire()
        turn()
        receiver = Slow()
        await connection.send(GET, b"", receiver)
        await pool.close()
        await flooding
        door.close()
        assert receiver.body == body
        assert max(sum(size > FULL for size in sizes) for sizes in pieces.values()) == 1

    run(main)
