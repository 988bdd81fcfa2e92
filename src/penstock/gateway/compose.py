"""The composition root: puts the parts of a gateway together, and is its life; ``parts`` makes what is outside the order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from penstock.cache import measures as cache_measures
from penstock.cache.cache import Cache
from penstock.cache.neighbours import Function
from penstock.config.model import Config, UpstreamConfig
from penstock.errors import Draining, UnknownModel
from penstock.flow.canary import Action
from penstock.flow.degrade import Ladders
from penstock.flow.gate import Gate
from penstock.flow.lessee import Board
from penstock.flow.limits import Limiter
from penstock.flow.measures import measure as measure_gates
from penstock.flow.prefix import Replica
from penstock.flow.retry import RetryBudget
from penstock.gateway import parts, state, upstreams
from penstock.gateway.announce import Announcer
from penstock.gateway.beside.booked import LedgerBooks
from penstock.gateway.beside.expiry import Expiry
from penstock.gateway.beside.health import HealthChecks
from penstock.gateway.beside.inquiries import Inquiries
from penstock.gateway.beside.leaving import Leaving
from penstock.gateway.beside.listing import Listing
from penstock.gateway.beside.shadow import Shadows, in_turn
from penstock.gateway.beside.sharing import Sharing
from penstock.gateway.beside.spending import Spending
from penstock.gateway.beside.transcribe import Transcriber
from penstock.gateway.cascade import CascadeMeasures, Cascades
from penstock.gateway.durable import Durable
from penstock.gateway.explain import Explained, explain
from penstock.gateway.kept.conversations import ConversationRoom
from penstock.gateway.measures import MAX_CHILDREN
from penstock.gateway.pipeline import Pipeline
from penstock.gateway.provider_lines import ProviderLines
from penstock.gateway.reception import Reception
from penstock.gateway.repeats import Repeats
from penstock.gateway.rooms import Rooms
from penstock.gateway.snapshot import Snapshot
from penstock.gateway.stages.authenticate import Keyring
from penstock.gateway.stages.degrade import Degradation
from penstock.gateway.stages.lookup import Lookup
from penstock.gateway.stages.prefetch import Prefetch
from penstock.gateway.stages.record import Recorder
from penstock.gateway.stages.route import Router
from penstock.gateway.tracing import Tracing
from penstock.gateway.tracing import check as check_traces
from penstock.gateway.versions import Versions
from penstock.generation.keeper import Keeper
from penstock.generation.measures import measure as measure_journals
from penstock.generation.registry import Registry
from penstock.ledger.ledger import Ledger
from penstock.ledger.measures import measure
from penstock.ledger.prices import CacheTerms
from penstock.ledger.sqlite import SQLiteStore
from penstock.logs import RequestLog
from penstock.messages import Call, Usage
from penstock.metrics import Registry as Metrics
from penstock.net.clock import Clock
from penstock.upstream.http import HTTPUpstream

HAND_OVER = 2.0  # seconds for storing what other processes are to go on with

log = logging.getLogger("penstock.gateway")


def build(config: Config, *, clock: Clock) -> Gateway:
    """A gateway for this configuration, ready to be started.

    :raises penstock.errors.ConfigError: something that the configuration names cannot be used
    """
    return Gateway(config, clock)


class Gateway:
    """Everything between the two sides of the wire.

    :ivar reception: what listeners serve
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self.clock = clock
        self.metrics = Metrics()
        book = config.ledger
        self._store = SQLiteStore(book.path, keep_days=book.keep_days) if book.path else None
        ledger = Ledger(parts.prices(config), self._store, max_rows=book.max_rows_in_memory)
        measure(self.metrics, ledger)
        self._request_log = RequestLog(config.log) if config.log.requests else None
        self.recorder = Recorder(
            ledger,
            self.metrics,
            self._request_log,
            clock,
            request_ids=bool(config.listener.trusted_proxies),
        )
        self._tracing = Tracing(self.metrics)
        self.recorder.tracer = self._tracing.use(config.traces)
        self.config_version = 1
        self._retired: set[asyncio.Task[None]] = set()
        self._sharing = Sharing(config, clock, self.metrics)
        self._turn = measure_gates(self.metrics, self._gates)
        registry = Registry(
            config.generations_bytes,
            config.max_answer_bytes,
            clock.now,
            kept_for=config.generations.kept_for,
            kept_bytes=config.generations.kept_bytes,
        )
        self._degrading: Degradation | None = None
        self._versions = Versions(partial(parts.trials, config), clock, self.metrics)
        self._cascade_measures = CascadeMeasures(self.metrics)
        self._registry = registry
        self.leaving = Leaving(clock, self.metrics)
        self.health = HealthChecks(clock, self.metrics)
        self.pipeline = Pipeline(
            self._snapshot(config, {}), registry, self.recorder, clock, parts.conversations(config)
        )
        self.reception = Reception(self.pipeline, parts.codings(config), Listing(clock))
        self._expiry = Expiry(clock, self.reception.forget_heads)
        self._expiry.use(self.pipeline.snapshot.keyring)
        self._durable = Durable(self.pipeline)
        registry.give_up = self._durable.give_up
        self._add_keepers(self._lacking_keepers(config))
        measure_journals(self.metrics, self._durable.keepers.items)
        clock.add(self.pipeline)
        self.leaving.follow(self.pipeline)
        self._limit_refusals = self.metrics.counter(
            "penstock_limit_refusals_total",
            "Calls refused because of a limit or budget.",
            labels=("scope", "limit"),
        )
        self._passed_over = self.metrics.counter(
            "penstock_limit_passed_over_total",
            "Candidates that were not asked because of a limit or budget.",
            labels=("upstream", "scope", "limit"),
            max_children=MAX_CHILDREN,
        )
        self.pipeline.admission.limiter = self._limiter(config)
        self._spending = Spending(self._store, clock)
        clock.add(self._spending)
        admission = self.pipeline.admission
        self._inquiries = Inquiries(
            self._store, self.pipeline, lambda: admission.limiter, clock, self.metrics
        )
        self._books = LedgerBooks(self._store, self._inquiries) if self._store is not None else None
        sender = parts.sender(config, clock, self.metrics)
        self._announcer = Announcer(sender)
        if sender is not None:
            self.pipeline.on_background_end = self._announcer.response_ended
        self._transcriber = Transcriber(self.metrics, clock)
        self._shadows = Shadows(self.pipeline, clock, self.metrics)
        self._follow_answers(config)
        providers = ProviderLines(self.pipeline, self._store)
        runner = partial(parts.runner, config, self.pipeline, self._announcer, self.metrics, providers)
        self._rooms = Rooms(config, clock, runner, self.reception.answer_resumed)
        self._rooms.kept.add(
            "/v1/conversations",
            ConversationRoom(self.pipeline.conversations, config.listener.max_body_bytes),
        )
        self.reception.lead_to(self._rooms.kept, self._rooms.pieces)
        if self._request_log is not None:
            clock.add(self._request_log)
        self.cache: Cache | None = None
        self._look_up(config, self._lacking_cache(config))

    def __repr__(self) -> str:
        return f"<Gateway {self.pipeline}, configuration {self.config_version}>"

    @property
    def repeats(self) -> Repeats:
        """What a listener may answer without reading it."""
        return self.pipeline.repeats

    # ---- life ----

    async def start(self, board: Board | None = None) -> None:
        """Begin to work behind the scenes; the loop that calls this is the one that serves.

        :param board: where the workers of this machine share their limits; None: each has its part of them
        :raises penstock.errors.ConfigError: what is kept on disk cannot be
        """
        self.clock.start(asyncio.get_running_loop())
        if self._store is not None:
            self._store.start()
        self._sharing.use(board)
        await self._versions.start()
        self.clock.add(self._versions)
        await self._sharing.join()
        await self._spending.follow(self.pipeline.admission.limiter)
        for keeper in self._durable.keepers.values():
            await keeper.start(self._durable, self._books)
        await self._rooms.open()
        await self._announcer.start()
        await self._rooms.start()
        if self.cache is not None:
            self.cache.start()

    def reload(self, config: Config) -> None:
        """Use another configuration from the next call on; calls in flight keep theirs.

        :raises penstock.errors.ConfigError: it cannot be used; the present one stays
        """
        old = self.pipeline.snapshot
        prices = parts.prices(config)
        near = parts.neighbours(config)
        check_traces(config.traces)
        keepers, kept = self._lacking_keepers(config), self._lacking_cache(config)
        parts.check_resemblance(config)
        self.pipeline.snapshot = self._snapshot(config, old.upstreams)
        self._expiry.use(self.pipeline.snapshot.keyring)
        self.reception.forget_heads()
        self.config_version += 1
        self.recorder.ledger.use_prices(prices)
        self.recorder.tracer = self._tracing.use(config.traces)
        self._follow_answers(config)
        self._add_keepers(keepers)
        for keeper in keepers.values():
            self.pipeline.soon(keeper.start(self._durable, self._books))
        self.pipeline.admission.limiter = limiter = self._limiter(config)
        self._spending.use(limiter)
        self.pipeline.soon(self._sharing.join())
        self._look_up(config, kept)
        if kept is not None:
            kept.cache.start()
        self._compare(config)
        self._foresee(near)
        present = set(map(id, self.pipeline.snapshot.upstreams.values()))
        loop = asyncio.get_running_loop()
        for upstream in old.upstreams.values():
            if id(upstream) not in present:
                task = loop.create_task(self._retire(upstream))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)

    async def drain(self, seconds: float) -> int:
        """Let what is under way end, for so many seconds; then end the rest with an error.

        :returns: how many answers were cut short
        """
        self._rooms.stop()
        self._shadows.stop()
        self._durable.leave()
        self.pipeline.registry.hurry()
        if self.pipeline.lookup is not None:
            self.pipeline.lookup.pacing.hurry()
        try:
            await asyncio.wait_for(self.pipeline.wait_idle(), seconds)
        except TimeoutError:
            self.pipeline.admission.draining = True
            handed_over = await self._durable.hand_over(self.pipeline.in_flight(), HAND_OVER)
            if handed_over:
                log.info("%d generations are left to other processes", handed_over)
            return self.pipeline.cut_all(Draining("this gateway is going away; try again", retry_after=1.0))
        return 0

    async def close(self) -> None:
        """Close connections, and write down what is not written yet."""
        self._rooms.stop()
        self.pipeline.cut_all(Draining("this gateway is going away; try again", retry_after=1.0))
        await self._shadows.close()
        await self.reception.close()
        await self._inquiries.close()
        await self.leaving.close()
        await self.health.close()
        self._durable.close()
        await self.pipeline.wait_idle()
        await self.pipeline.conversations.close()
        await self._rooms.close()
        await self._announcer.close()
        for keeper in self._durable.keepers.values():
            await keeper.close()
        if self._retired:  # their calls have ended, so they only close
            await asyncio.wait(self._retired)
        for upstream in self.pipeline.snapshot.upstreams.values():
            await upstream.close()
        if self.pipeline.lookup is not None:
            await self.pipeline.lookup.close()
        if self.cache is not None:
            await self.cache.close()
        await self._transcriber.close()
        await self._tracing.close()
        self.clock.stop()
        await self._versions.close()
        await self._sharing.close()
        await self._spending.wait_idle()
        if self._request_log is not None:
            self._request_log.flush()
        if self._store is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._store.close)

    # ---- introspection ----

    def state(self) -> dict[str, Any]:
        """What the control port shows of this worker; what msgspec can pack."""
        return {
            "metrics": self.metrics.collect(),
            "generations": state.generations(self.pipeline, self.clock.now()),
            "pools": state.pools(self.pipeline),
            "ledger": state.totals(self.recorder.ledger),
            "versions": self._versions.described(),
            "config_version": self.config_version,
            "held": state.held(self.pipeline),
            "cache": [msgspec.to_builtins(figures) for figures in self.cache.figures()]
            if self.cache is not None
            else [],
            "lag": self.clock.lag,
            "draining": self.pipeline.admission.draining,
        }

    async def decide(self, model: str, action: Action, reason: str, *, wholly: bool) -> dict[str, Any]:
        """What becomes of a model's new version; see :meth:`penstock.gateway.versions.Versions.decide`."""
        return await self._versions.decide(model, action, reason, wholly=wholly)

    def explain(self, path: str, headers: dict[str, str], body: bytes) -> Explained:
        """What a request would come to now; see :func:`penstock.gateway.explain.explain`."""
        named = {name.lower().encode("latin-1", "replace"): value.encode() for name, value in headers.items()}
        return explain(self.pipeline, path, named, body)

    # ---- building ----

    def _lacking_cache(self, config: Config) -> parts.Kept | None:
        """The cache, if any model's answers are kept, and there is none yet.

        :raises ConfigError: a tier cannot be used as it is configured
        """
        return parts.cache(config, self.clock) if self.cache is None and parts.caches(config) else None

    def _look_up(self, config: Config, made: parts.Kept | None) -> None:
        """Look answers up in the cache that was made."""
        if made is None:
            return
        if made.claims is not None:
            self.clock.add(made.claims)
        self.cache = made.cache
        cache_measures.measure(self.metrics, made.cache, made.claims)
        self.pipeline.lookup = Lookup(made.cache, self.recorder, made.claims)
        self._compare(config)
        self._foresee(parts.neighbours(config))

    def _foresee(self, near: Mapping[str, Function]) -> None:
        """Let answers be fetched before they are asked for, if any model says so.

        :param near: who can name the questions beside a question
        """
        lookup = self.pipeline.lookup
        if lookup is not None and lookup.prefetch is None and self.pipeline.snapshot.router.prefetches:
            lookup.prefetch = Prefetch(lookup.cache, self.metrics, lookup.cache.now)
        if lookup is not None and lookup.prefetch is not None:
            lookup.prefetch.neighbours.use(near)

    def _compare(self, config: Config) -> None:
        """Let similar questions be compared, if any model says so.

        :raises ConfigError: as :func:`penstock.gateway.parts.resemblance`
        """
        lookup = self.pipeline.lookup
        if lookup is None or lookup.resemblance is not None or not parts.compares(config):
            return
        lookup.resemblance = parts.resemblance(config, lookup.cache, self.pipeline.answer, self.metrics)

    def purge(self, tags: Sequence[str], keys: Sequence[bytes]) -> None:
        """Let kept answers with these tags, or of these keys, count no more."""
        if self.cache is not None:
            for tag in tags:
                self.cache.purge(tag)
            for key in keys:
                self.cache.purge_key(key)

    def _lacking_keepers(self, config: Config) -> dict[str, Keeper]:
        """What the models' durability needs and is not there yet.

        :raises ConfigError: an extra is missing
        """
        wanted = {model.durability for model in config.models.values()} | {config.generations.durability}
        return {
            durability: parts.keeper(durability, config.generations, self.clock)
            for durability in ("disk", "shared")
            if durability in wanted and durability not in self._durable.keepers
        }

    def _add_keepers(self, keepers: Mapping[str, Keeper]) -> None:
        self._durable.keepers.update(keepers)
        if self._durable.keepers:
            self.pipeline.durable = self._durable

    def _limiter(self, config: Config) -> Limiter | None:
        """None: nothing is limited, and nothing is looked at."""
        wanted = config.limits
        if not any((wanted.keys, wanted.tenants, wanted.tiers, wanted.models, wanted.upstreams)):
            return None
        limiter = self.pipeline.admission.limiter
        if limiter is not None:  # what was used stays used
            limiter.configure(wanted)
            return limiter
        return Limiter(
            wanted,
            self.clock.now,
            self._most,
            lambda scope, limit: self._limit_refusals.labels(scope, limit).add(),
            lessee=self._sharing.of_limits(config),
            passed_over=lambda *what: self._passed_over.labels(*what).add(),
            routes=lambda: self.pipeline.snapshot.router,
        )

    def _follow_answers(self, config: Config) -> None:
        """Have those told of every answer who want to know."""
        self.pipeline.on_finish = in_turn(
            self._transcriber.use(config.transcripts), self._shadows.use(config)
        )

    def _gates(self) -> list[Gate]:
        upstreams = self.pipeline.snapshot.upstreams.values()
        return [upstream.gate for upstream in upstreams if upstream.gate is not None]

    def _most(self, call: Call, usage: Usage) -> int:
        """What a call can cost at the dearest of its candidates."""
        router, prices = self.pipeline.snapshot.router, self.recorder.ledger.prices
        sole = router.sole(call)
        if sole is not None:
            return prices.estimate(sole.upstream.name, sole.model, usage)
        try:
            candidates = router.may_answer(call)
        except UnknownModel:
            return 0
        return max(
            prices.estimate(candidate.upstream.name, candidate.model, usage) for candidate in candidates
        )

    def _snapshot(self, config: Config, present: dict[str, HTTPUpstream]) -> Snapshot:
        keyring = Keyring(config.keys, awaited=bool(config.keys_file))

        def gate_of(name: str, wanted: UpstreamConfig, before: HTTPUpstream | None) -> Gate | None:
            return self._sharing.gate(name, wanted, config, before, partial(self._turn, name))

        made = upstreams.make(config, keyring, self.clock, present, gate_of)
        self.leaving.use(made)
        self.health.use(made)
        router = Router(
            config,
            made,
            price=self._price,
            terms=self._terms,
            canaries=self._versions.use(config),
            limiter=lambda: self.pipeline.admission.limiter,
        )
        for name in router.watched:
            if made[name].standings is None:
                made[name].standings = Replica(self.clock.now)
        cascades = Cascades(config, self._registry, self.recorder, self._cascade_measures)
        return Snapshot(
            config,
            keyring,
            router,
            made,
            RetryBudget(config.retry, self.recorder.measures.retries_refused.labels().add),
            self._degradation(config),
            cascades if len(cascades) else None,
        )

    def _degradation(self, config: Config) -> Degradation | None:
        ladders = Ladders(config.tiers)
        if not ladders:
            return None
        if self._degrading is None:
            self._degrading = Degradation(ladders, self.metrics)
        else:
            self._degrading.use(ladders)
        return self._degrading

    def _price(self, upstream: str, model: str, usage: Usage) -> int | None:
        prices = self.recorder.ledger.prices
        return None if prices.price(upstream, model) is None else prices.estimate(upstream, model, usage)

    def _terms(self, upstream: str, model: str) -> CacheTerms:
        return self.recorder.ledger.prices.cache_terms(upstream, model)

    async def _retire(self, upstream: HTTPUpstream) -> None:
        """Close an upstream that the new configuration does not know, once its calls have ended."""
        await upstream.wait_idle()
        await upstream.close()
