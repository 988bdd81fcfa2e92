"""Requests that come again, byte for byte, and whose answers are kept.

What makes a call of a request, and finds its answer by that, comes to the same whenever the same bytes come again: the
same key, tenant, model, question.  So a request that was answered from the cache is remembered, and the next one that
looks the same is answered without being read.  Not the first time that it is seen, for most of those that are written
differently each time never come again: a hash tells whether one has come before, also to be answered by an upstream.

Two things are remembered.  While memory has its answer, the request, head and body, with the **answer** as it goes out.
And where there are tiers below, by a digest of all its bytes, what it **means**: whose call it is, and the key of its
answer.  Where memory has let go of that, or never had room for it, the tiers below are asked for the key, and the
connection is told later; one that is not there, or not fresh any more, is read like any other, and the tiers that have
just been asked are not asked again (:attr:`Lookup.below`).

Only where nothing but the answer's freshness can make a difference from one such request to the next: no limit
concerns the call, no load is looked at, nothing is left out of its prompt, nothing is fetched behind it, its answer goes
out at once, it is nobody's repetition, and it names nothing that is kept here, such as an earlier response, in whose
place something else is asked (its body is then another than it came with).  Whether the entry still counts, the cache is
asked each time.  Ledger, metrics and log know each of these answers as they know any other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import msgspec
from blake3 import blake3

from penstock.cache.entry import Entry
from penstock.gateway.prepared import prepared
from penstock.gateway.stages import attach
from penstock.gateway.stages.lookup import Lookup, Question
from penstock.gateway.stages.read import CLIENT_GONE
from penstock.generation.log import new_id
from penstock.messages import Call
from penstock.net.exchange import LATER, Asker

if TYPE_CHECKING:
    from penstock.gateway.stages.admit import Admission
    from penstock.gateway.stages.degrade import Degradation
    from penstock.gateway.stages.record import Recorder, Repetitions
    from penstock.gateway.stages.route import Router
    from penstock.net.clock import Clock

MOST_BYTES = 65_536  # of a request; what is longer is read like any other
SHARE = 8  # requests and answers may take one part in so many of the room that entries have in memory
MOST_SEEN = 32_768  # hashes, some 100 bytes each, and once more as many older ones
MOST_MEANINGS = 32_768  # some 400 bytes each; an answer on the disk takes more than that in pages
_MOST_KINDS = 1_024

log = logging.getLogger("penstock.gateway")


class _Meaning:
    """What a request asks."""

    __slots__ = ("call", "key", "length", "max_age")

    def __init__(self, call: Call, key: bytes, max_age: float, length: int) -> None:
        self.call = call  # one of its kind: neither its prompt nor, but for its label, its head
        self.key = key
        self.max_age = max_age  # seconds: its caller wants no answer that is as old
        self.length = length  # of the request, in bytes

    def until(self, entry: Entry) -> float:
        """When this entry is no answer to it any more, in seconds since 1970."""
        return min(entry.fresh_until, entry.stored + self.max_age)


class _Answer:
    """What a request was answered from memory, but for id and age."""

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


class Configured(Protocol):
    """What of a configuration decides whether the same bytes mean the same."""

    @property
    def router(self) -> Router: ...
    @property
    def degradation(self) -> Degradation | None: ...


class Answering(Protocol):
    """What answers requests that do not come again."""

    recorder: Recorder
    clock: Clock
    admission: Admission
    lookup: Lookup | None

    @property
    def snapshot(self) -> Configured: ...


class Repeats:
    """A :class:`penstock.net.exchange.Repeats` over the cache of one worker."""

    __slots__ = (
        "_answers",
        "_kinds",
        "_meanings",
        "_pipeline",
        "_seen",
        "_seen_before",
        "answered",
        "cleared",
        "held_bytes",
        "lengths",
    )

    def __init__(self, pipeline: Answering) -> None:
        self.answered = 0
        self.cleared = 0  # how often; what was asked before the last time is not to be remembered
        self._pipeline = pipeline
        self._answers: dict[bytes, _Answer] = {}  # by their requests
        self._meanings: dict[bytes, _Meaning] = {}  # by digests; only where there are tiers below memory
        self._kinds: dict[tuple[object, ...], Call] = {}
        self._seen: set[int] = set()  # hashes of requests
        self._seen_before: set[int] = set()
        self.lengths: dict[int, int] = {}  # of requests that are known, how many: others need no look
        self.held_bytes = 0  # of requests and answers

    def __repr__(self) -> str:
        return (
            f"<Repeats of {len(self._answers)} answers and {len(self._meanings)} requests, "
            f"{self.answered} answered>"
        )

    def clear(self) -> None:
        """From now on the same request may mean something else, or be refused: the configuration is another, or a key ended."""
        self.cleared += 1
        self._answers.clear()
        self._meanings.clear()
        self._kinds.clear()
        self.lengths.clear()
        self.held_bytes = 0

    def answer(self, segment: bytes, opening: bytes, asker: Asker) -> bytes | None:
        known = self._answers.get(segment)
        pipeline = self._pipeline
        if (known is None and not self._meanings) or pipeline.admission.draining:
            return None
        lookup = pipeline.lookup
        assert lookup is not None, "what is known was answered by it"
        cache = lookup.cache
        if known is not None:
            now = cache.now()
            if now < known.until and cache.holds(known.key, known.entry):
                generation = new_id()
                known.told.add(generation, asker.peer)
                self.answered += 1
                known.grow(now)
                return b"".join((opening, b"penstock-generation: ", generation.encode(), known.tail))
            self._forget_answer(segment, known)
        digest = blake3(segment).digest()
        meaning = self._meanings.get(digest)
        if meaning is None or cache.memory.peek(meaning.key) is not None:
            return None  # what memory has is stale, purged or of another request: reading it tells
        return _Look(self, lookup, segment, digest, meaning, asker).begin(opening)

    # ---- from the tiers below ----

    def found(self, look: _Look, entry: Entry | None) -> bytes | None:
        """The answer to a request whose key the tiers below have been asked for; None: it is to be read."""
        meaning, lookup = look.meaning, look.lookup
        if entry is None or self._meanings.get(look.digest) is not meaning:
            return None
        now = lookup.cache.now()
        if now >= meaning.until(entry):
            return None
        rest = prepared(lookup, meaning.call, meaning.key, entry)
        if rest is None:
            return None
        self._keep_answer(look.segment, meaning, entry, rest, lookup)
        pipeline = self._pipeline
        call = meaning.call
        call.id = new_id()
        pipeline.recorder.repeated(call, entry, look.asker.peer, pipeline.clock.now() - look.began)
        self.answered += 1
        age = max(now - entry.stored, 0)
        return b"penstock-generation: %b\r\nage: %d\r\n%b" % (call.id.encode(), age, rest)

    def left(self, look: _Look) -> None:
        """Who asked has gone while the tiers below were asked."""
        call = msgspec.structs.replace(look.meaning.call, id=new_id(), received=look.began)
        self._pipeline.recorder.answered(call, None, status=CLIENT_GONE, error="", peer=look.asker.peer)

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self._pipeline.clock.now()

    # ---- what is known ----

    def saw(self, segment: bytes) -> bool:
        """A request that is none of those known has come.

        :param segment: all of it; empty: it did not come at once
        :returns: whether it has come before
        """
        name = hash(segment)
        seen = self._seen
        if name in seen or name in self._seen_before:
            return True
        seen.add(name)
        if len(seen) >= MOST_SEEN:
            self._seen_before, self._seen = seen, set()
        return False

    def remember(self, segment: bytes, call: Call, question: Question, entry: Entry) -> None:
        """A call has been answered from the cache: let the next one in the same bytes be, if this is not the first.

        :param segment: all of its request
        """
        if not 0 < len(segment) <= MOST_BYTES or not self.saw(segment):
            return
        if not self._is_plain(call, question):
            return
        if not segment.endswith(call.body):  # it named what was put in its place, and may be deleted
            return
        lookup = self._pipeline.lookup
        assert lookup is not None, "it has answered"
        kind = self._kind(call)
        rest = prepared(lookup, kind, question.key, entry)
        if rest is None:
            return
        meaning = _Meaning(kind, question.key, question.control.max_age, len(segment))
        if lookup.cache.waits:
            digest = blake3(segment).digest()
            if (old := self._meanings.pop(digest, None)) is not None:
                self._forget_length(old.length)
            self._meanings[digest] = meaning
            self._note_length(meaning.length)
            if len(self._meanings) > MOST_MEANINGS:
                self._forget_length(self._meanings.pop(next(iter(self._meanings))).length)
        self._keep_answer(segment, meaning, entry, rest, lookup)

    def _keep_answer(
        self, segment: bytes, meaning: _Meaning, entry: Entry, rest: bytes, lookup: Lookup
    ) -> None:
        memory = lookup.cache.memory
        if memory.peek(meaning.key) is not entry:
            return
        if (before := self._answers.get(segment)) is not None:
            self._forget_answer(segment, before)
        told = self._pipeline.recorder.repetitions(meaning.call, entry)
        until = meaning.until(entry)
        known = self._answers[segment] = _Answer(segment, meaning.key, entry, until, rest, told)
        self._note_length(len(segment))
        self.held_bytes += known.size
        while self.held_bytes * SHARE > memory.max_bytes:
            oldest = next(iter(self._answers))
            self._forget_answer(oldest, self._answers[oldest])

    def _kind(self, call: Call) -> Call:
        """A call that all those share which differ only in what they ask."""
        name = (
            call.endpoint,
            call.tenant,
            call.model,
            call.version,
            call.named,
            call.stream,
            call.include_usage,
            call.running_usage,
            label := call.headers.get(b"penstock-label"),
        )
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            kind = self._kinds[name] = msgspec.structs.replace(
                call,
                fields={},
                body=b"",
                headers={} if label is None else {b"penstock-label": label},
                max_output_tokens=None,
                trace=None,
            )
        return kind

    def _is_plain(self, call: Call, question: Question) -> bool:
        """Whether the same bytes will mean the same as long as the configuration is the same."""
        pipeline = self._pipeline
        snapshot = pipeline.snapshot
        return (
            call.reservation is None
            and not call.deferred
            and not call.left_out
            and b"traceparent" not in call.headers
            and question.policy.prefetch is None
            and not (call.stream and question.policy.pace is not None)
            and snapshot.degradation is None
            and snapshot.router.tidying(call.model) is None
            and not snapshot.router.changes(call.model)
            and not attach.may_be_elsewhere(call)
        )

    def _forget_answer(self, segment: bytes, known: _Answer) -> None:
        del self._answers[segment]
        self._forget_length(len(segment))
        self.held_bytes -= known.size

    def _note_length(self, length: int) -> None:
        self.lengths[length] = self.lengths.get(length, 0) + 1

    def _forget_length(self, length: int) -> None:
        left = self.lengths[length] - 1
        if left:
            self.lengths[length] = left
        else:
            del self.lengths[length]


class _Look:
    """The tiers below are asked for what a request wants."""

    __slots__ = (
        "_answer",
        "_is_later",
        "_is_told",
        "_repeats",
        "asker",
        "began",
        "digest",
        "lookup",
        "meaning",
        "segment",
    )

    def __init__(
        self,
        repeats: Repeats,
        lookup: Lookup,
        segment: bytes,
        digest: bytes,
        meaning: _Meaning,
        asker: Asker,
    ) -> None:
        self._repeats = repeats
        self._answer: bytes | None = None
        self._is_told = False
        self._is_later = False
        self.lookup = lookup
        self.segment = segment
        self.digest = digest
        self.meaning = meaning
        self.asker = asker
        self.began = repeats.now

    def begin(self, opening: bytes) -> bytes | None:
        """As :meth:`Repeats.answer`."""
        self.lookup.cache.look(self.meaning.key, self._told)
        if not self._is_told:
            self._is_later = True
            return LATER
        return None if self._answer is None else opening + self._answer

    def _told(self, entry: Entry | None) -> None:
        self._is_told = True
        if self._is_later and self.asker.gone:
            self._repeats.left(self)
            self.asker.told(None)
            return
        try:
            self._answer = self._repeats.found(self, entry)
        except Exception:
            log.exception("an answer that is at hand could not be given to %r", self.asker)
        if not self._is_later:
            return
        if self._answer is not None:
            self.asker.told(self._answer)
            return
        self.lookup.below = (self.meaning.key, entry)
        try:
            self.asker.told(None)
        finally:
            self.lookup.below = None
