"""Requests that come again, byte for byte, and whose answers memory has.

What makes a call of a request, and finds its answer by that, comes to the same whenever the same bytes come again: the
same key, tenant, model, question.  So a request that was answered from memory is remembered, head and body, with what
it was answered, and the next one that looks the same is answered without being read.

Only where nothing but the answer's freshness can make a difference from one such request to the next: no limit
concerns the call, no load is looked at, nothing is left out of its prompt, nothing is fetched behind it, and
it is nobody's repetition.  Whether the entry still counts, memory is asked each time.  Ledger, metrics and log
know each of these answers as they know any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.batches.exchange import LineExchange
from penstock.cache.entry import Entry
from penstock.gateway.stages import attach
from penstock.gateway.stages.lookup import FRESH, Found, Question
from penstock.gateway.stages.read_adapted import open_reading
from penstock.generation.log import new_id
from penstock.messages import Call
from penstock.net.exchange import HeaderList
from penstock.net.responses import LAST_CHUNK, render_fields

if TYPE_CHECKING:
    from penstock.gateway.pipeline import Pipeline
    from penstock.gateway.stages.record import Repetitions
    from penstock.net.exchange import Exchange

MOST_BYTES = 65_536  # of a request, and of an answer; what is longer is read and written like any other
SHARE = 8  # what is remembered may take one part in so many of the room that entries have in memory
_VARYING = frozenset({b"penstock-generation", b"age"})  # fields that each answer has its own of


class _Known:
    """A request that was answered: what it asks, and what is answered, but for id and age."""

    __slots__ = ("_age", "_rest", "entry", "key", "size", "tail", "told", "until")

    def __init__(
        self, segment: bytes, key: bytes, entry: Entry, until: float, rest: bytes, told: Repetitions
    ) -> None:
        self.key = key
        self.entry = entry
        self.until = until  # seconds since 1970
        self.told = told
        self.tail = b""  # of the answer: all that stands behind its id
        self._age = -1  # of the entry, as the tail tells it
        self._rest = rest  # of the answer: all that stands behind the entry's age
        # What it takes in memory, about, in bytes: with its entry, which memory may have let go of.
        self.size = len(segment) + 2 * len(rest) + entry.size

    def grow(self, now: float) -> None:
        """Let the tail tell the entry's age."""
        age = max(int(now - self.entry.stored), 0)
        if age != self._age:
            self._age = age
            self.tail = b"\r\nage: %d\r\n%b" % (age, self._rest)


class Repeats:
    """A :class:`penstock.net.exchange.Repeats` over the cache of one worker."""

    __slots__ = ("_known", "_pipeline", "answered", "held_bytes", "lengths")

    def __init__(self, pipeline: Pipeline) -> None:
        self.answered = 0
        self._pipeline = pipeline
        self._known: dict[bytes, _Known] = {}
        self.lengths: dict[int, int] = {}  # of requests that are known, how many: others need no look
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Repeats of {len(self._known)} requests, {self.answered} answered>"

    def clear(self) -> None:
        """Another configuration may mean something else by the same request."""
        self._known.clear()
        self.lengths.clear()
        self.held_bytes = 0

    def answer(self, segment: bytes, opening: bytes, peer: str) -> bytes | None:
        known = self._known.get(segment)
        pipeline = self._pipeline
        if known is None or pipeline.admission.draining:
            return None
        lookup = pipeline.lookup
        assert lookup is not None, "what is known was answered by it"
        cache = lookup.cache
        entry = known.entry
        now = cache.now()
        if now >= known.until or not cache.holds(known.key, entry):
            self._forget(segment, known)
            return None
        generation = new_id()
        known.told.add(generation, peer)
        self.answered += 1
        known.grow(now)
        return b"".join((opening, b"penstock-generation: ", generation.encode(), known.tail))

    def remember(self, exchange: Exchange, call: Call, question: Question, entry: Entry) -> None:
        """A call has been answered from memory: let the next one in the same bytes be."""
        segment = exchange.segment
        if not 0 < len(segment) <= MOST_BYTES or not self._is_plain(call, question):
            return
        lookup = self._pipeline.lookup
        assert lookup is not None, "it has answered"
        sheet = _Sheet(call)
        generation = lookup.told(call, question, Found(entry, FRESH))
        generation.join(open_reading(call, generation, sheet, FRESH, lambda _: None))
        rest = sheet.rest()
        if sheet.status != 200 or len(rest) > MOST_BYTES:
            return
        until = min(entry.fresh_until, entry.stored + question.control.max_age)
        if (before := self._known.get(segment)) is not None:
            self._forget(segment, before)
        asked = msgspec.structs.replace(call, fields={}, body=b"", headers={})
        told = self._pipeline.recorder.repetitions(asked, entry)
        known = self._known[segment] = _Known(segment, question.key, entry, until, rest, told)
        self.lengths[len(segment)] = self.lengths.get(len(segment), 0) + 1
        self.held_bytes += known.size
        while self.held_bytes * SHARE > lookup.cache.memory.max_bytes:
            oldest = next(iter(self._known))
            self._forget(oldest, self._known[oldest])

    def _is_plain(self, call: Call, question: Question) -> bool:
        """Whether the same bytes will mean the same as long as the configuration is the same."""
        pipeline = self._pipeline
        snapshot = pipeline.snapshot
        return (
            call.reservation is None
            and not call.deferred
            and question.policy.prefetch is None
            and snapshot.degradation is None
            and snapshot.router.tidying(call.model) is None
            and not snapshot.router.changes(call.model)
            and not attach.may_be_elsewhere(call)
        )

    def _forget(self, segment: bytes, known: _Known) -> None:
        del self._known[segment]
        length = len(segment)
        left = self.lengths[length] - 1
        if left:
            self.lengths[length] = left
        else:
            del self.lengths[length]
        self.held_bytes -= known.size


class _Sheet(LineExchange):
    """Where an answer is written as it would go out, and nobody is there to take it."""

    __slots__ = ("_pieces", "_streams")

    def __init__(self, call: Call) -> None:
        super().__init__(call.endpoint.path, b"", call.headers)
        self._pieces: list[bytes] = []
        self._streams = False

    def start(self, status: int, headers: HeaderList) -> None:
        self._streams = True
        self.respond(status, headers, b"")

    def write(self, data: bytes) -> bool:
        self._pieces.append(data)
        return True

    def end(self) -> None:
        self.answer = b"".join(self._pieces)

    def rest(self) -> bytes:
        """The answer behind its date, but for what each one has its own of."""
        fields = [field for field in self.answer_headers.items() if field[0] not in _VARYING]
        body = self.answer
        if self._streams:
            fields.append((b"transfer-encoding", b"chunked"))
            body = b"%x\r\n%b\r\n%b" % (len(body), body, LAST_CHUNK)
        else:
            fields.append((b"content-length", b"%d" % len(body)))
        return b"%b\r\n%b" % (render_fields(fields), body)
