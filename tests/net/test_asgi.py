"""The ASGI door: scripted scopes, and uvicorn with real sockets in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket

import pytest
import uvicorn
from fastapi import FastAPI
from listener_doubles import Client, Showcase, Watching, read_answers, run, until

from penstock.config.model import ListenerConfig
from penstock.errors import BodyTooLarge, RequestTimeout
from penstock.net.asgi import AnswerCut, serve_asgi


def scope(path="/", **more):
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "client": ("192.0.2.1", 5),
        "server": ("127.0.0.1", 80),
        **more,
    }


class Server:
    """Gives the messages of a script to ``receive``, and keeps what is sent."""

    def __init__(self, *script):
        self.script = asyncio.Queue()
        for message in script:
            self.script.put_nowait(message)
        self.sent = []
        self.blocked = None  # an event that `send` waits for
        self.broken = False
        self.sending = asyncio.Event()

    async def receive(self):
        return await self.script.get()

    async def send(self, message):
        self.sending.set()
        if self.broken:
            raise OSError("gone")
        if self.blocked is not None:
            await self.blocked.wait()
        self.sent.append(message)

    def leave(self):
        self.script.put_nowait({"type": "http.disconnect"})

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])

    @property
    def body(self):
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def complete(self):
        return not self.sent[-1].get("more_body", True)


def body(data, more=False):
    return {"type": "http.request", "body": data, "more_body": more}


EMPTY = {"type": "http.request"}


async def served(application, *script, config=None, **more):
    server = Server(*script)
    await serve_asgi(application, scope(**more), server.receive, server.send, config or ListenerConfig())
    return server


def test_a_whole_answer():
    application = Showcase()

    async def main():
        server = await served(application, body(b"hello"), path="/x", query_string=b"a=b", method="POST")
        assert server.status == 200
        assert server.headers == {b"x-method": b"POST", b"content-length": b"5"}
        assert server.body == b"hello"
        assert server.complete
        assert len(server.sent) == 2
        (exchange,) = application.seen
        assert (exchange.method, exchange.path, exchange.query) == ("POST", "/x", "a=b")
        assert exchange.peer == "192.0.2.1"
        assert exchange.headers == {b"host": b"x"}
        assert not exchange.gone

    run(main())


def test_repeated_fields_are_joined():
    application = Showcase()

    async def main():
        await served(application, EMPTY, headers=[(b"A", b"1"), (b"a", b"2")])
        assert application.seen[0].headers == {b"a": b"1, 2"}

    run(main())


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\0"])
def test_a_field_that_would_end_its_line_at_an_upstream_is_refused(end):
    application = Showcase()

    async def main():
        server = await served(application, EMPTY, headers=[(b"anthropic-beta", b"a" + end + b"x-api-key: b")])
        assert server.sent[0]["status"] == 400
        assert b"bad_header" in server.sent[1]["body"]
        assert application.seen == []

    run(main())


def test_a_streamed_answer_goes_out_piece_by_piece_without_a_length():
    async def main():
        server = await served(Showcase(), EMPTY, path="/stream")
        assert server.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        assert server.complete
        assert b"content-length" not in server.headers

    run(main())


def test_a_stream_goes_out_piece_by_piece():
    application = Showcase()

    async def main():
        server = Server(EMPTY)
        task = asyncio.create_task(
            serve_asgi(application, scope("/slow-stream"), server.receive, server.send, ListenerConfig())
        )
        await until(lambda: len(server.sent) == 2)
        assert server.body == b"first"
        application.go.set()
        await task
        assert server.body == b"firstsecond"
        assert server.complete

    run(main())


@pytest.mark.parametrize(
    "script", [[body(b"hello")], [body(b"he", True), body(b"llo")], [body(b"hello", True), EMPTY]]
)
@pytest.mark.parametrize("path", ["/echo", "/pieces-body"])
def test_a_body_is_gathered_however_it_was_cut(script, path):
    async def main():
        server = await served(Showcase(), *script, path=path)
        assert server.body == b"hello"

    run(main())


@pytest.mark.parametrize("script", [[body(b"hello")], [body(b"he", True), body(b"llo")]])
def test_a_body_may_be_read_piece_by_piece(script):
    async def main():
        server = await served(Showcase(), *script, path="/pieces")
        assert server.body == b"5"

    run(main())


@pytest.mark.parametrize(
    ("script", "headers"),
    [
        ([body(b"x" * 101)], []),
        ([body(b"x" * 60, True), body(b"x" * 60, True)], []),
        ([], [(b"content-length", b"101")]),  # refused before anything is received
    ],
)
def test_a_long_body_is_told_to_the_application(script, headers):
    application = Showcase(limit=100)

    async def main():
        server = await served(application, *script, path="/read", headers=headers)
        assert server.status == 413
        assert json.loads(server.body)["error"]["code"] == "body_too_large"
        assert isinstance(application.failures[0], BodyTooLarge)

    run(main())


def test_the_configured_limit_bounds_the_applications():
    async def main():
        server = await served(
            Showcase(), body(b"x" * 101), path="/read", config=ListenerConfig(max_body_bytes=100)
        )
        assert server.status == 413
        server = await served(
            Showcase(), body(b"x" * 101), path="/pieces-body", config=ListenerConfig(max_body_bytes=100)
        )
        assert server.status == 413

    run(main())


def test_a_body_that_does_not_come_is_told_to_the_application():
    application = Showcase()

    async def main():
        config = ListenerConfig(body_timeout=0.01)
        server = await served(application, body(b"x", True), path="/read", config=config)
        assert server.status == 408
        assert isinstance(application.failures[0], RequestTimeout)

    run(main())


@pytest.mark.parametrize("path", ["/hang", "/slow-stream"])
def test_a_client_that_leaves_during_the_answer_is_noticed(path):
    application = Showcase()

    async def main():
        server = Server(EMPTY)
        task = asyncio.create_task(
            serve_asgi(application, scope(path), server.receive, server.send, ListenerConfig())
        )
        await until(lambda: application.called)
        server.leave()
        await application.watching.gone.wait()
        (exchange,) = application.called
        assert exchange.gone
        late = Watching()
        exchange.watch(late)
        assert late.times_gone == 1
        application.go.set()
        await task
        assert application.watching.times_gone == 1
        assert not [message for message in server.sent if message.get("more_body") is False]

    run(main())


def test_a_client_that_is_found_gone_when_sending_is_noticed():
    application = Showcase()

    async def main():
        server = Server(EMPTY)
        server.broken = True
        task = asyncio.create_task(
            serve_asgi(application, scope("/slow-stream"), server.receive, server.send, ListenerConfig())
        )
        await application.watching.gone.wait()
        application.go.set()
        await task

    run(main())


@pytest.mark.parametrize(
    "script", [[{"type": "http.disconnect"}], [body(b"x", True), {"type": "http.disconnect"}]]
)
def test_a_client_that_leaves_within_its_body(script):
    application = Showcase()

    async def main():
        server = await served(application, *script, path="/read")
        assert application.called == []
        assert server.sent == []
        server = await served(application, *script, path="/pieces")
        assert isinstance(application.failures[0], ConnectionError)
        assert server.sent == []

    run(main())


def test_writing_pauses_when_the_server_does_not_send():
    application = Showcase()
    written = []

    class Counting(Showcase):
        async def echo(self, exchange):
            exchange.watch(application.watching)
            exchange.start(200, [])
            while exchange.write(b"x" * 10_000):
                written.append(1)
            await application.watching.writable.wait()
            exchange.write(b"more")
            exchange.end()

    async def main():
        server = Server(EMPTY)
        server.blocked = asyncio.Event()
        config = ListenerConfig(write_high_water=65_536)
        task = asyncio.create_task(serve_asgi(Counting(), scope(), server.receive, server.send, config))
        await server.sending.wait()
        await asyncio.sleep(0)
        assert len(written) == 6
        assert not application.watching.writable.is_set()
        server.blocked.set()
        await task
        assert len(server.body) == 70_004
        assert server.complete

    run(main())


def test_a_client_that_takes_nothing_for_too_long_is_gone():
    application = Showcase()

    class Telling(Showcase):
        async def echo(self, exchange):
            exchange.watch(application.watching)
            exchange.start(200, [])
            exchange.write(b"x")
            await application.watching.gone.wait()

    async def main():
        server = Server(EMPTY)
        server.blocked = asyncio.Event()
        config = ListenerConfig(write_timeout=0.01)
        with pytest.raises(AnswerCut):
            await serve_asgi(Telling(), scope(), server.receive, server.send, config)
        assert asyncio.current_task().cancelling() == 0
        assert application.watching.gone.is_set()

    run(main())


def test_a_client_that_has_nothing_to_take_is_waited_for():
    class Quiet(Showcase):
        async def echo(self, exchange):
            exchange.start(200, [])
            await asyncio.sleep(0.05)
            exchange.end()

    async def main():
        server = Server(EMPTY)
        await serve_asgi(Quiet(), scope(), server.receive, server.send, ListenerConfig(write_timeout=0.01))
        assert server.complete

    run(main())


def test_pieces_are_received_as_they_are_read():
    application = Showcase()

    async def main():
        server = Server(*[body(b"x" * 1_000, True)] * 100, body(b""))
        config = ListenerConfig(pipeline_bytes=10_000)
        task = asyncio.create_task(
            serve_asgi(application, scope("/pieces-late"), server.receive, server.send, config)
        )
        await until(lambda: application.called)
        for _ in range(50):
            await asyncio.sleep(0)
        assert 80 <= server.script.qsize() <= 92
        application.go.set()
        await task
        assert server.body == b"100000"

    run(main())


def test_head_gets_the_fields_of_get_and_no_body():
    async def main():
        for path in ("/x", "/stream"):
            head = await served(Showcase(), EMPTY, path=path, method="HEAD")
            full = await served(Showcase(), EMPTY, path=path)
            assert head.body == b""
            assert head.headers.get(b"content-length") == full.headers.get(b"content-length")

    run(main())


@pytest.mark.parametrize(
    "path", ["/defect", "/defect-after-head", "/broken-opening", "/silent", "/injection"]
)
def test_a_defect_gets_500_and_no_detail(path, caplog):
    async def main():
        server = await served(Showcase(), EMPTY, path=path)
        assert server.status == 500
        assert json.loads(server.body) == {
            "error": {"message": "internal error", "type": "api_error", "code": "internal_error"}
        }

    with caplog.at_level(logging.ERROR):
        run(main())
    assert path in caplog.text


@pytest.mark.parametrize("path", ["/defect-in-stream", "/abort-in-stream"])
def test_an_answer_that_is_cut_is_not_ended(path):
    async def main():
        server = Server(EMPTY)
        with pytest.raises(AnswerCut):
            await serve_asgi(Showcase(), scope(path), server.receive, server.send, ListenerConfig())
        assert server.body == b"piece"
        assert not server.complete

    run(main())


def test_an_early_answer_needs_no_body():
    application = Showcase()

    async def main():
        server = await served(application, path="/early")
        assert (server.status, server.body) == (401, b"early")
        assert application.called == []

    run(main())


def test_a_server_that_cancels_takes_the_application_along():
    application = Showcase()

    async def main():
        server = Server(EMPTY)
        task = asyncio.create_task(
            serve_asgi(application, scope("/hang"), server.receive, server.send, ListenerConfig())
        )
        await until(lambda: application.called)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert application.watching.times_gone == 1

    run(main())


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"path": "/v1/x"}, "/v1/x"),
        ({"path": "/api/v1/x", "root_path": "/api"}, "/v1/x"),
        ({"path": "/api/v1/x", "root_path": "/api/"}, "/v1/x"),
        ({"path": "/v1/x", "root_path": "/api"}, "/v1/x"),  # servers before ASGI said so
        ({"path": "/apis/x", "root_path": "/api"}, "/apis/x"),
        ({"path": "/api", "root_path": "/api"}, "/"),
        ({"path": "/", "root_path": ""}, "/"),
        ({"path": "/a b/c", "raw_path": b"/a%20b/c"}, "/a%20b/c"),
        ({"path": "/ü/a/b", "raw_path": b"/%C3%BC/a%2Fb", "root_path": "/ü"}, "/a%2Fb"),
        ({"path": "/a b", "raw_path": None}, "/a%20b"),
        ({"path": "/api/a b", "raw_path": b"/a%20b", "root_path": "/api"}, "/a%20b"),
    ],
)
def test_the_path_is_below_the_place_of_mounting(given, path):
    application = Showcase()

    async def main():
        raw = given.get("raw_path", given["path"].encode())
        await served(application, EMPTY, **{**given, "raw_path": raw})
        assert application.seen[0].path == path

    run(main())


def test_only_http_is_served():
    async def main():
        with pytest.raises(ValueError, match="websocket"):
            await served(Showcase(), type="websocket")

    run(main())


def test_an_application_may_answer_in_callbacks():
    class InCallbacks(Showcase):
        def __call__(self, exchange):
            body = exchange.whole_body()
            asyncio.get_running_loop().call_soon(exchange.respond, 200, [], body)

    async def main():
        server = await served(InCallbacks(), body(b"hello"))
        assert server.body == b"hello"
        server = await served(InCallbacks(limit=4), body(b"hello"))
        assert server.status == 413

    run(main())


# ---- uvicorn


@contextlib.asynccontextmanager
async def uvicorn_serving(app, http):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([sock]))
    await until(lambda: server.started)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        sock.close()


def app_of(application, config=None):
    async def app(scope, receive, send):
        await serve_asgi(application, scope, receive, send, config or ListenerConfig())

    return app


HTTP = pytest.mark.parametrize("http", ["h11", "httptools"])


def request(path, *fields, content=b"", method=b"GET"):
    if content:
        fields = (*fields, b"Content-Length: %d" % len(content))
    return b"\r\n".join((b"%s %s HTTP/1.1" % (method, path), b"Host: x", *fields, b"", b"")) + content


@HTTP
def test_uvicorn_serves_requests_of_every_form(http):
    application = Showcase()

    async def main():
        async with uvicorn_serving(app_of(application), http) as port:
            with await Client.connect(port) as client:
                await client.send(request(b"/a%20b?c", content=b"hello", method=b"POST"))
                await client.send(request(b"/stream"))
                await client.send(request(b"/pieces", content=b"x" * 300_000, method=b"POST"))
                await client.send(request(b"/defect"))
                await client.send(request(b"/x", method=b"HEAD"))
                await client.send(request(b"/sentinel", b"Connection: close"))
                answers = read_answers(
                    await client.receive_all(), ["POST", "GET", "POST", "GET", "HEAD", "GET"]
                )
                assert [answer.status for answer in answers] == [200, 200, 200, 500, 200, 200]
                assert answers[0].body == b"hello"
                assert answers[1].body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
                assert answers[1].headers[b"transfer-encoding"] == b"chunked"
                assert answers[2].body == b"300000"
                assert answers[4].headers[b"content-length"] == b"2"
                assert answers[5].body == b"sentinel"
                assert application.seen[0].path == "/a%20b"
                assert application.seen[0].query == "c"

    run(main())


@HTTP
@pytest.mark.parametrize("way", ["reset", "close", "half-close"])
def test_a_client_that_leaves_uvicorn_is_noticed(http, way):
    application = Showcase()

    async def main():
        async with uvicorn_serving(app_of(application), http) as port:
            with await Client.connect(port) as client:
                await client.send(request(b"/slow-stream"))
                await client.receive_until(b"first")
                {"reset": client.reset, "close": client.close, "half-close": client.half_close}[way]()
                await application.watching.gone.wait()
                application.go.set()

    run(main())


@HTTP
def test_a_cut_answer_is_not_complete_behind_uvicorn(http):
    async def main():
        async with uvicorn_serving(app_of(Showcase()), http) as port:
            with await Client.connect(port) as client:
                await client.send(request(b"/abort-in-stream"))
                (answer,) = read_answers(await client.receive_all())
                assert not answer.complete

    run(main())


@HTTP
def test_a_slow_reader_behind_uvicorn_gets_everything(http):
    application = Showcase()

    async def main():
        async with uvicorn_serving(app_of(application), http) as port:
            with await Client.connect(port) as client:
                await client.send(request(b"/flood"))
                await application.paused.wait()
                await client.receive_until(b"\r\n0\r\n\r\n")
                (answer,) = read_answers(client.received)
                assert answer.complete
                assert len(answer.body) == 320 * 65_536

    run(main())


def test_mounted_in_an_application_of_somebody_else():
    application = Showcase()
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    outer.mount("/llm", app_of(application))

    async def main():
        async with uvicorn_serving(outer, "httptools") as port:
            with await Client.connect(port) as client:
                await client.send(request(b"/llm/a%2Fb/c", b"Connection: close"))
                (answer,) = read_answers(await client.receive_all())
                assert answer.body == b"/a%2Fb/c"

    run(main())
