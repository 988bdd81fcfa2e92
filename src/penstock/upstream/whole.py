"""An answer that is kept until it is whole, and then is one event of the log: what is not read as it comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import msgspec

from penstock.errors import PenstockError, UpstreamBroken
from penstock.generation.log import EVENT_OVERHEAD, Generation, too_large
from penstock.messages import Endpoint, Headers, Usage
from penstock.upstream.job import Job
from penstock.upstream.transfer import Transfer
from penstock.wire import problems, usage
from penstock.wire.not_json import NOT_JSON

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# What an answer has and the report of an error has not.
_SUBSTANCE = frozenset({"choices", "content", "data", "output", "input_tokens"})
_COUNTS = frozenset({Endpoint.COUNT_TOKENS, Endpoint.INPUT_TOKENS})


class WholeTransfer(Transfer):
    """Base of :class:`PlainTransfer`, and of the opaque answers that wait until they are whole."""

    __slots__ = ("_pieces", "_size", "_usage")

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        super().__init__(generation, job, now)
        self._pieces: list[bytes] = []
        self._size = 0
        self._usage: Usage | None = None

    def _take(self, data: bytes, now: float) -> None:
        if not self.seen:
            self.seen = now
        self._size += len(data)
        if self._pieces:  # most answers come in one piece and are logged at once
            self.held += len(data)
            self.generation.hold(len(data))
        self._pieces.append(data)
        if self._size + EVENT_OVERHEAD * len(self._pieces) > self.generation.max_bytes:
            raise too_large()

    def conclude(self) -> None:
        """As for every transfer; a whole answer that came after a cancel is counted, too."""
        if self.cancelled and self.failure is None and self._pieces:
            with contextlib.suppress(PenstockError):
                self._usage = self._usage_told(b"".join(self._pieces))
        super().conclude()

    def charge(self, status: int, used: Usage) -> None:
        """It was part of a request that failed: what that had used of the upstream."""
        self.status = status
        self._usage = used

    def _usage_told(self, body: bytes) -> Usage | None:
        """What a whole answer says that it used.

        :raises PenstockError: it makes no sense
        """
        raise NotImplementedError

    def _size_of_answer(self) -> int:
        return super()._size_of_answer() + self._size

    def _no_answer(self) -> None:
        """What came is none: nothing was made, or will be billed."""
        self._pieces, self._usage, self.seen = [], None, 0.0

    @property
    def _whole(self) -> bool:
        return self._usage is not None


class PlainTransfer(WholeTransfer):
    """An answer in JSON."""

    __slots__ = ()

    def _begin(self, headers: Headers) -> None:
        # A wrong base URL or a proxy's own page: no SDK could tell its caller what went wrong.
        # `find` costs a sixth of `in`, which first tries to take the bytes for a number, and fails.
        if headers.get(b"content-type", b"application/json").lower().find(b"json") < 0:
            self._give_up(UpstreamBroken("the upstream answered with something else than JSON"))

    def _usage_told(self, body: bytes) -> Usage | None:
        return usage.usage_of_body(self.job.endpoint, body)

    def _complete(self) -> None:
        body = b"".join(self._pieces)
        job = self.job
        self._usage = usage.usage_of_body(job.endpoint, body)
        if self._usage is None or job.endpoint in _COUNTS:
            self._check_substance(body)
        if job.translation is not None:
            body = job.translation.answer(body, job.call.model, created=int(time.time()))
        self.generation.headers = self.shown_headers()
        self.generation.append([body], self.seen or self.now())

    def _beginning(self) -> bytes:
        return self._pieces[0] if self._pieces else b""

    def _check_substance(self, body: bytes) -> None:
        """:raises PenstockError: no JSON object, or one that only tells of an error, whatever the status said"""
        try:
            members = _object(body)
        except NOT_JSON:
            broken = UpstreamBroken("the upstream's answer is not a JSON object")
            if body.lstrip().startswith(b"{"):
                raise broken from None  # an answer that was spoiled on its way: it was made, and will be billed
            error: PenstockError | None = broken
        else:
            if "error" not in members or not members.keys().isdisjoint(_SUBSTANCE):
                return
            error = problems.error_in_event(body, self.job.upstream, callers_key=self.job.callers_key)
        if error is not None:
            self._no_answer()
            raise error

    def _received(self) -> Usage:
        if self._usage is not None:
            return self._usage
        if not self._pieces:
            if self._size or not self._broke_off:
                return Usage()
            # A plain answer has been made when its head goes out, and is billed, whatever becomes of its body.
            return Usage(input_tokens=self._prompt_tokens(), estimated=True)
        writes = self.job.endpoint.streams or self.job.endpoint is Endpoint.COMPACT
        output = usage.output_tokens_in_part(b"".join(self._pieces)) if writes else 0
        return Usage(input_tokens=self._prompt_tokens(), output_tokens=output, estimated=True)
