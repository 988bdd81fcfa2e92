"""h11 as the independent oracle: what its server side renders, we read; where both read, we agree."""

from __future__ import annotations

import asyncio
import itertools

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from upstream_doubles import GET, HEAD, Bench

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12)
VALUE = st.text([chr(c) for c in [*range(0x21, 0x7F), *range(0xA1, 0x100)]] + [" ", "\t"], max_size=30).map(
    str.strip
)
RESERVED = {"content-length", "transfer-encoding", "connection", "upgrade", "keep-alive", "trailer"}
FIELDS = st.lists(st.tuples(TOKEN.filter(lambda name: name.lower() not in RESERVED), VALUE), max_size=8)


@st.composite
def responses(draw):
    """(request head, h11 events of one response, last on its connection)."""
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    body = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    fields = [(name.encode(), value.encode("latin-1")) for name, value in draw(FIELDS)]
    if framing == "length":
        fields.append((b"Content-Length", b"%d" % sum(map(len, body))))
    elif framing == "chunked":
        fields.append((b"Transfer-Encoding", b"chunked"))
    last = framing == "close" or draw(st.booleans())
    if last:
        fields.append((b"Connection", b"close"))
    interim = [
        h11.InformationalResponse(status_code=code, headers=[(b"link", b"</x>")])
        for code in draw(st.lists(st.sampled_from([100, 102, 103]), max_size=2))
    ]
    method = draw(st.sampled_from([b"GET", b"GET", b"GET", b"HEAD"]))
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 400, 404, 429, 500, 503, 599]))
    return method, [*interim, h11.Response(status_code=status, headers=fields, reason=b"x"), *body], last


def render(method, events):
    """The bytes that an h11 server sends, and whether it closes afterwards."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    while not isinstance(server.next_event(), h11.EndOfMessage):
        pass
    out, bodiless = b"", False
    for event in events:
        if isinstance(event, bytes):
            if not bodiless:
                out += server.send(h11.Data(data=event))
        else:
            out += server.send(event)
            bodiless = method == b"HEAD" or event.status_code in (204, 304)
    out += server.send(h11.EndOfMessage())
    return out, server.our_state is h11.MUST_CLOSE


def cut(data, cuts):
    edges = [0, *sorted({c % (len(data) + 1) for c in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@settings(max_examples=300, deadline=None)
@given(st.lists(responses(), min_size=1, max_size=3), st.lists(st.integers(0, 4000), max_size=10))
def test_what_h11_renders_is_read_as_it_was_meant(sequence, cuts):
    async def main():
        bench = Bench()
        for method, events, _ in sequence:
            data, closes = render(method, events)
            response = next(event for event in events if type(event) is h11.Response)
            bodiless = method == b"HEAD" or response.status_code in (204, 304)
            body = b"" if bodiless else b"".join(event for event in events if isinstance(event, bytes))
            receiver, future = bench.ask(HEAD if method == b"HEAD" else GET)
            for piece in cut(data, cuts):
                bench.feed(piece)
            if not future.done():
                assert closes
                bench.eof()
            assert future.result() is None
            assert receiver.status == response.status_code
            assert receiver.body == body
            expected: dict[bytes, bytes] = {}
            for name, value in response.headers:
                expected[name] = expected[name] + b", " + value if name in expected else value
            for name in (b"content-length", b"transfer-encoding", b"connection"):
                expected.pop(name, None)
                receiver.headers.pop(name, None)  # h11 may have changed these
            assert receiver.headers == expected
            if closes:
                assert bench.transport.ended
            if bench.transport.ended:
                assert bench.home.forgotten == 1
                break

    asyncio.run(main())


def read_by_h11(data):
    """(status, body, complete and reusable) as an h11 client has it, or None if it refuses."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    status, body = 0, b""
    try:
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None


SEEDS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 103 E\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na",
    b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nuntil the end",
]
SPICE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"chunked",
    b"Content-Length: 3\r\n",
    b"0",
    b"-1",
    b"\xff",
    b"HTTP/1.1",
]
EDITS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 4), st.sampled_from([b"", *SPICE]) | st.binary(max_size=3)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(SEEDS), EDITS, st.lists(st.integers(0, 300), max_size=4))
@example(SEEDS[0], [(17, 0, b"Content-Length: 3\r\n")], [])
def test_a_spoilt_answer_is_refused_or_read_as_h11_reads_it(data, edits, cuts):
    for at, gone, new in edits:
        data = data[: at % (len(data) + 1)] + new + data[at % (len(data) + 1) + gone :]

    async def main():
        bench = Bench()
        receiver, future = bench.ask()
        for piece in cut(data, cuts):
            bench.feed(piece)
        bench.eof()
        bench.connection.connection_lost(None)
        assert future.done()
        assert bench.home.forgotten == 1
        if future.exception() is None:
            theirs = read_by_h11(data)
            if theirs is not None:
                assert (receiver.status, receiver.body) == theirs

    asyncio.run(main())
