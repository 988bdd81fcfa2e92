"""A stream that may come over several connections, read as one.

Theory of operation
-------------------
Only whole frames are passed on, so that what a break leaves of an event is never seen, and the event comes again,
whole, over the next connection.  A gateway numbers its events (``id: n``): what has been passed on already is
left out, and a hole is a break.  So what the reader gets is, byte for byte, what one unbroken connection would
have brought, signs of life aside.

If the log is lost (the gateway died and kept nothing), a call that asks for one answer rather than any can be
made once more.  The new answer has other ids and another time, so its events are compared by what else is in
them: those that were passed on must come again in the same order, and only what follows them is passed on.  If
they do not, the stream has failed; words of two answers are never mixed.

A stream is whole when its terminator has come.  No end of a connection, however orderly, is taken for that.  An
error event ends it too, but for one: a gateway that goes away says that it is ``draining``, and another goes on with
the answer.  That event is held back, and comes to the application only if the break cannot be mended.
"""

from __future__ import annotations

from collections import deque

import msgspec
from blake3 import blake3

from penstock.errors import Draining
from penstock.messages import Endpoint
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON
from penstock.wire.problems import event_of

RERUN_ENDPOINTS = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES})
"""Whose events can be compared between two answers."""

_VOLATILE = frozenset({"id", "created", "system_fingerprint", "obfuscation", "service_tier", "usage"})
_ENDS = {
    Endpoint.MESSAGES: frozenset({"message_stop", "error"}),
    Endpoint.RESPONSES: frozenset(
        {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "error"}
    ),
}
_PRINT_BYTES = 8
_DRAINING = Draining.code.encode()
_MOST_DIGITS = 18  # of an id
_LAST_FRAMES = 3  # a finish reason may be followed by usage and the terminator

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_written = msgspec.json.Encoder(order="sorted").encode


class _Typed(msgspec.Struct, gc=False):
    type: str = ""


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    error: msgspec.Raw = msgspec.Raw(b"null")


_typed = msgspec.json.Decoder(_Typed).decode
_chunk = msgspec.json.Decoder(_Chunk).decode


class _Details(msgspec.Struct, gc=False):
    error_code: object = None


class _Problem(msgspec.Struct, gc=False):
    code: object = None
    details: _Details | None = None  # where Anthropic's form has our code


class _Failure(msgspec.Struct, gc=False):
    error: _Problem | None = None


_failure = msgspec.json.Decoder(_Failure).decode


class Cut(Exception):
    """The stream is not whole, or has a hole."""


class HandedOver(Cut):
    """The gateway goes away, and another goes on with the answer."""


class NotReproduced(Exception):
    """The call was made once more, and came out otherwise."""


class StreamReading:
    """One caller's stream, over any number of connections.

    :param numbered: a gateway's, whose events have ids
    :param reproducible: what is passed on is remembered, to be compared with a second answer (8 bytes an event)
    """

    __slots__ = (
        "_closing",
        "_endpoint",
        "_numbered",
        "_prints",
        "_reproduced",
        "_splitter",
        "delivered",
        "handover",
        "last",
    )

    def __init__(self, endpoint: Endpoint, *, numbered: bool, reproducible: bool) -> None:
        self.last = -1  # the id of the last event that was taken in
        self.delivered = 0  # bytes passed on
        self.handover = b""  # the event by which a gateway said that it goes away, held back
        self._endpoint = endpoint
        self._numbered = numbered
        self._prints: list[bytes] | None = [] if reproducible and endpoint in RERUN_ENDPOINTS else None
        self._reproduced: int | None = None  # of the prints, in a second answer; None: this is the first
        self._splitter = sse.Splitter()
        self._closing: deque[bytes] = deque(maxlen=_LAST_FRAMES)

    def __repr__(self) -> str:
        return f"<StreamReading {self.delivered} bytes passed on, up to event {self.last}>"

    @property
    def can_rerun(self) -> bool:
        return self._prints is not None or not self.delivered

    def feed(self, data: bytes) -> bytes:
        """What is to be passed on of these bytes.  Once ``handover`` is set, nothing more is to be fed.

        :raises Cut: an event is missing
        :raises NotReproduced: a second answer differs from the first
        :raises penstock.errors.UpstreamBroken: an event beyond all measure
        """
        passed = []
        for frame in self._splitter.feed(data):
            number = _number(frame) if self._numbered else None
            if number is not None:
                if number <= self.last:
                    continue
                if number > self.last + 1:
                    raise Cut(f"after event {self.last} came {number}")
                self.last = number
            elif self._numbered and _hands_over(frame):
                self.handover = frame
                break
            if self._reproduced is not None:
                if not self._follows(frame):
                    continue
            elif self._prints is not None and (mark := _print(frame)):
                self._prints.append(mark)
            self._closing.append(frame)
            passed.append(frame)
        if not passed:
            return b""
        out = b"".join(passed)
        self.delivered += len(out)
        return out

    def _follows(self, frame: bytes) -> bool:
        """Whether this frame of a second answer comes after all that was passed on of the first."""
        assert self._prints is not None
        assert self._reproduced is not None
        mark = _print(frame)
        if self._reproduced == len(self._prints):
            if mark:
                self._prints.append(mark)
                self._reproduced += 1
            return True
        if mark:
            if mark != self._prints[self._reproduced]:
                raise NotReproduced("the answer came out otherwise when it was asked for once more")
            self._reproduced += 1
        return False

    def ended(self) -> bytes:
        """The connection has ended in order: what is left to be passed on.

        :raises Cut: the stream is not whole
        """
        rest = b""
        if not self._numbered and (rest := self._splitter.rest):  # some servers forget the last blank line
            self._closing.append(rest + b"\n\n")
        if not self.is_whole:
            raise Cut("the stream ended before its end")
        self.delivered += len(rest)
        return rest

    @property
    def is_whole(self) -> bool:
        """Whether the terminator has come; of a server that is no gateway, a finish reason will do."""
        ends = _ENDS.get(self._endpoint)
        for frame in self._closing:
            data = sse.data_of(frame)
            try:
                if ends is not None:
                    if _typed(data).type in ends:
                        return True
                elif data == b"[DONE]":
                    return True
                else:
                    chunk = _chunk(data)
                    if bytes(chunk.error) != b"null":
                        return True
                    if not self._numbered and any(choice.finish_reason for choice in chunk.choices):
                        return True
            except NOT_JSON:
                continue
        return False

    def verdict(self, body: bytes) -> bytes:
        """The event by which the application learns what a gateway says of the rest; empty: it says nothing."""
        return event_of(body, self._endpoint)

    def reconnected(self) -> None:
        """A connection follows that goes on with the same log."""
        self.handover = b""
        self._splitter = sse.Splitter()

    def restarted(self, *, numbered: bool) -> None:
        """A connection follows that brings a new answer from its beginning."""
        self.handover = b""
        self._splitter = sse.Splitter()
        self._numbered = numbered
        self.last = -1
        if self.delivered:
            assert self._prints is not None, "can_rerun comes first"
            self._reproduced = 0


def _number(frame: bytes) -> int | None:
    """A frame's id; None: it has none, and is a sign of life."""
    start = 0
    while frame[start : start + 1] == b":":  # a comment that goes in front of an event
        start = frame.find(b"\n", start) + 1
    if frame[start : start + 4] != b"id: ":
        return None
    digits = frame[start + 4 : frame.find(b"\n", start)]
    return int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else None


def _hands_over(frame: bytes) -> bool:
    """Whether a frame without an id is the error event of a gateway that goes away, in any dialect."""
    if _DRAINING not in frame:
        return False
    try:
        problem = _failure(sse.data_of(frame)).error
    except NOT_JSON:
        return False
    if problem is None:
        return False
    details = problem.details
    return Draining.code in (problem.code, details.error_code if details is not None else None)


def _print(frame: bytes) -> bytes:
    """What an event says, in 8 bytes, without what differs between two answers; empty: it says nothing."""
    data = sse.data_of(frame)
    if not data:
        return b""
    try:
        members = _members(data)
    except NOT_JSON:
        return blake3(data).digest(length=_PRINT_BYTES)
    kind = bytes(members.get("type", b""))
    if kind == b'"ping"':
        return b""
    if kind == b'"message_start"':  # holds the id of the answer, deep inside
        return blake3(kind).digest(length=_PRINT_BYTES)
    told = {name: value for name, value in members.items() if name not in _VOLATILE}
    return blake3(_written(told)).digest(length=_PRINT_BYTES)
