"""What a client sees of one answer: tokens, times, and whether it was complete.

Complete means that the finish reason *and* the terminator came, and nothing that made no sense between them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import UpstreamBroken
from penstock.lab.histogram import Histogram
from penstock.messages import Dialect
from penstock.wire.sse import Splitter, data_of


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cost: float | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    text: str | None = None  # Anthropic's, as the following
    thinking: str | None = None
    stop_reason: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    """As much of an event, or of a plain answer, of either dialect as matters here."""

    type: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    delta: _Delta | None = None
    message: _Message | None = None
    content: list[_Delta] = []
    stop_reason: str | None = None


_decode = msgspec.json.Decoder(_Event).decode
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Reading:
    """One answer under way.

    :param gaps: where the times between tokens are counted
    :param keep_text: keep what the model said, for comparison
    """

    __slots__ = (
        "_gaps",
        "_openai",
        "_splitter",
        "cached_tokens",
        "cost",
        "fault",
        "finished",
        "first",
        "input_tokens",
        "last",
        "output_tokens",
        "pieces",
        "terminated",
        "tokens",
    )

    def __init__(self, dialect: Dialect, gaps: Histogram, *, keep_text: bool) -> None:
        self._openai = dialect is Dialect.OPENAI
        self._gaps = gaps
        self._splitter = Splitter()
        self.pieces: list[str] | None = [] if keep_text else None
        self.tokens = 0  # frames with text in them
        self.first = 0.0  # when the first token came
        self.last = 0.0
        self.finished = False
        self.terminated = False
        self.fault = ""
        self.input_tokens = 0  # as the server reports, as the following
        self.output_tokens = 0
        self.cached_tokens = 0
        self.cost: float | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces or ())

    def feed(self, data: bytes, now: float) -> None:
        """A piece of a stream."""
        before = self.tokens
        try:
            for frame in self._splitter.feed(data):
                payload = data_of(frame)
                if payload:
                    self._event(payload)
        except (*_NO_JSON, UpstreamBroken) as error:
            self.fault = self.fault or f"malformed event ({error})"
        new = self.tokens - before
        if new:
            if before:
                self._gaps.add(now - self.last)
            else:
                self.first = now
            self.last = now
            if new > 1:
                self._gaps.add(0.0, new - 1)  # they came together: nobody waited between them

    def plain(self, body: bytes) -> None:
        """A whole plain answer."""
        try:
            event = _decode(body)
        except _NO_JSON as error:
            self.fault = f"malformed answer ({error})"
            return
        self._usage(event.usage)
        self.terminated = True
        for choice in event.choices:
            self.finished = self.finished or choice.finish_reason is not None
            if choice.message is not None:
                self._said(choice.message)
        self.finished = self.finished or event.stop_reason is not None
        for block in event.content:
            self._said(block)

    def _event(self, payload: bytes) -> None:
        if self._openai and payload == b"[DONE]":
            self.terminated = True
            return
        event = _decode(payload)
        if event.error is not None:
            self.fault = self.fault or f"error event: {_reason(event.error)}"
        self._usage(event.usage)
        for choice in event.choices:
            if choice.delta is not None:
                self._said(choice.delta)
            self.finished = self.finished or choice.finish_reason is not None
        if not self._openai:
            if event.delta is not None:
                self._said(event.delta)
                self.finished = self.finished or event.delta.stop_reason is not None
            elif event.message is not None:
                self._usage(event.message.usage)
            elif event.type == "message_stop":
                self.terminated = True

    def _said(self, delta: _Delta) -> None:
        text = delta.content or delta.text
        if text:
            self.tokens += 1
            if self.pieces is not None:
                self.pieces.append(text)
        elif delta.reasoning_content or delta.thinking:
            self.tokens += 1

    def _usage(self, usage: _Usage | None) -> None:
        if usage is None:
            return
        cached = usage.cache_read_input_tokens or 0
        if usage.prompt_tokens_details is not None:
            cached = usage.prompt_tokens_details.cached_tokens or 0
        if usage.prompt_tokens is not None:
            self.input_tokens = usage.prompt_tokens
        elif usage.input_tokens is not None:
            self.input_tokens = usage.input_tokens + cached  # Anthropic counts them apart
        self.cached_tokens = cached
        self.output_tokens = usage.completion_tokens or usage.output_tokens or self.output_tokens
        if usage.cost is not None:
            self.cost = usage.cost

    def __repr__(self) -> str:
        state = self.fault or ("complete" if self.finished and self.terminated else "under way")
        return f"<Reading {self.tokens} tokens, {state}>"


def refusal_of(body: bytes) -> str:
    """What an error body says, in a word: its code or type."""
    try:
        return _reason(msgspec.json.decode(body).get("error"))
    except (*_NO_JSON, AttributeError):
        return "not an API's error"


def _reason(error: Any) -> str:
    if isinstance(error, dict):
        return str(error.get("code") or error.get("type") or "without a code")
    return str(error)[:60]
