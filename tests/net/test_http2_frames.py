"""The frames of HTTP/2: against h2 at the other end, and a table of what a server may not do."""

import struct
from collections import deque

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.net._http2_frames import MOST_IDLE, WINDOW, Code, Frames, Http2Error

ASKED = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
WINDOWS = {"stream_window": 1 << 20, "connection_window": 1 << 26, "most_head": 65_536}
OK = [(b":status", b"200")]


class Heard:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *said: self.calls.append((name[3:], *said))

    def of(self, *names):
        return [call for call in self.calls if call[0] in names]

    def data(self, number):
        return b"".join(call[2] for call in self.of("data") if call[1] == number)


def frames(**more):
    heard = Heard()
    return Frames(heard, **{**WINDOWS, **more}), heard


def frame(kind, flags, number, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", number) + payload


def setting(*pairs):
    return frame(4, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def block(fields):
    return hpack.Encoder().encode(fields)


def head(number, fields=OK, flags=4):
    return frame(1, flags, number, block(fields))


GREETING = setting()


class Server:
    """h2's side, driven as an oracle."""

    def __init__(self):
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.h2.initiate_connection()
        self.events = []

    def swap(self, client, step=1 << 30):
        """All that either side has to say."""
        while True:
            there, client.out = bytes(client.out), bytearray()
            self.events += self.h2.receive_data(there) if there else []
            back = self.h2.data_to_send()
            for at in range(0, len(back), step):
                client.receive(back[at : at + step])
            if not there and not back:
                return

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


# ---- with a server that does as it should --------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 1 << 30])
def test_a_call_goes_there_and_comes_back(step):
    client, heard = frames()
    server = Server()
    server.swap(client, step)
    number = client.ask([*ASKED, (b"x", b"y" * 40_000)], end=False)  # more than one frame
    body = bytes(60_000)
    sent = 0
    while sent < len(body):
        size = client.room(number)
        client.send(number, memoryview(body)[sent : sent + size], end=sent + size >= len(body))
        sent += size
    server.swap(client, step)
    (asked,) = server.of(h2.events.RequestReceived)
    assert asked.headers == [*ASKED, (b"x", b"y" * 40_000)]
    assert b"".join(event.data for event in server.of(h2.events.DataReceived)) == body
    server.h2.send_headers(number, [(b":status", b"103")])
    server.h2.send_headers(number, [*OK, (b"x-a", b"b"), (b"content-length", b"20000")])
    for _ in range(2):
        server.h2.send_data(number, b"z" * 10_000, pad_length=5)
    server.h2.send_headers(number, [(b"trailer", b"t")], end_stream=True)
    server.swap(client, step)
    assert heard.of("head") == [("head", number, [*OK, (b"x-a", b"b"), (b"content-length", b"20000")])]
    assert heard.data(number) == b"z" * 20_000
    assert sum(call[3] for call in heard.of("data")) == 20_012
    assert heard.of("end", "reset", "mistake") == [("end", number)]
    assert not client._streams


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_windows_are_what_h2_thinks_they_are(data):
    client, _ = frames()
    server = Server()
    server.swap(client)
    numbers = [client.ask(ASKED, end=False) for _ in range(3)]
    server.swap(client)
    for _ in range(data.draw(st.integers(1, 15))):
        step = data.draw(st.sampled_from(["send", "stream", "connection", "initial"]))
        number = data.draw(st.sampled_from(numbers))
        size = data.draw(st.integers(1, 40_000))
        if step == "send":
            if room := client.room(number):
                client.send(number, memoryview(bytes(min(room, size))), end=False)
        elif step == "stream":
            server.h2.increment_flow_control_window(size, number)
        elif step == "connection":
            server.h2.increment_flow_control_window(size)
        else:
            server.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
        server.swap(client)  # h2 raises where more is sent than it allows
        for each in numbers:
            allowed = min(server.h2.remote_flow_control_window(each), 16_384)
            assert client.room(each) == max(0, allowed)


def test_what_a_server_sets_is_kept_to():
    client, _ = frames()
    server = Server()
    codes = h2.settings.SettingCodes
    server.h2.update_settings(
        {codes.MAX_FRAME_SIZE: 100_000, codes.MAX_CONCURRENT_STREAMS: 7, codes.HEADER_TABLE_SIZE: 0}
    )
    server.swap(client)
    assert client.max_streams == 7
    number = client.ask(ASKED, end=False)
    assert client.room(number) == WINDOW
    client.send(number, memoryview(bytes(WINDOW)), end=True)
    server.swap(client)
    assert [len(event.data) for event in server.of(h2.events.DataReceived)] == [WINDOW]


def test_a_cancel_is_heard_and_what_was_under_way_is_told_to_nobody():
    client, heard = frames()
    server = Server()
    number = client.ask(ASKED, end=True)
    server.swap(client)
    server.h2.send_headers(number, OK)
    server.h2.send_data(number, b"late")
    client.reset(number, Code.CANCEL)
    client.receive(server.h2.data_to_send())
    assert heard.of("head", "end", "mistake") == []
    assert heard.of("data") == [("data", number, b"", 4)]  # for the connection's window
    server.events += server.h2.receive_data(bytes(client.out))
    assert [event.error_code for event in server.of(h2.events.StreamReset)] == [Code.CANCEL]
    again = client.ask(ASKED, end=True)  # and the tables of both sides still agree
    server.swap(client)
    server.h2.send_headers(again, [*OK, (b"x-b", b"c")], end_stream=True)
    server.swap(client)
    assert heard.of("head") == [("head", again, [*OK, (b"x-b", b"c")])]


def test_pings_are_answered_and_what_nobody_knows_is_not_looked_at():
    client, heard = frames()
    server = Server()
    server.swap(client)
    server.h2.ping(b"12345678")
    server.swap(client)
    assert [event.ping_data for event in server.of(h2.events.PingAckReceived)] == [b"12345678"]
    client.receive(frame(0xFA, 0xFF, 0, b"what") + setting((0x99, 5)) + frame(2, 0, 1, bytes(5)))
    assert heard.of("head", "data", "end", "reset", "mistake", "going_away") == []


def test_answers_without_a_body_have_none_whatever_their_length_says():
    for method, status in ((b"HEAD", b"200"), (b"POST", b"304"), (b"POST", b"204")):
        client, heard = frames()
        client.receive(GREETING)
        number = client.ask([(b":method", method), *ASKED[1:]], end=True)
        client.receive(head(number, [(b":status", status), (b"content-length", b"5")], 5))
        assert heard.of("end", "mistake") == [("end", number)]


# ---- and with one that does not ------------------------------------------------------------------------

ENDED = 4 | 1

MISTAKES = {
    "something else": (b"HTTP/1.1 400 Bad Request\r\n\r\n", Code.FRAME_SIZE_ERROR),
    "no greeting": (frame(6, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "an answer before the greeting": (head(1), Code.PROTOCOL_ERROR),
    "a frame that is too large": (GREETING + frame(0, 0, 1, bytes(16_385)), Code.FRAME_SIZE_ERROR),
    "data of a stream that is idle": (GREETING + frame(0, 0, 3, b"x"), Code.PROTOCOL_ERROR),
    "data of no stream": (GREETING + frame(0, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "data of a stream of its own": (GREETING + frame(0, 0, 2, b"x"), Code.PROTOCOL_ERROR),
    "more padding than frame": (GREETING + head(1) + frame(0, 8, 1, b"\x02a"), Code.PROTOCOL_ERROR),
    "padding without its size": (GREETING + head(1) + frame(0, 8, 1), Code.PROTOCOL_ERROR),
    "a head of a stream that is idle": (GREETING + head(5), Code.PROTOCOL_ERROR),
    "a head shorter than its priority": (GREETING + frame(1, 0x24, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "a head that is not packed": (GREETING + frame(1, 4, 1, b"\xff\xff"), Code.COMPRESSION_ERROR),
    "a name in capitals": (GREETING + frame(1, 4, 1, b"\x88\x00\x01A\x01b"), Code.COMPRESSION_ERROR),
    "a head that stops for another frame": (
        GREETING + head(1, flags=0) + frame(6, 0, 0, bytes(8)),
        Code.PROTOCOL_ERROR,
    ),
    "a head that another stream goes on with": (
        GREETING + head(1, flags=0) + frame(9, 4, 3),
        Code.PROTOCOL_ERROR,
    ),
    "going on with nothing": (GREETING + frame(9, 4, 1), Code.PROTOCOL_ERROR),
    "a head without end": (
        GREETING + head(1, flags=0) + frame(9, 0, 1, bytes(16_000)) * 5,
        Code.ENHANCE_YOUR_CALM,
    ),
    "a head that goes on with nothing for ever": (
        GREETING + head(1, flags=0) + frame(9, 0, 1) * (MOST_IDLE + 1),
        Code.ENHANCE_YOUR_CALM,
    ),
    "a head that unpacks to too much": (
        GREETING + frame(1, 4, 1, b"\x88" + b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4_000 + b"\xbe" * 12_000),
        Code.ENHANCE_YOUR_CALM,
    ),
    "a push": (GREETING + frame(5, 4, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "SETTINGS of a stream": (frame(4, 0, 1), Code.PROTOCOL_ERROR),
    "SETTINGS that are cut": (frame(4, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "an ACK that says something": (GREETING + frame(4, 1, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "a window that is too large": (setting((4, 1 << 31)), Code.FLOW_CONTROL_ERROR),
    "a frame size that is too small": (setting((5, 16_383)), Code.PROTOCOL_ERROR),
    "a frame size that is too large": (setting((5, 1 << 24)), Code.PROTOCOL_ERROR),
    "a server that lets push": (setting((2, 1)), Code.PROTOCOL_ERROR),
    "a window that grows out of bounds": (
        GREETING + frame(8, 0, 0, struct.pack(">I", (1 << 31) - 1)),
        Code.FLOW_CONTROL_ERROR,
    ),
    "windows of streams that settings make too large": (
        GREETING + frame(8, 0, 1, struct.pack(">I", 1 << 30)) + setting((4, (1 << 31) - 1)),
        Code.FLOW_CONTROL_ERROR,
    ),
    "a window that grows by nothing": (GREETING + frame(8, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "a window without a size": (GREETING + frame(8, 0, 0, b"abc"), Code.FRAME_SIZE_ERROR),
    "a window of a stream that is idle": (GREETING + frame(8, 0, 9, bytes(4)), Code.PROTOCOL_ERROR),
    "a reset without a reason": (GREETING + frame(3, 0, 1, b""), Code.FRAME_SIZE_ERROR),
    "a reset of nothing": (GREETING + frame(3, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "a reset of a stream that is idle": (GREETING + frame(3, 0, 3, bytes(4)), Code.PROTOCOL_ERROR),
    "a PING of a stream": (GREETING + frame(6, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a PING of seven": (GREETING + frame(6, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "a GOAWAY of a stream": (GREETING + frame(7, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a GOAWAY without a reason": (GREETING + frame(7, 0, 0, bytes(4)), Code.FRAME_SIZE_ERROR),
    "a priority of nothing": (GREETING + frame(2, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "PING for ever": (GREETING + frame(6, 0, 0, bytes(8)) * (MOST_IDLE + 1), Code.ENHANCE_YOUR_CALM),
    "SETTINGS for ever": (setting() * (MOST_IDLE + 1), Code.ENHANCE_YOUR_CALM),
    "empty data for ever": (
        GREETING + head(1) + frame(0, 0, 1) * (MOST_IDLE + 1),
        Code.ENHANCE_YOUR_CALM,
    ),
    "interim answers for ever": (
        GREETING + head(1, [(b":status", b"103")]) * (MOST_IDLE + 1),
        Code.ENHANCE_YOUR_CALM,
    ),
    "resets of what has ended for ever": (
        GREETING + frame(3, 0, 1, bytes(4)) * (MOST_IDLE + 1),
        Code.ENHANCE_YOUR_CALM,
    ),
    "more than the connection's window": (
        GREETING + head(1) + frame(0, 0, 1, bytes(16_000)) * 7,
        Code.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("step", [97, 1 << 30])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_the_connection_and_says_which(name, step):
    said, code = MISTAKES[name]
    client, _ = frames(connection_window=100_000)
    client.ask(ASKED, end=True)
    pieces = [said[at : at + step] for at in range(0, len(said), step)]
    with pytest.raises(Http2Error) as told:
        deque(map(client.receive, pieces), maxlen=0)
    assert told.value.code is code
    assert len(client.out) < 1 << 20


OF_A_STREAM = {
    "data before the head": (frame(0, 0, 1, b"x"), Code.PROTOCOL_ERROR),
    "no status": (head(1, [(b"x", b"y")]), Code.PROTOCOL_ERROR),
    "two statuses": (head(1, OK * 2), Code.PROTOCOL_ERROR),
    "a status that is none": (head(1, [(b":status", b"2OO")]), Code.PROTOCOL_ERROR),
    "a status that comes late": (head(1, [(b"x", b"y"), *OK]), Code.PROTOCOL_ERROR),
    "what only requests have": (head(1, [*OK, (b":path", b"/")]), Code.PROTOCOL_ERROR),
    "an interim answer that ends it": (head(1, [(b":status", b"103")], ENDED), Code.PROTOCOL_ERROR),
    "switching protocols": (head(1, [(b":status", b"101")]), Code.PROTOCOL_ERROR),
    "two heads": (head(1) + head(1), Code.PROTOCOL_ERROR),
    "more than its length": (
        head(1, [*OK, (b"content-length", b"2")]) + frame(0, 0, 1, b"abc"),
        Code.PROTOCOL_ERROR,
    ),
    "less than its length": (
        head(1, [*OK, (b"content-length", b"4")]) + frame(0, 1, 1, b"abc"),
        Code.PROTOCOL_ERROR,
    ),
    "nothing of its length": (head(1, [*OK, (b"content-length", b"4")], ENDED), Code.PROTOCOL_ERROR),
    "less than its length, with trailers": (
        head(1, [*OK, (b"content-length", b"4")]) + frame(0, 0, 1, b"abc") + head(1, [(b"t", b"u")], ENDED),
        Code.PROTOCOL_ERROR,
    ),
    "a length that is none": (head(1, [*OK, (b"content-length", b"+4")]), Code.PROTOCOL_ERROR),
    "two lengths": (
        head(1, [*OK, (b"content-length", b"4"), (b"content-length", b"5")]),
        Code.PROTOCOL_ERROR,
    ),
    "more than the window": (head(1) + frame(0, 0, 1, bytes(16_000)) * 5, Code.FLOW_CONTROL_ERROR),
    "a window that grows by nothing": (frame(8, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "a window that grows out of bounds": (
        frame(8, 0, 1, struct.pack(">I", (1 << 31) - 1)),
        Code.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("name", OF_A_STREAM)
def test_a_mistake_of_a_stream_ends_that_one_only(name):
    said, code = OF_A_STREAM[name]
    client, heard = frames(stream_window=70_000)
    client.receive(GREETING)
    first, second = client.ask(ASKED, end=True), client.ask(ASKED, end=True)
    client.out.clear()
    client.receive(said)
    assert [call[1] for call in heard.of("mistake")] == [first]
    assert heard.of("end") == []
    assert frame(3, 0, first, struct.pack(">I", code)) in client.out
    client.receive(frame(1, ENDED, second, b"\x88"))
    assert heard.of("end") == [("end", second)]
    taken = sum(call[3] for call in heard.of("data"))
    assert taken == WINDOWS["connection_window"] - client._to_receive  # nothing of the window is lost


def test_what_came_before_a_mistake_was_told():
    client, heard = frames()
    client.receive(GREETING)
    number = client.ask(ASKED, end=True)
    with pytest.raises(Http2Error):
        client.receive(head(number) + frame(0, 0, number, b"abc") + frame(6, 0, 1, bytes(8)))
    assert heard.data(number) == b"abc"


def test_a_server_that_goes_says_how_far_it_came():
    client, heard = frames()
    client.receive(GREETING + frame(7, 0, 0, struct.pack(">II", 5, Code.NO_ERROR) + b"bye"))
    assert heard.of("going_away") == [("going_away", 5, 0)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 255), st.integers(0, 4), st.binary(max_size=40)))
)
def test_any_frames_are_heard_or_a_mistake(sent):
    client, heard = frames()
    client.receive(GREETING)
    client.ask(ASKED, end=True)
    client.ask(ASKED, end=False)
    try:
        for kind, flags, number, payload in sent:
            client.receive(frame(kind, flags, number, payload))
    except Http2Error:
        return
    ends = [call[1] for call in heard.of("end", "reset", "mistake")]
    assert len(ends) == len(set(ends))
