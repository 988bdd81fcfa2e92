"""How far a streamed answer has come: is it complete, what did it use, has it gone wrong?

Each event of a stream that is passed through is decoded once, narrowly (0.4 µs): only so is a malformed
event noticed, and an end without a finish reason not mistaken for success.  "Complete" means that a
finish reason *and* the terminator came.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from penstock.errors import PenstockError, UpstreamBroken
from penstock.messages import Endpoint, Event, Usage
from penstock.wire import problems, sse, usage
from penstock.wire.not_json import NOT_JSON
from penstock.wire.usage_view import without_usage

_DONE = b"[DONE]"
_USUAL_LINES = 3  # event, data, and the blank line


class Progress(Protocol):
    """Watches one attempt's stream."""

    complete: bool

    @property
    def usage(self) -> Usage | None:
        """What the upstream has told so far."""

    def take(self, frames: list[bytes], kept: list[Event]) -> None:
        """Read whole SSE frames; those that belong to the answer's log are added to ``kept``, one by one, so
        that what came before a fault is not lost with it.

        :raises UpstreamBroken: an event makes no sense, or follows the terminator
        :raises PenstockError: the upstream reports an error inside the stream
        """


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Present(msgspec.Struct, gc=False):
    """An object whose members do not matter here."""


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Present | None = None
    error: _Present | str | None = None


_chunk = msgspec.json.Decoder(_Chunk).decode


class ChunkProgress:
    """Chat completions and legacy completions: chunks, each choice's finish reason, ``[DONE]``.

    :param keep_usage: whether the caller wants the closing chunk that carries usage and no choices
        (many clients read ``choices[0]`` of each chunk and would stumble over one that they did not
        ask for)
    :param keep_running: whether the caller wants the usage so far in every chunk, which we ask the upstream
        for on our own account (who adds up the chunks' usage, as LangChain does, would count it many times)
    """

    __slots__ = (
        "_endpoint",
        "_finished",
        "_keep_running",
        "_keep_usage",
        "_last_usage",
        "_upstream",
        "complete",
    )

    def __init__(
        self, endpoint: Endpoint, upstream: str, *, keep_usage: bool = True, keep_running: bool = True
    ) -> None:
        self._endpoint = endpoint
        self._upstream = upstream
        self._keep_usage = keep_usage
        self._keep_running = keep_running
        self._finished = False
        self._last_usage: bytes | None = None
        self.complete = False

    @property
    def usage(self) -> Usage | None:
        if self._last_usage is None:
            return None
        return usage.usage_of_event(self._endpoint, self._last_usage)

    def take(self, frames: list[bytes], kept: list[Event]) -> None:
        if self.complete:
            return  # what follows the terminator is no part of the answer
        decode, keep = _chunk, kept.append
        for frame in frames:
            # The usual frame is one line of data; any other one is no JSON from its seventh byte on.
            try:
                chunk = decode(frame[6:-2] if frame.startswith(b"data: ") else b"")
            except NOT_JSON:
                self._take_unusual(frame, kept)
                if self.complete:
                    return
                continue
            if chunk.usage is None and chunk.error is None:
                for choice in chunk.choices:
                    if choice.finish_reason is not None:
                        self._finished = True
                keep(frame)
            else:
                self._take_chunk(chunk, frame[6:-2], frame, kept)

    def _take_unusual(self, frame: bytes, kept: list[Event]) -> None:
        data = sse.data_of(frame)
        if not data:  # a comment: the upstream's keep-alive, not part of the answer
            return
        without_id = sse.without_id(frame)  # the log's own ids take its place
        if data == _DONE:
            self._terminate()
            kept.append(without_id)
        else:
            self._take_chunk(_decoded(data), data, without_id, kept)

    def _take_chunk(self, chunk: _Chunk, data: bytes, frame: bytes, kept: list[Event]) -> None:
        if chunk.error is not None:
            raise _reported(data, self._upstream)
        if chunk.usage is not None:
            self._last_usage = data
            if chunk.choices:
                if not self._keep_running:
                    frame = without_usage(data)
            elif not self._keep_usage:
                return
        for choice in chunk.choices:
            if choice.finish_reason is not None:
                self._finished = True
        kept.append(frame)

    def _terminate(self) -> None:
        if not self._finished:
            raise UpstreamBroken("the upstream ended its answer without a finish reason")
        self.complete = True


def _decoded(data: bytes) -> _Chunk:
    try:
        return _chunk(data)
    except NOT_JSON:
        raise UpstreamBroken("the upstream sent a malformed event") from None


class _Typed(msgspec.Struct):
    type: str


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _MessageEvent(msgspec.Struct):
    type: str
    delta: _Delta | None = None


_typed = msgspec.json.Decoder(_Typed).decode
_message_event = msgspec.json.Decoder(_MessageEvent).decode


class MessageProgress:
    """Anthropic Messages: ``message_delta`` with a stop reason, then ``message_stop``."""

    __slots__ = ("_finished", "_upstream", "_usages", "complete")

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._finished = False
        self._usages: list[bytes] = []
        self.complete = False

    @property
    def usage(self) -> Usage | None:
        merged: Usage | None = None
        for data in self._usages:
            found = usage.usage_of_event(Endpoint.MESSAGES, data)
            if found is not None:
                merged = found if merged is None else usage.merge(merged, found)
        return merged

    def take(self, frames: list[bytes], kept: list[Event]) -> None:
        for frame in frames:
            if self.complete:
                return
            data = sse.data_of(frame)
            if not data:
                continue
            try:
                event = _typed(data)
                kind = event.type
                if kind == "message_start":
                    self._usages.append(data)
                elif kind == "message_delta":
                    delta = _message_event(data).delta
                    if delta is not None and delta.stop_reason is not None:
                        self._finished = True
                    self._usages = [*self._usages[:1], data]
                elif kind == "message_stop":
                    if not self._finished:
                        raise UpstreamBroken("the upstream ended its answer without a stop reason")
                    self.complete = True
                elif kind == "error":
                    raise _reported(data, self._upstream)
            except NOT_JSON:
                raise UpstreamBroken("the upstream sent a malformed event") from None
            kept.append(frame if frame.count(b"\n") == _USUAL_LINES else sse.without_id(frame))


_RESPONSES_END = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)


class ResponseProgress:
    """OpenAI Responses: one of the four closing events."""

    __slots__ = ("_last", "_upstream", "complete")

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._last: bytes | None = None
        self.complete = False

    @property
    def usage(self) -> Usage | None:
        return None if self._last is None else usage.usage_of_event(Endpoint.RESPONSES, self._last)

    def take(self, frames: list[bytes], kept: list[Event]) -> None:
        for frame in frames:
            data = sse.data_of(frame)
            if not data or data == _DONE:  # some servers close with [DONE] here too
                continue
            if self.complete:
                return
            try:
                kind = _typed(data).type
            except NOT_JSON:
                raise UpstreamBroken("the upstream sent a malformed event") from None
            if kind in _RESPONSES_END:
                self._last = data
                self.complete = True
            elif kind == "error":
                raise _reported(data, self._upstream)
            kept.append(frame if frame.count(b"\n") == _USUAL_LINES else sse.without_id(frame))


def progress(
    endpoint: Endpoint, *, keep_usage: bool = True, keep_running: bool = True, upstream: str = ""
) -> Progress:
    """The watcher for a stream in the dialect of ``endpoint``.

    :param upstream: its name, for the errors that it reports
    """
    if endpoint is Endpoint.MESSAGES:
        return MessageProgress(upstream)
    if endpoint is Endpoint.RESPONSES:
        return ResponseProgress(upstream)
    return ChunkProgress(endpoint, upstream, keep_usage=keep_usage, keep_running=keep_running)


def _reported(data: bytes, upstream: str) -> PenstockError:
    return problems.error_in_event(data, upstream) or UpstreamBroken(
        "the upstream reported an error that makes no sense"
    )
