"""One upstream answer on its way into a generation's log.

A transfer receives bytes from a connection, turns them into events and appends them; it keeps the clocks
of the answer and knows, at the end, what the answer used.  All of it happens in callbacks: a streamed
chunk costs no task switch and no timer.

What all answers have in common is here; a streamed one is in :mod:`penstock.upstream.streamed`, one in a piece in
:mod:`penstock.upstream.whole`, and one that goes through as bytes in :mod:`penstock.upstream.opaque`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from penstock.errors import (
    InternalError,
    PenstockError,
    UpstreamBroken,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
)
from penstock.flow.gate import Turn
from penstock.generation.log import Generation
from penstock.messages import Dialect, Headers, Usage
from penstock.net.connection import Connection
from penstock.upstream.inquiry import id_in, id_in_head
from penstock.upstream.job import Job, Lookup
from penstock.wire import counting, problems, ratelimits
from penstock.wire.overstated import ADDED, HIDDEN, believable

MAX_ERROR_BYTES = 65_536
_AS_IT_IS = frozenset({b"", b"identity"})  # content codings that are none
LAST_BYTES = 1.0  # seconds that an upstream has for ending its message after its answer's terminator
ERROR_SILENCE = 5.0  # seconds without a byte after which what has come of an error's body must do

log = logging.getLogger("penstock.upstream")

# What an answer may show of the upstream's own header fields: request ids for support, and limits.
_SHOWN = (
    b"x-request-id",
    b"request-id",
    b"openai-processing-ms",
    b"openai-version",
    b"anthropic-organization-id",
)


_REQUEST_ID = {Dialect.OPENAI: b"x-request-id", Dialect.ANTHROPIC: b"request-id"}
_REQUEST_IDS = frozenset(_REQUEST_ID.values())


class Race(Protocol):
    """Several transfers for one answer, of which one writes the log."""

    def first(self, transfer: Transfer) -> None:
        """Its first event is there: unless another was quicker, it is the one, and the others have lost."""


class Transfer:
    """Base of all kinds of answers."""

    __slots__ = (
        "_error_body",
        "_paused",
        "answer",
        "cancelled",
        "connection",
        "cut",
        "failure",
        "generation",
        "headers",
        "held",
        "job",
        "last",
        "lookup",
        "lost",
        "notices",
        "now",
        "overstated",
        "race",
        "seen",
        "sent",
        "started",
        "status",
        "turn",
    )

    def __init__(self, generation: Generation, job: Job, now: Callable[[], float]) -> None:
        self.generation = generation
        self.job = job
        self.now = now
        self.started = self.sent = now()  # sent: when it had its turn, and the request went out
        self.last = 0.0  # when the last bytes of the answer came; 0: none yet
        self.seen = 0.0  # when the first event came; 0: none yet
        self.held = 0  # bytes on the generation's account that are not in its log yet
        self.status = 0
        self.headers: Headers = {}
        self.failure: PenstockError | None = None
        self.cancelled = False
        self.cut = False  # this side broke it off: the upstream may have sent, and will bill, more than came
        self.connection: Connection | None = None
        self.answer: asyncio.Future[None] | None = None  # done: the connection is not ours any more
        self.turn: Turn | None = None  # where the upstream has a gate
        self.race: Race | None = None  # where another may be asked as well
        self.notices: Sequence[tuple[bytes, bytes]] = ()  # header fields that the caller gets with the answer
        self.lost = False  # another was quicker
        self.overstated: Usage | None = None  # what the upstream has told that it used, where that cannot be
        self.lookup: Lookup | None = None  # where the upstream tells afterwards what the answer has cost
        self._error_body: bytearray | None = None  # an answer that is not the one that was asked for
        self._paused = False

    # ---- Receiver ----

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self.last = now = self.now()
        if self.turn is not None:
            self.turn.on_head(headers, now)
        if self.lookup is not None and (name := id_in_head(self.lookup.form, headers)):
            self.lookup.found(name)
        if self.job.herald is not None:
            self.job.herald.on_head(status, headers)
        if status != 200:
            self._error_body = bytearray()
        elif b"content-encoding" in headers and headers[b"content-encoding"].lower() not in _AS_IT_IS:
            self._give_up(UpstreamBroken("the upstream compressed its answer, though it was not asked to"))
        else:
            self._begin(headers)

    def on_data(self, data: bytes) -> None:
        self.last = now = self.now()
        if self.failure is not None:
            return
        if self._error_body is not None:
            self._error_body += data
            if len(self._error_body) > MAX_ERROR_BYTES:  # enough for any honest error
                self._give_up(self._refusal(self._error_body))
            return
        try:
            self._take(data, now)
        except PenstockError as error:
            self._give_up(error)
        except Exception:
            log.exception("defect while reading an answer of %s", self.job.upstream)
            self._give_up(InternalError("internal error"))

    def _begin(self, headers: Headers) -> None:
        raise NotImplementedError

    def _take(self, data: bytes, now: float) -> None:
        raise NotImplementedError

    def _give_up(self, error: PenstockError) -> None:
        self.failure = error
        connection = self._live()
        if connection is not None:
            connection.abort()

    def _live(self) -> Connection | None:
        """The connection, while it is ours: once the answer has been received it may be busy for another
        call before the task that waits for this one has its turn.
        """
        answer = self.answer
        return self.connection if answer is not None and not answer.done() else None

    def _refusal(self, body: bytes | bytearray) -> PenstockError:
        """What an answer means that is not the one that was asked for."""
        job = self.job
        error = problems.from_upstream(
            job.upstream,
            self.status,
            self.headers,
            bytes(body),
            callers_key=job.callers_key,
        )
        if isinstance(error, UpstreamFailed) and error.code in problems.NOT_MENDED_SOON:
            log.warning(error.message)  # a fallback would hide it from everybody
        if isinstance(error, UpstreamFailed | UpstreamRefused):
            error.fields = self._limits_of_caller()
        return error

    def _limits_of_caller(self) -> list[tuple[bytes, bytes]]:
        """What the upstream says of the limits of the key, where that is the caller's own.

        Where limits of the gateway hold for the call, too, these are told.
        """
        job = self.job
        if not job.callers_key or job.translation is not None or job.call.reservation is not None:
            return []
        return [field for field in self.headers.items() if ratelimits.is_of_limits(field[0])]

    def is_callers_own(self, failure: BaseException | None) -> bool:
        """Whether a failure concerns the caller's own key, and so nobody else."""
        return self.job.callers_key and problems.is_of_key(failure)

    # ---- the producer's side ----

    def hang_up(self, grace: float) -> None:
        """Nobody reads any more: tell the upstream, but count what was under way already."""
        connection = self._live()
        if connection is not None and not self.cancelled:
            self.cancelled = True
            if self._paused:
                self.resume()
            connection.hang_up(grace)

    def lose(self, grace: float) -> None:
        """Another transfer answers: nothing of this one is needed any more, but what came is counted."""
        self.lost = True
        self.hang_up(grace)
        self.cancelled = True  # also if there is no connection at the moment

    def move(self, error: PenstockError) -> bool:
        """Break the answer off, to be gone on with elsewhere; whether there was something to break off."""
        if self.cancelled or self.failure is not None or self._live() is None:
            return False
        self._give_up(error)
        return True

    def cut_short(self) -> None:
        """Do not wait any longer for what is under way."""
        connection = self._live()
        if connection is not None:
            connection.abort()

    def _pause(self) -> None:
        """The log is far ahead of its fastest reader."""
        if not self._paused and (connection := self._live()) is not None:
            self._paused = True
            connection.pause()

    def resume(self) -> None:
        """A reader has caught up."""
        if self._paused:
            self._paused = False
            self.last = self.now()
            connection = self._live()
            if connection is not None:
                connection.resume()

    def check_clocks(self, now: float) -> None:
        """End the attempt when one of its clocks has run out."""
        if self.cancelled or self.failure is not None or (self.answer is not None and self.answer.done()):
            return
        timeouts = self.job.timeouts
        late = timeouts.total and now - self.started > timeouts.total
        if self.told:
            patience = LAST_BYTES if self._error_body is None else ERROR_SILENCE
            if (late or now - self.last > patience) and (connection := self._live()) is not None:
                connection.abort()
        elif late:
            self._time_out("total", timeouts.total)
        elif not self.seen:
            if timeouts.first_token and now - self.sent > timeouts.first_token:
                self._time_out("first_token", timeouts.first_token)
        elif timeouts.between_tokens and not self._paused and now - self.last > timeouts.between_tokens:
            if not self._may_think(now):
                self._time_out("between_tokens", timeouts.between_tokens)
        else:
            self._check_pace(now)

    def _may_think(self, now: float) -> bool:  # noqa: ARG002 - a stream may
        """Whether an answer that has begun, and is silent, has not had the time for its first token yet."""
        return False

    def _check_pace(self, now: float) -> None:
        """End the attempt when it is too slow to be worth waiting for."""

    def _time_out(self, clock: str, limit: float) -> None:
        words = {
            "first_token": "sent nothing for",
            "between_tokens": "stopped in mid-answer for",
            "total": "did not finish within",
            "min_token_rate": "was slower than the least pace for",
        }[clock]
        self._give_up(
            UpstreamTimeout(
                f"{self.job.upstream} {words} {limit:g} s", clock=clock, upstream=self.job.upstream
            )
        )

    @property
    def told(self) -> bool:
        """Whether we know all that matters, even if the connection breaks or stalls from here on."""
        return self._error_body is not None

    @property
    def complete(self) -> bool:
        """Whether the log has all of the answer; what is left of the upstream's message is no part of it."""
        return False

    def conclude(self) -> None:
        """The connection is done: was that an answer?

        :raises PenstockError: it was not
        """
        if self.failure is not None:
            raise self.failure
        if self.cancelled:
            return
        if self._error_body is not None:
            raise self._refusal(self._error_body)
        self._complete()

    def _complete(self) -> None:
        raise NotImplementedError

    def used(self) -> Usage:
        """The upstream's own figures, else what was received, marked as estimated.

        What an upstream told before it was cut short is marked, too: it is the least that it may charge for.  So is
        what stands in the place of figures that cannot be.
        """
        used = self._received()
        if used.output_tokens > HIDDEN or used.input_tokens > ADDED or used.units:  # hardly ever
            used = self._believed(used)
        if self.cut and not self._whole and self._error_body is None and not used.estimated:
            return msgspec.structs.replace(used, estimated=True)
        if self.job.shared and not used.estimated:
            return msgspec.structs.replace(used, estimated=True)
        return used

    def _received(self) -> Usage:
        raise NotImplementedError

    @property
    def _broke_off(self) -> bool:
        """Whether the connection broke after a head that promised an answer."""
        answer = self.answer
        return (
            self.status == 200
            and self.failure is None
            and self._error_body is None
            and answer is not None
            and answer.done()
            and (answer.cancelled() or answer.exception() is not None)
        )

    def _believed(self, told: Usage) -> Usage:
        call = self.job.call
        sent = max(len(self.job.sent), len(call.body))
        used = believable(call, told, sent, self._size_of_answer())
        if used is not told:
            self.overstated = told
        return used

    def of_the_whole(self, used: Usage) -> Usage:
        """What the whole answer used, also where this transfer has only gone on with it.

        :param used: what this transfer did
        """
        splice = self.job.splice
        if splice is None:
            return used
        told = splice.told if self.overstated is None else None
        return told or splice.total(used)

    def _size_of_answer(self) -> int:
        """How many bytes of the answer have come, or a few more."""
        return self.generation.size + self.held

    def _prompt_tokens(self) -> int:
        """What the prompt may have cost, where nobody says: read closely, for this is rare and it is money."""
        return counting.prompt_tokens(self.job.sent or self.job.call.body)

    def told_usage(self) -> Usage | None:
        """What the upstream itself has said of its usage so far."""
        return None

    def look_for_id(self) -> None:
        """Say by which id the answer can be asked for, if what came of it tells."""
        lookup, job = self.lookup, self.job
        if lookup is None or job.translation is not None:
            return
        name = id_in(lookup.form, job.call, self._beginning())
        if name:
            lookup.found(name)

    def _beginning(self) -> bytes:
        """The first of what has come of the answer."""
        return b""

    @property
    def _whole(self) -> bool:
        """Whether the upstream has told all that it will ever tell."""
        raise NotImplementedError

    def shown_headers(self) -> list[tuple[bytes, bytes]]:
        """The upstream's header fields that the caller may see, and our own about it."""
        headers = self.headers
        shown = [(name, headers[name]) for name in _SHOWN if name in headers]
        if self.job.translation is not None:
            own = _REQUEST_ID[self.job.call.endpoint.dialect]  # where the caller's SDK looks for it
            shown = [(own if name in _REQUEST_IDS else name, value) for name, value in shown]
        elif self.job.callers_key:
            shown += self._limits_of_caller()
        if self.notices:
            shown += self.notices
        return shown
