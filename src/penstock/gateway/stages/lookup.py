"""Has this question been answered before?

The contract: a finished generation whose key equals this call's, nearest tier first, is read as if it
were new; only complete generations are ever stored, and never across tenants by default.

Memory is asked at once (:meth:`Lookup.find`); for the tiers below somebody has to wait
(:meth:`Lookup.find_below`), a few milliseconds at most.  What is found is *fresh*, or *stale* and good enough while
it is renewed, or only good for the case that no upstream answers (:attr:`Question.reserve`).  When the producer
of a new answer is done, :meth:`Lookup.keep` decides whether it is one for others, too.

What a caller may ask by ``Cache-Control`` (``wire.cache_control``) can narrow what the configuration allows,
and keep an entry from answering or being made, but not switch on what is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock.batches.batch import TIER
from penstock.cache import claims as claiming
from penstock.cache import keys
from penstock.cache.cache import Cache
from penstock.cache.claims import Claims
from penstock.cache.entry import Entry
from penstock.cache.retold import retold
from penstock.config.model import ModelCacheConfig, PaceConfig
from penstock.errors import BadRequest, NotCached, PenstockError, UpstreamBroken
from penstock.gateway.stages.decode import decode
from penstock.gateway.stages.pace import Pacing, span
from penstock.gateway.stages.prefetch import Prefetch
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Router
from penstock.generation.log import Generation, State
from penstock.messages import Call, Endpoint, Event, Usage
from penstock.wire import cached_usage
from penstock.wire.cache_control import USUAL, Control, control_of
from penstock.wire.ratelimits import is_of_limits
from penstock.wire.sound import is_sound

if TYPE_CHECKING:  # an extra
    from penstock.gateway.stages.resemble import Resemblance, Similar

log = logging.getLogger("penstock.gateway")

MAX_TAGS, MAX_TAG_BYTES = 16, 64
FRESH, STALE, SIMILAR = b"cached", b"stale", b"similar"


_NO_USAGE = Usage()
_RESPONSES = Endpoint.RESPONSES
_KEPT = frozenset({Endpoint.MODERATIONS, Endpoint.RERANK})  # of those that are relayed as bytes


class Question:
    """A call whose answer may be kept: what is needed to find it, and to store it."""

    __slots__ = (
        "asked",
        "below",
        "claimed",
        "control",
        "key",
        "lenient",
        "patient",
        "policy",
        "prefetched",
        "reserve",
        "scope",
        "similar",
        "tags",
    )

    def __init__(
        self,
        key: bytes,
        policy: ModelCacheConfig,
        control: Control,
        asked: float,
        tags: tuple[str, ...],
        scope: str,
    ) -> None:
        self.key = key
        self.scope = scope  # who may share the answer
        self.similar: Similar | None = None  # what of it may be compared by its meaning
        self.tags = tags  # the caller's own
        self.policy = policy
        self.control = control
        self.asked = asked  # seconds since 1970
        self.lenient = False  # an answer that is only good for want of another will do
        self.patient = True  # it may wait for an answer that somebody else fetches
        self.prefetched = False  # no caller has asked it yet
        # What the tiers below had, if they have been asked.
        self.below: tuple[bytes, Entry | None] | None = None
        self.claimed = False  # its producer has to say when it is done
        self.reserve: Entry | None = None  # too old to answer, but not for want of another

    def __repr__(self) -> str:
        return f"<Question {self.key.hex()[:12]}{', with a reserve' if self.reserve is not None else ''}>"


class Found(msgspec.Struct, frozen=True):
    """An entry that answers; ``status_name`` is the value of ``Penstock-Status``.

    ``key`` and ``similarity`` (to the question asked; 1: it is the same) are set where the entry is another question's.
    """

    entry: Entry
    status_name: bytes
    key: bytes = b""
    similarity: float = 1.0


class Lookup:
    """The cache as callers meet it.

    :param recorder: is told what was found, and what that saved
    :param claims: how gateways that share a cache agree who asks; None: each asks for itself
    """

    __slots__ = ("_recorder", "below", "cache", "claims", "pacing", "prefetch", "renewing", "resemblance")

    def __init__(self, cache: Cache, recorder: Recorder, claims: Claims | None = None) -> None:
        self.prefetch: Prefetch | None = None  # None: nothing is fetched before it is asked for
        self.resemblance: Resemblance | None = None  # None: only the same question is answered
        self.cache = cache
        self.claims = claims
        # What the tiers below had a moment ago under a key, while the request that has it is read: see Repeats.
        self.below: tuple[bytes, Entry | None] | None = None
        self.renewing: set[bytes] = set()  # keys of stale entries whose successors are being fetched
        self.pacing = Pacing(recorder.clock.now)
        self._recorder = recorder

    def __repr__(self) -> str:
        return f"<Lookup in {self.cache!r}, {len(self.renewing)} being renewed>"

    async def close(self) -> None:
        """What goes out over time goes out now; the tiers are closed by who has made them."""
        self.pacing.close()
        if self.resemblance is not None:
            await self.resemblance.close()

    # ---- finding ----

    def question(self, call: Call, router: Router, *, open_to_all: bool) -> Question | None:
        """None: nothing is looked up for this call, nor kept.

        :param open_to_all: the gateway has no keys of its own
        :raises NotCached: that is so, and the caller wants nothing but what is kept
        :raises BadRequest: too many tags, or too long ones
        """
        field = call.headers.get(b"cache-control")
        control = USUAL if field is None else control_of(field)
        policy = router.caching(call.model)
        if (
            policy is None
            or (call.background and call.endpoint is _RESPONSES and not call.promised)
            or (call.endpoint.opaque and call.endpoint not in _KEPT)
            or not (control.reads or control.stores)
            or (policy.calls == "deterministic" and not keys.is_deterministic(call))
            or keys.has_effects(call)
        ):
            if control.only:
                raise NotCached("no answer to this call is kept here")
            return None
        scope = keys.scope_of(call, shared=policy.scope == "shared", open_to_all=open_to_all)
        key = keys.key(
            call,
            model_version=router.version(call.model, call.version),
            scope=scope,
            secret=self.cache.key_secret,
        )
        question = Question(key, policy, control, self.cache.now(), _tags(call), scope)
        wish = call.headers.get(b"penstock-join")
        if not control.stores or wish == b"never" or (wish is None and router.joining(call.model) == "never"):
            question.patient = False
        return question

    def find(self, call: Call, question: Question, router: Router) -> Found | None:
        """What memory has.

        :raises NotCached: nothing, there is nowhere else to look, and the caller wants nothing else
        """
        if question.control.reads:
            entry = self.cache.get_nowait(question.key)
            if entry is not None:
                found = self.judged(question, entry)
                if found is not None:
                    return found
            elif self.below is not None and self.below[0] == question.key:
                question.below = self.below
            policy = question.policy.semantic
            if self.resemblance is not None and policy is not None:
                version = router.version(call.model, call.version)
                question.similar = self.resemblance.similar(
                    call, policy, model_version=version, scope=question.scope
                )
        if not self.waits(question):
            self._missed(question)
        return None

    def foresee(
        self, call: Call, question: Question, router: Router, *, open_to_all: bool
    ) -> list[tuple[Call, Question]]:
        """What is to be fetched before anybody asks it, as this has been asked."""
        policy = question.policy.prefetch
        if self.prefetch is None or policy is None:
            return []
        found: list[tuple[Call, Question]] = []
        route = router.route_name(call.model) or ""

        def wanted(next_one: Call) -> Question | None:
            asked = self.question(next_one, router, open_to_all=open_to_all)
            return None if asked is None or asked.key in self.renewing else asked

        for follower in self.prefetch.asked(call, question.key, question.scope, policy, route):
            with contextlib.suppress(PenstockError):
                if (asked := wanted(follower)) is not None:
                    found.append((follower, asked))
        tenant = msgspec.structs.replace(call.tenant, tier=TIER)
        for body in self.prefetch.beside(call, question.scope, policy):
            with contextlib.suppress(PenstockError):
                near = decode(call.endpoint, call.headers, body, tenant, call.received, router)
                if (near.model, near.version) != (call.model, call.version):
                    continue  # its caller may use this model; who knows what others a function names
                if (asked := wanted(near)) is not None and self.prefetch.is_wanted(asked.key, policy, route):
                    found.append((near, asked))
        return found

    def prefetched(self, call: Call, question: Question, generation: Generation, router: Router) -> None:
        """A production has ended; nothing happens if its call was somebody's."""
        if not question.prefetched or self.prefetch is None:
            return
        entry = self.cache.memory.peek(question.key) if generation.ending is State.FINISHED else None
        took = self._recorder.clock.now() - call.received
        until = entry.fresh_until if entry is not None else 0.0
        route = router.route_name(call.model) or ""
        self.prefetch.fetched(
            call, question.key, route, question.policy.prefetch, generation.cost, took, until
        )

    def waits(self, question: Question) -> bool:
        """Whether there is more to ask than memory: the tiers below, or what similar questions were answered."""
        return question.control.reads and (self.cache.waits or question.similar is not None)

    async def find_below(self, question: Question) -> Found | None:
        """What the tiers below have; memory has been asked.

        :raises NotCached: nothing, and the caller wants nothing else
        """
        if question.below is not None:
            entry = question.below[1]
        else:
            entry = await self.cache.get(question.key)
        if entry is not None:
            found = self.judged(question, entry)
            if found is not None:
                return found
        if self.resemblance is not None and question.similar is not None:
            similar = await self.resemblance.find(question.similar)
            if similar is not None:
                key, entry = similar
                return Found(entry, SIMILAR, key, question.similar.similarity)
        self._missed(question)
        return None

    def is_to_verify(self, question: Question) -> bool:
        """Whether the answer of a similar question, which was given, shall be compared with a fresh one."""
        resemblance, similar = self.resemblance, question.similar
        return (
            resemblance is not None
            and similar is not None
            and question.control.stores
            and question.key not in self.renewing
            and resemblance.is_to_verify(similar)
        )

    async def wait_for_others(
        self, question: Question, enough: Callable[[], bool], deadline: float
    ) -> Found | None:
        """The answer that a gateway elsewhere is fetching; None: this one is to ask.

        :param enough: whether there is no need to wait any more
        :param deadline: monotonic seconds, from which on an answer is of no use
        """
        claims = self.claims
        if claims is None or not question.patient or claims.is_late or enough():
            return None
        if await claims.claim(question.key):
            question.claimed = True
            return None
        until = min(self._recorder.clock.now() + claims.patience, deadline)
        entry = await self._kept_by_another(question, claims, enough, until)
        if entry is not None:
            claims.answered += 1
            return Found(entry, FRESH)
        if question.claimed:
            claims.taken_over += 1
        elif not enough():
            claims.tired += 1
        return None

    async def _kept_by_another(
        self, question: Question, claims: Claims, enough: Callable[[], bool], until: float
    ) -> Entry | None:
        """The answer to a question that another gateway has claimed, once it is kept.

        :param until: monotonic seconds
        :returns: None: there is none, and the question is ours now, or it has been waited for long enough
        """
        pause = claiming.FIRST_PAUSE
        while self._recorder.clock.now() < until:
            await asyncio.sleep(pause)
            if enough():
                return None
            entry = self.cache.get_nowait(question.key) or await self.cache.get(question.key)
            if entry is not None and entry.fresh_until > self.cache.now():
                return entry
            if await claims.claim(question.key):
                question.claimed = True
                return None
            pause = min(pause * claiming.FACTOR, claiming.LONGEST_PAUSE)
        return None

    async def is_to_fetch(self, call: Call, question: Question, enough: Callable[[], bool]) -> bool:
        """Whether an answer that no caller waits for is still to be fetched, and by this worker.

        Claimed first, then looked for: whoever had the claim before lets go of it when its answer can be found.
        If so, :meth:`release` follows; else the question is left alone for a moment, if another worker has it.

        An answer that was given to a similar question is verified by what another worker has got, or gets, as well.

        :param enough: whether there is no need to wait for that any more
        """
        key, claims = question.key, self.claims
        given = question.similar if question.similar is not None and question.similar.given else None
        entry: Entry | None = None
        if claims is not None:
            question.claimed = await claims.claim(key)
            if not question.claimed and given is None:
                asyncio.get_running_loop().call_later(claiming.LONGEST_PAUSE, self.renewing.discard, key)
                return False
            if not question.claimed:
                until = self._recorder.clock.now() + claims.patience
                entry = await self._kept_by_another(question, claims, enough, until)
        if claims is None or question.claimed:
            entry = await self.cache.get(key)
            if entry is None or entry.fresh_until <= self.cache.now():
                return True
        if given is not None and entry is not None and self.resemblance is not None:
            self.resemblance.keep(call, given, key, entry)
        self.release(question)
        return False

    def has(self, call: Call, router: Router, *, open_to_all: bool) -> bool:
        """Whether memory has a fresh answer, though nobody asks for it now."""
        question = self.question(call, router, open_to_all=open_to_all)
        if question is None or not question.control.reads:
            return False
        entry = self.cache.memory.peek(question.key)
        found = None if entry is None else self.judged(question, entry)
        return found is not None and found.status_name == FRESH

    def release(self, question: Question) -> None:
        """Nobody asks this question any more: its answer is kept, or there is none."""
        self.renewing.discard(question.key)
        if question.claimed and self.claims is not None:
            question.claimed = False
            claims, key = self.claims, question.key
            self.cache.when_kept(key, lambda: claims.release(key))

    def judged(self, question: Question, entry: Entry) -> Found | None:
        """Whether an entry is fresh enough for this caller."""
        now = question.asked
        control, policy = question.control, question.policy
        overdue = now - entry.fresh_until
        too_old = now - entry.stored >= control.max_age
        if overdue < 0 and not too_old:
            return Found(entry, FRESH)
        patience = control.stale_while_revalidate
        if overdue < (policy.stale_while_revalidate if patience is None else patience) and not too_old:
            return Found(entry, STALE)
        patience = control.stale_if_error
        if overdue < (policy.stale_if_error if patience is None else patience):
            question.reserve = entry
            if question.lenient and not too_old:
                return Found(entry, STALE)
        return None

    def _missed(self, question: Question) -> None:
        self.cache.misses += 1
        if question.control.only:
            raise NotCached("no answer to this call is kept here")

    def served(self, call: Call, question: Question, found: Found) -> Generation:
        """A generation that tells the entry to this caller; its saving is a row of the ledger.

        It is finished, unless the model's answers have a pace: who does not wait is promised nothing that is here.
        """
        key, asked, pace = found.key or question.key, question.asked, question.policy.pace
        if pace is not None and call.stream and not (call.deferred or call.endpoint.opaque):
            generation = self._paced(call, found, pace, key=key, asked=asked)
        else:
            generation = self.told(call, found, key=key, asked=asked)
        self._recorder.saved(call, found.entry, number=1)
        return generation

    def told(self, call: Call, found: Found, *, key: bytes, asked: float) -> Generation:
        """The same, without a row, and at once.

        :param key: the entry's
        :param asked: seconds since 1970
        """
        generation = self._log(call, found, key=key, asked=asked)
        generation.append(list(found.entry.events), call.received)
        generation.finish()
        return generation

    def _paced(self, call: Call, found: Found, pace: PaceConfig, *, key: bytes, asked: float) -> Generation:
        """The same over time; a plain answer is made a stream before that."""
        entry = found.entry
        events: Sequence[Event] = entry.events
        if not entry.stream:
            try:
                events = retold(
                    entry, call.endpoint, stream=True, include_usage=call.include_usage, running_usage=False
                )
            except UpstreamBroken:  # its reader will be told so
                return self.told(call, found, key=key, asked=asked)
        generation = self._log(call, found, key=key, asked=asked)
        if not entry.stream:
            generation.stream = True
            generation.include_usage, generation.running_usage = call.include_usage, call.running_usage
        self.pacing.begin(generation, events, span(pace, entry))
        return generation

    def _log(self, call: Call, found: Found, *, key: bytes, asked: float) -> Generation:
        """A log of which all is known but what is in it."""
        entry = found.entry
        generation = Generation(
            call.id,
            endpoint=call.endpoint,
            tenant=call.tenant.name,
            model=call.model,
            stream=entry.stream,
            started=call.received,
            max_bytes=2**62,  # it was bounded when it was made
        )
        generation.include_usage = entry.include_usage
        generation.running_usage = entry.running_usage
        generation.usage = entry.usage_told
        generation.served_by = (entry.upstream, entry.upstream_model)
        generation.headers = _headers(entry, key, asked)
        if found.similarity < 1:
            generation.headers.append((b"penstock-similarity", b"%.4f" % found.similarity))
        return generation

    def fill(self, call: Call, generation: Generation, question: Question, now: float) -> None:
        """Tell the reserve in a log that was begun for a new answer, in that log's form.

        :param now: monotonic seconds
        :raises penstock.errors.UpstreamBroken: it cannot be told so
        """
        entry = question.reserve
        assert entry is not None
        events = retold(
            entry,
            call.endpoint,
            stream=generation.stream,
            include_usage=generation.include_usage,
            running_usage=generation.running_usage,
        )
        generation.usage = entry.usage_told
        generation.served_by = (entry.upstream, entry.upstream_model)
        generation.headers = _headers(entry, question.key, question.asked)
        generation.append(events, now)
        self._recorder.saved(call, entry, number=generation.attempts + 1)

    # ---- keeping ----

    def keep(self, call: Call, question: Question, generation: Generation, router: Router) -> None:
        """Store an answer if others may have it, as :meth:`_keep` has it; it is complete, whatever becomes of its copy."""
        try:
            self._keep(call, question, generation, router)
        except Exception:
            log.exception("defect while keeping %s", generation.id)

    def _keep(self, call: Call, question: Question, generation: Generation, router: Router) -> None:
        """Store an answer that has just been completed, if others may have it.

        Not: one that failed or was given up, was made by a fallback of the model, was put together from two
        attempts, or was filtered (``wire.sound``).
        """
        if not question.control.stores or generation.ending is not State.FINISHED or generation.abandoned:
            return
        if not generation.attempts or generation.seams:
            return
        upstream, upstream_model = generation.served_by
        candidate = router.own_candidate(call.model, upstream, upstream_model)
        if candidate is None:
            return
        policy = question.policy
        # What is certainly too large to be kept is not read: it may be half a million events.
        events, stream = generation.events, generation.stream
        if generation.size <= 2 * self.cache.largest(policy.max_entry_bytes):
            if not is_sound(call.endpoint, events, stream=stream):
                return
            if policy.usage == "cached":
                events = cached_usage.told(call.endpoint, events, stream=stream)
        now = self.cache.now()
        fresh_until = now + policy.ttl
        tags = [f"tenant:{call.tenant.name}", f"model:{call.model}", *question.tags]
        if candidate.version:
            tags.append(f"version:{candidate.version}")
        entry = Entry(
            endpoint=call.endpoint.label,
            model=call.model,
            upstream=upstream,
            upstream_model=upstream_model,
            stream=stream,
            include_usage=generation.include_usage,
            running_usage=generation.running_usage,
            headers=tuple(field for field in generation.headers if not is_of_limits(field[0])),
            events=tuple(events),
            usage=generation.usage or _NO_USAGE,
            cost=generation.cost,
            # The question's moment was another one where the time of all has been agreed upon since: a purge must cover it.
            asked=min(question.asked, now - (self._recorder.clock.now() - call.received)),
            stored=now,
            fresh_until=fresh_until,
            kept_until=fresh_until + max(policy.stale_while_revalidate, policy.stale_if_error),
            tags=tuple(tags),
            took=self._recorder.clock.now() - (generation.first_event if stream else generation.started),
            says_cached=policy.usage == "cached",
        )
        kept = self.cache.put(question.key, entry, policy.max_entry_bytes)
        if kept and self.resemblance is not None and question.similar is not None:
            self.resemblance.keep(call, question.similar, question.key, entry)


def _headers(entry: Entry, key: bytes, asked: float) -> list[tuple[bytes, bytes]]:
    return [
        *entry.headers,
        (b"age", b"%d" % max(asked - entry.stored, 0)),
        (b"penstock-cache-key", key.hex().encode()),
    ]


def _tags(call: Call) -> tuple[str, ...]:
    """The caller's own, by which an operator can purge.

    :raises BadRequest: too many, or too long
    """
    field = call.headers.get(b"penstock-cache-tags")
    if field is None:
        return ()
    tags = [tag for tag in (part.strip() for part in field.decode("latin-1").split(",")) if tag]
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG_BYTES for tag in tags):
        message = f"Penstock-Cache-Tags takes {MAX_TAGS} tags of {MAX_TAG_BYTES} characters"
        raise BadRequest(message, param="penstock-cache-tags")
    return tuple(f"tag:{tag}" for tag in tags)
