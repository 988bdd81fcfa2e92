"""Has a question that means the same been answered before?

The contract: two questions are compared only if they agree in all but the text of their last turn, and differ in
nothing there that can be seen to decide (``cache.semantic.differences``).  An entry answers only where it has been
shown, by questions that were asked anew and whose answers could be compared, that it is wrong with a probability
of at most ``max_error`` (``cache.semantic.confidence``).  Until then, and always for a sampled share of those that it
answers, the question is asked anew, and the comparison is what is learned from.  An entry whose answer turns out
to have been wrong when it was given answers no more.

Never for calls with tools, or for answers that a schema rules.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

import msgspec
import numpy as np

from penstock.cache.cache import Cache
from penstock.cache.entry import Entry
from penstock.cache.keys import key as key_of
from penstock.cache.semantic.confidence import Pooled, adjusted
from penstock.cache.semantic.differences import Reading, differ, read
from penstock.cache.semantic.embedding import Embedding, Threaded, Vector
from penstock.cache.semantic.index import Index, Known
from penstock.config.model import SemanticConfig
from penstock.errors import PenstockError
from penstock.messages import Call, Endpoint
from penstock.metrics import Registry
from penstock.wire.fold import fold
from penstock.wire.last_turn import last_turn
from penstock.wire.said import text_of

NEAREST = 5  # candidates that are compared
MAX_KINDS = 1_000  # pairs of model and scope of which something is remembered
MAX_ANSWER_WORDS = 5_000
ANSWERS_BUDGET = 30.0  # seconds that comparing two answers may take; no caller waits for it
_UNLIKE = frozenset({"quoted", "numbers", "names", "negation", "opposite"})  # in which equal answers agree

log = logging.getLogger("penstock.cache")


class Similar:
    """The part of a question that may be compared by its meaning, and what came of it."""

    __slots__ = (
        "entry",
        "given",
        "kind",
        "known",
        "partition",
        "policy",
        "reading",
        "similarity",
        "text",
        "vector",
    )

    def __init__(
        self, partition: bytes, kind: str, text: str, reading: Reading, policy: SemanticConfig
    ) -> None:
        self.partition = partition
        self.kind = kind  # model and scope: what its likes have in common
        self.text = text
        self.reading = reading
        self.policy = policy
        self.vector: Vector | None = None
        self.known: Known | None = None  # the nearest one that may answer
        self.entry: Entry | None = None  # its answer
        self.similarity = 0.0
        self.given = False  # its answer was given

    def __repr__(self) -> str:
        return f"<Similar to {self.known!r} by {self.similarity:.3f}>"


class _Kind:
    """What was learned of the entries of one kind, and what was measured of the answers that they gave."""

    __slots__ = ("pooled", "verified", "wrong")

    def __init__(self) -> None:
        self.pooled = Pooled()
        self.verified = 0
        self.wrong = 0


class Resemblance:
    """Finds entries by what their questions mean.

    :param rand: decides which answers are verified
    :param threads: what encodes in a thread, if it does
    """

    def __init__(
        self,
        cache: Cache,
        embedding: Embedding,
        index: Index,
        metrics: Registry,
        rand: Callable[[], float] = random.random,
        threads: Threaded | None = None,
    ) -> None:
        self._threads = threads
        self.embedding = embedding
        self.index = index
        self._cache = cache
        self._rand = rand
        self._kinds: dict[str, _Kind] = {}
        self._comparing: set[asyncio.Task[None]] = set()
        self._measure(metrics)

    def __repr__(self) -> str:
        return f"<Resemblance by {self.index!r}>"

    def _measure(self, metrics: Registry) -> None:
        looked = metrics.counter(
            "penstock_similar_lookups_total",
            "Questions that were compared by their meaning.",
            labels=("outcome",),
        )
        names = ("hit", "unsure", "different", "none", "late")
        self._looked = {name: looked.labels(name) for name in names}
        verified = metrics.counter(
            "penstock_similar_verified_total",
            "Answers to similar questions that were compared with a fresh answer after they had been given.",
            labels=("result",),
        )
        self._right, self._wrong = verified.labels("right"), verified.labels("wrong")
        learned = metrics.counter(
            "penstock_similar_learned_total",
            "Similar questions that were asked anew, and whether the kept answer would have been right.",
            labels=("result",),
        )
        self._would, self._would_not = learned.labels("right"), learned.labels("wrong")
        questions = metrics.gauge(
            "penstock_similar_questions", "Questions that similar ones are compared with."
        ).labels()
        late = metrics.counter(
            "penstock_embedding_late_total", "Texts whose vector took longer than its budget."
        ).labels()
        failed = metrics.counter("penstock_embedding_failed_total", "Texts that had no vector.").labels()

        def collect() -> None:
            questions.set(len(self.index))
            late.value = self.embedding.late
            failed.value = self.embedding.failed

        metrics.before_collecting(collect)

    # ---- finding ----

    def similar(
        self, call: Call, policy: SemanticConfig, *, model_version: str, scope: str
    ) -> Similar | None:
        """What of a call can be compared by its meaning; None: nothing."""
        turn = last_turn(call)
        if turn is None:
            return None
        reading = read(turn.text)
        if reading is None:
            return None
        rest = msgspec.structs.replace(call, fields=turn.rest)
        partition = key_of(rest, model_version=model_version, scope=scope, secret=self._cache.key_secret)
        return Similar(partition, f"{scope} {call.model}", turn.text, reading, policy)

    async def find(self, similar: Similar) -> tuple[bytes, Entry] | None:
        """A kept answer that is right as far as can be known, and its key."""
        similar.vector = vector = await self.embedding.vector(similar.text)
        if vector is None:
            self._looked["late"].add()
            return None
        outcome = "none"
        for similarity, known in self.index.nearest(similar.partition, vector, NEAREST):
            if similarity < similar.policy.min_similarity:
                break
            outcome = "different"
            if differ(similar.reading, known.reading) is not None:
                continue
            entry = self._cache.get_nowait(known.key)
            if entry is None:
                if not self._cache.in_trouble:  # or each of the nearest waited for a budget of its own
                    entry = await self._cache.get(known.key)
                if entry is None and self._cache.in_trouble:  # it may be there
                    continue
            if entry is None or entry.fresh_until <= self._cache.now():
                self.index.remove(known)
                continue
            self.index.used(known)
            similar.known, similar.entry, similar.similarity = known, entry, similarity
            outcome = "hit" if self._is_sure(similar, known) else "unsure"
            break
        self._looked[outcome].add()
        if outcome != "hit" or similar.known is None or similar.entry is None:
            return None
        similar.given = True
        return similar.known.key, similar.entry

    def _is_sure(self, similar: Similar, known: Known) -> bool:
        kind = self._kind(similar.kind)
        bound = adjusted(similar.policy.max_error, kind.verified, kind.wrong)
        return known.confidence.error(similar.similarity, kind.pooled) <= bound

    def is_to_verify(self, similar: Similar) -> bool:
        """Whether an answer that was given shall be compared with a fresh one."""
        return self._rand() < similar.policy.verify

    def _kind(self, name: str) -> _Kind:
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            kind = self._kinds[name] = _Kind()
        return kind

    # ---- learning ----

    def keep(self, call: Call, similar: Similar, key: bytes, entry: Entry) -> None:
        """A fresh answer to the question is kept under this key: learn from it."""
        if similar.vector is None:
            return
        if similar.known is None or similar.entry is None:
            self.index.add(key, similar.partition, similar.reading, similar.vector)
            return
        task = asyncio.get_running_loop().create_task(self._compare(call, similar, key, entry))
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    async def _compare(self, call: Call, similar: Similar, key: bytes, entry: Entry) -> None:
        known, kept = similar.known, similar.entry
        assert known is not None
        assert kept is not None
        assert similar.vector is not None
        try:
            right = await self._are_alike(call.endpoint, kept, entry, similar.policy.answers_alike)
        except PenstockError as error:
            log.info("two answers could not be compared: %s", error.message)
            return
        if right is None:
            return
        kind = self._kind(similar.kind)
        known.confidence.observe(similar.similarity, right=right)
        kind.pooled.observe(similar.similarity, right=right)
        if similar.given:
            kind.verified += 1
            kind.wrong += not right
            (self._right if right else self._wrong).add()
            if not right:
                self.index.remove(known)
        else:
            (self._would if right else self._would_not).add()
        if not right:
            self.index.add(key, similar.partition, similar.reading, similar.vector)

    async def _are_alike(self, endpoint: Endpoint, one: Entry, other: Entry, least: float) -> bool | None:
        """Whether two answers say the same; None: that cannot be found out."""
        texts = [text_of(endpoint, _plain(endpoint, entry)) for entry in (one, other)]
        if texts[0] is None or texts[1] is None:
            return None
        if texts[0].split() == texts[1].split():
            return True
        readings = [read(text, MAX_ANSWER_WORDS) for text in texts if text is not None]
        if readings[0] is None or readings[1] is None or differ(readings[0], readings[1]) in _UNLIKE:
            return False
        vectors = [await self.embedding.vector(text, ANSWERS_BUDGET) for text in texts if text is not None]
        if vectors[0] is None or vectors[1] is None:
            return None
        return float(np.dot(vectors[0], vectors[1])) >= least

    async def wait_idle(self) -> None:
        """Until nothing is being compared."""
        while self._comparing:
            await asyncio.wait(self._comparing)

    async def close(self) -> None:
        for task in self._comparing:
            task.cancel()
        await self.wait_idle()
        await self.embedding.close()
        if self._threads is not None:
            self._threads.close()


def _plain(endpoint: Endpoint, entry: Entry) -> bytes:
    if entry.stream:
        return fold(endpoint, list(entry.events), usage=entry.usage)
    return b"".join(entry.events)
