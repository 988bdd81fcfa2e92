"""Log lines: one per request, written in bulk, and Python's own logging in the same form.

A log must never hold up an answer.  Lines are collected in a buffer and written every
:data:`FLUSH_INTERVAL` seconds without ever waiting for the reader of the pipe: what it does not take
stays in the buffer, and once the buffer is full new lines are dropped and counted, and the log says how
many as soon as it is read again.

Several worker processes share one pipe.  A write of at most ``PIPE_BUF`` bytes is atomic (POSIX, write()),
so lines go out in pieces of whole lines no longer than that, and no line is longer than that.  Into a file
they go as they come: Linux writes to one at a time (its ``i_rwsem``), however long the piece.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import select
import socket
import stat
import sys
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.config.model import LogConfig

FLUSH_INTERVAL = 0.2  # seconds
FLUSH_BYTES = 65_536
MAX_BUFFER = 1_048_576  # what may wait for a reader that does not read
MAX_LINE = 4_096  # PIPE_BUF of Linux; where it is less, lines of several workers may mix
_VARYING = 200  # bytes of what a line that is repeated has of its own each time
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MAX_FIELD = 200  # characters of a field in a line that was too long

Sink = Callable[[bytes], int]
"""Takes some bytes and says how many; raises BlockingIOError when it would have to wait."""


class RequestLine(msgspec.Struct, omit_defaults=True, tag_field="level", tag="info"):
    """What is said of one request, first of all how important it is.  Times in milliseconds; ``cost`` in 1e-12 US dollars.

    ``read``: how the caller came by the answer, if no upstream was asked for this request; then tokens and cost
    are in another line.
    """

    time: dt.datetime
    generation: str = ""
    tenant: str = ""
    key: str = ""
    endpoint: str = ""
    model: str = ""  # as the caller named it
    upstream: str = ""
    upstream_model: str = ""
    status: int = 0  # HTTP status that the caller got
    outcome: str = ""
    stream: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = msgspec.field(default=0, name="cost_picousd")
    ttft_ms: float | None = None
    duration_ms: float | None = None
    attempts: int = 0
    error: str = ""  # a code of penstock.errors
    peer: str = ""
    read: str = ""
    trace: str = ""  # id of the trace that it belongs to
    request_id: str = ""  # X-Request-Id, where proxies stand in front
    method: str = ""  # of a request that was refused before it was a call
    path: str = ""  # the same


class RepeatedLine:
    """A line that is written again and again, each time with another time, generation and peer: encoded once.

    :param fields: what stays, as of a :class:`RequestLine`
    """

    __slots__ = ("rest", "said")

    def __init__(self, **fields: Any) -> None:
        self.said = line = RequestLine(_EPOCH, **fields)
        try:
            encoded = msgspec.json.encode(line)
        except UnicodeEncodeError:  # half a surrogate pair
            encoded = b""
        if not 0 < len(encoded) <= MAX_LINE - _VARYING:
            encoded = msgspec.json.encode(_shortened(line))
        self.rest = encoded[encoded.index(b",", encoded.index(b'"time"')) :]  # what stands behind the time

    def __repr__(self) -> str:
        return f"<RepeatedLine {self.said}>"


class LineBuffer:
    """Lines on their way to a file descriptor.

    :param fd: stays open and its flags untouched: it may be shared with the shell that started us
    """

    def __init__(self, fd: int, *, max_buffer: int = MAX_BUFFER, sink: Sink | None = None) -> None:
        self.fd = fd
        self.dropped = 0  # lines that found no room, or no reader
        self._unreported = 0
        self._max_buffer = max_buffer
        self._sink = sink or open_sink(fd)
        self._max_piece = MAX_BUFFER if sink is None and stat.S_ISREG(os.fstat(fd).st_mode) else MAX_LINE
        self._due = 0.0
        self.pending = bytearray()  # whole lines; whoever appends calls `appended`

    def room(self) -> bool:
        """Whether one more line may be appended to ``pending``; if not, it is counted as dropped."""
        if len(self.pending) < self._max_buffer:
            return True
        self.dropped += 1
        self._unreported += 1
        return False

    def append(self, line: bytes) -> None:
        if self.room():
            self.pending += line
            if len(self.pending) >= FLUSH_BYTES:
                self.flush()

    def sweep(self, now: float) -> None:
        if now >= self._due:
            self._due = now + FLUSH_INTERVAL
            if self.pending:
                self.flush()

    def flush(self) -> None:
        """Write what the reader takes now; never waits, never raises."""
        pending = self.pending
        start = 0
        try:
            while start < len(pending):
                end = len(pending)
                if end - start > self._max_piece:
                    end = pending.rfind(b"\n", start, start + self._max_piece) + 1 or start + self._max_piece
                start += self._sink(bytes(pending[start:end]))
        except BlockingIOError:
            pass
        except OSError:  # nobody will ever read it
            lost = pending.count(b"\n", start)
            self.dropped += lost
            self._unreported += lost
            start = len(pending)
        else:
            if self._unreported:
                count, self._unreported = self._unreported, 0
                pending += _event(
                    logging.WARNING, __name__, f"{count} log lines were dropped: nobody read them"
                )
        del pending[:start]

    def __repr__(self) -> str:
        return f"<LineBuffer fd {self.fd}, {len(self.pending)} bytes waiting, {self.dropped} lines dropped>"


class RequestLog:
    """One line per request.  :meth:`write` costs about a microsecond; ``Clock`` sweeps the rest out."""

    def __init__(self, config: LogConfig, fd: int = 2, *, buffer: LineBuffer | None = None) -> None:
        self.enabled = config.requests
        self._buffer = buffer or LineBuffer(fd)
        self._text = config.format == "text"
        encoder = msgspec.json.Encoder()
        self._encode, self._encode_into = encoder.encode, encoder.encode_into
        self._second = 0.0  # since 1970, which `_shown` shows
        self._shown = b""

    @property
    def dropped(self) -> int:
        return self._buffer.dropped

    def write(self, line: RequestLine) -> None:
        """Never waits and never raises."""
        buffer = self._buffer
        if not self.enabled or not buffer.room():
            return
        pending = buffer.pending
        start = len(pending)
        try:
            if self._text:
                pending += render_text(line).encode()
            else:
                self._encode_into(line, pending, start)
        except UnicodeEncodeError:  # half a surrogate pair
            del pending[start:]
            pending += msgspec.json.encode(_shortened(line))
        pending += b"\n"
        size = len(pending)
        if size - start > MAX_LINE:
            del pending[start:]
            pending += msgspec.json.encode(_shortened(line)) + b"\n"
            size = len(pending)
        if size >= FLUSH_BYTES:
            buffer.flush()

    def write_again(self, line: RepeatedLine, generation: str, peer: str) -> None:
        """Never waits and never raises.

        :param generation: an id that was made here
        """
        buffer, now = self._buffer, time.time()
        if self._text:
            moment = dt.datetime.fromtimestamp(now, dt.UTC)
            self.write(msgspec.structs.replace(line.said, time=moment, generation=generation, peer=peer))
        elif self.enabled and buffer.room():
            if not self._second <= now < self._second + 1.0:
                self._show(now)
            pending = buffer.pending
            pending += b'{"level":"info","time":"%b.%06dZ","generation":"%b","peer":%b%b\n' % (
                self._shown,
                (now - self._second) * 1e6,
                generation.encode(),
                self._encode(peer),
                line.rest,
            )
            if len(pending) >= FLUSH_BYTES:
                buffer.flush()

    def _show(self, now: float) -> None:
        """Note the time of day, up to its second."""
        second = int(now)
        self._second = float(second)
        self._shown = dt.datetime.fromtimestamp(second, dt.UTC).isoformat()[:19].encode()

    def sweep(self, now: float) -> None:
        self._buffer.sweep(now)

    def flush(self) -> None:
        self._buffer.flush()

    def __repr__(self) -> str:
        return f"<RequestLog to {self._buffer!r}>"


def _shortened(line: RequestLine) -> RequestLine:
    """The same with every text cut to what fits and made encodable."""
    changes = {
        field: value[:_MAX_FIELD].encode("utf-8", "replace").decode()
        for field in line.__struct_fields__
        if isinstance(value := getattr(line, field), str)
    }
    return msgspec.structs.replace(line, **changes)


def render_text(line: RequestLine) -> str:
    """The line for people: what was asked, how it ended, what it cost; nothing that is empty."""
    route = line.model
    if line.upstream:
        route += f" → {line.upstream}/{line.upstream_model}"
    parts = [
        line.time.strftime("%H:%M:%S.%f")[:-3],
        str(line.status),
        line.outcome,
        line.endpoint,
        f"{line.method} {line.path}".strip(),
        "stream" if line.stream else "",
        route,
        f"{line.input_tokens}+{line.output_tokens} tokens" if line.input_tokens or line.output_tokens else "",
        f"${line.cost / 1e12:.6f}" if line.cost else "",
        f"first {line.ttft_ms:.0f} ms" if line.ttft_ms is not None else "",
        f"{line.duration_ms:.0f} ms" if line.duration_ms is not None else "",
        f"{line.attempts} attempts" if line.attempts > 1 else "",
        f"error {line.error}" if line.error else "",
        f"{line.tenant}/{line.key}" if line.tenant else "",
        line.peer,
        line.generation,
    ]
    # One request is one line: what a caller sent must not be able to write a line of its own.
    return " ".join(part for part in parts if part).translate(_CONTROL)


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160), 0x2028, 0x2029)}


# ---- where lines go --------------------------------------------------------------------------------


def open_sink(fd: int) -> Sink:
    """A way to write to ``fd`` that does not wait.

    ``O_NONBLOCK`` belongs to the open file, not to the descriptor: setting it on a standard stream would
    change the terminal of the shell too.  So a pipe or terminal is opened anew, a socket is asked per
    write, and a file never makes anybody wait for a reader.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return lambda data: _send(fd, data)
    if stat.S_ISFIFO(mode) or os.isatty(fd):
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # no /proc, or the pipe belongs to another user
            return _polling(fd)

        def write(data: bytes) -> int:
            return os.write(own, data)

        weakref.finalize(write, os.close, own)
        return write
    return lambda data: os.write(fd, data)


def _send(fd: int, data: bytes) -> int:
    sock = socket.socket(fileno=fd)
    try:
        return sock.send(data, socket.MSG_DONTWAIT)
    finally:
        sock.detach()  # the descriptor is not ours to close


def _polling(fd: int) -> Sink:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)

    def write(data: bytes) -> int:
        # A pipe that is writable has room for PIPE_BUF bytes, and pieces are no longer than that.
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(fd, data)

    return write


# ---- Python's logging ------------------------------------------------------------------------------


class Event(msgspec.Struct, omit_defaults=True):
    """One record of Python's logging."""

    time: dt.datetime
    level: str
    logger: str
    message: str
    exception: str = ""


# What begins with a place in a file is a mistake in a configuration: where, which key (`upstreams.openai.api_key`), and
# then no value but what is wrong with it.
_SECRET = re.compile(
    r"(?i)(:\d+:\d+: \S+: )"
    r"|\b(bearer|basic)\s+[\w.~+/=-]{16,}"
    r"|\b(sk|pk|gsk|xai|hf)[-_][\w-]{12,}"
    r"|((?:x-api-key|api[-_]?key|authorization|password|secret|access[-_]token)[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)[^\s\"',;}]{4,}"
)


def redact(text: str) -> str:
    """The text without what looks like a credential: a net under the rule that none is ever logged."""
    return _SECRET.sub(lambda match: match[1] or f"{match[2] or match[3] or match[4]}[redacted]", text)


def _event(level: int, logger: str, message: str, exception: str = "", created: float | None = None) -> bytes:
    now = dt.datetime.now(dt.UTC) if created is None else dt.datetime.fromtimestamp(created, dt.UTC)
    fields = [redact(text.encode("utf-8", "replace").decode()) for text in (message, exception)]
    event = Event(now, logging.getLevelName(level).lower(), logger, *fields)
    line = msgspec.json.encode(event)
    if len(line) >= MAX_LINE:
        # The end of a traceback says what happened; escapes may make six bytes of a character.
        event.message = event.message[: MAX_LINE // 24]
        event.exception = event.exception[-MAX_LINE // 12 :]
        line = msgspec.json.encode(event)
    return line + b"\n"


class Handler(logging.Handler):
    """Sends records the way request lines go: at once if the reader takes them, else later, never waiting."""

    def __init__(self, config: LogConfig, fd: int = 2, *, buffer: LineBuffer | None = None) -> None:
        super().__init__()
        self._buffer = buffer or LineBuffer(fd)
        self._text = config.format == "text"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._buffer.append(self._line(record))
            self._buffer.flush()
        except Exception:  # noqa: BLE001 - a log must not break who logs
            self.handleError(record)

    def flush(self) -> None:
        if self.lock:
            with self.lock:
                self._buffer.flush()

    def sweep(self, now: float) -> None:
        """Give the reader what it did not take before."""
        if self._buffer.pending and self.lock:
            with self.lock:
                self._buffer.sweep(now)

    def _line(self, record: logging.LogRecord) -> bytes:
        exception = ""
        if record.exc_info:
            exception = "".join(traceback.format_exception(*record.exc_info))
        message = record.getMessage()
        if not self._text:
            return _event(record.levelno, record.name, message, exception, record.created)
        time = dt.datetime.fromtimestamp(record.created, dt.UTC).strftime("%H:%M:%S.%f")[:-3]
        head = f"{time} {record.levelname.lower()} {record.name}: {message}".translate(_CONTROL)
        text = redact(f"{head}\n{exception}" if exception else head)
        return text.encode("utf-8", "replace").rstrip(b"\n") + b"\n"


def configure(config: LogConfig, fd: int = 2) -> Handler:
    """Let Python's logging speak in the same form; replaces the root logger's handlers.

    :returns: the handler: let the clock sweep it
    """
    handler = Handler(config, fd)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    return handler


def _log_uncaught(kind: type[BaseException], error: BaseException, _trace: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, error.__traceback__)
        return
    logging.getLogger("penstock").critical("uncaught exception", exc_info=error)
