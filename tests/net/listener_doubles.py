"""An application that shows what the listener gives it, and a client that speaks in raw bytes."""

from __future__ import annotations

import asyncio
import socket

import h11
import uvloop
from upstream_doubles import until

from penstock.config.model import ListenerConfig
from penstock.net.clock import Clock
from penstock.net.listener import Listener

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: x\r\n\r\n"


def run(main, loop="asyncio"):
    """Run ``main`` to its end; an exception that nobody caught fails the test."""
    uncaught = []

    async def guarded():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
        async with asyncio.timeout(60):
            await main

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(guarded())
    assert uncaught == []


class Watching:
    def __init__(self):
        self.gone = asyncio.Event()
        self.times_gone = 0
        self.writable = asyncio.Event()

    def on_gone(self):
        self.times_gone += 1
        self.gone.set()

    def on_writable(self):
        self.writable.set()


class Showcase:
    """What it does depends on the path; what it saw can be looked at."""

    def __init__(self, limit=1_000_000):
        self.limit = limit
        self.seen = []  # every exchange, from `opening` on
        self.called = []
        self.go = asyncio.Event()  # what /hang and /flood wait for
        self.paused = asyncio.Event()  # /flood has been told to stop
        self.watching = Watching()
        self.failures = []  # what reading a body raised

    def opening(self, exchange):
        self.seen.append(exchange)
        if exchange.path == "/early":
            exchange.respond(401, [], b"early")
        if exchange.path == "/cut-early":
            exchange.abort()
        if exchange.path == "/broken-opening":
            raise KeyError("opening")
        return None if exchange.path.startswith("/pieces") else self.limit

    async def __call__(self, exchange):
        self.called.append(exchange)
        what = exchange.path.removeprefix("/").replace("-", "_") or "echo"
        await getattr(self, what, self.echo)(exchange)

    async def echo(self, exchange):
        body = await exchange.body()
        exchange.respond(200, [(b"x-method", exchange.method.encode())], body or exchange.path.encode())

    async def sentinel(self, exchange):
        exchange.respond(200, [], b"sentinel")

    async def read(self, exchange):
        try:
            await exchange.body()
        except Exception as error:
            self.failures.append(error)
            raise
        exchange.respond(200, [], b"")

    async def empty(self, exchange):
        exchange.respond(204, [], b"ignored")

    async def big(self, exchange):
        exchange.respond(200, [], b"b" * 1_000_000)

    async def bulk(self, exchange):
        exchange.respond(200, [], b"b" * 20_000_000)

    async def stream(self, exchange):
        exchange.start(200, [(b"content-type", b"text/event-stream")])
        for number in range(3):
            exchange.write(b"data: %d\n\n" % number)
        exchange.end()

    async def slow_stream(self, exchange):
        exchange.watch(self.watching)
        exchange.start(200, [])
        exchange.write(b"first")
        await self.go.wait()
        exchange.write(b"second")
        exchange.end()

    async def late_head(self, exchange):
        exchange.start(200, [])
        await self.go.wait()
        exchange.end()

    async def no_pieces(self, exchange):
        exchange.start(200, [])
        exchange.end()

    async def hang(self, exchange):
        exchange.watch(self.watching)
        await self.go.wait()
        exchange.respond(200, [], b"went")

    async def flood(self, exchange):
        """Write until told to stop, wait, and so on: 20 MB."""
        exchange.watch(self.watching)
        exchange.start(200, [])
        for _ in range(320):
            if not exchange.write(b"f" * 65_536) and not exchange.gone:
                self.paused.set()
                self.watching.writable.clear()
                waits = [
                    asyncio.ensure_future(e.wait()) for e in (self.watching.writable, self.watching.gone)
                ]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
        exchange.end()

    async def pieces(self, exchange):
        total = 0
        try:
            async for piece in exchange.pieces():
                total += len(piece)
        except Exception as error:
            self.failures.append(error)
            raise
        exchange.respond(200, [], b"%d" % total)

    async def pieces_late(self, exchange):
        exchange.watch(self.watching)
        await self.go.wait()
        await self.pieces(exchange)

    async def pieces_unread(self, exchange):
        exchange.respond(200, [], b"unread")

    async def pieces_refused(self, exchange):
        total = 0
        async for piece in exchange.pieces():
            total += len(piece)
            if total >= 100_000:
                break
        exchange.respond(429, [], b"refused")

    async def pieces_body(self, exchange):
        exchange.respond(200, [], await exchange.body())

    async def inform(self, exchange):
        exchange.inform(104, [(b"upload-offset", b"7")])
        exchange.respond(200, [], b"informed")

    async def defect(self, exchange):
        raise KeyError("defect")

    async def defect_after_head(self, exchange):
        exchange.start(200, [])
        raise KeyError("defect")

    async def defect_in_stream(self, exchange):
        exchange.start(200, [])
        exchange.write(b"piece")
        await asyncio.sleep(0)
        raise KeyError("defect")

    async def abort_in_stream(self, exchange):
        exchange.start(200, [])
        exchange.write(b"piece")
        exchange.abort()

    async def silent(self, exchange):
        pass

    async def injection(self, exchange):
        exchange.respond(200, [(b"x", b"y\r\nset-cookie: z")], b"")

    async def injection_in_stream(self, exchange):
        exchange.start(200, [(b"x", b"y\nset-cookie: z")])


class FakeTime:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


class Served:
    """A listener on a free port, its clock in the test's hand."""

    def __init__(self, application=None, *, ssl=None, **limits):
        self.application = application or Showcase()
        self.time = FakeTime()
        self.clock = Clock(self.time)
        self.refusals = []
        self.listener = Listener(
            self.application, ListenerConfig(**limits), self.clock, on_refused=self.refusals.append
        )
        self._ssl = ssl

    async def __aenter__(self):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        await self.listener.serve(sock, ssl=self._ssl)
        return self

    async def __aexit__(self, *exc_info):
        await self.listener.drain(0)
        await until(lambda: self.listener.statistics().open == 0)

    def pass_time(self, seconds):
        self.time.now += seconds
        self.clock.sweep()

    async def client(self):
        return await Client.connect(self.port)


class Client:
    """One connection, bytes in and bytes out."""

    def __init__(self, sock):
        self.sock = sock
        self.received = bytearray()

    @classmethod
    async def connect(cls, port):
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        return cls(sock)

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self):
        """Some bytes; b"": the server has closed its side."""
        async with asyncio.timeout(60):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
        self.received += data
        return data

    async def receive_until(self, mark):
        searched = 0
        while self.received.find(mark, searched) < 0:
            searched = max(0, len(self.received) - len(mark))
            assert await self.receive(), f"closed before {mark!r}: {bytes(self.received)!r}"

    async def receive_all(self):
        """Everything until the server closes its side."""
        while await self.receive():
            pass
        return bytes(self.received)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class Answer:
    def __init__(self, head, body, complete, interim):
        self.status = head.status_code
        self.headers = dict(head.headers)
        self.body = body
        self.complete = complete
        self.interim = interim
        self.closes = self.headers.get(b"connection") == b"close"

    def __repr__(self):
        return f"<Answer {self.status} {self.body[:60]!r} complete={self.complete}>"


def read_answers(data, methods=(), *, closed=True):
    """Take ``data`` apart as h11 understands it, which knows nothing of us.

    :param methods: of the requests, in order; GET for those that are missing
    """
    answers = []
    data = bytes(data)
    methods = list(methods)
    while data:
        client = h11.Connection(h11.CLIENT)
        method = methods.pop(0) if methods else "GET"
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        head, body, interim, complete = None, bytearray(), [], False
        while True:
            try:
                event = client.next_event()
            except h11.RemoteProtocolError:
                break
            if event is h11.NEED_DATA:
                if not closed:
                    break
                closed = False
                client.receive_data(b"")
                continue
            if isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                complete = True
                break
            else:
                break
        assert head is not None, f"no answer in {data!r}"
        answers.append(Answer(head, bytes(body), complete, interim))
        if not complete:
            break
        data = client.trailing_data[0]
    return answers


class FakeTransport(asyncio.Transport):
    """Collects what the protocol writes; takes everything at once."""

    def __init__(self, protocol):
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.protocol = protocol
        self.written = b""
        self.ended = self.closed = False
        self.paused = False

    def write(self, data):
        assert not self.ended, "written after the end"
        if not self.closed:
            self.written += data

    def write_eof(self):
        self.ended = True

    def can_write_eof(self):
        return True

    def close(self):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0


async def feed(listener, segments, full=frozenset()):
    """Give a new connection these segments one by one; returns its transport after the loop has settled.

    :param full: before which of them the client stops taking answers, until the next one has come
    """
    protocol = listener.protocol_factory()
    transport = FakeTransport(protocol)
    protocol.connection_made(transport)
    for number, segment in enumerate(segments):
        if transport.closed:
            break
        if number in full:
            protocol.pause_writing()
        protocol.data_received(segment)
        await settled(transport)
        if number in full and not transport.closed:
            protocol.resume_writing()
    await settled(transport)
    return transport


async def settled(transport):
    """Let the loop turn until nothing more comes; without eager tasks an answer takes several turns."""
    same = 0
    while same < 8:
        before = len(transport.written), transport.closed
        await asyncio.sleep(0)
        same = same + 1 if before == (len(transport.written), transport.closed) else 0
