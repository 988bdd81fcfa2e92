"""An answer that goes through as bytes: JSON, text, sound, or events, as the upstream chose to answer.

What form it has, its media type tells.  JSON and text wait until they are whole, and are one event of the log, so
that a broken one can be asked for again.  Sound goes on as it comes, each piece an event; whoever has its first
byte cannot be given another, so a break ends the answer.  Server-sent events make the log one of a stream, with all
that a stream's log can do but being gone on with.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.errors import PenstockError, UpstreamBroken
from penstock.generation.log import Generation
from penstock.messages import Endpoint, Event, Headers, Usage
from penstock.upstream.job import Job
from penstock.upstream.whole import WholeTransfer
from penstock.wire import opaque
from penstock.wire.sse import Splitter

MAX_EVENT_BYTES = 32 * 1024 * 1024  # an image of 4K in base64 is some 20 MB

_SPEECH = Endpoint.SPEECH
_TYPE = b"content-type"


class OpaqueTransfer(WholeTransfer):
    """The receiver of such an answer."""

    __slots__ = ("_splitter", "_watch", "_whole_answer")

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        super().__init__(generation, job, now)
        job.prompt_tokens = opaque.prompt_tokens(job.call)
        self._whole_answer = True  # it waits until it is whole
        self._splitter: Splitter | None = None  # of an answer in events
        self._watch = opaque.Watch(job.endpoint, job.upstream, opaque.wanted(job.call))

    def _begin(self, headers: Headers) -> None:
        kind = headers.get(_TYPE, b"")
        generation = self.generation
        generation.stream = kind.lower().startswith(b"text/event-stream")
        shown = self.shown_headers()
        if generation.stream:
            self._splitter = Splitter(min(MAX_EVENT_BYTES, generation.max_bytes))
        else:
            try:
                self._whole_answer = opaque.is_whole(self.job.endpoint, kind)
            except UpstreamBroken as error:
                self._give_up(error)
                return
            shown.append((_TYPE, kind or b"application/json"))
        generation.headers = shown

    def _take(self, data: bytes, now: float) -> None:
        if self._splitter is not None:
            self._take_events(self._splitter.feed(data), now)
        elif self._whole_answer:
            super()._take(data, now)
        else:
            self._deliver([data], now)

    def _take_events(self, frames: list[bytes], now: float) -> None:
        events: list[Event] = []
        try:
            self._watch.take(frames, events)
        except PenstockError:
            if self.generation.events:  # what came before the fault has been paid for
                self._deliver(events, now)
            raise
        self._deliver(events, now)

    def _deliver(self, events: list[Event], now: float) -> None:
        if not events:
            return
        self.seen = self.seen or now
        generation = self.generation
        generation.append(events, now)
        if generation.ahead:
            self._pause()

    @property
    def told(self) -> bool:
        return self._watch.complete or self._error_body is not None

    def _usage_told(self, body: bytes) -> Usage | None:
        return opaque.usage_of(self.job.endpoint, body)

    def _complete(self) -> None:
        if self._splitter is not None:
            if not (self._watch.complete or self._watch.closed):
                raise UpstreamBroken("the upstream's answer ended before it was complete")
            self._usage = self._watch.usage
        elif self._whole_answer:
            self._complete_whole()
        elif not self.generation.events:
            raise UpstreamBroken("the upstream's answer is empty")

    def _complete_whole(self) -> None:
        endpoint = self.job.endpoint
        body = b"".join(self._pieces)
        if b"json" in self.headers.get(_TYPE, b"json").lower():
            self._usage = self._usage_told(body)
            if self._usage is None or endpoint is Endpoint.MODERATIONS:
                try:
                    opaque.check_substance(endpoint, body, self.job.upstream)
                except PenstockError:
                    self._no_answer()
                    raise
        self.generation.append([body], self.seen or self.now())

    def told_usage(self) -> Usage | None:
        return self._usage or self._watch.usage

    def _received(self) -> Usage:
        told = self.told_usage()
        if told is not None:
            return told
        if not self.seen:
            return Usage()
        # Nobody tells what it was: of speech the characters can be counted, of anything else nothing is known.
        spoken = opaque.characters(self.job.call) if self.job.endpoint is _SPEECH else 0
        return Usage(units=spoken, estimated=True)
