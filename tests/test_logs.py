import datetime as dt
import fcntl
import json
import logging
import os
import socket
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import logs
from penstock.config.model import LogConfig
from penstock.logs import (
    MAX_LINE,
    Handler,
    LineBuffer,
    RepeatedLine,
    RequestLine,
    RequestLog,
    configure,
    open_sink,
    redact,
    render_text,
)

NOON = dt.datetime(2026, 11, 1, 12, 0, 0, 123_456, dt.UTC)


class Sunk:
    """A reader that takes as much as it is told to."""

    def __init__(self):
        self.taken = bytearray()
        self.room = None  # bytes; None: no end of them
        self.broken = False

    def __call__(self, data):
        if self.broken:
            raise BrokenPipeError
        taken = data if self.room is None else data[: self.room]
        if not taken:
            raise BlockingIOError
        if self.room is not None:
            self.room -= len(taken)
        self.taken += taken
        return len(taken)

    @property
    def lines(self):
        return [json.loads(line) for line in self.taken.splitlines()]


@pytest.fixture
def sunk():
    return Sunk()


def make_log(sunk, *, form="json", requests=True, max_buffer=logs.MAX_BUFFER):
    config = LogConfig(format=form, requests=requests)
    return RequestLog(config, buffer=LineBuffer(2, max_buffer=max_buffer, sink=sunk))


STREAMED = {
    "generation": "gen_1",
    "tenant": "acme",
    "key": "prod",
    "endpoint": "chat",
    "model": "fast",
    "upstream": "sim",
    "upstream_model": "sim-1",
    "status": 200,
    "outcome": "completed",
    "stream": True,
    "input_tokens": 3,
    "output_tokens": 4,
    "duration_ms": 20.25,
    "attempts": 2,
    "peer": "10.0.0.1",
}


def line(**fields):
    return RequestLine(time=NOON, **fields)


class TestRequestLog:
    def test_a_line_says_everything(self, sunk):
        log = make_log(sunk)
        log.write(
            line(
                **STREAMED,
                cost=11,
                ttft_ms=1.5,
                error="upstream_broken",
            )
        )
        log.flush()
        assert sunk.lines == [
            {
                "level": "info",
                "time": "2026-11-01T12:00:00.123456Z",
                "generation": "gen_1",
                "tenant": "acme",
                "key": "prod",
                "endpoint": "chat",
                "model": "fast",
                "upstream": "sim",
                "upstream_model": "sim-1",
                "status": 200,
                "outcome": "completed",
                "stream": True,
                "input_tokens": 3,
                "output_tokens": 4,
                "cost_picousd": 11,
                "ttft_ms": 1.5,
                "duration_ms": 20.25,
                "attempts": 2,
                "error": "upstream_broken",
                "peer": "10.0.0.1",
            }
        ]

    def test_what_is_empty_is_left_out(self, sunk):
        log = make_log(sunk)
        log.write(line(status=404))
        log.flush()
        assert list(sunk.lines[0]) == ["level", "time", "status"]

    def test_lines_wait_for_the_sweep(self, sunk):
        log = make_log(sunk)
        log.sweep(100.0)
        log.write(line())
        assert sunk.lines == []
        log.sweep(100.1)
        log.write(line())
        log.sweep(100.25)
        assert len(sunk.lines) == 2
        log.write(line())
        log.sweep(100.3)
        assert len(sunk.lines) == 2

    def test_much_is_written_without_waiting(self, sunk):
        log = make_log(sunk)
        for _ in range(2_000):
            log.write(line(model="m" * 50))
        assert len(sunk.taken) >= logs.FLUSH_BYTES

    def test_can_be_switched_off(self, sunk):
        log = make_log(sunk, requests=False)
        log.write(line())
        log.flush()
        assert sunk.taken == b""

    @pytest.mark.parametrize("form", ["json", "text"])
    @pytest.mark.parametrize("name", ["fast", 'a "b"\n', "ü", "half \ud800", "m" * 100_000])
    def test_a_line_that_is_repeated_is_the_one_that_is_written_anew(self, monkeypatch, form, name):
        said = {"tenant": "acme", "model": name, "status": 200, "ttft_ms": 0.0, "read": "cached"}
        varying = {"generation": "gen_1", "peer": 'fe80::1%é"0'}
        anew, again = Sunk(), Sunk()
        log, other = make_log(again, form=form), make_log(anew, form=form)
        repeated = RepeatedLine(**said)
        for second in (0, 0, 1):
            moment = NOON + dt.timedelta(seconds=second)
            monkeypatch.setattr(logs.time, "time", moment.timestamp)
            other.write(RequestLine(moment, **varying, **said))
            log.write_again(repeated, **varying)
        log.flush()
        other.flush()
        assert again.taken.count(b"\n") == 3
        if form == "json":
            times = [
                [dt.datetime.fromisoformat(entry.pop("time")) for entry in each.lines]
                for each in (again, anew)
            ]
            assert all(abs(one - two).total_seconds() < 1e-5 for one, two in zip(*times, strict=True))
            assert [entry | {"time": ""} for entry in again.lines] == [
                entry | {"time": ""} for entry in anew.lines
            ]
        else:
            assert again.taken == anew.taken

    def test_what_is_switched_off_or_full_takes_no_repeated_line(self, sunk):
        log = make_log(sunk, requests=False)
        log.write_again(RepeatedLine(model="m"), "gen_1", "unix")
        log.flush()
        assert sunk.taken == b""
        log = make_log(sunk, max_buffer=1)
        log.write_again(RepeatedLine(model="m"), "gen_1", "unix")
        log.write_again(RepeatedLine(model="m"), "gen_2", "unix")
        assert log.dropped == 1

    @given(st.text(max_size=50))
    def test_one_request_is_one_line_whatever_the_model_is_called(self, name):
        for form in ("json", "text"):
            sunk = Sunk()
            log = make_log(sunk, form=form)
            log.write(line(model=name, status=200))
            log.flush()
            assert sunk.taken.count(b"\n") == 1
            assert sunk.taken.endswith(b"\n")
            assert len(sunk.taken.splitlines()) == 1

    def test_half_a_surrogate_pair_does_no_harm(self, sunk):
        log = make_log(sunk)
        log.write(line(status=1))
        log.write(line(model="half \ud800"))
        log.write(line(status=2))
        log.flush()
        assert [entry.get("status") for entry in sunk.lines] == [1, None, 2]
        assert sunk.lines[1]["model"] == "half ?"

    @pytest.mark.parametrize("form", ["json", "text"])
    def test_a_line_is_never_longer_than_an_atomic_write(self, sunk, form):
        log = make_log(sunk, form=form)
        log.write(line(model="\x00" * 100_000, error="e" * 100_000))
        log.flush()
        assert len(sunk.taken) <= MAX_LINE
        assert sunk.taken.count(b"\n") == 1

    def test_repr_tells_the_state(self, sunk):
        assert "0 lines dropped" in repr(make_log(sunk))


class TestTextForm:
    def test_says_what_matters_to_people(self):
        text = render_text(
            line(
                **STREAMED,
                cost=11_000_000,
                ttft_ms=12.4,
            )
        )
        assert text == (
            "12:00:00.123 200 completed chat stream fast → sim/sim-1 3+4 tokens $0.000011 first 12 ms 20 ms "
            "2 attempts acme/prod 10.0.0.1 gen_1"
        )

    def test_a_caller_cannot_write_a_line_of_his_own(self):
        assert "\n" not in render_text(line(model="x\n12:00 200 completed", peer="\x1b[2J"))
        assert "\x1b" not in render_text(line(peer="\x1b[2J"))


class TestSlowReaders:
    def test_what_is_not_taken_is_kept_in_order(self, sunk):
        log = make_log(sunk)
        for number in range(100):
            log.write(line(status=number))
        sunk.room = 1_000
        log.flush()
        assert len(sunk.taken) == 1_000
        for number in range(100, 110):
            log.write(line(status=number))
        sunk.room = None
        log.flush()
        assert [entry.get("status", 0) for entry in sunk.lines] == list(range(110))
        assert log.dropped == 0

    def test_memory_is_bounded_and_what_is_dropped_is_counted_and_said(self, sunk):
        log = make_log(sunk, max_buffer=10_000)
        sunk.room = 0
        for number in range(1_000):
            log.write(line(status=number))
        assert len(log._buffer.pending) < 10_000 + MAX_LINE
        assert log.dropped > 500
        sunk.room = None
        log.flush()
        log.flush()
        kept = [entry for entry in sunk.lines if "message" not in entry]
        (said,) = [entry for entry in sunk.lines if "message" in entry]
        assert len(kept) == 1_000 - log.dropped
        assert said["message"].startswith(f"{log.dropped} log lines were dropped")
        assert said["level"] == "warning"

    def test_a_broken_pipe_drops_and_counts(self, sunk):
        log = make_log(sunk)
        sunk.broken = True
        log.write(line())
        log.write(line())
        log.flush()
        assert log.dropped == 2
        assert log._buffer.pending == b""
        sunk.broken = False
        log.write(line(status=7))
        log.flush()
        assert sunk.lines[0]["status"] == 7


def is_nonblocking(fd):
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


def drain(fd):
    os.set_blocking(fd, False)
    data = bytearray()
    try:
        while piece := os.read(fd, 65_536):
            data += piece
    except BlockingIOError:
        pass
    return bytes(data)


class TestSinks:
    """A reader that does not read must not make the writer wait, nor may the writer change what it shares."""

    def fill(self, sink):
        written = 0
        while written < 2**30:
            try:
                written += sink(b"x" * 4_095 + b"\n")
            except BlockingIOError:
                return written
        return pytest.fail("it is never full")

    def test_a_full_pipe(self):
        read, write = os.pipe()
        try:
            sink = open_sink(write)
            assert self.fill(sink) > 0
            assert not is_nonblocking(write)
            drain(read)
            assert sink(b"again\n") == 6
            assert drain(read) == b"again\n"
        finally:
            os.close(read)
            os.close(write)

    def test_a_full_pipe_that_cannot_be_opened_anew(self, monkeypatch):
        read, write = os.pipe()

        def refuse(*_):
            raise PermissionError

        monkeypatch.setattr(logs.os, "open", refuse)
        try:
            sink = open_sink(write)
            assert self.fill(sink) > 0
            assert not is_nonblocking(write)
        finally:
            os.close(read)
            os.close(write)

    def test_a_pipe_that_nobody_reads_any_more(self):
        read, write = os.pipe()
        sink = open_sink(write)
        os.close(read)
        with pytest.raises(BrokenPipeError):
            sink(b"hello\n")
        os.close(write)

    def test_what_was_opened_is_closed_with_the_sink(self):
        read, write = os.pipe()
        try:
            before = len(os.listdir("/proc/self/fd"))
            sink = open_sink(write)
            assert len(os.listdir("/proc/self/fd")) == before + 1
            del sink
            assert len(os.listdir("/proc/self/fd")) == before
        finally:
            os.close(read)
            os.close(write)

    def test_a_full_socket(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sink = open_sink(ours.fileno())
            assert self.fill(sink) > 0
            assert not is_nonblocking(ours.fileno())

    def test_a_terminal_stays_one_that_blocks(self):
        leader, follower = os.openpty()
        try:
            sink = open_sink(follower)
            assert sink(b"hello\n") == 6
            assert not is_nonblocking(follower)
            assert os.read(leader, 100) == b"hello\r\n"
        finally:
            os.close(leader)
            os.close(follower)

    def test_a_file_shares_its_place_with_other_writers(self, tmp_path):
        fd = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
        sink = open_sink(fd)
        os.write(fd, b"one\n")
        sink(b"two\n")
        os.write(fd, b"three\n")
        os.close(fd)
        assert (tmp_path / "log").read_bytes() == b"one\ntwo\nthree\n"

    def test_pieces_of_a_pipe_are_whole_lines(self, sunk):
        pieces = []
        buffer = LineBuffer(2, sink=lambda data: pieces.append(data) or len(data))
        for number in range(1_000):
            buffer.append(b"%d %s\n" % (number, b"x" * (number % 300)))
        buffer.flush()
        assert all(len(piece) <= MAX_LINE and piece.endswith(b"\n") for piece in pieces)
        assert len(b"".join(pieces).splitlines()) == 1_000


@pytest.fixture
def restored():
    """Python's logging as it was."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook
    logging.captureWarnings(capture=False)


def raised(error):
    """What ``sys.exc_info()`` says where ``error`` is caught."""
    try:
        raise error
    except type(error):
        return sys.exc_info()


class TestStandardLogging:
    def handler(self, sunk, form="json"):
        return Handler(LogConfig(format=form), buffer=LineBuffer(2, sink=sunk))

    def record(self, message, *args, exc_info=None, level=logging.WARNING):
        return logging.LogRecord("penstock.net", level, "file", 1, message, args, exc_info)

    def test_a_record_is_a_json_line_at_once(self, sunk):
        self.handler(sunk).emit(self.record("pool %s is full", "openai"))
        (entry,) = sunk.lines
        assert dt.datetime.fromisoformat(entry.pop("time")).tzinfo is dt.UTC
        assert entry == {"level": "warning", "logger": "penstock.net", "message": "pool openai is full"}

    def test_a_traceback_is_part_of_the_line(self, sunk):
        self.handler(sunk).emit(self.record("failed", exc_info=raised(RuntimeError("out of luck"))))
        (entry,) = sunk.lines
        assert entry["exception"].endswith("RuntimeError: out of luck\n")
        assert "Traceback" in entry["exception"]

    def test_a_traceback_that_is_too_long_keeps_its_end(self, sunk):
        error = raised(RuntimeError("x" * 20_000 + " the end"))
        self.handler(sunk).emit(self.record("y" * 20_000, exc_info=error))
        assert len(sunk.taken) <= MAX_LINE
        assert sunk.lines[0]["exception"].endswith("the end\n")

    def test_the_text_form(self, sunk):
        self.handler(sunk, "text").emit(self.record("pool is full\nreally"))
        assert b"warning penstock.net: pool is full\\x0areally\n" in sunk.taken
        assert sunk.taken.count(b"\n") == 1

    def test_a_slow_reader_gets_it_at_the_sweep(self, sunk):
        handler = self.handler(sunk)
        sunk.room = 0
        handler.emit(self.record("late"))
        sunk.room = None
        handler.sweep(100.0)
        assert sunk.lines[0]["message"] == "late"

    def test_configure_replaces_the_root_handlers_and_sets_the_level(self, restored):
        read, write = os.pipe()
        try:
            configure(LogConfig(level="warning"), fd=write)
            logging.getLogger("penstock.x").info("not said")
            logging.getLogger("penstock.x").error("said")
            entries = [json.loads(entry) for entry in drain(read).splitlines()]
            assert [entry["message"] for entry in entries] == ["said"]
        finally:
            os.close(read)
            os.close(write)

    def test_an_uncaught_exception_is_logged_in_the_same_form(self, restored):
        read, write = os.pipe()
        try:
            configure(LogConfig(), fd=write)
            error = ValueError("nobody caught me")
            sys.excepthook(ValueError, error, None)
            (entry,) = [json.loads(entry) for entry in drain(read).splitlines()]
            assert entry["level"] == "critical"
            assert "nobody caught me" in entry["exception"]
        finally:
            os.close(read)
            os.close(write)


class TestSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            "Authorization: Bearer abcdef0123456789abcdef",
            "using key sk-proj-abcdefghijklmnop",
            "sk-ant-api03-abcdefghijklmnop",
            "pk-abcdefghijklmnop0123",
            "{'x-api-key': 'abcdef'}",
            '"api_key": "abcdef"',
            "api-key=abcdef",
            "password=hunter2",
            "penstock.yaml:4:14: api_key: api_key=abcdef",
        ],
    )
    def test_what_looks_like_a_credential_is_blotted_out(self, text):
        blotted = redact(text)
        assert "[redacted]" in blotted
        for secret in ("abcdef", "hunter2"):
            assert secret not in blotted

    @pytest.mark.parametrize(
        "text",
        [
            "first_token: 120.0 seconds",
            "max_tokens=12345",
            "the bearer of this",
            "basic authentication is off",
            "task-force number-something-long",
            "disk-based",
            "penstock.yaml:4:14: upstreams.openai.api_key: environment variable OPENAI_API_KEY is not set",
            "failed: penstock.yaml:9:15: webhooks.endpoints[0].secret: must be whsec_ and a key in base64",
        ],
    )
    def test_what_does_not_is_left_alone(self, text):
        assert redact(text) == text

    @pytest.mark.parametrize(
        ("text", "blotted"),
        [
            *((f"a {scheme} {'t' * 16} b", f"a {scheme}[redacted] b") for scheme in ("Bearer", "basic")),
            *(
                (f"a {kind}{dash}{'t' * 12} b", f"a {kind}[redacted] b")
                for kind in ("sk", "pk", "gsk", "xai", "hf")
                for dash in "-_"
            ),
            *(
                (f"{name}{sign}four b", f"{name}{sign}[redacted] b")
                for name in (
                    *("x-api-key", "apikey", "api_key", "API-KEY", "authorization", "password", "secret"),
                    *("access_token", "access-token"),
                )
                for sign in ("=", ": ", '": "')
            ),
            ("authorization: Bearer short b", "authorization: Bearer [redacted] b"),
        ],
    )
    def test_each_form_of_a_credential_is_blotted_out_and_no_more(self, text, blotted):
        assert redact(text) == blotted

    @pytest.mark.parametrize("form", ["json", "text"])
    def test_records_are_redacted_tracebacks_included(self, sunk, form):
        handler = Handler(LogConfig(format=form), buffer=LineBuffer(2, sink=sunk))
        error = raised(RuntimeError("sk-proj-abcdefghijklmnop"))
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "key sk-proj-qrstuvwxyzabcd", (), error)
        handler.emit(record)
        assert b"abcdefgh" not in sunk.taken
        assert b"qrstuvwx" not in sunk.taken


def test_lines_can_be_read_back_as_what_they_were():
    original = line(status=200, cost=5, ttft_ms=1.0)
    assert msgspec.json.decode(msgspec.json.encode(original), type=RequestLine) == original
